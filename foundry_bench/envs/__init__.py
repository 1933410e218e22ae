"""The simulator: suites and tasks, Gymnasium environments, engines, rendering and scripted experts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry_bench.envs.libero import LiberoEnv

# Both are read when MuJoCo is first imported, which everything below this package does.
os.environ.setdefault("MUJOCO_GL", "egl")
if os.environ["MUJOCO_GL"] == "egl":
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")


def make_env(suite: str, task: int = 0, **settings: Any) -> LiberoEnv:
    """The environment of one task, the same as ``gymnasium.make(f"foundry_bench/{suite}-v0", task=task)``.

    Args:
        suite: name of the suite.
        task: index of the task in it.
        settings: anything else that `LiberoEnv` takes, such as ``image_size=256``.

    Raises:
        FoundryError: an unknown suite, task, camera, engine or render profile, or no OpenGL.
    """
    from foundry_bench.envs.libero import LiberoEnv

    return LiberoEnv(task, suite, **settings)
