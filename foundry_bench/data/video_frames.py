"""Random access to the frames of one camera that are stored as video."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pandas as pd
from av.video.reformatter import VideoReformatter

from foundry_bench.data.parquet_io import REMAKE
from foundry_bench.data.video import CONTAINER, VIDEO_ERRORS, ClipInfo, cut_clip, stream_info
from foundry_bench.errors import FoundryError

#: How far a frame may be from the time at which it is looked for, in seconds: lerobot's ``tolerance_s``.
TOLERANCE_S = 1e-4
_OPEN_FILES = 16


@dataclass(frozen=True)
class _File:
    path: Path
    info: ClipInfo


class VideoFrames:
    """One camera's video files; each holds one or several episodes, one after the other.

    What is not obvious:

    - Opening reads the index of every file, and no frame: a file that is missing, truncated, too short, of
      another size or at another frame rate is refused at once.
    - A frame is looked for by its time, from the last key frame before it on, whatever the distance of key
      frames; it must be within `TOLERANCE_S`, as for lerobot.
    - Safe to call from several threads; they take turns.

    Args:
        root: the dataset folder.
        column: the camera's feature, such as ``observation.images.wrist``.
        pattern: ``video_path`` of info.json.
        episodes: rows with ``start``, ``stop`` (dataset-wide frames) and the columns ``videos/COLUMN/...``.
        fps: frames per second according to info.json.
        image_size: height and width that every frame must have.

    Raises:
        FoundryError: naming the file, what is wrong with it and the way out.
    """

    def __init__(
        self, root: Path, column: str, pattern: str, episodes: pd.DataFrame, fps: int, image_size: int
    ) -> None:
        self._root, self._column, self._pattern = root, column, pattern
        self._fps, self._size = fps, image_size
        self._start = episodes["start"].to_numpy()
        self._stop = episodes["stop"].to_numpy()
        places = zip(
            *(episodes[f"videos/{column}/{name}"] for name in ("chunk_index", "file_index")), strict=True
        )
        self._place = [(int(chunk), int(file)) for chunk, file in places]
        self._begin = episodes[f"videos/{column}/from_timestamp"].to_numpy(np.float64)
        self._lock = threading.Lock()
        self._files = {place: self._examine(place) for place in dict.fromkeys(self._place)}
        self._open: OrderedDict[tuple[int, int], tuple[Any, VideoReformatter]] = OrderedDict()

    @property
    def codec(self) -> str:
        """FFmpeg's name of the first file's codec."""
        return self._files[self._place[0]].info.codec

    def groups(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Episode that holds each frame."""
        return np.searchsorted(self._stop, frames, side="right")

    def bounds(self, group: int) -> tuple[int, int]:
        """Dataset-wide index of an episode's first frame, and how many it has."""
        return int(self._start[group]), int(self._stop[group] - self._start[group])

    def decode(self, frame: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode one frame into ``out``, (size, size, 3) uint8 RGB.

        Raises:
            FoundryError: naming file and frame, when the video is damaged there or has no such frame.
        """
        episode = int(self.groups(np.array([frame]))[0])
        self._decode(episode, frame - int(self._start[episode]), out[None])

    def decode_group(self, group: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode an episode into ``out``, (frames, size, size, 3) uint8 RGB.

        Raises:
            FoundryError: naming file and frame, when the video is damaged there or too short.
        """
        self._decode(group, 0, out)

    def clip(self, episode: int) -> bytes:
        """One episode as a clip of its own, not encoded again.

        Raises:
            FoundryError: the video is damaged, or the episode does not begin with a key frame.
        """
        first, count = round(self._begin[episode] * self._fps), self.bounds(episode)[1]
        file = self._files[self._place[episode]]
        try:
            return cut_clip(file.path, first, count, self._fps)
        except ValueError as error:
            raise FoundryError(f"{file.path}: episode {episode}: {error}; {REMAKE}") from error

    def _decode(self, episode: int, first: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode consecutive frames of an episode, ``first`` counted within it."""
        times = self._begin[episode] + (first + np.arange(len(out))) / self._fps
        place = self._place[episode]
        found = 0
        try:
            with self._lock:
                # From the last key frame up to the first time; only where the decoder wakes up after that,
                # because frames are stored in another order than shown, from the file's beginning.
                for start in (times[0] + TOLERANCE_S, 0.0):
                    found = self._decode_from(start, times, place, out)
                    if found == len(out):
                        return
                    if found:
                        break
        except VIDEO_ERRORS as error:
            self._drop(place)
            raise self._error(episode, first + found, f"cannot be decoded ({error})") from error
        self._drop(place)
        raise self._error(episode, first + found, f"there is no frame at {times[found]:.4f} s")

    def _decode_from(
        self, start: float, times: npt.NDArray[np.float64], place: tuple[int, int], out: npt.NDArray[np.uint8]
    ) -> int:
        """Decode from the key frame at or before ``start`` on; returns how many of ``times`` were found."""
        container, reformatter = self._container(place)
        stream = container.streams.video[0]
        container.seek(int(start / stream.time_base), stream=stream)
        found = 0
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            when = float(frame.pts * stream.time_base)
            if when < times[found] - TOLERANCE_S:
                continue
            if when > times[found] + TOLERANCE_S or (frame.height, frame.width) != out.shape[1:3]:
                break
            out[found] = reformatter.reformat(frame, format="rgb24").to_ndarray()
            found += 1
            if found == len(out):
                break
        return found

    def _error(self, episode: int, step: int, problem: str) -> FoundryError:
        path = self._files[self._place[episode]].path
        return FoundryError(f"{path}: frame {step} of episode {episode}: {problem}; {REMAKE}")

    def _container(self, place: tuple[int, int]) -> tuple[Any, VideoReformatter]:
        """An open file and what makes RGB of its frames; the least recently used one gives way."""
        if place not in self._open:
            while len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
            container = av.open(str(self._files[place].path), "r", format=CONTAINER)
            container.streams.video[0].codec_context.thread_count = 1
            self._open[place] = (container, VideoReformatter())  # which keeps its tables from frame to frame
        self._open.move_to_end(place)
        return self._open[place]

    def _drop(self, place: tuple[int, int]) -> None:
        """Close a file whose decoder may be in a bad state."""
        with self._lock:
            opened = self._open.pop(place, None)
            if opened is not None:
                opened[0].close()

    def _examine(self, place: tuple[int, int]) -> _File:
        """Open a file, compare it with what the dataset says, and close it."""
        names = {"video_key": self._column, "chunk_index": place[0], "file_index": place[1]}
        path = self._root / self._pattern.format(**names)
        if not path.is_file():
            raise FoundryError(f"{path}: is missing; {REMAKE}")
        rows = [row for row, other in enumerate(self._place) if other == place]
        needed = max(round(self._begin[row] * self._fps) + self.bounds(row)[1] for row in rows)
        try:
            with av.open(str(path), "r", format=CONTAINER) as container:
                info = stream_info(container)
                end = _last_byte(container)
        except VIDEO_ERRORS as error:
            raise FoundryError(f"{path}: not a readable video ({error}); {REMAKE}") from error
        problem = ""
        if (info.height, info.width) != (self._size, self._size):
            problem = f"frames are {info.width}x{info.height} pixels, info.json says {self._size}"
        elif abs(info.fps - self._fps) > 1e-3 * self._fps:
            problem = f"is at {info.fps:g} frames per second, fps in info.json is {self._fps}"
        elif info.frames and info.frames < needed:
            problem = f"holds {info.frames} frames, meta/episodes needs {needed}"
        elif end > path.stat().st_size:
            problem = f"is truncated: {path.stat().st_size} bytes of at least {end}"
        if problem:
            raise FoundryError(f"{path}: {problem}; {REMAKE}")
        return _File(path, info)


def _last_byte(container: Any) -> int:
    """Where the last frame ends in the file according to its index; 0 where PyAV (before 16) shows none."""
    entries = getattr(container.streams.video[0], "index_entries", ())
    return int(max((entry.pos + entry.size for entry in entries), default=0))
