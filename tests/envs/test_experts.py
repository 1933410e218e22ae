from __future__ import annotations

import numpy as np
import pytest

from foundry_bench.envs.experts.expert import Expert
from foundry_bench.envs.experts.planner import make_plan
from foundry_bench.envs.experts.world import World
from foundry_bench.envs.libero import step_budget
from foundry_bench.envs.simulation import WAIT_ACTION, Simulation
from foundry_bench.envs.suites import init_states, suite
from foundry_bench.errors import FoundryError
from tests.envs.conftest import MakeSimulation


def _solve(simulation: Simulation, init_state: int) -> int | None:
    """Steps the expert needs from an official init state, which nothing is trained on here."""
    simulation.begin(init_states(simulation.task)[init_state], simulation.problem.sample_fixtures(init_state))
    for _ in range(10):
        simulation.step(WAIT_ACTION, observe=False)
    expert = Expert(simulation)
    for step in range(1, step_budget(simulation.task.suite) + 1):
        action = expert.act()
        if action is None:
            return None
        assert np.isfinite(action).all()
        assert np.abs(action).max() <= 1
        simulation.step(action, observe=False)
        if simulation.success():
            return step
    return None


@pytest.mark.parametrize(("name", "index"), [("libero_object", 2), ("libero_spatial", 5)])
def test_the_expert_solves_a_task(simulation: MakeSimulation, name: str, index: int) -> None:
    assert _solve(simulation(name, index), 0) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["libero_object", "libero_spatial", "libero_goal", "libero_10"])
def test_experts_solve_their_suites(name: str) -> None:
    solved = tried = 0
    for task in suite(name).tasks:
        here = Simulation(task, ("agentview",), 64, "native", "fast")
        assert not make_plan(here.problem).reason
        tried += 2
        solved += sum(_solve(here, init_state) is not None for init_state in (10, 30))
    assert tried == 20
    assert solved >= 0.9 * tried


def test_a_goal_that_no_skill_reaches_says_why(
    simulation: MakeSimulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = simulation("libero_goal", 0)
    monkeypatch.setattr(here.problem, "goal", [["flip", "plate_1"]])
    assert make_plan(here.problem).reason == "no skill for the predicate 'flip'"
    with pytest.raises(FoundryError, match=r"no scripted expert for libero_goal-00.*'flip'"):
        Expert(here)


def test_points_along_a_way_leave_out_nothing_that_is_near_it(simulation: MakeSimulation) -> None:
    here = simulation("libero_spatial", 5)
    here.begin(init_states(here.task)[0], here.problem.sample_fixtures(0))
    world = World(here)
    left_out = [world.movable[0]]
    points = world.other_points(left_out)
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(10):
        start, end = generator.uniform([-0.3, -0.4, 0.9], [0.3, 0.4, 1.2], (2, 3))
        way = (end - start)[:2]
        share = np.clip((points[:, :2] - start[:2]) @ way / (way @ way), 0.0, 1.0)
        distance = np.linalg.norm(points[:, :2] - start[:2] - share[:, None] * way, axis=1)
        near = world.points_along(start, end, 0.13, left_out)
        assert len(near) == (distance < 0.13).sum()
        np.testing.assert_allclose(near.sum(axis=0), points[distance < 0.13].sum(axis=0))
        found += len(near)
    assert found > 100
