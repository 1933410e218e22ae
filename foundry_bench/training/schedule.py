"""Learning rate of a step: a pure function of the step and the config, so that a resumed run has the same.

All three rise linearly from nothing over ``warmup`` samples. Then ``cosine`` falls along half a cosine to
``final_fraction`` of the peak, ``constant`` stays, and ``wsd`` (warm-up, stable, decay: Hu et al., "MiniCPM",
arXiv 2404.06395) stays until the last ``decay_fraction`` of the budget and falls linearly from there.
"""

from __future__ import annotations

import math

from foundry_bench.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of a step (counted from 0)."""
    warmup = config.warmup // config.batch_size
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "wsd":
        return config.learning_rate * _stable_then_linear(step, warmup, config)
    progress = (step - warmup) / max(1, config.steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def _stable_then_linear(step: int, warmup: int, config: TrainConfig) -> float:
    length = max(1, round(config.decay_fraction * config.steps))
    start = max(warmup, config.steps - length)
    if step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1, config.steps - start))
    return 1.0 - (1.0 - config.final_fraction) * progress
