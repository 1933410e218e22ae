"""Open a dataset of ours with the real lerobot package and compare it sample by sample.

Needs a virtual environment of its own, because lerobot 0.4.4 pins an older torch and transformers:

    python -m venv lerobot-venv
    lerobot-venv/bin/pip install lerobot==0.4.4
    PYTHONPATH=. lerobot-venv/bin/python tests/data/check_with_lerobot.py DATASET [--every N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np

from foundry_bench.data.reader import RobotDataset


def stand_in_for_torchvision() -> None:
    """lerobot imports torchvision for one function; some CPU builds of torch have no torchvision."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        import torch

        class ToTensor:
            def __call__(self, image: object) -> torch.Tensor:
                return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

        package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
        package.__spec__ = ModuleSpec("torchvision", None)
        transforms.ToTensor = ToTensor  # type: ignore[attr-defined]
        package.transforms = transforms  # type: ignore[attr-defined]
        sys.modules.update({"torchvision": package, "torchvision.transforms": transforms})


def compare(root: Path, every: int) -> int:
    """Compare each ``every``-th frame of the dataset at ``root``; returns how many were the same."""
    stand_in_for_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    horizon = 8
    ours = RobotDataset(root)
    steps = [step / ours.spec.fps for step in range(horizon)]
    theirs = LeRobotDataset("local/check", root=root, delta_timestamps={"action": steps})
    assert len(theirs) == len(ours), (len(theirs), len(ours))
    assert theirs.meta.total_episodes == len(ours.episodes)
    frames = np.arange(0, len(ours), every)
    for frame in frames:
        item, batch = theirs[int(frame)], ours.batch(np.array([frame]), horizon)
        assert item["task"] == batch["instruction"][0], frame
        assert np.array_equal(item["observation.state"].numpy(), batch["state"][0]), frame
        assert np.array_equal(item["action"].numpy(), batch["actions"][0]), frame
        assert np.array_equal(~item["action_is_pad"].numpy(), batch["action_mask"][0]), frame
        for camera in ours.spec.cameras:
            pixels = (item[f"observation.images.{camera}"].permute(1, 2, 0) * 255).round().byte().numpy()
            assert np.array_equal(pixels, batch["images"][camera][0]), (frame, camera)
    for name, statistics in (("observation.state", "state"), ("action", "action")):
        for key, value in ours.statistics()[statistics].items():
            assert np.allclose(theirs.meta.stats[name][key], value), (name, key)
    return len(frames)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        import os

        os.environ.setdefault("HF_DATASETS_CACHE", cache)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        count = compare(arguments.dataset, arguments.every)
    print(f"lerobot reads the same frames, actions, padding and instructions in {count} of {count} samples")
