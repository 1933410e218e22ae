"""From a config to a model, by ``config.architecture``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.action_model import ActionModel
from foundry_bench.policies.action_tokens import ActionTokenizer, read_action_tokenizer
from foundry_bench.policies.architectures import ModelConfig
from foundry_bench.policies.config import VLAConfig

ACTION_TOKENIZER = "action_tokenizer.json"
#: Every name that ``asset_names`` may give.
ASSETS = (ACTION_TOKENIZER,)

#: Architecture -> module and class, loaded when asked for. The class takes the config alone.
MODELS = {
    "vla": ("foundry_bench.policies.vla", "VLA"),
    "diffusion_policy": ("foundry_bench.policies.baselines.diffusion_policy", "DiffusionPolicy"),
    "act": ("foundry_bench.policies.baselines.act", "ACT"),
    "bc_transformer": ("foundry_bench.policies.baselines.bc_transformer", "BCTransformer"),
}


def make_model(config: ModelConfig, assets: Mapping[str, str] | None = None) -> ActionModel:
    """The model of a config, its weights drawn from torch's global generator.

    Args:
        config: of any architecture.
        assets: small text files of a checkpoint by name (``asset_names``). Without its action tokenizer a
            model with ``head=tokens`` can neither train nor predict until it is given one.

    Raises:
        FoundryError: an unknown architecture, or an asset that is damaged or does not go with the config.
    """
    if config.architecture not in MODELS:
        raise FoundryError(
            f"model.architecture={config.architecture!r} is unknown: {nearest(config.architecture, MODELS)}"
        )
    module, name = MODELS[config.architecture]
    model = cast("ActionModel", getattr(import_module(module), name)(config))
    if needs_action_tokenizer(config) and assets is not None and ACTION_TOKENIZER in assets:
        tokenizer = read_action_tokenizer(assets[ACTION_TOKENIZER], cast("VLAConfig", config))
        give_action_tokenizer(model, tokenizer)
    return model


def asset_names(config: ModelConfig) -> tuple[str, ...]:
    """Small files beside the tokenizer that a checkpoint of this config must hold."""
    return (ACTION_TOKENIZER,) if needs_action_tokenizer(config) else ()


def needs_action_tokenizer(config: ModelConfig) -> bool:
    """Whether the model speaks in action tokens, which are fitted on the training actions."""
    return config.head == "tokens"


def give_action_tokenizer(model: ActionModel, tokenizer: ActionTokenizer) -> None:
    """Let a model with ``head=tokens`` speak in these tokens, and its checkpoints keep them."""
    model.head.tokenizer = tokenizer
    model.assets[ACTION_TOKENIZER] = tokenizer.to_json()
