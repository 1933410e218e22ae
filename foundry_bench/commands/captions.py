"""``foundry-bench captions``."""

from __future__ import annotations

from omegaconf import DictConfig

from foundry_bench.sweeps import captions


def run(config: DictConfig) -> None:
    """Write image-text pairs on the selected tasks' scenes, and say what came of it."""
    captions.run(config)
