"""A user's Gymnasium environment behind the interface of `Simulation`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from foundry_bench.envs.starts import RESET_MODES, episode_seed
from foundry_bench.envs.suites import SAMPLED_INIT_STATES, Task
from foundry_bench.errors import FoundryError, nearest

Observation = dict[str, Any]


class GymnasiumSimulation:
    """One of a user's environments, evaluated as it is.

    Non-obvious behaviours:

    - An init state is a seed: episode (init state, seed) starts from ``reset(seed=...)`` with a number made
      from both and the task's name. Nothing settles, since nobody knows an action that does nothing.
    - Actions are clipped to the environment's bounds. Images are resized to the protocol's size by area.
    - An episode ends where the environment terminates or truncates; it is a success if the step's info says
      so under the key that ``suite.yaml`` names. An info without that key is an error, not a failure.

    Args:
        task: a task with ``gymnasium`` set.
        cameras: names of the cameras a policy sees; each needs an entry under ``observation``.
        image_size: side of the square images in pixels.

    Raises:
        FoundryError: the environment cannot be made, or does not have what the suite says it has.
    """

    def __init__(self, task: Task, cameras: Sequence[str], image_size: int) -> None:
        if task.gymnasium is None:
            raise ValueError(f"{task.key} is not a Gymnasium task")
        self.task, self.spec = task, task.gymnasium
        self.cameras = tuple(cameras)
        self.image_size = image_size
        self._keys = dict(self.spec.observation)
        for name in (*cameras, "state"):
            if name not in self._keys:
                raise FoundryError(
                    f"{task.key}: the suite names no key for '{name}' under observation, only for "
                    f"{', '.join(self._keys)}"
                )
        try:
            self._env: Any = gymnasium.make(self.spec.id, **json.loads(self.spec.kwargs))
        except Exception as error:  # whatever a user's environment raises when it is made
            message = " ".join(str(error).split())[:300]
            raise FoundryError(
                f"{task.key}: gymnasium.make('{self.spec.id}') failed: {type(error).__name__}: {message}"
            ) from error
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Box) or space.shape != (task.action_dim,):
            raise FoundryError(
                f"{task.key}: action_dim: {task.action_dim} in the suite, but {space} in {self.spec.id}"
            )
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.action_dim = task.action_dim
        self.terminated = False
        self._success = False
        self._seen: Any = None

    def start(self, init_state: int, seed: int, reset_mode: str = "strict") -> None:
        """Start the episode (init state, seed).

        Raises:
            FoundryError: no such init state or reset mode.
        """
        if reset_mode not in RESET_MODES:
            raise FoundryError(f"reset_mode={reset_mode}: no such mode, {nearest(reset_mode, RESET_MODES)}")
        if not 0 <= init_state < SAMPLED_INIT_STATES:
            raise FoundryError(
                f"init_state={init_state} of {self.task.key}: "
                f"there are init states 0 to {SAMPLED_INIT_STATES - 1}"
            )
        self._seen, _ = self._env.reset(seed=episode_seed(seed, self.task.key, init_state))
        self.terminated = self._success = False

    def wait(self, steps: int) -> Observation:
        """The first observation; nothing settles here."""
        return self.observe()

    def step(self, action: np.ndarray, observe: bool) -> Observation:
        """One step; the observation is empty unless asked for."""
        if self.terminated:
            raise FoundryError(f"{self.task.key}: stepped after the end of the episode")
        bounded = np.clip(action, self._low, self._high).astype(self._env.action_space.dtype)
        self._seen, _, terminated, truncated, info = self._env.step(bounded)
        if self.spec.success not in info:
            raise FoundryError(
                f"{self.task.key}: the step's info has no key '{self.spec.success}', "
                f"only {', '.join(info) or 'none'}"
            )
        self._success = bool(info[self.spec.success])
        self.terminated = bool(terminated or truncated)
        return self.observe() if observe else {}

    def observe(self) -> Observation:
        """Images of all cameras, uint8 (size, size, 3), and the state, float32 (state_dim,).

        Raises:
            FoundryError: a part is missing or of another shape.
        """
        observation: Observation = {camera: self.frame(camera) for camera in self.cameras}
        state = np.asarray(self._part("state"), dtype=np.float32)
        if state.shape != (self.spec.state_dim,):
            raise FoundryError(
                f"{self.task.key}: state_dim: {self.spec.state_dim} in the suite, but shape {state.shape}"
            )
        observation["state"] = state
        observation["instruction"] = self.task.instruction
        return observation

    def frame(self, camera: str) -> np.ndarray:
        """One image, uint8 of shape (size, size, 3)."""
        import cv2

        image = np.asarray(self._part(camera))
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FoundryError(
                f"{self.task.key}: '{self._keys[camera]}' must be uint8 of shape (height, width, 3), "
                f"got {image.dtype} {image.shape}"
            )
        size = (self.image_size, self.image_size)
        return image if image.shape[:2] == size else cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    def success(self) -> bool:
        """What the info of the last step said."""
        return self._success

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _part(self, name: str) -> Any:
        key = self._keys[name]
        if not isinstance(self._seen, dict) or key not in self._seen:
            there = (
                ", ".join(map(str, self._seen)) if isinstance(self._seen, dict) else type(self._seen).__name__
            )
            raise FoundryError(
                f"{self.task.key}: the observation has no '{key}' (for {name}), it has {there}"
            )
        return self._seen[key]
