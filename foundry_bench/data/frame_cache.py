"""Random access to the frames of one camera: what is encoded on disk behind a bounded RAM cache of pixels."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from foundry_bench.data.images import decode_into
from foundry_bench.data.parquet_io import REMAKE, encoded_images, read_columns
from foundry_bench.errors import FoundryError

#: Encoded row groups kept while not all frames fit into the cache.
_ENCODED_BYTES = 256_000_000

Encoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class DataFile:
    """An open data file and the dataset-wide index of its first frame."""

    path: Path
    file: pq.ParquetFile
    first: int


def default_cache_bytes() -> int:
    """6 GB, or 40 % of the machine's memory where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(6_000_000_000, int(0.4 * memory))


class FrameSource(Protocol):
    """The frames of one camera, encoded: images in parquet files or video.

    Frames are decoded alone or in groups, whatever the files read best: a row group, an episode.
    """

    def groups(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Group that holds each frame."""

    def bounds(self, group: int) -> tuple[int, int]:
        """Dataset-wide index of the first frame of a group, and how many it has."""

    def decode(self, frame: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode one frame into ``out``; a FoundryError names file and frame if that cannot be."""

    def decode_group(self, group: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode all frames of a group, which are not needed again soon."""


class EncodedFrames:
    """One image column over all data files, read row group by row group.

    Safe to call from several threads when all columns of the same files share one ``lock``.
    """

    def __init__(self, files: Sequence[DataFile], column: str, lock: threading.Lock) -> None:
        self._files = files
        self._column = column
        self._lock = lock
        firsts, places = [], []
        for number, item in enumerate(files):
            first = item.first
            for group in range(item.file.metadata.num_row_groups):
                firsts.append(first)
                places.append((number, group))
                first += item.file.metadata.row_group(group).num_rows
        self._firsts = np.array(firsts, np.int64)
        self._places = places
        self._kept: OrderedDict[int, Encoded] = OrderedDict()
        self._kept_bytes = 0

    def groups(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row group that holds each frame."""
        return np.searchsorted(self._firsts, frames, side="right") - 1

    def bounds(self, group: int) -> tuple[int, int]:
        """Dataset-wide index of the first frame of a row group, and how many it has."""
        return int(self._firsts[group]), len(self.read(group)[0]) - 1

    def read(self, group: int) -> Encoded:
        """(offsets, data) of a row group, see `encoded_images`.

        Raises:
            FoundryError: the file is damaged there.
        """
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            number, index = self._places[group]
            item = self._files[number]
            table = read_columns(item.file, item.path, [self._column], index)
            encoded = encoded_images(table, self._column, item.path)
            if len(encoded[0]) - 1 != item.file.metadata.row_group(index).num_rows:
                raise FoundryError(f"{item.path}: row group {index} is shorter than the file says; {REMAKE}")
            self._kept[group] = encoded
            self._kept_bytes += encoded[1].nbytes
            while self._kept_bytes > _ENCODED_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= dropped[1].nbytes
            return encoded

    def decode(self, frame: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode one frame into ``out``.

        Raises:
            FoundryError: naming file, column and frame, when it is no image or one of another size.
        """
        group = int(self.groups(np.array([frame]))[0])
        self._decode(group, frame - int(self._firsts[group]), out)

    def decode_group(self, group: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode a whole row group and drop what was read of it.

        Raises:
            FoundryError: naming file, column and frame, when it is no image or one of another size.
        """
        for row, pixels in enumerate(out):
            self._decode(group, row, pixels)
        with self._lock:
            dropped = self._kept.pop(group, None)
            if dropped is not None:
                self._kept_bytes -= dropped[1].nbytes

    def _decode(self, group: int, row: int, out: npt.NDArray[np.uint8]) -> None:
        offsets, data = self.read(group)
        try:
            decode_into(data[offsets[row] : offsets[row + 1]], out)
        except ValueError as error:
            path = self._files[self._places[group][0]].path
            frame = int(self._firsts[group]) + row
            raise FoundryError(
                f"{path}: column {self._column!r}, frame {frame}: {error}; {REMAKE}"
            ) from error


class FrameCache:
    """Decoded frames of one camera; safe to call from several threads.

    Where all frames fit into ``capacity_bytes``, each group is read and decoded once, when first asked
    for. Otherwise only the frames asked for are decoded, and the oldest ones give way.
    """

    def __init__(self, encoded: FrameSource, frames: int, image_size: int, capacity_bytes: int) -> None:
        self._encoded = encoded
        self._frames = frames
        self._shape = (image_size, image_size, 3)
        capacity = max(1, min(frames, capacity_bytes // int(np.prod(self._shape))))
        self.complete = capacity == frames
        # Pages of this array take memory when they are first written, not now.
        self._pixels = np.empty((capacity, *self._shape), np.uint8)
        self._slot_of = np.full(frames, -1, np.int64)
        self._frame_in = np.full(capacity, -1, np.int64)
        self._next = 0
        self._lock = threading.Lock()

    def get(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pixels of ``frames`` (B,) as a new (B, size, size, 3) array.

        Raises:
            FoundryError: a frame cannot be decoded or has another size.
        """
        with self._lock:
            if self.complete:
                missing = frames[self._slot_of[frames] < 0]
                for group in np.unique(self._encoded.groups(missing)):
                    self._decode_group(int(group))
                return self._pixels[self._slot_of[frames]]
            return self._through_ring(frames)

    def _decode_group(self, group: int) -> None:
        """Decode a whole group to its own place."""
        first, count = self._encoded.bounds(group)
        self._encoded.decode_group(group, self._pixels[first : first + count])
        self._slot_of[first : first + count] = np.arange(first, first + count)

    def _through_ring(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        unique, inverse = np.unique(frames, return_inverse=True)
        slots = self._slot_of[unique]
        out = np.empty((len(unique), *self._shape), np.uint8)
        known = slots >= 0
        out[known] = self._pixels[slots[known]]
        rows = np.flatnonzero(~known)
        for row in rows:
            self._encoded.decode(int(unique[row]), out[row])
        for row in rows:
            self._remember(int(unique[row]), out[row])
        return out[inverse]

    def _remember(self, frame: int, pixels: npt.NDArray[np.uint8]) -> None:
        slot, self._next = self._next, (self._next + 1) % len(self._pixels)
        if self._frame_in[slot] >= 0:
            self._slot_of[self._frame_in[slot]] = -1
        self._pixels[slot] = pixels
        self._frame_in[slot] = frame
        self._slot_of[frame] = slot
