"""How fast demonstrations are read: images and video, against pandas + PIL, and beside a training step.

A sample is what one training step takes from one frame: two images, the state, a chunk of 8 actions and the
instruction; samples are read at random. The dataset is written anew as PNG, H.264 and AV1, so that all rows
read the same frames. Without a dataset a synthetic one is made (two 96 px cameras).

    python benchmarks/data.py [DATASET] [--samples N] [--batch B] [--image-size S] [--episodes N] [--steps N]

The second table is the reader's share of training at the laptop scale (its model, 110,000 samples, one torch
thread unless --threads says otherwise): decoding every frame once, then reading from memory; and, where only
a quarter of the frames fit, decoding again and again. Steps of training and of reading are interleaved, so
that the shares hold on a busy machine too. Training prepares batches in a thread beside (train.prefetch), so
that it waits for less than this.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image

from foundry_bench.data.convert import to_lerobot
from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore, RobotDataset, encode_image
from foundry_bench.data.sources import Source, open_source

HORIZON = 8
LAPTOP_SAMPLES = 110_000  # scale=laptop: 11,000 for each of ten tasks
LAPTOP_FRAMES = 39_000  # and 30 demonstrations of about 130 frames for each
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


def written(source: Path, folder: Path, image_size: int | None, episodes: int | None) -> dict[str, Path]:
    """The dataset as each kind of file."""
    opened = open_source(source)
    if episodes is not None:
        opened = Some(opened, episodes)
    kinds = {"PNG": "png", "H.264": "h264", "AV1": "av1"}
    return {name: to_lerobot(opened, folder / kind, kind, image_size).root for name, kind in kinds.items()}


class Some:
    """The first of a source's episodes, evenly spread."""

    def __init__(self, source: Source, count: int) -> None:
        self.kind, self.cameras, self.image_size = source.kind, source.cameras, source.image_size
        self.fps, self._source = source.fps, source
        self._indices = [number * len(source) // count for number in range(min(count, len(source)))]

    def __len__(self) -> int:
        return len(self._indices)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._source, name)
        return lambda index, *rest: method(self._indices[index], *rest)


@dataclass
class Speeds:
    """Samples per second of one kind of file: decoding everything once, from memory, with a small cache."""

    first: float
    later: float
    small: float


