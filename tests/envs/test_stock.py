"""The same episode here and in stock LIBERO."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from foundry_bench.envs.problem import Fixtures
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.stock import StockLibero
from foundry_bench.envs.suites import init_states, task

_TASKS = [
    ("libero_object", 0),
    ("libero_spatial", 5),
    ("libero_goal", 9),
    ("libero_10", 8),
    ("libero_90", 0),
    ("libero_goal_swap", 2),
    ("libero_spatial_object", 1),
]
_ACTIONS = np.random.default_rng(0).uniform(-1, 1, (8, 7))


def _in_stock(where: tuple[str, int], start: np.ndarray, fixtures: Fixtures) -> list[dict[str, np.ndarray]]:
    """Stock's observations after the wait steps and after each action, in the terms of ours."""
    stock = StockLibero(task(*where), images=128)
    seen = [stock.begin(start, fixtures, wait_steps=10)]
    seen += [stock.env.step(action)[0] for action in _ACTIONS]
    return [
        {
            "agentview": observation["agentview_image"][::-1, ::-1].copy(),
            "wrist": observation["robot0_eye_in_hand_image"][::-1, ::-1].copy(),
            "position": observation["robot0_eef_pos"],
            "fingers": observation["robot0_gripper_qpos"],
        }
        for observation in seen
    ]


@pytest.mark.slow
@pytest.mark.parametrize("where", _TASKS)
def test_states_and_pixels_equal_stock(where: tuple[str, int]) -> None:
    what = task(*where)
    exact = Simulation(what, ("agentview", "wrist"), 128, "robosuite", "exact")
    native = Simulation(what, ("agentview", "wrist"), 128, "native", "exact")
    fixtures = exact.problem.sample_fixtures(5)
    start = init_states(what)[5]
    seen = []
    for here in (exact, native):
        here.begin(start, fixtures)
        seen.append([here.wait(10), *(here.step(action, observe=True) for action in _ACTIONS)])
        here.close()
    # In a process of its own: stock's OpenGL context would un-bind the one of this process.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        expected = pool.submit(_in_stock, where, start, fixtures).result()
    for ours, lean, theirs in zip(*seen, expected, strict=True):
        for camera in ("agentview", "wrist"):
            np.testing.assert_array_equal(ours[camera], theirs[camera])
            np.testing.assert_array_equal(lean[camera], theirs[camera])
        for state in (ours["state"], lean["state"]):
            np.testing.assert_allclose(state[:3], theirs["position"], atol=1e-7)
            np.testing.assert_allclose(state[6:], theirs["fingers"], atol=1e-7)
