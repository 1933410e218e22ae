"""LIBERO's own problem classes on a compiled scene: its objects, its predicates, its placement samplers.

LIBERO builds a MuJoCo model for every environment and every reset. Building the XML takes milliseconds,
compiling it takes seconds; so the classes here are LIBERO's, except that the model comes from the scene
cache and that a reset puts back what the last episode changed instead of compiling again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.scene import RenderProfile, load_scene
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError

#: Fixture body name -> position (3) and quaternion (4, w first).
Fixtures = dict[str, list[float]]
_MAX_PLACEMENTS = 40


class _OnCompiledScene:
    """Mixed into a LIBERO problem class: takes its model from the scene cache."""

    render_profile: RenderProfile
    # robosuite assigns this in its constructor; placement is always done by `Problem`.
    deterministic_reset = property(lambda self: True, lambda self, value: None)

    def _initialize_sim(self: Any, xml_string: str | None = None) -> None:
        from robosuite.utils.binding_utils import MjSim

        self.sim = MjSim(load_scene(xml_string or self.model.get_xml(), self.render_profile))
        self.sim.forward()
        self.initialize_time(self.control_freq)


class Problem:
    """A task's scene with LIBERO's logic on it, reused from episode to episode.

    Args:
        task: what to build.
        profile: decides which meshes and textures are compiled.
    """

    def __init__(self, task: Task, profile: RenderProfile) -> None:
        self.task = task
        with quiet():
            self.env = _build(task, profile)
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        self.env.visualize(dict.fromkeys(self.env._visualizations, False))  # as stock LIBERO's reset does
        self.goal: list[list[str]] = self.env.parsed_problem["goal_state"]
        self._pristine = {
            name: getattr(self.model, name).copy() for name in ("body_pos", "body_quat", "site_rgba")
        }
        self.robot = self.env.robots[0]
        self.fixture_bodies = {
            name: self.model.body(fixture.root_body).id for name, fixture in self.env.fixtures_dict.items()
        }
        self.state_size = 1 + self.model.nq + self.model.nv

    def restore_model(self) -> None:
        """Undo what an episode may have changed in the model: fixture poses and site colours."""
        for name, values in self._pristine.items():
            getattr(self.model, name)[:] = values

    def success(self) -> bool:
        """LIBERO's own success predicate on the present state."""
        return bool(self.env._check_success())

    def refresh(self) -> None:
        """LIBERO's per-step update of what shows a state, such as a stove's burner."""
        self.env._post_process()

    def state(self) -> np.ndarray:
        """The simulator state, float64 ``[time, qpos, qvel]``."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def set_state(self, state: np.ndarray) -> None:
        """Set the simulator state and compute everything that follows from it.

        Raises:
            FoundryError: a state of another size or with values that are not finite.
        """
        if state.shape != (self.state_size,) or not np.isfinite(state).all():
            raise FoundryError(
                f"init state of {self.task.key}: expected {self.state_size} finite numbers, "
                f"got shape {state.shape}"
            )
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + self.model.nq]
        self.data.qvel[:] = state[1 + self.model.nq :]
        mujoco.mj_forward(self.model, self.data)

    def home(self) -> None:
        """Reset the simulator and put the robot into its start pose."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self.robot._ref_joint_pos_indexes] = self.robot.init_qpos
        self.data.qpos[self.robot._ref_gripper_joint_pos_indexes] = self.robot.gripper.init_qpos

    def sample_fixtures(self, seed: int) -> Fixtures:
        """Poses of the fixtures, drawn from LIBERO's regions; a function of the seed alone."""
        placements: dict[str, Any] = {}
        with _numpy_seed(seed):
            for sampler in self.env.placement_initializer.samplers.values():
                if all(thing.name in self.fixture_bodies for thing in sampler.mujoco_objects):
                    placements.update(sampler.sample(fixtures=None))
        return {
            name: [float(x) for x in (*position, *quaternion)]
            for name, (position, quaternion, _) in placements.items()
        }

    def set_fixtures(self, fixtures: Fixtures) -> None:
        """Put fixtures where ``fixtures`` says; the others stay."""
        for name, pose in fixtures.items():
            if name not in self.fixture_bodies or len(pose) != 7:
                raise FoundryError(
                    f"{self.task.key}: '{name}' is not a fixture of this task with a pose of 7 numbers"
                )
            body = self.fixture_bodies[name]
            self.model.body_pos[body] = pose[:3]
            self.model.body_quat[body] = pose[3:]

    def sample_state(self, seed: int) -> tuple[np.ndarray, Fixtures]:
        """A fresh init state and the fixture poses that belong to it, by LIBERO's placement samplers.

        Never one of the official init states, which are for evaluation only.

        Raises:
            FoundryError: LIBERO's samplers found no placement.
        """
        from robosuite.utils.errors import RandomizationError

        with _numpy_seed(seed), quiet():
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
        self.home()
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


def _build(task: Task, profile: RenderProfile) -> Any:
    import robosuite
    from libero.libero.envs import TASK_MAPPING, bddl_utils

    info = bddl_utils.get_problem_info(str(task.bddl))
    if info["problem_name"] not in TASK_MAPPING:
        raise FoundryError(
            f"{task.bddl}: unknown problem '{info['problem_name']}', LIBERO has {', '.join(TASK_MAPPING)}"
        )
    base = TASK_MAPPING[info["problem_name"]]
    # LIBERO checks that the class is named as the BDDL file says.
    problem = type(base.__name__, (_OnCompiledScene, base), {"render_profile": profile})
    return problem(
        str(task.bddl),
        robots=["Panda"],
        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
        initialization_noise=None,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        control_freq=20,
        ignore_done=True,
        hard_reset=False,
    )


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """LIBERO's samplers draw from numpy's global generator: seed it, and put it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """robosuite and LIBERO print and log on the way; nobody reads that a hundred times."""
    import io
    import logging

    robosuite_log = logging.getLogger("robosuite_logs")
    level = robosuite_log.level
    robosuite_log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        robosuite_log.setLevel(level)
