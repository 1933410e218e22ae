"""Which config class reads the fields of a ``model`` config: chosen by ``model.architecture``. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.baselines.config import (
    ACTConfig,
    BaselineConfig,
    BCTransformerConfig,
    DiffusionPolicyConfig,
)
from foundry_bench.policies.config import VLAConfig

ModelConfig: TypeAlias = VLAConfig | BaselineConfig

CONFIGS: dict[str, type[VLAConfig] | type[BaselineConfig]] = {
    "vla": VLAConfig,
    "diffusion_policy": DiffusionPolicyConfig,
    "act": ACTConfig,
    "bc_transformer": BCTransformerConfig,
}


def read_config(values: Mapping[str, Any], where: str = "model") -> ModelConfig:
    """The config of plain values (YAML, OmegaConf containers); without an architecture it is a VLA's.

    Raises:
        FoundryError: an unknown architecture or key, or a value that its class refuses.
    """
    name = values.get("architecture", "vla")
    if name not in CONFIGS:
        raise FoundryError(f"{where}.architecture={name!r} is unknown: {nearest(str(name), CONFIGS)}")
    return CONFIGS[name].from_dict(values, where)
