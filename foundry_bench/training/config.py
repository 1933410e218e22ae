"""How a model is trained: the fields of a ``train`` config. Torch-free, like the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.config import checked_fields, plain

OPTIMIZERS = ("muon", "adamw")
# Keys that change when something is written, never what is learned: a run may be resumed with others.
HARMLESS = ("save_every", "log_every", "validate_every", "prefetch", "feature_gib")


@dataclass(frozen=True)
class TrainConfig:
    """Budget, optimiser, augmentation and bookkeeping. Everything that counts progress is in samples.

    A sample is one frame (all cameras, state, instruction) and the chunk of actions that follows it.
    """

    samples: int = 60_000
    batch_size: int = 32
    seed: int = 0
    # Linear warm-up, then a cosine down to learning_rate * final_fraction. muon: Muon on the inner matrices
    # and AdamW on the rest; adamw: AdamW on all.
    optimizer: str = "muon"
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: int = 3_200
    final_fraction: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.995
    # Augmentation: shift in pixels (each way), noise on the normalised state.
    shift: int = 4
    state_noise: float = 0.02
    # Features of a frozen vision encoder, computed once: so many shifted views of each frame; 0: not kept.
    feature_views: int = 0
    feature_gib: float = 8.0
    # Bookkeeping.
    validation_episodes: int = 0
    validate_every: int = 16_000
    save_every: int = 16_000
    log_every: int = 1_600
    prefetch: int = 2
    compile: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise FoundryError(
                f"train.optimizer={self.optimizer} is unknown: {nearest(self.optimizer, OPTIMIZERS)}"
            )
        for key in ("samples", "batch_size", "save_every", "log_every", "validate_every", "prefetch"):
            if getattr(self, key) < 1:
                raise FoundryError(f"train.{key}={getattr(self, key)} must be at least 1")
        for key in (
            "warmup",
            "shift",
            "state_noise",
            "weight_decay",
            "validation_episodes",
            "seed",
            "feature_views",
        ):
            if getattr(self, key) < 0:
                raise FoundryError(f"train.{key}={getattr(self, key)} must not be negative")
        for key in ("learning_rate", "clip", "feature_gib"):
            if not getattr(self, key) > 0:
                raise FoundryError(f"train.{key}={getattr(self, key)} must be above 0")
        for key in ("ema_decay", "final_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise FoundryError(f"train.{key}={getattr(self, key)} must be in [0, 1)")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise FoundryError(f"train.betas={list(self.betas)} must be two numbers in [0, 1)")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run (the budget rounded up to whole batches)."""
        return -(-self.samples // self.batch_size)

    def in_steps(self, samples: int) -> int:
        """A number of samples as whole steps, at least one."""
        return max(1, samples // self.batch_size)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from plain values; FoundryError on an unknown key, naming the nearest."""
        return cls(**checked_fields(cls, values, "train"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists) that ``from_dict`` reads back."""
        return plain(asdict(self))
