"""The same episode here and in stock LIBERO."""

from __future__ import annotations

import numpy as np
import pytest

from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.stock import StockLibero
from foundry_bench.envs.suites import init_states, task


@pytest.mark.slow
def test_states_and_pixels_equal_stock() -> None:
    what = task("libero_object", 0)
    here = Simulation(what, ("agentview", "wrist"), 128, "native", "exact")
    fixtures = here.problem.sample_fixtures(5)
    start = init_states(what)[5]
    here.begin(start, fixtures)
    stock = StockLibero(what, images=128)
    seen = [here.wait(10)]
    expected = [stock.begin(start, fixtures, wait_steps=10)]
    for action in np.random.default_rng(0).uniform(-1, 1, (8, 7)):
        seen.append(here.step(action, observe=True))
        expected.append(stock.env.step(action)[0])
    stock.close()
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(ours["agentview"], theirs["agentview_image"][::-1, ::-1])
        np.testing.assert_array_equal(ours["wrist"], theirs["robot0_eye_in_hand_image"][::-1, ::-1])
        np.testing.assert_allclose(ours["state"][:3], theirs["robot0_eef_pos"], atol=1e-7)
        np.testing.assert_allclose(ours["state"][6:], theirs["robot0_gripper_qpos"], atol=1e-7)
