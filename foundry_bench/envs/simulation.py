"""One task's simulator, reused from episode to episode.

A `Simulation` counts nothing and knows no budget: it starts where it is told to, steps, and looks when asked.
Everything above it (the Gymnasium environment, demonstrations, evaluation) shares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foundry_bench.envs.engine import make_engine
from foundry_bench.envs.libero_problem import LiberoProblem
from foundry_bench.envs.problem import Fixtures, Problem
from foundry_bench.envs.render import CAMERAS, Renderer
from foundry_bench.envs.robosuite_problem import RobosuiteProblem
from foundry_bench.envs.scene import render_profile
from foundry_bench.envs.starts import start_of
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
        controller: `OSC_POSE`, `JOINT_POSITION`, `JOINT_VELOCITY` or `JOINT_TORQUE`.

    Raises:
        FoundryError: unknown camera, engine, profile or controller, or no OpenGL.
    """

    terminated = False  # a robosuite task has no other end than success

    def __init__(
        self,
        task: Task,
        cameras: Sequence[str],
        image_size: int,
        engine: str,
        profile: str,
        controller: str = "OSC_POSE",
    ) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                raise FoundryError(f"camera '{camera}': no such camera, {nearest(camera, CAMERAS)}")
        self.task = task
        self.cameras = tuple(cameras)
        self.image_size = image_size
        self._profile = render_profile(profile)
        kind = LiberoProblem if task.bddl is not None else RobosuiteProblem
        self.problem: Problem = kind(task, self._profile, controller)
        self._engine = make_engine(engine, self.problem)
        self._renderer: Renderer | None = None
        robot = self.problem.robot
        self._grip_site = robot.eef_site_id
        self._hand = self.problem.model.body(robot.robot_model.eef_name).id
        self._fingers = _finger_pair(robot)
        #: Size of an action: the controller's numbers and the gripper, also for a tool that does not move.
        self.action_dim: int = robot.controller.control_dim + 1
        self._used = robot.action_dim  # of those numbers
        #: No motion, gripper open.
        self.rest_action = np.zeros(self.action_dim)
        self.rest_action[-1] = -1.0

    def begin(self, state: np.ndarray, fixtures: Fixtures) -> None:
        """Start from a simulator state with the fixtures at given poses. What ran before leaves no trace."""
        problem = self.problem
        problem.restore_model()
        problem.home(state)
        self._engine.begin()
        problem.set_fixtures(fixtures)
        problem.set_state(state)
        problem.refresh()

    def start(self, init_state: int, seed: int, reset_mode: str = "strict") -> None:
        """Start from an init state by its index.

        Args:
            init_state: index of an official init state, or of a sampled one where a task has none on file.
            seed: the evaluation's; decides the fixture poses, which init states do not hold.
            reset_mode: `strict`: the fixtures are a function of seed, task and init state; `legacy`: they are
                those of the ``init_state + 1``-th reset after seeding once, as in the published harnesses.

        Raises:
            FoundryError: no such init state or reset mode.
        """
        self.begin(*start_of(self.problem, init_state, seed, reset_mode))

    def wait(self, steps: int) -> Observation:
        """Let the objects settle for some steps and observe, as harnesses do before the policy starts."""
        for _ in range(steps - 1):
            self.step(self.rest_action, observe=False)
        if steps == 0:
            return self.observe()
        return self.step(self.rest_action, observe=True)

    def step(self, action: np.ndarray, observe: bool) -> Observation:
        """One control step; the observation is empty unless asked for."""
        seen: Observation = {}
        self._engine.step(action[: self._used], (lambda: seen.update(self.observe())) if observe else None)
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
        """The robot's state, float32 (8,): end-effector position (m), axis-angle (rad), finger joints (m).

        Of a gripper with more joints than two the first of each half, of a tool without joints zeros.
        """
        from robosuite.utils.transform_utils import quat2axisangle

        data = self.problem.data
        quaternion = data.xquat[self._hand]
        rotation = quat2axisangle(quaternion[[1, 2, 3, 0]])  # robosuite's order; not antipodally normalised
        fingers = data.qpos[self._fingers] if self._fingers else np.zeros(2)
        parts = (data.site_xpos[self._grip_site], rotation, fingers)
        return np.concatenate(parts).astype(np.float32)

    def success(self) -> bool:
        """LIBERO's own predicate on the present state."""
        return self.problem.success()

    def close(self) -> None:
        """Free what is held on the graphics side."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _finger_pair(robot: Any) -> list[int]:
    """Addresses in ``qpos`` of two joints that tell how far a gripper is open; none for a fixed tool."""
    joints = list(robot._ref_gripper_joint_pos_indexes or []) if robot.has_gripper else []
    return [joints[0], joints[len(joints) // 2]] if joints else []
