"""Small demonstrations and datasets for the tests of foundry_bench.data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore, encode_image

SIZE = 16
LENGTHS = (5, 3, 40)


def build_episode(number: int, length: int, /, size: int = SIZE, **changes: Any) -> Episode:
    """An episode of random content: same arguments, same episode."""
    rng = np.random.default_rng(number)
    frames = rng.integers(0, 256, (2, length, size, size, 3), dtype=np.uint8)
    fields: dict[str, Any] = {
        "suite": "libero_object",
        "task_index": number % 2,
        "instruction": f"pick up object {number % 2}",
        "seed": number,
        "expert": "scripted-1",
        "images": {
            name: [encode_image(frame) for frame in camera]
            for name, camera in zip(("agentview", "wrist"), frames, strict=True)
        },
        "state": rng.normal(size=(length, 8)).astype(np.float32),
        "action": rng.uniform(-1, 1, (length, 7)).astype(np.float32),
        "label": rng.uniform(-1, 1, (length, 7)).astype(np.float32),
        "init_state": rng.normal(size=11),
        "fixtures": {"cabinet": rng.normal(size=7).tolist()},
        "info": {"noise": 0.25, "attempts": number},
    }
    return Episode(**{**fields, **changes})


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    return build_episode


@pytest.fixture(scope="session")
def spec() -> DatasetSpec:
    return DatasetSpec(image_size=SIZE)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: DatasetSpec) -> Path:
    """A dataset of three episodes that no test may change."""
    store = EpisodeStore(tmp_path_factory.mktemp("finished") / "dataset", spec)
    for seed, length in enumerate(LENGTHS):
        store.add(f"libero_object-{seed:06d}", build_episode(seed, length))
    return store.finalize(store.keys())


@pytest.fixture
def dataset(finished: Path, tmp_path: Path) -> Path:
    """A copy of that dataset to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "dataset"))


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Relative path -> content of every file under a folder."""
    return lambda root: {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="session")
def same_episode() -> Callable[[Episode, Episode], bool]:
    def same(one: Episode, other: Episode) -> bool:
        arrays = ("state", "action", "label", "init_state")
        plain = ("suite", "task_index", "instruction", "seed", "expert", "images", "fixtures", "info")
        return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and all(
            getattr(one, name) == getattr(other, name) for name in plain
        )

    return same


def smooth_frames(number: int, length: int, size: int, camera: int) -> list[np.ndarray]:
    """Frames that move and that a video codec keeps recognisable, unlike noise; no two are alike."""
    rows, columns = np.mgrid[:size, :size]
    shift = 7 * number + 90 * camera
    frames = []
    for step in range(length):
        parts = [rows * 3 + 17 * step + shift, columns * 4 + 23 * step, rows + columns + shift]
        frames.append(np.abs(np.stack(parts, axis=-1) % 510 - 255).astype(np.uint8))
    return frames


def build_smooth_episode(number: int, length: int, /, size: int = 32, **changes: Any) -> Episode:
    """An episode whose frames survive being made into video."""
    images = {
        name: [encode_image(frame) for frame in smooth_frames(number, length, size, camera)]
        for camera, name in enumerate(("agentview", "wrist"))
    }
    return build_episode(number, length, size, images=images, **changes)
