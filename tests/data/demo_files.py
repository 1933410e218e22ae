"""HDF5 files as LIBERO, OpenVLA and robomimic write them: rows as in their scripts, content made up."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

KINDS = ("libero", "regenerated", "robomimic")
LENGTHS = (9, 6)
SIZE = 16
TASK = "put_the_bowl_on_the_stove"  # libero_goal, task 1
XML = """<mujoco><worldbody>
<body name="table" pos="0 0 0.5"/>
<body name="wooden_cabinet_1_main" pos="0.1 0.2 0.9" quat="0 0 0 1">
<body name="top"><joint name="slide"/></body></body>
<body name="bowl_1_main" pos="1 2 3"><freejoint name="free"/></body>
</worldbody></mujoco>"""


class Truth:
    """What happened in an episode of T actions: T + 1 moments, each with a picture."""

    def __init__(self, number: int, length: int) -> None:
        rng = np.random.default_rng(number)
        self.actions = rng.uniform(-1, 1, (length, 7))
        self.joints = np.cumsum(rng.normal(size=(length + 1, 7)), axis=0)
        others = rng.normal(size=(length + 1, 11))
        clock = np.arange(length + 1)[:, None] * 0.05
        self.states = np.concatenate([clock, self.joints, others], axis=1)
        self.hand = rng.normal(size=(length + 1, 6))
        self.fingers = rng.normal(size=(length + 1, 2))
        self.quaternions = rng.normal(size=(length + 1, 4))
        self.quaternions /= np.linalg.norm(self.quaternions, axis=1, keepdims=True)
        self.pictures = rng.integers(0, 256, (2, length + 1, SIZE, SIZE, 3), dtype=np.uint8)  # upright


def write(path: Path, kind: str, **changes: object) -> list[Truth]:
    """Write a file of two episodes of a kind; returns what it stands for."""
    truths = [Truth(number, length) for number, length in enumerate(LENGTHS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if kind == "libero":
            problem = {
                "problem_name": "Libero_Tabletop_Manipulation",
                "language_instruction": ["put the bowl ", "on it"],
            }
            data.attrs["problem_info"] = json.dumps(problem)
            data.attrs["macros_image_convention"] = "opengl"
            data.attrs["bddl_file_name"] = f"libero/libero/bddl_files/libero_goal/{TASK}.bddl"
            data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {"control_freq": 20}})
        if kind == "robomimic":
            data.attrs["env_args"] = json.dumps(
                {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
            )
        for number, truth in enumerate(truths):
            episode(data.create_group(f"demo_{number}"), kind, truth)
        data.attrs.update(changes)
    return truths


def episode(group: h5py.Group, kind: str, truth: Truth) -> None:
    """One episode: LIBERO appends what it sees after each step, the others before it."""
    length = len(truth.actions)
    rows = slice(1, length + 1) if kind == "libero" else slice(0, length)
    obs = group.create_group("obs")
    if kind == "robomimic":
        names = ("agentview_image", "robot0_eye_in_hand_image")
        obs["robot0_eef_pos"], obs["robot0_eef_quat"] = truth.hand[rows, :3], truth.quaternions[rows]
        obs["robot0_gripper_qpos"], obs["robot0_joint_pos"] = truth.fingers[rows], truth.joints[rows]
        # Bottom row up again, but still mirrored against what LIBERO harnesses show.
        stored = truth.pictures[:, rows, :, ::-1]
    else:
        names = ("agentview_rgb", "eye_in_hand_rgb")
        obs["ee_states"], obs["gripper_states"] = truth.hand[rows], truth.fingers[rows]
        obs["joint_states"] = truth.joints[rows]
        stored = truth.pictures[:, rows, ::-1, ::-1]
    for name, images in zip(names, stored, strict=True):
        obs[name] = images
    group["actions"], group["states"] = truth.actions, truth.states[:length]
    group["rewards"] = group["dones"] = np.eye(1, length, length - 1, dtype=np.uint8)[0]
    if kind == "libero":
        group.attrs.update(num_samples=length, model_file=XML, init_state=truth.states[0])
