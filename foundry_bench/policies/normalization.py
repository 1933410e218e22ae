"""Scaling of state and actions, from statistics of the data; stored as normalization.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundry_bench.errors import FoundryError

# A dimension that moves less than this (metres, radians, action units) is taken as constant: it is
# centred but not scaled, or its sensor noise would be blown up to the size of a signal.
CONSTANT = 1e-4
LIMIT = 5.0  # normalised states are clipped to +-LIMIT: nothing the model saw in training is beyond it


@dataclass(frozen=True)
class Scaling:
    """``normalised = (value - offset) / scale``, per dimension."""

    method: str
    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, statistics: Mapping[str, Any], method: str) -> Scaling:
        """From ``mean``, ``std``, ``min``, ``max``, ``q01``, ``q99`` of one feature.

        ``quantile`` maps [q01, q99] to [-1, 1] and ``minmax`` the whole range; ``meanstd`` gives zero mean
        and unit deviation. A dimension whose quantiles coincide although it moves (a gripper that is
        nearly always open) falls back to its range, and a constant one is only centred.
        """
        s = {
            key: np.asarray(statistics[key], dtype=np.float64).reshape(-1)
            for key in ("mean", "std", "min", "max", "q01", "q99")
        }
        middle, half = (s["max"] + s["min"]) / 2, (s["max"] - s["min"]) / 2
        if method == "minmax":
            offset, scale = middle, half
        elif method == "quantile":
            offset, scale = (s["q99"] + s["q01"]) / 2, (s["q99"] - s["q01"]) / 2
            # Less than a hundredth of the range between the quantiles: they say nothing about the dimension.
            narrow = scale < 0.01 * half
            offset, scale = np.where(narrow, middle, offset), np.where(narrow, half, scale)
        elif method == "meanstd":
            offset, scale = s["mean"], s["std"]
        else:
            raise FoundryError(f"normalization method '{method}' is unknown; use quantile, minmax or meanstd")
        scale = np.where(scale < CONSTANT, 1.0, scale)
        if not (np.isfinite(offset).all() and np.isfinite(scale).all()):
            raise FoundryError("data statistics are not finite; collect the demonstrations again")
        return cls(method, offset.astype(np.float32), scale.astype(np.float32))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Normalised values, float32."""
        return ((values - self.offset) / self.scale).astype(np.float32)

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Values in the data's own units, float32."""
        return (values * self.scale + self.offset).astype(np.float32)


@dataclass(frozen=True)
class Normalizer:
    """Scaling of the state and of the actions."""

    state: Scaling
    action: Scaling

    @classmethod
    def fit(cls, statistics: Mapping[str, Any], state_method: str, action_method: str) -> Normalizer:
        """From ``RobotDataset.statistics()``, which has an entry for ``state`` and one for ``action``."""
        return cls(
            Scaling.fit(statistics["state"], state_method), Scaling.fit(statistics["action"], action_method)
        )

    def to_json(self) -> str:
        """What ``from_json`` reads back exactly (float32 values print to nine digits)."""
        entries = {
            name: {
                "method": scaling.method,
                "offset": _floats(scaling.offset),
                "scale": _floats(scaling.scale),
            }
            for name, scaling in (("state", self.state), ("action", self.action))
        }
        return json.dumps(entries, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "normalization.json") -> Normalizer:
        """FoundryError, naming ``where``, when an entry is missing, ragged or not positive."""
        try:
            entries = json.loads(text)
            scalings = [
                Scaling(
                    str(entries[name]["method"]),
                    np.asarray(entries[name]["offset"], dtype=np.float32),
                    np.asarray(entries[name]["scale"], dtype=np.float32),
                )
                for name in ("state", "action")
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise FoundryError(
                f"{where} is not a normalization file ({error!r}); restore it or train again"
            ) from error
        for name, scaling in zip(("state", "action"), scalings, strict=True):
            fits = scaling.offset.ndim == 1 and scaling.offset.shape == scaling.scale.shape
            if not fits or not np.isfinite(scaling.offset).all() or not (scaling.scale > 0).all():
                raise FoundryError(
                    f"{where}: {name} has unusable offsets or scales; restore it or train again"
                )
        return cls(*scalings)


def _floats(values: np.ndarray) -> list[float]:
    return [float(f"{value:.9g}") for value in values]


def clip_state(state: np.ndarray) -> np.ndarray:
    """Normalised states kept within the range the model can have seen."""
    return np.clip(state, -LIMIT, LIMIT)
