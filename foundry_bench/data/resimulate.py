"""Simulating a recorded episode again, without pictures: does it still succeed, and how far does it drift?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from foundry_bench.data.recordings import Recording
from foundry_bench.envs.simulation import Simulation
from foundry_bench.errors import FoundryError

MODES = ("actions", "states")


@dataclass
class Replay:
    """What became of an episode.

    Attributes:
        success: whether LIBERO's predicate held after some step.
        success_step: the first such step, counted from 1; None if there is none.
        steps: actions of the recording.
        robot_difference: largest difference between the robot's state and the recorded one, over its numbers
            (metres and radians) and all steps.
        state_difference: the same for positions and velocities of the whole simulator state; None where the
            recording keeps none.
        states: (T, S), the simulator state before each action; empty unless asked for.
        final_state: (S,), the state after the last action.
        joints, quaternions: (T, 7) arm joints and (T, 4) hand orientation before each action, likewise.
    """

    success: bool = False
    success_step: int | None = None
    steps: int = 0
    robot_difference: float = 0.0
    state_difference: float | None = None
    states: list[npt.NDArray[np.float64]] = field(default_factory=list)
    final_state: npt.NDArray[np.float64] | None = None
    joints: list[npt.NDArray[np.float64]] = field(default_factory=list)
    quaternions: list[npt.NDArray[np.float64]] = field(default_factory=list)


def replay(
    simulation: Simulation,
    recording: Recording,
    mode: str = "actions",
    trace: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Replay:
    """Simulate a recording again.

    Args:
        simulation: of the recording's task; without cameras it is fastest.
        recording: what to repeat.
        mode: ``actions``: start from the init state and execute; ``states``: put the simulator into each
            recorded state. The last action is executed then, unless the state after it is recorded; since the
            controller has not seen what came before, an episode that succeeds in just this step may fail.
        trace: keep the states.
        on_step: called after each step.

    Raises:
        FoundryError: the recording has no init state or no states, or they do not fit the task.
    """
    check(recording, mode)
    size = simulation.problem.state_size
    if recording.init_state.shape != (size,):
        raise FoundryError(
            f"{simulation.task.key}: the recorded state has {recording.init_state.size} numbers, the "
            f"simulator's {size}: it was recorded with other versions of the task's objects"
        )
    if recording.actions.shape[1] != simulation.action_dim:
        raise FoundryError(
            f"{simulation.task.key}: recorded actions have {recording.actions.shape[1]} numbers, "
            f"the robot takes {simulation.action_dim}"
        )
    known = simulation.problem.fixture_bodies
    fixtures = {name: pose for name, pose in recording.fixtures.items() if name in known}
    simulation.begin(recording.init_state, fixtures)
    seen = (simulation.wait if mode == "actions" else lambda _: simulation.observe())(recording.wait_steps)
    result = Replay(steps=len(recording.actions))
    for step, action in enumerate(recording.actions):
        if mode == "states" and recording.states is not None:
            simulation.problem.set_state(recording.states[step])
            simulation.problem.refresh()
            seen = simulation.observe()
        _compare(result, simulation, recording, step, seen)
        if trace:
            _keep(result, simulation)
        last = step == len(recording.actions) - 1
        if mode == "states" and last and recording.final_state is not None:
            simulation.problem.set_state(recording.final_state)
            simulation.problem.refresh()
        elif mode == "actions" or last:
            seen = simulation.step(np.clip(action, -1.0, 1.0), observe=True)
        if result.success_step is None and simulation.success():
            result.success, result.success_step = True, step + 1
        on_step()
    result.final_state = simulation.problem.state()
    return result


def check(recording: Recording, mode: str) -> None:
    """Raise FoundryError where a recording does not hold what a mode needs."""
    if mode not in MODES:
        raise FoundryError(f"replay.mode={mode}: known: {', '.join(MODES)}")
    if not recording.suite or recording.task_index < 0:
        raise FoundryError(
            f"the task '{recording.instruction}' is none of LIBERO's, so it cannot be simulated"
        )
    if not recording.init_state.size:
        raise FoundryError("no init state was recorded, so the episode cannot be started again")
    if mode == "states" and recording.states is None:
        raise FoundryError("no simulator states were recorded; use replay.mode=actions")


def _compare(
    result: Replay, simulation: Simulation, recording: Recording, step: int, seen: dict[str, Any]
) -> None:
    if recording.robot.shape[1] == len(seen["state"]):
        apart = float(np.abs(seen["state"] - recording.robot[step]).max())
        result.robot_difference = max(result.robot_difference, apart)
    if recording.states is not None:
        # Without the clock, which a recording of part of an episode does not start at zero.
        apart = float(np.abs(simulation.problem.state()[1:] - recording.states[step][1:]).max())
        result.state_difference = max(result.state_difference or 0.0, apart)


def _keep(result: Replay, simulation: Simulation) -> None:
    data, robot = simulation.problem.data, simulation.problem.robot
    result.states.append(simulation.problem.state())
    result.joints.append(data.qpos[robot._ref_joint_pos_indexes].copy())
    hand = simulation.problem.model.body(robot.robot_model.eef_name).id
    result.quaternions.append(data.xquat[hand][[1, 2, 3, 0]].copy())