def speeds(root: Path, samples: int, batch: int) -> Speeds:
    """Measure one kind of file."""
    whole = RobotDataset(root)
    quarter = len(whole) * whole.spec.image_size**2 * 3 * len(whole.spec.cameras) // 4
    small = RobotDataset(root, cache_bytes=quarter)
    frames = np.random.default_rng(0).integers(0, len(whole), samples)
    everything = np.random.default_rng(1).permutation(len(whole))
    few = frames[: max(batch, samples // 2)]
    return Speeds(
        rate(lambda f: whole.batch(f, HORIZON), everything, batch),
        rate(lambda f: whole.batch(f, HORIZON), frames, batch),
        rate(lambda f: small.batch(f, HORIZON), few, batch),
    )


def check_same(root: Path, plain: PandasReader) -> None:
    """Both readers give the same samples."""
    ours = RobotDataset(root)
    few = np.random.default_rng(2).integers(0, len(ours), 64)
    first, other = ours.batch(few, HORIZON), plain.batch(few)
    pixels = zip(first["images"].values(), other["images"], strict=True)
    if not np.array_equal(first["actions"], other["actions"]) or not all(np.array_equal(*p) for p in pixels):
        raise SystemExit("the two readers do not give the same samples")


def compare(roots: dict[str, Path], samples: int, batch: int) -> dict[str, Speeds]:
    """Print one line per way of reading."""
    plain = PandasReader(roots["PNG"])
    check_same(roots["PNG"], plain)
    opened = RobotDataset(roots["PNG"])
    print(
        f"{len(opened)} frames, {len(opened.spec.cameras)} cameras of {opened.spec.image_size} px, "
        f"batches of {batch}, chunks of {HORIZON}\n"
    )
    few = np.random.default_rng(0).integers(0, len(opened), max(batch, samples // 10))
    slow = rate(plain.batch, few, batch)
    print("| files | MB | reader | samples/s | times pandas + PIL |")
    print("| --- | ---: | --- | ---: | ---: |")
    row = "| {:5s} | {:6.1f} | {:42s} | {:8.0f} | {:5.1f} |"
    print(row.format("PNG", megabytes(roots["PNG"]), "pandas + PIL", slow, 1.0))
    found = {}
    for name, root in roots.items():
        found[name] = speeds(root, samples, batch)
        for words, speed in (
            ("ours, decoding every frame once", found[name].first),
            ("ours, from memory", found[name].later),
            ("ours, memory for a quarter of the frames", found[name].small),
        ):
            print(row.format(name, megabytes(root), words, speed, speed / slow))
    return found


def share(roots: dict[str, Path], steps: int) -> None:
    """Print how much of the laptop scale's training the reader is."""
    from foundry_bench.policies.config import VLAConfig
    from foundry_bench.policies.vla_policy import pick_device
    from foundry_bench.training.config import TrainConfig
    from foundry_bench.training.loop import Trainer
    from foundry_bench.training.vla_stage import VLAStage

    config = TrainConfig(samples=LAPTOP_SAMPLES)
    print(
        "\n| files | step, ms | reading from memory, ms | share of training | memory for a quarter: share |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, root in roots.items():
        dataset = RobotDataset(root)
        size = dataset.spec.image_size
        quarter = len(dataset) * size**2 * 3 * len(dataset.spec.cameras) // 4
        small = RobotDataset(root, cache_bytes=quarter)
        everything = np.random.default_rng(1).permutation(len(dataset))
        decoding = len(dataset) / rate(partial(dataset.batch, horizon=HORIZON), everything, config.batch_size)
        rate(partial(small.batch, horizon=HORIZON), everything, config.batch_size)
        stage = VLAStage(config, VLAConfig(image_size=size), dataset)
        trainer = Trainer(stage, config, Path("unused"), pick_device("cpu"))
        times: dict[str, list[float]] = {"train": [], "memory": [], "small": []}
        for step in range(steps):
            frames = np.random.default_rng([3, step]).integers(0, len(dataset), config.batch_size)
            times["memory"].append(timed(partial(dataset.batch, frames, HORIZON))[1])
            times["small"].append(timed(partial(small.batch, frames, HORIZON))[1])
            times["train"].append(timed(partial(one_step, trainer, stage, step))[1])
        train, memory, again = (float(np.quantile(times[key], 0.25)) for key in ("train", "memory", "small"))
        updates = LAPTOP_SAMPLES / config.batch_size
        # Every frame is decoded once.
        reading = decoding * LAPTOP_FRAMES / len(dataset) + updates * memory
        whole, part = reading / (reading + updates * train), again / (again + train)
        print(f"| {name} | {1e3 * train:.1f} | {1e3 * memory:.2f} | {whole:.1%} | {part:.1%} |")


def one_step(trainer: Any, stage: Any, step: int) -> None:
    """Augmentation, forward, backward and optimiser; the batch is read from memory."""
    trainer.backward(trainer.forward(stage.batch(step)))
    trainer.apply()


def megabytes(root: Path) -> float:
    """Size of the data, without meta."""
    parts = [path for folder in ("data", "videos") for path in (root / folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in parts) / 1e6


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--steps", type=int, default=40, help="of training, for the share; 0: leave it out")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.dataset or synthetic(Path(folder, "synthetic"))
        roots = written(source, Path(folder), arguments.image_size, arguments.episodes)
        compare(roots, arguments.samples, arguments.batch)
        if arguments.steps:
            import torch

            torch.set_num_threads(arguments.threads)
            share(roots, arguments.steps)


if __name__ == "__main__":
    main()
