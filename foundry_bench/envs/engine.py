"""How a step is computed: `native`, our lean loop, or `robosuite`, the stock code it must agree with."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, Protocol

import mujoco
import numpy as np

from foundry_bench.envs.control import OBSERVED_SUBSTEP, SUBSTEPS, LeanLoop
from foundry_bench.envs.problem import Problem
from foundry_bench.errors import FoundryError, nearest

log = logging.getLogger(__name__)
_EVERYTHING = mujoco.mjtState.mjSTATE_INTEGRATION  # the solver's starting point included


class Engine(Protocol):
    """Steps a problem."""

    def begin(self) -> None:
        """Start an episode, with the robot in its start pose and before the init state is set."""

    def step(self, action: np.ndarray, observe: Callable[[], None] | None = None) -> None:
        """One control step of 50 ms.

        ``observe`` is called at the moment at which stock LIBERO samples its observations.
        """


class NativeEngine:
    """robosuite's control loop on MuJoCo's bare functions, the same to the last bit.

    robosuite computes the whole forward dynamics twice beside each step: once to refresh what the controller
    reads, once more inside the controller. Here ``mj_step1`` brings positions, velocities and bias forces up
    to date, the controls are written, and ``mj_step2`` goes on from there.

    One effect of the repeated computations is kept: each ends in the contact solver, with the controls of
    the substep before, and leaves its solution as the point from which the next solve starts. The solver
    stops at a tolerance, so another start gives another last digit, and objects that rattle on each other
    amplify that to millimetres within a hundred steps.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._loop = make_loop(problem)
        self._controller = ControllerMaker(problem)

    def begin(self) -> None:
        """Make a new controller from the robot's start pose."""
        self._controller.renew()
        self._loop.begin()

    def step(self, action: np.ndarray, observe: Callable[[], None] | None = None) -> None:
        """One control step of 50 ms."""
        self._loop.step(action, observe)
        self._problem.refresh()


class RobosuiteEngine:
    """robosuite's own stepping and controller, unchanged: the reference."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._controller = ControllerMaker(problem)

    def begin(self) -> None:
        """Make a new controller from the robot's start pose."""
        self._controller.renew()
        self._problem.env.timestep = 0

    def step(self, action: np.ndarray, observe: Callable[[], None] | None = None) -> None:
        """One control step of 50 ms."""
        env = self._problem.env
        policy_step = True
        for substep in range(1, SUBSTEPS + 1):
            env.sim.forward()
            env._pre_action(action, policy_step)
            env.sim.step()
            policy_step = False
            if observe is not None and substep == OBSERVED_SUBSTEP:
                observe()
        self._problem.refresh()


def make_loop(problem: Problem) -> Engine:
    """The compiled loop where the robot's controller is the usual one, else the one in Python."""
    from foundry_bench.envs.compiled_loop import CompiledLoop

    robot = problem.robot
    if CompiledLoop.fits(robot.controller):
        try:
            return CompiledLoop(problem.model, problem.data, robot)
        except (OSError, AttributeError) as error:
            log.warning("steps are computed in Python, at a third more time: %s", error)
    return LeanLoop(problem.model, problem.data, robot)


class ControllerMaker:
    """What a stock reset does to the robot: a new controller, made in the start pose.

    robosuite makes it twice, with five forward passes through a pose in which all objects of a LIBERO scene
    lie inside each other; those took a fifth of an episode's start. What comes of them depends on the pose
    alone, the solver's starting point included: it is kept, and put back when the next episode starts from
    the same pose, as all episodes of a LIBERO task do.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._before = np.empty(0)
        self._after = np.empty(0)
        self._controller: Any = None

    def renew(self) -> None:
        """Give the robot its new controller."""
        problem, robot = self._problem, self._problem.robot
        before = self._state()
        robot.gripper.current_action = np.zeros(robot.gripper.dof)
        if np.array_equal(before, self._before):
            mujoco.mj_kinematics(problem.model, problem.data)  # the reset looks where the robot's base is
            robot._load_controller = lambda: setattr(robot, "controller", self._copy(self._controller))
            try:
                robot.reset(deterministic=True)
            finally:
                del robot._load_controller
            mujoco.mj_setState(problem.model, problem.data, self._after, _EVERYTHING)
            return
        mujoco.mj_forward(problem.model, problem.data)
        robot._load_controller()
        robot.reset(deterministic=True)
        self._before, self._after = before, self._state()
        self._controller = self._copy(robot.controller)

    def _state(self) -> np.ndarray:
        """All that a forward pass depends on; of the model nothing that stays the same between episodes."""
        model, data = self._problem.model, self._problem.data
        state = np.empty(mujoco.mj_stateSize(model, _EVERYTHING))
        mujoco.mj_getState(model, data, state, _EVERYTHING)
        return state

    def _copy(self, controller: Any) -> Any:
        """A copy on the same simulator."""
        return copy.deepcopy(controller, {id(controller.sim): controller.sim})


ENGINES: dict[str, Callable[[Problem], Engine]] = {"native": NativeEngine, "robosuite": RobosuiteEngine}


def make_engine(name: str, problem: Problem) -> Engine:
    """The engine called ``name`` for a problem.

    Raises:
        FoundryError: no such engine.
    """
    if name not in ENGINES:
        raise FoundryError(f"engine={name}: no such engine, {nearest(name, ENGINES)}")
    return ENGINES[name](problem)
