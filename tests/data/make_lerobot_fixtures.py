"""Make the small datasets in tests/data/made_by_lerobot with the real lerobot package.

They are laid out as `lerobot/libero` on the hub is: cameras `image` and `image2`, 10 frames a second, an
eight-number state, LIBERO's instructions; one as images in several data files, one as AV1 video. Needs the
environment that check_with_lerobot.py describes:

    lerobot-venv/bin/python tests/data/make_lerobot_fixtures.py tests/data/made_by_lerobot
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("put the bowl on the stove", "open the middle drawer of the cabinet", "put the bowl on the stove")
LENGTHS = (5, 4, 6)
SIZE, FPS = 64, 10


def frame(episode: int, step: int, camera: int) -> np.ndarray:
    """A picture that moves and compresses well; no two are alike. Also what the tests expect to read."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    parts = [rows * 2 + 29 * step, columns * 2 + 41 * episode, rows + columns + 120 * camera]
    return np.abs(np.stack(parts, axis=-1) % 510 - 255).astype(np.uint8)


def vectors(episode: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """State and action of a step."""
    rng = np.random.default_rng([episode, step])
    return rng.normal(size=8).astype(np.float32), rng.uniform(-1, 1, 7).astype(np.float32)


def make(root: Path, video: bool) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    image = {
        "dtype": "video" if video else "image",
        "shape": (SIZE, SIZE, 3),
        "names": ["height", "width", "channel"],
    }
    features = {
        "observation.images.image": image,
        "observation.images.image2": dict(image),
        "observation.state": {
            "dtype": "float32",
            "shape": (8,),
            "names": {"motors": [f"s{n}" for n in range(8)]},
        },
        "action": {"dtype": "float32", "shape": (7,), "names": {"motors": [f"a{n}" for n in range(7)]}},
    }
    dataset = LeRobotDataset.create(
        f"local/{root.name}", FPS, features, root=root, robot_type="panda", use_videos=video
    )
    small: Any = 0.002  # so that episodes lie in several files
    dataset.meta.update_chunk_settings(data_files_size_in_mb=small, video_files_size_in_mb=small)
    for episode, (task, length) in enumerate(zip(TASKS, LENGTHS, strict=True)):
        for step in range(length):
            state, action = vectors(episode, step)
            seen = {f"observation.images.image{'2' * n}": frame(episode, step, n) for n in (0, 1)}
            dataset.add_frame({**seen, "observation.state": state, "action": action, "task": task})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name, as_video in (("images", False), ("video", True)):
        shutil.rmtree(target / name, ignore_errors=True)
        make(target / name, as_video)
