"""What every policy is: a stateless, batched map from observations to action chunks (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from foundry_bench.errors import FoundryError

SCRIPTED = ("zero", "random")


@dataclass(frozen=True)
class PolicySpec:
    """What a policy was trained with; the evaluation refuses an environment that differs.

    ``image_size`` is in pixels (square images), ``horizon`` the number of actions in a chunk.
    """

    cameras: tuple[str, ...]
    image_size: int
    horizon: int
    state_dim: int = 8
    action_dim: int = 7
    state_convention: str = "eef_pos+axis_angle+gripper_qpos"
    action_convention: str = "osc_pose_delta"


class Policy(Protocol):
    """Predicts chunks. Everything about an episode (buffers, clocks, seeds) lives with the caller."""

    name: str
    spec: PolicySpec
    checkpoint_hash: str

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        """Chunks (B, horizon, action_dim) float32 in the environment's units, clipped to [-1, 1].

        Args:
            observations: each camera's images, uint8 (B, S, S, 3); ``state`` float32 (B, state_dim);
                ``instruction``, a list of B strings.
            noise_seeds: one seed per row. The same row with the same seed gives the same bits whatever
                the other rows are.
        """
        ...


def rows(observations: dict[str, Any], noise_seeds: Sequence[int]) -> int:
    """The batch size, or FoundryError when state and seeds disagree about it."""
    count = len(observations["state"])
    if len(noise_seeds) != count:
        raise FoundryError(
            f"predict got {count} observations but {len(noise_seeds)} noise seeds; give one each"
        )
    return count


_ANY = PolicySpec(cameras=(), image_size=0, horizon=8)


class ZeroPolicy:
    """Does nothing: all-zero actions with the gripper left open (-1). The floor of every table."""

    name = "zero"
    checkpoint_hash = "zero"

    def __init__(self, spec: PolicySpec = _ANY) -> None:
        self.spec = spec

    def adapted(self, state_dim: int, action_dim: int, action_convention: str) -> ZeroPolicy:
        """The same for states and actions of other sizes: it fits every task."""
        spec = replace(
            self.spec, state_dim=state_dim, action_dim=action_dim, action_convention=action_convention
        )
        return ZeroPolicy(spec)

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        """See Policy.predict."""
        chunk = np.zeros(
            (rows(observations, noise_seeds), self.spec.horizon, self.spec.action_dim), np.float32
        )
        chunk[..., -1] = -1.0
        return chunk


class RandomPolicy:
    """Uniform actions in [-1, 1], drawn from each row's noise seed."""

    name = "random"
    checkpoint_hash = "random"

    def __init__(self, spec: PolicySpec = _ANY) -> None:
        self.spec = spec

    def adapted(self, state_dim: int, action_dim: int, action_convention: str) -> RandomPolicy:
        """The same for states and actions of other sizes: it fits every task."""
        spec = replace(
            self.spec, state_dim=state_dim, action_dim=action_dim, action_convention=action_convention
        )
        return RandomPolicy(spec)

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        """See Policy.predict."""
        count = rows(observations, noise_seeds)
        chunks = np.empty((count, self.spec.horizon, self.spec.action_dim), np.float32)
        for row, seed in enumerate(noise_seeds):
            generator = np.random.default_rng(int(seed) & 0xFFFF_FFFF_FFFF_FFFF)
            chunks[row] = generator.uniform(-1.0, 1.0, chunks.shape[1:])
        return chunks


def load_policy(source: str | Path, device: str = "auto") -> Policy:
    """A policy by name (``zero``, ``random``) or from a checkpoint folder.

    The scripted policies look at no camera (``spec.cameras`` is empty, ``spec.image_size`` 0), so they fit
    every protocol. Raises FoundryError, naming the file and the entry, when the folder is not a checkpoint,
    is truncated, or does not fit its own config.
    """
    if str(source) == "zero":
        return ZeroPolicy()
    if str(source) == "random":
        return RandomPolicy()
    folder = Path(source)
    if not folder.is_dir():
        raise FoundryError(
            f"checkpoint {folder} is not a folder; give the folder that training wrote, or one of: "
            + ", ".join(SCRIPTED)
        )
    from foundry_bench.policies.checkpoint import load_vla_policy  # loads torch

    return load_vla_policy(folder, device)
