"""Training: one loop for every stage. Names are loaded on first use, so that importing this costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry_bench.training.config import TrainConfig
    from foundry_bench.training.loop import train

__all__ = ["TrainConfig", "train"]

_HOMES = {"TrainConfig": "foundry_bench.training.config", "train": "foundry_bench.training.loop"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foundry_bench.training' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
