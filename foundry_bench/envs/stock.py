"""Stock LIBERO, untouched: what everything here is held against."""

from __future__ import annotations

from typing import Any

import numpy as np

from foundry_bench.envs.problem import Fixtures, quiet
from foundry_bench.envs.simulation import WAIT_ACTION
from foundry_bench.envs.suites import Task


class StockLibero:
    """A task in LIBERO's own ``OffScreenRenderEnv``.

    Args:
        task: the task.
        images: side of camera observations in pixels; None leaves the cameras out and changes nothing else.
    """

    def __init__(self, task: Task, images: int | None = None) -> None:
        from libero.libero.envs import OffScreenRenderEnv

        size = {} if images is None else {"camera_heights": images, "camera_widths": images}
        with quiet():
            self.env: Any = OffScreenRenderEnv(
                bddl_file_name=str(task.bddl), use_camera_obs=images is not None, **size
            )

    def begin(self, state: np.ndarray, fixtures: Fixtures, wait_steps: int, seed: int = 0) -> Any:
        """``seed``, ``reset``, the fixtures put in place, ``set_init_state``, the settling steps.

        Returns:
            Stock's last observation.
        """
        self.env.seed(seed)
        with quiet():
            self.env.reset()
        problem = self.env.env
        for name, pose in fixtures.items():
            body = problem.sim.model.body_name2id(problem.fixtures_dict[name].root_body)
            problem.sim.model.body_pos[body] = pose[:3]
            problem.sim.model.body_quat[body] = pose[3:]
        observation = self.env.set_init_state(state)
        for _ in range(wait_steps):
            observation, *_ = self.env.step(WAIT_ACTION)
        return observation

    def run(self, actions: np.ndarray) -> int | None:
        """Execute actions of shape (n, 7).

        Returns:
            The number of steps after which LIBERO reports success, or None if it never does.
        """
        for number, action in enumerate(actions, 1):
            _, _, done, _ = self.env.step(action)
            if done:
                return number
        return None

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
