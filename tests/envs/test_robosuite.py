"""robosuite's own tasks: the same motion with both engines, every arm, every controller."""

from __future__ import annotations

import numpy as np
import pytest

from foundry_bench.envs.libero import LiberoEnv
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import ROBOSUITE_TASKS, ROBOTS, suite
from foundry_bench.errors import FoundryError

SUITES = ("robosuite", *(f"robosuite_{suffix}" for suffix in ROBOTS))


def make(name: str, index: int, engine: str = "native", controller: str = "OSC_POSE") -> Simulation:
    return Simulation(suite(name).tasks[index], ("agentview", "wrist"), 48, engine, "fast", controller)


def trajectory(simulation: Simulation, steps: int = 25, init_state: int = 3) -> np.ndarray:
    simulation.start(init_state, 7)
    simulation.wait(2)
    actions = np.random.default_rng(init_state).uniform(-1, 1, (steps, simulation.action_dim))
    states = []
    for action in actions:
        simulation.step(action, observe=False)
        states.append(simulation.problem.state())
    return np.stack(states)


def agree(name: str, index: int, controller: str = "OSC_POSE") -> None:
    native, stock = (make(name, index, engine, controller) for engine in ("native", "robosuite"))
    np.testing.assert_array_equal(trajectory(native), trajectory(stock))


def test_lift_moves_the_same_with_both_engines() -> None:
    agree("robosuite", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_every_task_and_arm_moves_the_same_with_both_engines(name: str) -> None:
    for index in range(len(ROBOSUITE_TASKS)):
        agree(name, index)


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["JOINT_POSITION", "JOINT_VELOCITY", "JOINT_TORQUE"])
def test_joint_space_controllers_move_the_same_with_both_engines(controller: str) -> None:
    agree("robosuite", 0, controller)
    agree("robosuite_ur5e", 2, controller)
    assert make("robosuite_ur5e", 2, controller=controller).action_dim == 7
    assert suite("robosuite_ur5e").tasks[2].joint_action_dim == 7


def test_an_init_state_is_its_index_and_nothing_else() -> None:
    lift = make("robosuite", 0)
    first = trajectory(lift)
    other = trajectory(lift, init_state=4)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(trajectory(lift), first)
    lift.start(3, seed=8)  # nothing but the init state is random here
    start = lift.problem.state()
    lift.start(3, seed=7)
    np.testing.assert_array_equal(lift.problem.state(), start)
    with pytest.raises(FoundryError, match="0 to 49"):
        lift.start(50, 7)


def test_the_door_stands_elsewhere_in_another_init_state() -> None:
    door = make("robosuite", 2)
    body = door.problem.fixture_bodies["Door_main"]
    places = []
    for init_state in (0, 1, 0):
        door.start(init_state, 7)
        places.append(door.problem.model.body_pos[body].copy())
    assert np.abs(places[0] - places[1]).max() > 1e-3
    np.testing.assert_array_equal(places[0], places[2])


def test_wipe_has_no_gripper_and_counts_markers_anew_each_episode() -> None:
    wipe = make("robosuite", 5)
    wipe.start(0, 7)
    observation = wipe.wait(1)
    np.testing.assert_array_equal(observation["state"][6:], np.zeros(2))
    assert wipe.action_dim == 7
    markers = wipe.problem.env.model.mujoco_arena.markers
    wipe.problem.env.wiped_markers = list(markers)
    assert wipe.success()
    wipe.start(0, 7)
    assert not wipe.success()


def test_sampling_leaves_robosuites_own_classes_alone() -> None:
    from robosuite.environments.base import REGISTERED_ENVS
    from robosuite.environments.manipulation.lift import Lift

    make("robosuite", 0)
    assert REGISTERED_ENVS["Lift"] is Lift


def test_it_is_a_gymnasium_environment() -> None:
    env = LiberoEnv(0, "robosuite", image_size=48, controller="JOINT_POSITION")
    observation, info = env.reset(seed=1, options={"init_state": 2})
    assert env.observation_space.contains(observation)
    assert env.action_space.shape == (8,)
    again, _ = env.reset(seed=1, options={"state": info["init_state"], "fixtures": info["fixtures"]})
    np.testing.assert_array_equal(again["agentview"], observation["agentview"])
    env.step(env.action_space.sample())
    env.close()


def test_an_unknown_controller_names_the_known_ones() -> None:
    with pytest.raises(FoundryError, match="did you mean 'OSC_POSE'"):
        make("robosuite", 0, controller="OSC_POS")
