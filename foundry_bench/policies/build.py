"""From a config to a model and its tokenizer, by ``config.architecture`` and, of a VLA, by its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import cast

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.action_model import ActionModel, InstructionTokenizer
from foundry_bench.policies.action_tokens import ActionTokenizer, read_action_tokenizer
from foundry_bench.policies.architectures import ModelConfig
from foundry_bench.policies.checkpoint_files import TOKENIZER, check_vocabulary
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.tokenizer import TextTokenizer

ACTION_TOKENIZER = "action_tokenizer.json"
#: Every name that ``asset_names`` may give.
ASSETS = (
    ACTION_TOKENIZER, "backbone_config.json", "backbone_preprocessor.json", "vision_config.json",
    "vision_preprocessor.json",
)  # fmt: skip

#: Architecture -> module and class, loaded when asked for. The class of a baseline takes the config alone.
MODELS = {
    "vla": ("foundry_bench.policies.vla", "VLA"),
    "diffusion_policy": ("foundry_bench.policies.baselines.diffusion_policy", "DiffusionPolicy"),
    "act": ("foundry_bench.policies.baselines.act", "ACT"),
    "bc_transformer": ("foundry_bench.policies.baselines.bc_transformer", "BCTransformer"),
}
_ON_A_BACKBONE = ("foundry_bench.policies.backbones.huggingface", "BackboneVLA")
_OTHER_ENCODERS = ("foundry_bench.policies.encoder_vla", "EncoderVLA")


def make_model(config: ModelConfig, assets: Mapping[str, str] | None = None) -> ActionModel:
    """The model of a config, its weights drawn from torch's global generator.

    Args:
        config: of any architecture.
        assets: small text files of a checkpoint by name (``asset_names``, and tokenizer.json). Where given,
            no folder, package or hub is looked at, and the weights are for the caller to load; where None,
            pretrained parts come with their weights. Without its action tokenizer a model with
            ``head=tokens`` can neither train nor predict until it is given one.

    Raises:
        FoundryError: an unknown architecture, a pretrained part that is not there, or an asset that is
            damaged or does not go with the config.
    """
    if config.architecture not in MODELS:
        raise FoundryError(
            f"model.architecture={config.architecture!r} is unknown: {nearest(config.architecture, MODELS)}"
        )
    module, name = _class_of(config)
    kind = getattr(import_module(module), name)
    model = cast("ActionModel", kind(config, assets) if isinstance(config, VLAConfig) else kind(config))
    if needs_action_tokenizer(config) and assets is not None and ACTION_TOKENIZER in assets:
        tokenizer = read_action_tokenizer(assets[ACTION_TOKENIZER], cast("VLAConfig", config))
        give_action_tokenizer(model, tokenizer)
    return model


def _class_of(config: ModelConfig) -> tuple[str, str]:
    if isinstance(config, VLAConfig):
        if config.backbone != "own":
            return _ON_A_BACKBONE
        if config.vision != "stem" or config.text != "own":
            return _OTHER_ENCODERS
    return MODELS[config.architecture]


def asset_names(config: ModelConfig) -> tuple[str, ...]:
    """Small files beside the tokenizer that a checkpoint of this config must hold."""
    found = [ACTION_TOKENIZER] if needs_action_tokenizer(config) else []
    if isinstance(config, VLAConfig):
        if config.backbone != "own":
            from foundry_bench.policies.backbones.huggingface import names

            found += [name for name in names(config) if name != TOKENIZER]
        if config.vision == "pretrained":
            from foundry_bench.policies.vision_encoders import pretrained

            found += [pretrained.CONFIG, pretrained.PIXELS]
    return tuple(found)


def needs_action_tokenizer(config: ModelConfig) -> bool:
    """Whether the model speaks in action tokens, which are fitted on the training actions."""
    return config.head == "tokens"


def give_action_tokenizer(model: ActionModel, tokenizer: ActionTokenizer) -> None:
    """Let a model with ``head=tokens`` speak in these tokens, and its checkpoints keep them."""
    model.head.tokenizer = tokenizer
    model.assets[ACTION_TOKENIZER] = tokenizer.to_json()


def own_tokenizer(config: ModelConfig) -> bool:
    """Whether the text tokenizer is one of ours, of ``config.vocab_size`` tokens, not a pretrained part's."""
    return not isinstance(config, VLAConfig) or (config.backbone == "own" and config.text == "own")


def pretrained_parts(config: ModelConfig) -> list[str]:
    """What of the model was not trained from scratch, and how it is tuned."""
    if not isinstance(config, VLAConfig):
        return []
    parts = []
    if config.backbone != "own":
        parts.append(f"{config.backbone_path} ({config.tuning})")
    if config.vision in ("efficientnet_lite0", "pretrained"):
        parts.append(f"{config.vision_path or 'EfficientNet-Lite0, ImageNet'} ({config.vision_tuning})")
    if config.text == "minilm":
        parts.append("all-MiniLM-L6-v2 (frozen)")
    return parts


def make_tokenizer(config: ModelConfig, instructions: Iterable[str]) -> InstructionTokenizer:
    """The tokenizer of a new run: a pretrained part's own, or one trained on the instructions."""
    if own_tokenizer(config):
        return TextTokenizer.train(instructions, config.vocab_size, config.text_tokens)
    assert isinstance(config, VLAConfig)
    if config.backbone == "own":
        from foundry_bench.policies.minilm import minilm_tokenizer

        return minilm_tokenizer(config.text_tokens)
    from foundry_bench.policies.backbones import huggingface
    from foundry_bench.policies.backbones.loading import open_source

    source = open_source(config.backbone_path, "model.backbone_path")
    kind = huggingface.backbone_config(source.read("config.json"), config, source).model_type
    return huggingface.backbone_tokenizer(source.read(TOKENIZER), config, kind, source.where(TOKENIZER))


def read_tokenizer(
    config: ModelConfig, assets: Mapping[str, str], where: str = TOKENIZER
) -> InstructionTokenizer:
    """The tokenizer that was saved with a checkpoint or a run.

    Args:
        assets: as for ``make_model``, tokenizer.json among them.
        where: how messages call the file.

    Raises:
        FoundryError: naming ``where``, when the file is none, or knows more tokens than the model.
    """
    text = assets[TOKENIZER]
    if own_tokenizer(config):
        tokenizer = TextTokenizer.from_json(text, config.text_tokens, where)
        check_vocabulary(where, tokenizer.vocab_size, config.vocab_size)
        return tokenizer
    assert isinstance(config, VLAConfig)
    if config.backbone == "own":
        from foundry_bench.policies.minilm import minilm_tokenizer

        return minilm_tokenizer(config.text_tokens, text, where)
    from foundry_bench.policies.backbones import huggingface

    kind = huggingface.backbone_config(assets[huggingface.CONFIG], config, None).model_type
    return huggingface.backbone_tokenizer(text, config, kind, where)
