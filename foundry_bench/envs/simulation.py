"""One task's simulator, reused from episode to episode, and a small pool of them.

A `Simulation` knows nothing of episodes, seeds or budgets: it starts from a state it is given, steps, and
looks when asked. Everything above it (the Gymnasium environment, demonstrations, evaluation) shares it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from foundry_bench.envs.engine import make_engine
from foundry_bench.envs.problem import Fixtures, Problem
from foundry_bench.envs.render import CAMERAS, Renderer
from foundry_bench.envs.scene import render_profile
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError, nearest

#: What LIBERO harnesses execute while the objects settle: no motion, gripper open.
WAIT_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
STATE_NAMES = ("x", "y", "z", "rx", "ry", "rz", "finger1", "finger2")
ACTION_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")

Observation = dict[str, Any]


class Simulation:
    """A task's simulator with cameras.

    Args:
        task: what to simulate.
        cameras: names of the cameras to draw, of `agentview` and `wrist`.
        image_size: side of the square images in pixels.
        engine: `native` or `robosuite`.
        profile: render profile, `fast` or `exact`.

    Raises:
        FoundryError: unknown camera, engine or profile, or no OpenGL.
    """

    def __init__(
        self, task: Task, cameras: Sequence[str], image_size: int, engine: str, profile: str
    ) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                raise FoundryError(f"camera '{camera}': no such camera, {nearest(camera, CAMERAS)}")
        self.task = task
        self.cameras = tuple(cameras)
        self.image_size = image_size
        self._profile = render_profile(profile)
        self.problem = Problem(task, self._profile)
        self._engine = make_engine(engine, self.problem)
        self._renderer: Renderer | None = None
        robot = self.problem.robot
        self._grip_site = robot.eef_site_id
        self._hand = self.problem.model.body(robot.robot_model.eef_name).id
        self._fingers = list(robot._ref_gripper_joint_pos_indexes)

    def begin(self, state: np.ndarray, fixtures: Fixtures) -> None:
        """Start from a simulator state with the fixtures at given poses. What ran before leaves no trace."""
        problem = self.problem
        problem.restore_model()
        problem.home()
        self._engine.begin()
        problem.set_fixtures(fixtures)
        problem.set_state(state)
        problem.refresh()

    def wait(self, steps: int) -> Observation:
        """Let the objects settle for some steps and observe, as harnesses do before the policy starts."""
        for _ in range(steps - 1):
            self._engine.step(WAIT_ACTION)
        if steps == 0:
            return self.observe()
        return self.step(WAIT_ACTION, observe=True)

    def step(self, action: np.ndarray, observe: bool) -> Observation:
        """One control step; the observation is empty unless asked for."""
        seen: Observation = {}
        self._engine.step(action, (lambda: seen.update(self.observe())) if observe else None)
        return seen

    def observe(self) -> Observation:
        """Images of all cameras, uint8 (size, size, 3), and the state, float32 (8,)."""
        observation: Observation = {camera: self.frame(camera) for camera in self.cameras}
        observation["state"] = self.proprioception()
        observation["instruction"] = self.task.instruction
        return observation

    def frame(self, camera: str) -> np.ndarray:
        """One image, uint8 of shape (size, size, 3)."""
        if self._renderer is None:
            self._renderer = Renderer(self.problem.model, self._profile, self.image_size)
        return self._renderer.render(self.problem.model, self.problem.data, camera)

    def proprioception(self) -> np.ndarray:
        """The robot's state, float32 (8,): end-effector position (m), axis-angle (rad), finger joints (m)."""
        from robosuite.utils.transform_utils import quat2axisangle

        data = self.problem.data
        quaternion = data.xquat[self._hand]
        rotation = quat2axisangle(quaternion[[1, 2, 3, 0]])  # robosuite's order; not antipodally normalised
        parts = (data.site_xpos[self._grip_site], rotation, data.qpos[self._fingers])
        return np.concatenate(parts).astype(np.float32)

    def success(self) -> bool:
        """LIBERO's own predicate on the present state."""
        return self.problem.success()

    def close(self) -> None:
        """Free what is held on the graphics side."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class SimulationPool:
    """Keeps the simulators last used, so that the next episode of a task starts at once.

    Args:
        limit: how many idle simulators are kept.
        settings: the keyword arguments of `Simulation` other than the task.
    """

    def __init__(self, limit: int = 8, **settings: Any) -> None:
        self._limit = limit
        self._settings = settings
        self._idle: OrderedDict[int, Simulation] = OrderedDict()  # oldest first
        self._count = 0

    def acquire(self, task: Task) -> Simulation:
        """A simulator of the task that nobody else is using."""
        for number in reversed(self._idle):
            if self._idle[number].task == task:
                return self._idle.pop(number)
        while len(self._idle) >= self._limit:
            self._idle.popitem(last=False)[1].close()
        return Simulation(task, **self._settings)

    def release(self, simulation: Simulation) -> None:
        """Hand a simulator back."""
        self._count += 1
        self._idle[self._count] = simulation
