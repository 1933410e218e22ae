"""From a config to a model, by ``config.architecture``."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.action_model import ActionModel
from foundry_bench.policies.action_tokens import ActionTokenizer
from foundry_bench.policies.architectures import ModelConfig

#: Architecture -> module and class, loaded when asked for. The class takes the config alone.
MODELS = {
    "vla": ("foundry_bench.policies.vla", "VLA"),
    "diffusion_policy": ("foundry_bench.policies.baselines.diffusion_policy", "DiffusionPolicy"),
    "act": ("foundry_bench.policies.baselines.act", "ACT"),
    "bc_transformer": ("foundry_bench.policies.baselines.bc_transformer", "BCTransformer"),
}


def make_model(config: ModelConfig, action_tokenizer: ActionTokenizer | None = None) -> ActionModel:
    """A model with fresh weights, drawn from torch's global generator.

    Args:
        config: of any architecture.
        action_tokenizer: of ``head=tokens``; without it such a model can neither train nor predict.
    """
    if config.architecture not in MODELS:
        raise FoundryError(
            f"model.architecture={config.architecture!r} is unknown: {nearest(config.architecture, MODELS)}"
        )
    module, name = MODELS[config.architecture]
    model = getattr(import_module(module), name)(config)
    if needs_action_tokenizer(config):
        model.head.tokenizer = action_tokenizer
    return cast("ActionModel", model)


def needs_action_tokenizer(config: ModelConfig) -> bool:
    """Whether the model speaks in action tokens, which are fitted on the training actions."""
    return config.head == "tokens"
