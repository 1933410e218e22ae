"""Make an HDF5 file the way LIBERO's scripts/create_dataset.py does, with stock LIBERO.

A program of its own, because stock LIBERO's OpenGL context would blank ours:
``python create_dataset_as_libero.py DEMONSTRATIONS FILE``, where DEMONSTRATIONS is a LeRobotDataset of ours,
the episodes of whose first task are played.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
from robosuite.utils.transform_utils import quat2axisangle

from foundry_bench.data.lerobot import RobotDataset
from foundry_bench.envs.simulation import WAIT_ACTION
from foundry_bench.envs.stock import StockLibero
from foundry_bench.envs.suites import task as find_task

SIZE = 64
LEFT_OUT = 5  # rows at the beginning, `cap_index` in LIBERO's script


def main(root: Path, out: Path) -> None:
    dataset = RobotDataset(root)
    first = dataset.recording(0)
    task = find_task(first.suite, first.task_index)
    stock = StockLibero(task, images=SIZE)
    problem = stock.env.env
    with h5py.File(out, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": task.instruction})
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["bddl_file_name"] = str(task.bddl)
        for number in range(len(dataset.episodes)):
            recording = dataset.recording(number)
            if (recording.suite, recording.task_index) != (task.suite, task.index):
                continue
            stock.begin(recording.init_state, recording.fixtures, wait_steps=0)
            played = [WAIT_ACTION] * recording.wait_steps + list(recording.actions)
            states, seen = [], []
            for action in played:
                states.append(stock.env.sim.get_state().flatten())
                observation, *_ = stock.env.step(action)
                seen.append(observation)
            group = data.create_group(f"demo_{len(data)}")
            rows = range(LEFT_OUT, len(played))
            group["actions"] = np.stack([played[row] for row in rows])
            group["states"] = np.stack([states[row] for row in rows])
            for name, key in (
                ("agentview_rgb", "agentview_image"),
                ("eye_in_hand_rgb", "robot0_eye_in_hand_image"),
                ("gripper_states", "robot0_gripper_qpos"),
                ("joint_states", "robot0_joint_pos"),
            ):
                group[f"obs/{name}"] = np.stack([seen[row][key] for row in rows])
            hands = [
                np.hstack([seen[row]["robot0_eef_pos"], quat2axisangle(seen[row]["robot0_eef_quat"])])
                for row in rows
            ]
            group["obs/ee_states"] = np.stack(hands)
            group["robot_states"] = np.stack([problem.get_robot_state_vector(seen[row]) for row in rows])
            group["rewards"] = group["dones"] = np.eye(1, len(rows), len(rows) - 1, dtype=np.uint8)[0]
            group.attrs["num_samples"] = len(rows)
            group.attrs["model_file"] = stock.env.sim.model.get_xml()
            group.attrs["init_state"] = states[LEFT_OUT]
    stock.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
