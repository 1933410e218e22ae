"""A recorded episode without its images: what replaying needs, whatever file it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foundry_bench.envs.suites import LIBERO_SUITES, suite, suite_names


@dataclass(frozen=True)
class Recording:
    """One recorded episode of T actions, without its images.

    Attributes:
        suite, task_index, instruction: the task; ``""`` and -1 where it is none of ours.
        actions: (T, A) float64, as executed.
        labels: (T, A) float64, what a policy should imitate; the same where nothing disturbed the actions.
        robot: (T, 8) float32, the robot's state before each action: end effector, axis-angle, fingers.
        states: (T, S) float64, simulator states ``[time, qpos, qvel]`` before each action, if they are kept.
        init_state: (S,) float64, where the episode began; empty where not kept.
        wait_steps: steps of rest between the init state and the first action.
        fixtures: poses of what the simulator state does not hold.
        success: whether the file calls it a success.
        final_state: (S,) float64, the simulator state after the last action, if it is kept.
        seed, expert: of who acted, -1 and ``""`` where unknown.
        info: whatever else was kept of how it was made.
    """

    suite: str
    task_index: int
    instruction: str
    actions: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    robot: npt.NDArray[np.float32]
    states: npt.NDArray[np.float64] | None
    init_state: npt.NDArray[np.float64]
    wait_steps: int
    fixtures: dict[str, list[float]] = field(default_factory=dict)
    success: bool = True
    final_state: npt.NDArray[np.float64] | None = None
    seed: int = -1
    expert: str = ""
    info: dict[str, Any] = field(default_factory=dict)


@cache
def task_of(bddl: str) -> tuple[str, int]:
    """Suite and task of a BDDL file's path; ("", -1) where it is none of LIBERO's."""

    path = Path(bddl.replace("\\", "/"))
    # The folder says which suite where tasks of one name are in several.
    hinted = [name for name in suite_names() if name in path.parts]
    for name in (*hinted, *LIBERO_SUITES, "libero_90"):
        for task in suite(name).tasks:
            if task.name == path.stem:
                return name, task.index
    return "", -1


def axis_angle(quaternions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Axis-angle (T, 3) of quaternions (T, 4) in robosuite's order x, y, z, w; as its ``quat2axisangle``."""
    w = np.clip(quaternions[:, 3], -1.0, 1.0)
    sine = np.sqrt(1.0 - w * w)
    with np.errstate(divide="ignore", invalid="ignore"):
        turned = quaternions[:, :3] * (2.0 * np.arccos(w) / sine)[:, None]
    return np.where(np.isclose(sine, 0.0)[:, None], 0.0, turned)
