"""LIBERO and robosuite as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from foundry_bench.envs.simulation import STATE_NAMES, Observation, Simulation
from foundry_bench.envs.starts import start_of
from foundry_bench.envs.suites import Task
from foundry_bench.envs.suites import task as find_task
from foundry_bench.errors import FoundryError

#: Step budgets of published results (openpi, openvla-oft and vla-eval use the same ones); for robosuite ours.
MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
    "robosuite": 400,
}


def step_budget(suite: str) -> int:
    """The usual step budget of a suite: that of the longest listed name that it extends, else 400."""
    known = [name for name in MAX_STEPS if suite == name or suite.startswith(f"{name}_")]
    return MAX_STEPS[max(known, key=len)] if known else 400


class LiberoEnv(gymnasium.Env[Observation, np.ndarray]):
    """One task of LIBERO or robosuite.

    Action space: ``Box(-1, 1, (7,), float32)``: displacement of the end effector (3, one unit is 5 cm),
    rotation as axis-angle (3, one unit is 0.5 rad), gripper (-1 opens, 1 closes); 20 Hz.

    Observation space: ``agentview`` and ``wrist``, uint8 images of shape (image_size, image_size, 3), turned
    by 180 degrees as published harnesses do; ``state``, float32 (8,): end-effector position in metres,
    axis-angle in radians, both finger joints in metres; ``instruction``, the text of the task.

    Reward: 1 when the task's own success predicate holds after a step, else 0.

    Start: the caller names it. ``reset(seed=s, options={"init_state": i})`` starts from the official init
    state ``i`` with fixtures placed by the seed; ``options={"state": array, "fixtures": {...}}`` from a given
    simulator state; without options, from a fresh state sampled with the seed. Then ``wait_steps`` steps
    pass while the objects settle. The environment counts nothing between episodes.

    End: terminated at success; truncated after ``max_steps`` steps.

    Args:
        task: a task, or its index in ``suite``.
        suite: name of the suite, needed when ``task`` is an index.
        cameras: which cameras to draw.
        image_size: side of the images in pixels.
        engine: `native` (fast) or `robosuite` (stock code); they agree to the last bit.
        render_profile: `fast`, or `exact` for stock LIBERO's pixels.
        controller: `OSC_POSE`, or `JOINT_POSITION`, `JOINT_VELOCITY`, `JOINT_TORQUE`, whose actions are one
            number for each joint and one for the gripper.
        wait_steps: settling steps before the first observation, outside of the budget.
        max_steps: step budget; by default the one published results use.

    Raises:
        FoundryError: an unknown suite, task, camera, engine or profile, or no OpenGL.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        task: Task | int = 0,
        suite: str | None = None,
        *,
        cameras: Sequence[str] = ("agentview", "wrist"),
        image_size: int = 128,
        engine: str = "native",
        render_profile: str = "fast",
        controller: str = "OSC_POSE",
        wait_steps: int = 10,
        max_steps: int | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if not isinstance(task, Task):
            if suite is None:
                raise FoundryError(f"task={task}: name the suite too, such as suite='libero_spatial'")
            task = find_task(suite, task)
        if task.gymnasium is not None:
            raise FoundryError(
                f"{task.key} is a Gymnasium environment already: gymnasium.make('{task.gymnasium.id}')"
            )
        self.task = task
        self.render_mode = render_mode
        self.wait_steps = wait_steps
        self.max_steps = step_budget(task.suite) if max_steps is None else max_steps
        self.simulation = Simulation(task, cameras, image_size, engine, render_profile, controller)
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                **dict.fromkeys(cameras, image),
                "state": spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32),
                "instruction": spaces.Text(max_length=256, min_length=0, charset=_CHARACTERS),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (self.simulation.action_dim,), np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for the options."""
        super().reset(seed=seed)
        number = seed if seed is not None else int(self.np_random.integers(2**31))
        problem = self.simulation.problem
        options = options or {}
        if "state" in options:
            state = np.asarray(options["state"], dtype=np.float64)
            fixtures = options.get("fixtures") or {}
        elif "init_state" in options:
            mode = options.get("reset_mode", "strict")
            state, fixtures = start_of(problem, int(options["init_state"]), number, mode)
        else:
            state, fixtures = problem.sample_state(number)
        self.simulation.begin(state, fixtures)
        self._steps = 0
        observation = self.simulation.wait(self.wait_steps)
        return observation, {"seed": number, "init_state": state, "fixtures": fixtures}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step of 50 ms."""
        return self.step_chunk(np.asarray(action)[None])

    def step_chunk(self, actions: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute actions of shape (n, 7) one after the other and draw only what follows the last.

        Stops at success or when the budget is used up; ``info["steps"]`` says how many were executed.
        """
        actions = check_actions(actions, self.simulation.action_dim)
        executed = 0
        success = False
        for number, action in enumerate(actions):
            last = number == len(actions) - 1 or self._steps + 1 >= self.max_steps
            observation = self.simulation.step(action, observe=last)
            self._steps += 1
            executed += 1
            success = self.simulation.success()
            if success or self._steps >= self.max_steps:
                break
        if not observation:
            observation = self.simulation.observe()
        truncated = not success and self._steps >= self.max_steps
        return observation, float(success), success, truncated, {"success": success, "steps": executed}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The agent view as it is now."""
        return self.simulation.frame("agentview")

    def close(self) -> None:
        """Free the graphics memory."""
        self.simulation.close()


def check_actions(actions: np.ndarray, size: int) -> np.ndarray:
    """The actions as float64 (n, size).

    Raises:
        FoundryError: another shape, or values that are not finite.
    """
    actions = np.asarray(actions, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[1] != size or not len(actions):
        raise FoundryError(f"actions of shape {actions.shape}: expected (n, {size}) with n >= 1")
    if not np.isfinite(actions).all():
        raise FoundryError("actions hold NaN or infinity: the policy's output is broken")
    return actions


_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.'-_")
