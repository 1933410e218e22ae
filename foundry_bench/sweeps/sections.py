"""The sections of a configuration as the dataclasses of the modules they configure.

A value that only its owner can judge (a width its heads do not divide) is refused here, before any work.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from foundry_bench.errors import FoundryError, nearest

if TYPE_CHECKING:
    from foundry_bench.data.demos import DemosConfig
    from foundry_bench.evaluation.protocol import Protocol
    from foundry_bench.policies.architectures import ModelConfig
    from foundry_bench.training.config import TrainConfig

#: Keys of a section that are for the pipeline, not for the section's owner.
OURS = {
    "demos": ("root", "workers"),
    "captions": ("root", "workers"),
    "train": ("samples_per_task",),
    "llm": ("corpora", "block"),
    "vlm": ("answer_tokens", "text"),
}


def values(config: DictConfig, section: str) -> dict[str, Any]:
    """A section as plain values, without the pipeline's own keys."""
    plain = OmegaConf.to_container(config[section], resolve=True)
    if not isinstance(plain, dict):
        raise FoundryError(f"{section} is not a section of the configuration")
    return {str(key): value for key, value in plain.items() if key not in OURS.get(section, ())}


def build(cls: type[Any], section: str, plain: dict[str, Any]) -> Any:
    """An instance of the dataclass, sequences as tuples.

    Raises:
        FoundryError: a key the dataclass does not have, or a value it refuses.
    """
    known = {field.name for field in fields(cls)}
    for key in plain:
        if key not in known:
            raise FoundryError(f"{section}.{key}: no such key, {nearest(key, known)}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})


def camera_names(config: DictConfig) -> dict[str, str] | None:
    """``data.cameras``: our name of a camera -> the dataset's; None where nothing is said.

    Raises:
        FoundryError: a name is no text.
    """
    told = config.data.cameras
    names = OmegaConf.to_container(told) if told is not None else None
    if names is None:
        return None
    if not isinstance(names, dict) or not all(isinstance(x, str) for pair in names.items() for x in pair):
        raise FoundryError(
            f"data.cameras={names}: names by our names, as in {{agentview: image, wrist: image2}}"
        )
    return {str(ours): str(theirs) for ours, theirs in names.items()}


def demos_config(config: DictConfig) -> DemosConfig:
    """How demonstrations are collected."""
    from foundry_bench.data.demos import DemosConfig

    return build(DemosConfig, "demos", values(config, "demos"))


def model_config(config: DictConfig) -> ModelConfig:
    """The shape of the model, of whichever architecture."""
    from foundry_bench.policies.architectures import read_config

    return read_config(values(config, "model"))


def train_config(config: DictConfig, tasks: int) -> TrainConfig:
    """How it is trained; a budget of null becomes ``samples_per_task`` for each of ``tasks`` tasks."""
    from foundry_bench.training.config import TrainConfig

    plain = values(config, "train")
    if plain["samples"] is None:
        plain["samples"] = config.train.samples_per_task * tasks
    return TrainConfig.from_dict(plain)


def protocol(config: DictConfig) -> Protocol:
    """How it is judged."""
    from foundry_bench.evaluation.protocol import Protocol

    return Protocol.from_mapping(values(config, "protocol"))


def check_sections(config: DictConfig) -> None:
    """Build every section once, so that a value its owner refuses is named before any work is begun."""
    model_config(config)
    train_config(config, tasks=1)
    demos_config(config)
    protocol(config)


def check_packages(config: DictConfig) -> None:
    """See that the packages are there from which a model takes pretrained parts.

    Raises:
        FoundryError: one is missing; names the command that installs it.
    """
    model = values(config, "model")
    if model.get("vision") == "efficientnet_lite0":
        from foundry_bench.policies.vision_encoders.efficientnet import find_weights

        find_weights()
    if model.get("text") == "minilm":
        from foundry_bench.policies.minilm import find_folder

        find_folder()
    if model.get("tuning") == "lora":
        from foundry_bench.policies.backbones.tuning import check_peft

        check_peft()
