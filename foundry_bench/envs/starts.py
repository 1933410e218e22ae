"""Where an episode starts, from nothing but its name: task, init state, seed."""

from __future__ import annotations

import hashlib

import numpy as np

from foundry_bench.envs.libero_problem import LiberoProblem
from foundry_bench.envs.problem import Fixtures, Problem
from foundry_bench.envs.suites import SAMPLED_INIT_STATES, Task, init_states
from foundry_bench.errors import FoundryError, nearest

RESET_MODES = ("strict", "legacy")
_INIT_STATE_SEED = 0x1417  # of sampled init states, which no evaluation's seed may change


def start_of(
    problem: Problem, init_state: int, seed: int, reset_mode: str = "strict"
) -> tuple[np.ndarray, Fixtures]:
    """Simulator state and fixture poses of an episode; see ``Simulation.start``.

    Raises:
        FoundryError: no such init state or reset mode.
    """
    if reset_mode not in RESET_MODES:
        raise FoundryError(f"reset_mode={reset_mode}: no such mode, {nearest(reset_mode, RESET_MODES)}")
    task = problem.task
    if task.init_states is None:
        if not 0 <= init_state < SAMPLED_INIT_STATES:
            raise FoundryError(
                f"init_state={init_state} of {task.key}: there are init states 0 to {SAMPLED_INIT_STATES - 1}"
            )
        state, fixtures = problem.sample_state(episode_seed(_INIT_STATE_SEED, task.key, init_state))
        if task.bddl is None:
            return state, fixtures
    else:
        state, fixtures = official_state(task, init_state), {}
    if reset_mode == "legacy" and isinstance(problem, LiberoProblem):
        return state, problem.legacy_fixtures(seed, init_state + 1)
    return state, fixtures or problem.sample_fixtures(episode_seed(seed, task.key, init_state))


def official_state(task: Task, index: int) -> np.ndarray:
    """The official init state of that index.

    Raises:
        FoundryError: no such index.
    """
    states = init_states(task)
    if not 0 <= index < len(states):
        raise FoundryError(f"init_state={index} of {task.key}: there are init states 0 to {len(states) - 1}")
    return states[index]


def episode_seed(seed: int, task_key: str, init_state: int) -> int:
    """The seed of everything random in one episode's start: a function of its name alone, below 2**32."""
    digest = hashlib.sha256(f"{seed}/{task_key}/{init_state}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
