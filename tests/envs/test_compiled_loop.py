"""The compiled loop of OSC_POSE against the loop in Python and against robosuite."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numba
import numpy as np
import pytest

from foundry_bench.envs import compiled_loop
from foundry_bench.envs.compiled_loop import CompiledLoop
from foundry_bench.envs.control import LeanLoop
from foundry_bench.envs.engine import make_loop
from foundry_bench.envs.guarded_calls import addresses
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import task
from foundry_bench.errors import FoundryError
from tests.envs.conftest import MakeSimulation


def _actions(simulation: Simulation, steps: int) -> np.ndarray:
    actions = np.random.default_rng(3).uniform(-1.2, 1.2, (steps, simulation.action_dim))
    actions[:, -1] = np.repeat([1.0, -1.0, 0.0], -(-steps // 3))[:steps]
    actions[::3, 3:6] = 0.0
    return actions


def _states(simulation: Simulation, actions: np.ndarray, observe: bool) -> tuple[np.ndarray, list[Any]]:
    simulation.start(0, 7)
    states, seen = [], []
    for action in actions:
        seen.append(simulation.step(action, observe=observe).get("state"))
        states.append(np.concatenate([simulation.problem.state(), simulation.problem.data.qacc_warmstart]))
    return np.stack(states), seen


@pytest.mark.parametrize("observe", [False, True])
def test_it_equals_the_loop_in_python(
    simulation: MakeSimulation, monkeypatch: pytest.MonkeyPatch, observe: bool
) -> None:
    here = simulation("libero_goal", 9)
    monkeypatch.setattr(here, "cameras", ())
    actions = _actions(here, 90)
    assert isinstance(here._engine._loop, CompiledLoop)  # type: ignore[attr-defined]
    compiled, seen = _states(here, actions, observe)
    slow = LeanLoop(here.problem.model, here.problem.data, here.problem.robot)
    monkeypatch.setattr(here._engine, "_loop", slow)
    python, seen_in_python = _states(here, actions, observe)
    np.testing.assert_array_equal(compiled, python)
    assert (seen[0] is not None) == observe
    if observe:
        np.testing.assert_array_equal(np.stack(seen), np.stack(seen_in_python))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "index"),
    [
        ("robosuite", 0),
        ("robosuite_ur5e", 1),
        ("robosuite_iiwa", 2),
        ("robosuite_jaco", 0),
        ("robosuite_sawyer", 3),
    ],
)
def test_it_equals_robosuite_with_other_arms_and_grippers(suite: str, index: int) -> None:
    sides = [Simulation(task(suite, index), (), 64, engine, "fast") for engine in ("native", "robosuite")]
    assert isinstance(sides[0]._engine._loop, CompiledLoop)  # type: ignore[attr-defined]
    actions = _actions(sides[0], 40)
    native, stock = (_states(side, actions, observe=False)[0] for side in sides)
    np.testing.assert_array_equal(native, stock)


def test_other_controllers_keep_the_loop_in_python() -> None:
    simulation = Simulation(task("robosuite", 0), (), 64, "native", "fast", "JOINT_POSITION")
    assert isinstance(simulation._engine._loop, LeanLoop)  # type: ignore[attr-defined]


def test_without_the_library_steps_are_computed_in_python(
    simulation: MakeSimulation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(names: tuple[str, ...]) -> np.ndarray:
        raise OSError("no libmujoco")

    monkeypatch.setattr(compiled_loop, "addresses", missing)
    assert isinstance(make_loop(simulation("libero_goal", 9).problem), LeanLoop)
    assert "no libmujoco" in caplog.text


def test_an_error_of_mujoco_is_raised_and_the_next_episode_runs(
    simulation: MakeSimulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = simulation("libero_goal", 9)
    actions = _actions(here, 5)
    before, _ = _states(here, actions, observe=False)
    loop: Any = here._engine._loop  # type: ignore[attr-defined]
    broken = addresses(
        tuple("mju_error" if name == "mj_step2" else name for name in compiled_loop._FUNCTIONS)
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_views", loop._views._replace(calls=broken))
        with pytest.raises(mujoco.FatalError):
            here.step(actions[0], observe=False)
    after, _ = _states(here, actions, observe=False)
    np.testing.assert_array_equal(before, after)


def test_an_action_that_is_not_one_is_refused_before_the_simulator_moves(simulation: MakeSimulation) -> None:
    from foundry_bench.envs.libero import check_actions

    here = simulation("libero_goal", 9)
    here.start(0, 7)
    before = here.problem.state()
    for bad in (np.full((1, 7), np.nan), np.zeros((1, 6)), np.zeros((0, 7))):
        with pytest.raises(FoundryError):
            check_actions(bad, here.action_dim)
    with pytest.raises(AssertionError):  # the gripper's own check
        here.step(np.zeros(6), observe=False)
    np.testing.assert_array_equal(here.problem.state(), before)


def test_without_a_place_for_a_cache_it_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = numba.njit

    def nowhere(*arguments: Any, cache: bool = False) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain(*arguments)

    def double(number: int) -> int:
        return 2 * number

    monkeypatch.setattr(numba, "njit", nowhere)
    twice: Callable[[int], int] = compiled_loop.compiled(double)
    assert twice(4) == 8
    assert "no locator" in caplog.text


_ONE_STEP = """
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import task
simulation = Simulation(task("libero_goal", 9), (), 64, "native", "fast")
simulation.start(0, 7)
simulation.step(simulation.rest_action, observe=False)
print(simulation.problem.state().tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_may_fill_an_empty_cache_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _ONE_STEP]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    together = [start(), start()]
    answers = [process.communicate()[0].split()[-1] for process in together]
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("compiled_loop.*.nbc")}
    answers.append(start().communicate()[0].split()[-1])
    assert len(set(answers)) == 1
    assert len(files) >= 2
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("compiled_loop.*.nbc")}


def test_an_error_while_observing_leaves_no_stale_reading(simulation: MakeSimulation) -> None:
    def broken() -> None:
        raise RuntimeError("no picture")

    here = simulation("libero_goal", 9)
    here.start(0, 7)
    here.step(here.rest_action, observe=False)
    with pytest.raises(RuntimeError, match="no picture"):
        here._engine.step(here.rest_action, broken)
    assert here.problem.robot.controller.new_update
