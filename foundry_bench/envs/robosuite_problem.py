"""robosuite's own tasks on a compiled scene."""

from __future__ import annotations

import random
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.problem import (
    BUILD,
    Fixtures,
    OnCompiledScene,
    Problem,
    controller_config,
    numpy_seed,
    quiet,
)
from foundry_bench.envs.scene import RenderProfile
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError

_MAX_PLACEMENTS = 40


class RobosuiteProblem(Problem):
    """A robosuite task with robosuite's predicates, placement and noise of the start pose.

    Non-obvious behaviours:

    - robosuite draws the size of some objects (the cubes of Lift and Stack, within 2 mm) whenever it builds
      a model, at every hard reset. Here they are drawn once, from a fixed seed: a task is one scene.
    - robosuite starts the arm with noise on its joints and makes the controller in that pose; the noise is
      part of a state here, and the controller is made in the state's pose.
    - Wipe counts a marker as wiped in its reward function, which is therefore called after every step. It
      never ends an episode early on a collision.

    Args:
        task: what to build.
        profile: decides which meshes and textures are compiled.
        controller: robosuite's name of the controller.
    """

    def __init__(self, task: Task, profile: RenderProfile, controller: str = "OSC_POSE") -> None:
        with quiet(), numpy_seed(0):
            super().__init__(task, _build(task, profile, controller))
        self.fixture_bodies = {self.model.body(body).name: body for body in range(self.model.nbody)}

    def refresh(self) -> None:
        """Let the task take note of what this step did."""
        if hasattr(self.env, "wiped_markers"):
            with quiet():
                self.env.reward(None)

    def home(self, state: np.ndarray) -> None:
        """Reset simulator and task, and put the robot into the pose of the state."""
        self.check_state(state)
        mujoco.mj_resetData(self.model, self.data)
        self.env._reset_internal()
        mujoco.mj_resetData(self.model, self.data)
        joints = self.robot._ref_joint_pos_indexes
        self.robot.init_qpos = state[1 : 1 + self.model.nq][joints]
        self.data.qpos[:] = state[1 : 1 + self.model.nq]

    def sample_fixtures(self, seed: int) -> Fixtures:
        """Of the state sampled with that seed: what is placed without a joint, such as a door or markers."""
        return self.sample_state(seed)[1]

    def sample_state(self, seed: int) -> tuple[np.ndarray, Fixtures]:
        """A fresh init state and the fixture poses that belong to it, by robosuite's own reset.

        Raises:
            FoundryError: robosuite's samplers found no placement.
        """
        from robosuite.utils.errors import RandomizationError

        before = random.getstate()
        random.seed(seed)
        try:
            with numpy_seed(seed), quiet():
                for _ in range(_MAX_PLACEMENTS):
                    try:
                        return self._sample_state()
                    except RandomizationError:
                        continue
        finally:
            self.env.placing = False
            random.setstate(before)
        raise FoundryError(
            f"{self.task.key}: no valid placement of the objects in {_MAX_PLACEMENTS} tries (seed {seed})"
        )

    def _sample_state(self) -> tuple[np.ndarray, Fixtures]:
        self.restore_model()
        mujoco.mj_resetData(self.model, self.data)
        self.robot.init_qpos = np.array(self.robot.robot_model.init_qpos)
        self.env.placing = True
        self.env._reset_internal()
        self.env.placing = False
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        moved = (self.model.body_pos != self._pristine["body_pos"]).any(axis=1)
        moved |= (self.model.body_quat != self._pristine["body_quat"]).any(axis=1)
        fixtures = {
            name: [*map(float, self.model.body_pos[body]), *map(float, self.model.body_quat[body])]
            for name, body in self.fixture_bodies.items()
            if moved[body]
        }
        return self.state(), fixtures


def _build(task: Task, profile: RenderProfile, controller: str) -> Any:
    from robosuite.environments.base import REGISTERED_ENVS

    base = REGISTERED_ENVS[task.name]
    label = {"render_profile": profile, "scene_label": task.key}
    ours = type(base.__name__, (OnCompiledScene, base), label)
    REGISTERED_ENVS[task.name] = base  # robosuite's metaclass has put our class there
    return ours(robots=[task.robot], controller_configs=controller_config(controller), **BUILD)
