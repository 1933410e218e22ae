"""Demonstrations wherever they lie, LeRobotDataset or HDF5 files, seen in one way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from foundry_bench.data import schema
from foundry_bench.data.hdf5 import SUFFIXES, DemoFile, demo_files
from foundry_bench.data.reader import RobotDataset
from foundry_bench.data.recordings import Recording, task_of
from foundry_bench.errors import FoundryError


class Source(Protocol):
    """Episodes that can be read one by one, from a file of whatever kind.

    Attributes:
        kind: what the files are, for people.
        cameras: our names of the cameras.
        image_size: height and width of the frames.
        fps: control steps per second.
    """

    kind: str
    cameras: tuple[str, ...]
    image_size: int
    fps: int

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """A name of the episode that no other one has."""

    def task(self, index: int) -> tuple[str, int]:
        """Its suite and task; ("", -1) where it is none that is known here."""

    def recording(self, index: int) -> Recording:
        """The episode without its frames."""

    def images(self, index: int, camera: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Its frames, each (size, size, 3) uint8 RGB, upright."""


class LeRobotSource:
    """A LeRobotDataset v3.0."""

    def __init__(self, root: Path, cameras: Mapping[str, str] | None) -> None:
        # A frame is read once here, so that a small cache is enough.
        self.dataset = RobotDataset(root, cameras, cache_bytes=50_000_000)
        spec = self.dataset.spec
        self.kind = f"LeRobotDataset {schema.VERSION}, {spec.image_format}"
        self.cameras, self.image_size, self.fps = spec.cameras, spec.image_size, spec.fps

    def __len__(self) -> int:
        return len(self.dataset.episodes)

    def key(self, index: int) -> str:
        """Its key, or its number in a dataset made elsewhere."""
        return str(self.dataset.episodes.iloc[index]["key"]) or f"episode-{index:06d}"

    def task(self, index: int) -> tuple[str, int]:
        """Its suite and task."""
        row = self.dataset.episodes.iloc[index]
        return str(row["suite"]), int(row["task_index"])

    def recording(self, index: int) -> Recording:
        """The episode without its frames."""
        return self.dataset.recording(index)

    def images(self, index: int, camera: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Its frames."""
        row = self.dataset.episodes.iloc[index]
        for first in range(int(row["start"]), int(row["stop"]), 64):
            yield from self.dataset.images(camera, np.arange(first, min(first + 64, int(row["stop"]))))


class Hdf5Source:
    """HDF5 files of LIBERO or robomimic, one task each."""

    def __init__(self, path: Path, cameras: Mapping[str, str] | None, pairing: str) -> None:
        self.files = [DemoFile(file, cameras, pairing) for file in demo_files(path)]
        first = self.files[0]
        self.cameras, self.image_size = tuple(first.cameras), first.image_size
        self.fps = first.fps
        self.kind = f"HDF5, {first.kind}"
        for file in self.files:
            said, wanted = (
                f"cameras {list(one.cameras)} of {one.image_size} px at {one.fps} Hz" for one in (file, first)
            )
            if said != wanted:
                raise FoundryError(
                    f"{file.path}: {said}, but {first.path} has {wanted}; convert them one by one"
                )
        self._episodes = [(file, name) for file in self.files for name in file.demos]

    def __len__(self) -> int:
        return len(self._episodes)

    def key(self, index: int) -> str:
        """File and episode."""
        file, name = self._episodes[index]
        stem = file.path.stem.removesuffix("_demo")
        letters = (letter if letter.isascii() and letter.isalnum() else "-" for letter in stem)
        return f"{''.join(letters).strip('-') or 'file'}-{int(name.removeprefix('demo_')):06d}"

    def task(self, index: int) -> tuple[str, int]:
        """Its suite and task."""
        return task_of(self._episodes[index][0].bddl)

    def recording(self, index: int) -> Recording:
        """The episode without its frames."""
        file, name = self._episodes[index]
        return file.recording(name)

    def images(self, index: int, camera: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Its frames."""
        file, name = self._episodes[index]
        return file.images(name, camera)


def open_source(path: Path, cameras: Mapping[str, str] | None = None, pairing: str = "auto") -> Source:
    """Open demonstrations of whatever kind.

    Args:
        path: a LeRobotDataset's folder, an HDF5 file, or a folder of HDF5 files.
        cameras: our name of a camera -> theirs; None for what is there.
        pairing: see `DemoFile`.

    Raises:
        FoundryError: there is nothing, or nothing that is known, or it is damaged.
    """
    if not path.exists():
        raise FoundryError(f"{path}: there is no such file or folder")
    if (path / schema.INFO).is_file():
        return LeRobotSource(path, cameras)
    if path.is_file() and path.suffix not in SUFFIXES:
        raise FoundryError(
            f"{path}: is no HDF5 file ({', '.join(SUFFIXES)}); name a dataset's folder or such a file"
        )
    if path.is_dir() and not any(found for suffix in SUFFIXES for found in path.rglob(f"*{suffix}")):
        raise FoundryError(
            f"{path}: is neither a LeRobotDataset ({schema.INFO} is missing) nor a folder of HDF5 files; "
            "name one of these"
        )
    return Hdf5Source(path, cameras, pairing)
