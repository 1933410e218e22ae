"""The scripted expert as something that can be judged: the ceiling of every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench.envs.experts import EXPERT_VERSION
from foundry_bench.errors import FoundryError
from foundry_bench.policies.base import SCRIPTED, Policy, PolicySpec, load_policy

NAME = "scripted"
NAMED = (*SCRIPTED, NAME)  # policies that need no checkpoint
_STEPS = 10**6  # an expert never runs out of actions


class ExpertPolicy:
    """The expert, which reads the true state inside of the simulator.

    It is asked for nothing: ``acts_in_simulator`` tells the evaluation to let its workers run it.
    """

    name = NAME
    checkpoint_hash = EXPERT_VERSION
    acts_in_simulator = True

    def __init__(self) -> None:
        self.spec = PolicySpec(cameras=(), image_size=0, horizon=_STEPS)

    def adapted(self, state_dim: int, action_dim: int, action_convention: str) -> ExpertPolicy:
        """The same for states and actions of other sizes.

        Raises:
            FoundryError: the protocol's actions are not those of operational space control.
        """
        if action_convention != self.spec.action_convention:
            raise FoundryError(
                f"policy={NAME} acts by {self.spec.action_convention}, the protocol by {action_convention}; "
                "choose a protocol with action_convention osc_pose_delta"
            )
        fitting = ExpertPolicy()
        fitting.spec = replace(self.spec, state_dim=state_dim, action_dim=action_dim)
        return fitting

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        """Not to be had: what an expert knows is in no observation."""
        raise FoundryError(f"policy={NAME} runs inside of the simulator and cannot be asked for chunks")


def find_policy(source: str | Path, device: str = "auto") -> Policy:
    """A policy by name (``zero``, ``random``, ``scripted``) or from a folder, as `load_policy` does."""
    return ExpertPolicy() if str(source) == NAME else load_policy(source, device)
