"""How a model is trained: the fields of a ``train`` config. Torch-free, like the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.config import checked_fields, plain

OPTIMIZERS = ("muon", "adamw")
SCHEDULES = ("cosine", "constant", "wsd")
PRECISIONS = ("auto", "fp32", "bf16")
PARALLEL = ("none", "ddp", "fsdp")
# Keys that change when something is written or how the same sums are computed (so, at most, their rounding),
# never what is learned: a run may be resumed with others.
HARMLESS = (
    "save_every", "log_every", "validate_every", "prefetch", "keep_best",
    "accumulate", "checkpoint_activations", "parallel", "feature_gib",
)  # fmt: skip
_NULLABLE = ("rates", "init_from", "keep_best")  # may be null in YAML: what is left out has its default


@dataclass(frozen=True)
class TrainConfig:
    """Budget, optimiser, augmentation and bookkeeping. Everything that counts progress is in samples.

    A sample is one frame (all cameras, state, instruction) and the chunk of actions that follows it.
    """

    samples: int = 60_000
    batch_size: int = 32
    seed: int = 0
    # Linear warm-up, then the schedule (see schedule.py). muon: Muon on the inner matrices and AdamW on the
    # rest; adamw: AdamW on all.
    optimizer: str = "muon"
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup: int = 3_200
    decay_fraction: float = 0.2
    final_fraction: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.995
    # By parts of the model, which are named by the beginning of their parameters' names: factors on the
    # learning rate, given as a mapping and kept as pairs; and parts that are not trained, up to a number of
    # samples (0: never).
    rates: tuple[tuple[str, float], ...] = ()
    freeze: tuple[str, ...] = ()
    freeze_until: int = 0
    # Augmentation: shift in pixels (each way), noise on the normalised state.
    shift: int = 4
    state_noise: float = 0.02
    # Features of a frozen vision encoder, computed once: so many shifted views of each frame; 0: not kept.
    feature_views: int = 0
    feature_gib: float = 8.0
    # Of losses over text: factor on the squared logarithm of the softmax's normaliser.
    z_loss: float = 0.0
    # Start from the weights of another checkpoint's folder; with init_partial, tensors of another shape are
    # left as they are initialised.
    init_from: str = ""
    init_partial: bool = False
    # How it is computed. auto: bfloat16 by autocast on a GPU, fp32 on a CPU; bf16: bfloat16 weights with an
    # fp32 master copy that the optimiser works on.
    precision: str = "auto"
    accumulate: int = 1
    checkpoint_activations: bool = False
    compile: bool = False
    parallel: str = "none"
    # Bookkeeping.
    validation_episodes: int = 0
    validate_every: int = 16_000
    keep_best: str = ""
    save_every: int = 16_000
    log_every: int = 1_600
    prefetch: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.rates, Mapping):
            object.__setattr__(self, "rates", tuple((str(k), v) for k, v in sorted(self.rates.items())))
        for key, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("parallel", PARALLEL),
        ):
            value = getattr(self, key)
            if value not in known:
                raise FoundryError(f"train.{key}={value} is unknown: {nearest(str(value), known)}")
        self._check_numbers()
        self._check_parts()

    def _check_numbers(self) -> None:
        for key in (
            "samples", "batch_size", "save_every", "log_every", "validate_every", "prefetch", "accumulate",
        ):  # fmt: skip
            if getattr(self, key) < 1:
                raise FoundryError(f"train.{key}={getattr(self, key)} must be at least 1")
        for key in (
            "warmup", "shift", "state_noise", "weight_decay", "validation_episodes", "seed", "z_loss",
            "freeze_until", "feature_views",
        ):  # fmt: skip
            if getattr(self, key) < 0:
                raise FoundryError(f"train.{key}={getattr(self, key)} must not be negative")
        for key in ("learning_rate", "clip", "feature_gib"):
            if not getattr(self, key) > 0:
                raise FoundryError(f"train.{key}={getattr(self, key)} must be above 0")
        for key in ("ema_decay", "final_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise FoundryError(f"train.{key}={getattr(self, key)} must be in [0, 1)")
        if not 0 < self.decay_fraction <= 1:
            raise FoundryError(f"train.decay_fraction={self.decay_fraction} must be above 0 and at most 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise FoundryError(f"train.betas={list(self.betas)} must be two numbers in [0, 1)")
        if self.accumulate > self.batch_size:
            raise FoundryError(
                f"train.accumulate={self.accumulate} parts of train.batch_size={self.batch_size} samples; "
                "use at most as many parts as there are samples"
            )

    def _check_parts(self) -> None:
        for part, factor in self.rates:
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
                raise FoundryError(
                    f"train.rates={{{part}: {factor}}} must be a number above 0; train.freeze=[{part}] keeps "
                    "it as it is"
                )
        for part in self.freeze:
            if not isinstance(part, str) or not part:
                raise FoundryError(f"train.freeze={list(self.freeze)} must name parts, as in [language]")
        if self.freeze_until and not self.freeze:
            raise FoundryError(
                f"train.freeze_until={self.freeze_until} without train.freeze freezes nothing; name parts, "
                "as in train.freeze=[language]"
            )

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
        given = {key: value for key, value in values.items() if value is not None or key not in _NULLABLE}
        rates = given.get("rates", {})
        if not isinstance(rates, Mapping):
            raise FoundryError(f"train.rates={rates!r} must be a mapping, as in {{vision: 0.1}}")
        given["rates"] = tuple((str(part), factor) for part, factor in sorted(rates.items()))
        return cls(**checked_fields(cls, given, "train"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists, ``rates`` as a mapping) that ``from_dict`` reads back."""
        return {**plain(asdict(self)), "rates": dict(self.rates)}
