"""The native engine against robosuite's own stepping."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from foundry_bench.envs.engine import NativeEngine, make_engine
from foundry_bench.envs.simulation import WAIT_ACTION, Simulation
from foundry_bench.envs.starts import start_of
from foundry_bench.envs.suites import init_states
from foundry_bench.envs.suites import task as find_task
from foundry_bench.errors import FoundryError
from tests.envs.conftest import MakeSimulation

_TASKS = [("libero_spatial", 5), ("libero_object", 2), ("libero_goal", 9), ("libero_10", 8)]


def _trajectory(simulation: Simulation, actions: np.ndarray, seed: int) -> np.ndarray:
    fixtures = simulation.problem.sample_fixtures(seed)
    simulation.begin(init_states(simulation.task)[seed], fixtures)
    states = []
    for action in [WAIT_ACTION] * 10 + list(actions):
        simulation.step(action, observe=False)
        states.append(simulation.problem.state())
    return np.stack(states)


@pytest.mark.parametrize(("suite", "index"), _TASKS[:1])
def test_native_agrees_with_robosuite(simulation: MakeSimulation, suite: str, index: int) -> None:
    _compare(simulation, suite, index, seeds=[0], steps=60)


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "index"), _TASKS)
def test_native_agrees_on_every_suite(simulation: MakeSimulation, suite: str, index: int) -> None:
    _compare(simulation, suite, index, seeds=[1, 2], steps=100)


def _compare(simulation: MakeSimulation, suite: str, index: int, seeds: list[int], steps: int) -> None:
    for seed in seeds:
        actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 7))
        actions[:, 3:6] *= np.random.default_rng(seed).random((steps, 1)) < 0.7  # zero rotations are special
        native = _trajectory(simulation(suite, index), actions, seed)
        stock = _trajectory(simulation(suite, index, "robosuite"), actions, seed)
        np.testing.assert_array_equal(native, stock)


def test_an_episode_leaves_no_trace(simulation: MakeSimulation) -> None:
    here = simulation("libero_goal", 9)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 7))
    first = _trajectory(here, actions, 0)
    _trajectory(here, -actions, 3)
    np.testing.assert_array_equal(_trajectory(here, actions, 0), first)


@pytest.mark.parametrize(
    ("suite", "controller"),
    [("libero_goal", "OSC_POSE"), ("robosuite", "OSC_POSE"), ("robosuite", "JOINT_VELOCITY")],
)
def test_a_kept_controller_equals_a_new_one(suite: str, controller: str) -> None:
    here = Simulation(find_task(suite, 0), (), 64, "native", "fast", controller)
    usual = here._engine
    for init_state in (0, 0, 1, 1):
        kept = _at_the_beginning(here, init_state)
        here._engine = NativeEngine(here.problem)
        new = _at_the_beginning(here, init_state)
        here._engine = usual
        assert kept.keys() == new.keys()
        for name, value in new.items():
            np.testing.assert_array_equal(kept[name], value, err_msg=name)


def _at_the_beginning(simulation: Simulation, init_state: int) -> dict[str, Any]:
    """The whole state, the solver's starting point included, and all numbers of the controller."""
    problem = simulation.problem
    problem.restore_model()
    problem.home(start_of(problem, init_state, 7)[0])
    simulation._engine.begin()
    everything = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(problem.model, everything))
    mujoco.mj_getState(problem.model, problem.data, state, everything)
    attributes = vars(problem.robot.controller).items()
    numbers = {name: np.copy(value) for name, value in attributes if isinstance(value, np.ndarray | float)}
    simulation.step(np.ones(simulation.action_dim), observe=False)  # leaves its traces in the controller
    return numbers | {"state": state, "base": problem.robot.base_ori}


def test_fixtures_depend_on_the_seed_alone(simulation: MakeSimulation) -> None:
    problem = simulation("libero_goal", 9).problem
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    poses = problem.sample_fixtures(3)
    assert poses == problem.sample_fixtures(3)
    assert poses != problem.sample_fixtures(4)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_sampled_states_are_fresh_and_repeatable(simulation: MakeSimulation) -> None:
    problem = simulation("libero_spatial", 5).problem
    state, fixtures = problem.sample_state(11)
    again, same = problem.sample_state(11)
    np.testing.assert_array_equal(state, again)
    assert fixtures == same
    official = init_states(problem.task)
    assert np.abs(official[:, 1:] - state[1:]).max(axis=1).min() > 1e-3


def test_an_unknown_engine_names_the_known_ones(simulation: MakeSimulation) -> None:
    with pytest.raises(FoundryError, match="did you mean 'native'"):
        make_engine("natve", simulation("libero_spatial", 5).problem)


def test_a_state_of_another_size_is_refused(simulation: MakeSimulation) -> None:
    problem = simulation("libero_spatial", 5).problem
    with pytest.raises(FoundryError, match="expected"):
        problem.set_state(np.zeros(3))
    with pytest.raises(FoundryError, match="finite"):
        problem.set_state(np.full(problem.state_size, np.nan))
