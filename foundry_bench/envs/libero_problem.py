"""LIBERO's own problem classes on a compiled scene: its objects, its predicates, its placement samplers."""

from __future__ import annotations

import contextlib
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
_LEGACY_AHEAD = 10  # resets worked out beyond the one asked for, since the next episode asks for the next


class LiberoProblem(Problem):
    """A LIBERO task's scene with LIBERO's logic on it.

    Args:
        task: what to build.
        profile: decides which meshes and textures are compiled.
        controller: robosuite's name of the controller.
    """

    def __init__(self, task: Task, profile: RenderProfile, controller: str = "OSC_POSE") -> None:
        with quiet():
            super().__init__(task, _build(task, profile, controller))
        self._legacy: dict[int, list[Fixtures]] = {}
        self.goal = self.env.parsed_problem["goal_state"]
        self.fixture_bodies = {
            name: self.model.body(fixture.root_body).id for name, fixture in self.env.fixtures_dict.items()
        }

    def refresh(self) -> None:
        """LIBERO's per-step update of what shows a state, such as a stove's burner."""
        self.env._post_process()

    def home(self, state: np.ndarray) -> None:
        """Reset the simulator and put the robot into its start pose, whatever the state."""
        self._start_pose()

    def _start_pose(self) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self.robot._ref_joint_pos_indexes] = self.robot.init_qpos
        self.data.qpos[self.robot._ref_gripper_joint_pos_indexes] = self.robot.gripper.init_qpos

    def sample_fixtures(self, seed: int) -> Fixtures:
        """Poses of the fixtures, drawn from LIBERO's regions; a function of the seed alone."""
        placements: dict[str, Any] = {}
        with numpy_seed(seed):
            for sampler in self.env.placement_initializer.samplers.values():
                if all(thing.name in self.fixture_bodies for thing in sampler.mujoco_objects):
                    placements.update(sampler.sample(fixtures=None))
        return {
            name: [float(x) for x in (*position, *quaternion)]
            for name, (position, quaternion, _) in placements.items()
        }

    def legacy_fixtures(self, seed: int, resets: int) -> Fixtures:
        """Poses of the fixtures after so many resets of an environment that was seeded once.

        That is how the harnesses of openpi and OpenVLA go through a task's init states on stock LIBERO:
        ``env.seed(seed)`` once, then ``env.reset()`` before each episode, so that the fixtures of an episode
        depend on how many came before it.
        """
        from robosuite.utils.errors import RandomizationError

        seen = self._legacy.setdefault(seed, [])
        if len(seen) < resets:
            seen.clear()
            with numpy_seed(seed), quiet():
                while len(seen) < resets + _LEGACY_AHEAD:
                    # robosuite draws noise for the arm's joints at every try, also where its size is zero.
                    np.random.randn(len(self.robot.init_qpos))  # noqa: NPY002
                    with contextlib.suppress(RandomizationError):
                        seen.append(self._sample_state()[1])
        return seen[resets - 1]

    def sample_state(self, seed: int) -> tuple[np.ndarray, Fixtures]:
        """A fresh init state and the fixture poses that belong to it, by LIBERO's placement samplers.

        Never one of the official init states, which are for evaluation only.

        Raises:
            FoundryError: LIBERO's samplers found no placement.
        """
        from robosuite.utils.errors import RandomizationError

        with numpy_seed(seed), quiet():
            for _ in range(_MAX_PLACEMENTS):
                try:
                    return self._sample_state()
                except RandomizationError:
                    continue
        raise FoundryError(
            f"{self.task.key}: no valid placement of the objects in {_MAX_PLACEMENTS} tries (seed {seed})"
        )

    def _sample_state(self) -> tuple[np.ndarray, Fixtures]:
        self.restore_model()
        self._start_pose()
        env = self.env
        for initializer in env.object_property_initializers:
            env.object_states_dict[initializer.name].set_joint(initializer.sample())
        mujoco.mj_step1(self.model, self.data)
        placements = env.placement_initializer.sample()
        placements = env.conditional_placement_initializer.sample(env.sim, placements)
        placements = env.conditional_placement_on_objects_initializer.sample(placements)
        fixtures: Fixtures = {}
        for position, quaternion, thing in placements.values():
            pose = [float(x) for x in (*position, *quaternion)]
            if thing.name in self.fixture_bodies:
                fixtures[thing.name] = pose
            else:
                address = self.model.joint(thing.joints[-1]).qposadr[0]
                self.data.qpos[address : address + 7] = pose
        self.set_fixtures(fixtures)
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        return self.state(), fixtures


def _build(task: Task, profile: RenderProfile, controller: str) -> Any:
    from libero.libero.envs import TASK_MAPPING, bddl_utils

    info = bddl_utils.get_problem_info(str(task.bddl))
    if info["problem_name"] not in TASK_MAPPING:
        raise FoundryError(
            f"{task.bddl}: unknown problem '{info['problem_name']}', LIBERO has {', '.join(TASK_MAPPING)}"
        )
    base = TASK_MAPPING[info["problem_name"]]
    # LIBERO checks that the class is named as the BDDL file says.
    extra = {"render_profile": profile, "scene_label": task.key}
    problem = type(base.__name__, (OnCompiledScene, base), extra)
    return problem(
        str(task.bddl),
        robots=[task.robot],
        controller_configs=controller_config(controller),
        initialization_noise=None,
        **BUILD,
    )
