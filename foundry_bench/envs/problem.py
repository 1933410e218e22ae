"""A task's simulator with its task's logic on it, reused from episode to episode: what all kinds share.

robosuite builds a MuJoCo model for every environment and every reset. Building the XML takes milliseconds,
compiling it takes seconds; so the classes here are the task's own, except that the model comes from the scene
cache and that a reset puts back what the last episode changed instead of compiling again.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.scene import RenderProfile, load_scene
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError, nearest

#: Fixture body name -> position (3) and quaternion (4, w first).
Fixtures = dict[str, list[float]]
#: What ``controller=`` takes: robosuite's names.
CONTROLLERS = ("OSC_POSE", "JOINT_POSITION", "JOINT_VELOCITY", "JOINT_TORQUE")


class OnCompiledScene:
    """Mixed into a robosuite environment class: takes its model from the scene cache."""

    render_profile: RenderProfile
    scene_label: str
    placing = False
    # robosuite assigns this in its constructor; things are placed when a `Problem` says so.
    deterministic_reset = property(lambda self: not self.placing, lambda self, value: None)

    def _initialize_sim(self: Any, xml_string: str | None = None) -> None:
        from robosuite.utils.binding_utils import MjSim

        xml = xml_string or self.model.get_xml()
        self.sim = MjSim(load_scene(xml, self.render_profile, self.scene_label))
        self.sim.forward()
        self.initialize_time(self.control_freq)


class Problem(ABC):
    """What a simulation needs of a task.

    Attributes:
        task: the task.
        env: the robosuite environment, which is never stepped by its own ``step``.
        model, data: MuJoCo's.
        robot: the robosuite robot.
        goal: conjuncts of a LIBERO goal, as lists of words; empty for other tasks.
        fixture_bodies: body number by name of what can be put elsewhere without a joint.
        state_size: length of a simulator state.
    """

    _PRISTINE = ("body_pos", "body_quat", "site_rgba", "geom_rgba")

    def __init__(self, task: Task, env: Any) -> None:
        self.task = task
        self.env = env
        self.model: mujoco.MjModel = env.sim.model._model
        self.data: mujoco.MjData = env.sim.data._data
        env.visualize(dict.fromkeys(env._visualizations, False))  # as stock LIBERO's reset does
        self._pristine = {name: getattr(self.model, name).copy() for name in self._PRISTINE}
        self.robot = env.robots[0]
        self.goal: list[list[str]] = []
        self.fixture_bodies: dict[str, int] = {}
        self.state_size = 1 + self.model.nq + self.model.nv

    @abstractmethod
    def home(self, state: np.ndarray) -> None:
        """Reset everything an episode may have changed but the model, and put the robot into the pose in
        which its controller is made, before ``state`` is set."""

    @abstractmethod
    def sample_fixtures(self, seed: int) -> Fixtures:
        """Poses of the fixtures; a function of the seed alone."""

    @abstractmethod
    def sample_state(self, seed: int) -> tuple[np.ndarray, Fixtures]:
        """A fresh init state and the fixture poses that belong to it.

        Raises:
            FoundryError: no placement of the objects was found.
        """

    @abstractmethod
    def refresh(self) -> None:
        """The task's own update after each control step."""

    def restore_model(self) -> None:
        """Undo what an episode may have changed in the model: fixture poses and colours."""
        for name, values in self._pristine.items():
            getattr(self.model, name)[:] = values

    def success(self) -> bool:
        """The task's own success predicate on the present state."""
        return bool(self.env._check_success())

    def state(self) -> np.ndarray:
        """The simulator state, float64 ``[time, qpos, qvel]``."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def check_state(self, state: np.ndarray) -> None:
        """Raise FoundryError for a state of another size or with values that are not finite."""
        if state.shape != (self.state_size,) or not np.isfinite(state).all():
            raise FoundryError(
                f"init state of {self.task.key}: expected {self.state_size} finite numbers, "
                f"got shape {state.shape}"
            )

    def set_state(self, state: np.ndarray) -> None:
        """Set the simulator state and compute everything that follows from it.

        Raises:
            FoundryError: a state of another size or with values that are not finite.
        """
        self.check_state(state)
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + self.model.nq]
        self.data.qvel[:] = state[1 + self.model.nq :]
        mujoco.mj_forward(self.model, self.data)

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


def controller_config(name: str) -> Any:
    """robosuite's default configuration of a controller.

    Raises:
        FoundryError: no such controller.
    """
    import robosuite

    if name not in CONTROLLERS:
        raise FoundryError(f"controller={name}: no such controller, {nearest(name, CONTROLLERS)}")
    return robosuite.load_controller_config(default_controller=name)


#: How every environment is built: no observations of its own, no renderer, our resets.
BUILD = {
    "use_camera_obs": False,
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "control_freq": 20,
    "ignore_done": True,
    "hard_reset": False,
}


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """robosuite and LIBERO draw from numpy's global generator: seed it, and put it back afterwards."""
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
