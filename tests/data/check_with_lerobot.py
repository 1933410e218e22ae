"""Open a dataset of ours with the real lerobot package and compare it sample by sample.

Needs a virtual environment of its own, because lerobot 0.4.4 pins an older torch and transformers:

    python -m venv lerobot-venv
    lerobot-venv/bin/pip install lerobot==0.4.4
    PYTHONPATH=. lerobot-venv/bin/python tests/data/check_with_lerobot.py DATASET [--every N] [--backend NAME]

Images must be equal. Of video, both sides decode the same frame; what may differ is how 4:2:0 chroma becomes
RGB, through FFmpeg's swscale with the versions and flags of either side. So every pixel must be within
`VIDEO_TOLERANCE` levels of 255, and on average within `VIDEO_MEAN`; any other frame is farther away.
With PyAV 15.1 and with torchcodec 0.10 on FFmpeg 5.1 there was no difference at all, in H.264 and in AV1.
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

VIDEO_TOLERANCE = 2
VIDEO_MEAN = 0.25


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


def compare(
    root: Path, every: int, backend: str | None, cameras: dict[str, str] | None
) -> tuple[int, int, float]:
    """Compare each ``every``-th frame of the dataset at ``root``.

    Returns:
        How many were the same; of video the largest and the largest mean difference of a frame's pixels.
    """
    stand_in_for_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    horizon = 8
    ours = RobotDataset(root, cameras)
    worst, worst_mean = 0, 0.0
    steps = [step / ours.spec.fps for step in range(horizon)]
    theirs = LeRobotDataset(
        "local/check", root=root, delta_timestamps={"action": steps}, video_backend=backend
    )
    assert len(theirs) == len(ours), (len(theirs), len(ours))
    assert theirs.meta.total_episodes == len(ours.episodes)
    mistaken = [bool(ours.episode(index).info.get("mistake", True)) for index in range(len(ours.episodes))]
    frames = np.arange(0, len(ours), every)
    for frame in frames:
        item, batch = theirs[int(frame)], ours.batch(np.array([frame]), horizon)
        assert item["task"] == batch["instruction"][0], frame
        assert np.array_equal(item["observation.state"].numpy(), batch["state"][0]), frame
        assert np.array_equal(item["action"].numpy(), batch["actions"][0]), frame
        mask, inside = batch["action_mask"][0], ~item["action_is_pad"].numpy()
        assert (inside | ~mask).all(), frame
        # Our mask also ends where a deliberate mistake begins, of which lerobot knows nothing.
        assert mistaken[int(item["episode_index"])] or np.array_equal(mask, inside), frame
        for camera in ours.spec.cameras:
            name = f"observation.images.{(cameras or {}).get(camera, camera)}"
            pixels = (item[name].permute(1, 2, 0) * 255).round().byte().numpy()
            difference = np.abs(pixels.astype(int) - batch["images"][camera][0])
            if ours.spec.is_video:
                worst, worst_mean = (
                    max(worst, int(difference.max())),
                    max(worst_mean, float(difference.mean())),
                )
                assert worst <= VIDEO_TOLERANCE, (frame, camera, worst)
                assert worst_mean <= VIDEO_MEAN, (frame, camera, worst_mean)
            else:
                assert not difference.any(), (frame, camera)
    for name, statistics in (("observation.state", "state"), ("action", "action")):
        for key, value in ours.statistics()[statistics].items():
            if key.startswith("q") and not ours.episodes["key"].all():
                continue  # lerobot's own quantiles of a dataset are averaged over episodes, not exact
            assert np.allclose(theirs.meta.stats[name][key], value), (name, key)
    return len(frames), worst, worst_mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--backend", choices=("torchcodec", "pyav"), help="lerobot's video decoder")
    parser.add_argument("--cameras", nargs="*", default=[], metavar="OURS=THEIRS", help="names that differ")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        import os

        os.environ.setdefault("HF_DATASETS_CACHE", cache)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        names = dict(pair.split("=", 1) for pair in arguments.cameras) or None
        count, worst, mean = compare(arguments.dataset, arguments.every, arguments.backend, names)
    print(f"lerobot reads the same frames, actions, padding and instructions in {count} of {count} samples")
    print(f"pixels of a frame differ by at most {worst} of 255 levels, on average by at most {mean:.3f}")
