"""Random-access samples per second of our reader, against pandas + PIL on the same dataset, in one run.

A sample is what one training step takes from one frame: two images, the state, a chunk of 8 actions and the
instruction. Without a dataset a synthetic one is made (two 96 px cameras).

    python benchmarks/data.py [DATASET] [--samples N] [--batch B]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image

from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore, RobotDataset, encode_image

HORIZON = 8
CAMERAS = ("agentview", "wrist")


def synthetic(root: Path, episodes: int = 24, length: int = 120, size: int = 96) -> Path:
    """A dataset whose frames compress about as well as rendered ones (13 kB a PNG)."""
    store = EpisodeStore(root, DatasetSpec(image_size=size))
    rows, columns = np.mgrid[:size, :size]
    for number in range(episodes):
        rng = np.random.default_rng(number)
        images: dict[str, list[bytes]] = {camera: [] for camera in CAMERAS}
        for step in range(length):
            for shift, camera in enumerate(CAMERAS):
                base = np.stack([2 * rows + step, 2 * columns + 70 * shift, rows + columns + number], axis=-1)
                noise = rng.integers(0, 8, base.shape)
                images[camera].append(encode_image((base + noise).astype(np.uint8)))
        vectors = [rng.normal(size=(length, width)).astype(np.float32) for width in (8, 7, 7)]
        state, action, label = vectors
        episode = Episode(
            "synthetic", 0, f"task {number % 4}", number, "none", images, state, action, label, np.zeros(1)
        )
        store.add(f"episode-{number:06d}", episode)
    return store.finalize(store.keys())


class PandasReader:
    """The plain way: data frames in memory, PNG decoded with PIL for each sample."""

    def __init__(self, root: Path) -> None:
        self.frames = pd.concat(
            [pd.read_parquet(path) for path in sorted(root.glob("data/*/*.parquet"))], ignore_index=True
        )
        episodes = pd.concat(
            [pd.read_parquet(path) for path in sorted(root.glob("meta/episodes/*/*.parquet"))]
        )
        self.stop = episodes["dataset_to_index"].to_numpy()
        self.tasks = list(pd.read_parquet(root / "meta/tasks.parquet").index)
        self.cameras = [name for name in self.frames if str(name).startswith("observation.images.")]

    def sample(self, frame: int) -> dict[str, Any]:
        row = self.frames.iloc[frame]
        window = self.frames["action"].iloc[frame : min(frame + HORIZON, self.stop[row["episode_index"]])]
        actions = np.stack(window.to_list())
        padding = HORIZON - len(actions)
        return {
            "images": [
                np.asarray(PIL.Image.open(io.BytesIO(row[name]["bytes"])).convert("RGB"))
                for name in self.cameras
            ],
            "state": row["observation.state"],
            "actions": np.concatenate([actions, np.repeat(actions[-1:], padding, axis=0)]),
            "instruction": self.tasks[row["task_index"]],
        }

    def batch(self, frames: npt.NDArray[np.int64]) -> dict[str, Any]:
        samples = [self.sample(int(frame)) for frame in frames]
        return {
            "images": [np.stack(camera) for camera in zip(*(one["images"] for one in samples), strict=True)],
            "state": np.stack([one["state"] for one in samples]),
            "actions": np.stack([one["actions"] for one in samples]),
            "instruction": [one["instruction"] for one in samples],
        }


def rate(read: Callable[[npt.NDArray[np.int64]], Any], frames: npt.NDArray[np.int64], batch: int) -> float:
    """Samples per second over ``frames`` in batches of ``batch``."""
    start = time.perf_counter()
    for first in range(0, len(frames), batch):
        read(frames[first : first + batch])
    return len(frames) / (time.perf_counter() - start)


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def compare(root: Path, samples: int, batch: int) -> None:
    """Print one line per way of reading."""
    plain, plain_open = timed(lambda: PandasReader(root))
    ours, ours_open = timed(lambda: RobotDataset(root))
    small = RobotDataset(
        root, cache_bytes=len(ours) * ours.spec.image_size**2 * 3 * len(ours.spec.cameras) // 4
    )
    frames = np.random.default_rng(0).integers(0, len(ours), samples)
    few = frames[: max(batch, samples // 10)]
    first, other = ours.batch(few, HORIZON), plain.batch(few)
    same = np.array_equal(first["actions"], other["actions"]) and all(
        np.array_equal(*pair) for pair in zip(first["images"].values(), other["images"], strict=True)
    )
    if not same:
        raise SystemExit("the two readers do not give the same samples")
    ours = RobotDataset(root)
    everything = np.random.default_rng(1).permutation(len(ours))
    speeds = {
        "pandas + PIL": rate(plain.batch, few, batch),
        "ours, first epoch (decoding)": rate(lambda f: ours.batch(f, HORIZON), everything, batch),
        "ours, later epochs (from memory)": rate(lambda f: ours.batch(f, HORIZON), frames, batch),
        "ours, cache for a quarter of the frames": rate(lambda f: small.batch(f, HORIZON), few, batch),
    }
    size = sum(path.stat().st_size for path in root.rglob("*.parquet")) / 1e6
    print(
        f"{len(ours)} frames, {len(ours.spec.cameras)} cameras of {ours.spec.image_size} px, {size:.0f} MB, "
        f"batches of {batch}, chunks of {HORIZON}; "
        f"opened in {plain_open:.2f} s (pandas), {ours_open:.2f} s (ours)"
    )
    for name, speed in speeds.items():
        print(f"{name:42s} {speed:10.0f} samples/s  {speed / speeds['pandas + PIL']:7.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.dataset or synthetic(Path(folder, "dataset"))
        compare(root, arguments.samples, arguments.batch)


if __name__ == "__main__":
    main()
