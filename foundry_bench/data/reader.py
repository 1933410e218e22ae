"""Reading a LeRobotDataset v3.0: checked when opened, then fast random access to training samples."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from foundry_bench.data import schema
from foundry_bench.data.episode import Episode
from foundry_bench.data.frame_cache import (
    DataFile,
    EncodedFrames,
    FrameCache,
    FrameSource,
    default_cache_bytes,
)
from foundry_bench.data.frames import cut
from foundry_bench.data.images import image_format_and_size
from foundry_bench.data.metadata import (
    episode_origin,
    load_episodes,
    load_info,
    load_tasks,
    open_episode_files,
    spec_of,
)
from foundry_bench.data.parquet_io import REMAKE, check_columns, integers, open_parquet, read_columns, vectors
from foundry_bench.data.recordings import Recording
from foundry_bench.data.statistics import Statistics, vector_statistics
from foundry_bench.data.video_frames import TOLERANCE_S, VideoFrames
from foundry_bench.errors import FoundryError


class RobotDataset:
    """A dataset of demonstrations on disk.

    Opening checks everything but the images: versions, lengths against the episodes table, NaN in states
    and actions; of the images it decodes the first of each camera. The others are checked when decoded.

    Attributes:
        root: the dataset folder.
        spec: cameras, sizes and names; ``spec.cameras`` are the keys of a batch's ``images``.
        episodes: one row per episode: episode_index, key, suite, task_index (in its suite), instruction,
            length, seed, expert, success, start and stop (its frames).
        num_frames: frames of all episodes.
    """

    def __init__(
        self, root: Path | str, cameras: Mapping[str, str] | None = None, *, cache_bytes: int | None = None
    ) -> None:
        """
        Args:
            root: the dataset folder.
            cameras: our name -> the dataset's, for those to read; None reads all under their own names.
            cache_bytes: memory for decoded frames; None for `default_cache_bytes`.

        Raises:
            FoundryError: naming the file, the column and the way out, whatever is wrong with the dataset.
        """
        self.root = Path(root)
        # An open parquet file may be read by one thread at a time.
        self._lock = threading.Lock()
        info = load_info(self.root)
        self.spec, columns = spec_of(info, cameras)
        videos = [name for name in columns.values() if info.features[name]["dtype"] == "video"]
        self._episode_files = open_episode_files(self.root)
        self.episodes = load_episodes(self._episode_files, info, videos)
        self.num_frames = info.total_frames
        self._tasks = load_tasks(self.root)
        self._files = self._open_files([name for name in columns.values() if name not in videos])
        self._has_executed = schema.EXECUTED in info.features
        self._read_vectors()
        budget = default_cache_bytes() if cache_bytes is None else cache_bytes
        self._encoded: dict[str, EncodedFrames] = {}
        self._videos: dict[str, VideoFrames] = {}
        for name, column in columns.items():
            if videos:
                place = (info.video_path, self.episodes, info.fps, self.spec.image_size)
                self._videos[name] = VideoFrames(self.root, column, *place)
            else:
                self._encoded[name] = EncodedFrames(self._files, column, self._lock)
        sources: dict[str, FrameSource] = {**self._encoded, **self._videos}
        self._caches = {
            name: FrameCache(encoded, self.num_frames, self.spec.image_size, budget // len(columns))
            for name, encoded in sources.items()
        }
        self._check_first_images(sources)

    def __len__(self) -> int:
        return self.num_frames

    def batch(self, frames: npt.NDArray[np.integer], horizon: int) -> dict[str, Any]:
        """Training samples that start at ``frames``; may be called from any thread.

        Args:
            frames: (B,) dataset-wide frame indices.
            horizon: number of actions from the frame on.

        Returns:
            ``images``: camera -> (B, S, S, 3) uint8; ``state``: (B, 8) float32; ``actions``: (B, horizon, 7)
            float32 labels, past the episode's end its last one again; ``action_mask``: (B, horizon) bool,
            false there and after a deliberate mistake that begins within the chunk, since its labels then
            answer what nobody could foresee; ``instruction``: list of B texts.

        Raises:
            FoundryError: an image cannot be decoded.
            IndexError: a frame is outside of the dataset.
        """
        start = np.asarray(frames, np.int64)
        actions, action_mask = self.chunks(start, horizon)
        return {
            "images": {camera: cache.get(start) for camera, cache in self._caches.items()},
            "state": self._state[start],
            "actions": actions,
            "action_mask": action_mask,
            "instruction": [self._tasks[task] for task in self._task[start]],
        }

    def chunks(
        self, frames: npt.NDArray[np.integer], horizon: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """``actions`` and ``action_mask`` of ``batch`` alone, without decoding an image.

        Raises:
            IndexError: a frame is outside of the dataset.
        """
        start = np.asarray(frames, np.int64)
        if start.size and (start.min() < 0 or start.max() >= self.num_frames):
            raise IndexError(f"frames must be in 0..{self.num_frames - 1}")
        wanted = start[:, None] + np.arange(horizon)
        stop = self._stop[start][:, None]
        mask = (wanted < stop) & (wanted <= self._mistake[start][:, None])
        return self._label[np.minimum(wanted, stop - 1)], mask

    def images(self, camera: str, frames: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Frames of one camera, (B, S, S, 3) uint8; ``camera`` is one of ``spec.cameras``.

        Raises:
            FoundryError: an image cannot be decoded.
        """
        return self._caches[camera].get(np.asarray(frames, np.int64))

    def recording(self, index: int) -> Recording:
        """One episode without its frames, as it can be replayed where its init state was kept.

        Raises:
            FoundryError: what was stored of it is damaged.
            IndexError: there is no such episode.
        """
        row, frames, origin = self._origin(index)
        return Recording(
            suite=str(row["suite"]),
            task_index=int(row["task_index"]),
            instruction=str(row["instruction"]),
            actions=self._executed[frames].astype(np.float64),
            labels=self._label[frames].astype(np.float64),
            robot=self._state[frames].copy(),
            states=None,
            init_state=origin["init_state"],
            wait_steps=int(origin["info"].get("wait_steps", 0)),
            fixtures=origin["fixtures"],
            success=bool(row["success"]),
            seed=int(row["seed"]),
            expert=str(row["expert"]),
            info=origin["info"],
        )

    def statistics(self) -> dict[str, Statistics]:
        """``state`` and ``action`` (the label): dicts of mean, std, min, max, q01 ... q99 and count.

        Computed from the frames, not taken from the file.
        """
        return {"state": vector_statistics(self._state), "action": vector_statistics(self._label)}

    def episode(self, index: int) -> Episode:
        """One episode with everything needed to make it again; may be called from any thread.

        Raises:
            FoundryError: what was stored of it is damaged.
            IndexError: there is no such episode.
        """
        row, frames, origin = self._origin(index)
        return Episode(
            suite=str(row["suite"]),
            task_index=int(row["task_index"]),
            instruction=str(row["instruction"]),
            seed=int(row["seed"]),
            expert=str(row["expert"]),
            images={
                camera: self._encoded_images(encoded, frames) for camera, encoded in self._encoded.items()
            },
            state=self._state[frames].copy(),
            action=self._executed[frames].copy(),
            label=self._label[frames].copy(),
            clips={camera: video.clip(index) for camera, video in self._videos.items()},
            **origin,
        )

    def _origin(self, index: int) -> tuple[pd.Series, slice, dict[str, Any]]:
        """An episode's row of ``episodes``, its frames, and what it was made from."""
        if not 0 <= index < len(self.episodes):
            raise IndexError(f"episode must be in 0..{len(self.episodes) - 1}")
        with self._lock:
            origin = episode_origin(self._episode_files, index)
        row = self.episodes.iloc[index]
        return row, slice(int(row["start"]), int(row["stop"])), origin

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over every file of the dataset; reads them all, about 1 GB/s."""
        digest = hashlib.sha256()
        for folder in ("data", "meta", "videos"):
            for path in sorted((self.root / folder).rglob("*")):
                if path.is_file():
                    with path.open("rb") as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
                    digest.update(f"{path.relative_to(self.root).as_posix()} {content}\n".encode())
        return digest.hexdigest()[:16]

    def _open_files(self, image_columns: list[str]) -> list[DataFile]:
        """Open the data files in the order of the episodes and compare their lengths."""
        files = []
        first = 0
        places = ["chunk_index", "file_index"]
        for _, rows in self.episodes.groupby(places, sort=False):
            path = self.root / schema.DATA.format(**{name: int(rows[name].iloc[0]) for name in places})
            file = open_parquet(path)
            check_columns(file, path, image_columns)
            expected = int(rows["length"].sum())
            if file.metadata.num_rows != expected:
                raise FoundryError(
                    f"{path}: holds {file.metadata.num_rows} frames, meta/episodes says {expected}; {REMAKE}"
                )
            files.append(DataFile(path, file, first))
            first += expected
        return files

    def _read_vectors(self) -> None:
        """Load states, actions and indices of all frames; they are small."""
        action_width, state_width = len(self.spec.action_names), len(self.spec.state_names)
        widths = {schema.STATE: state_width, schema.LABEL: action_width}
        if self._has_executed:
            widths[schema.EXECUTED] = action_width
        parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in (*widths, "task_index")}
        for item in self._files:
            names = [*widths, "task_index", "episode_index", "timestamp"]
            table = read_columns(item.file, item.path, names)
            self._check_indices(table, item)
            self._check_times(vectors(table, "timestamp", 1, item.path)[:, 0], item)
            parts["task_index"].append(integers(table, "task_index", item.path))
            for name, width in widths.items():
                values = vectors(table, name, width, item.path)
                self._check_finite(values, name, item)
                parts[name].append(values)
        self._state = np.concatenate(parts[schema.STATE])
        self._label = np.concatenate(parts[schema.LABEL])
        self._executed = np.concatenate(parts[schema.EXECUTED]) if self._has_executed else self._label
        self._task = np.concatenate(parts["task_index"])
        length, stop = self.episodes["length"].to_numpy(), self.episodes["stop"].to_numpy()
        self._stop = np.repeat(stop, length)
        self._mistake = self._next_mistake()
        first = self._task[self.episodes["start"].to_numpy()]
        self.episodes["instruction"] = [self._tasks[task] for task in first]

    def _next_mistake(self) -> npt.NDArray[np.int64]:
        """For each frame the first one from it on at which a mistake begins: the gripper defies its label."""
        defies = np.sign(self._executed[:, -1]) != np.sign(self._label[:, -1])
        before = np.roll(defies, 1)
        before[self.episodes["start"].to_numpy()] = False
        begins = np.flatnonzero(defies & ~before)
        following = np.searchsorted(begins, np.arange(len(defies)))
        return np.append(begins, len(defies))[following]

    def _check_indices(self, table: pa.Table, item: DataFile) -> None:
        rows = slice(item.first, item.first + len(table))
        expected = np.repeat(self.episodes["episode_index"].to_numpy(), self.episodes["length"].to_numpy())[
            rows
        ]
        wrong = np.flatnonzero(integers(table, "episode_index", item.path) != expected)
        if len(wrong):
            frame = item.first + int(wrong[0])
            raise FoundryError(
                f"{item.path}: column 'episode_index' at frame {frame} does not fit meta/episodes; {REMAKE}"
            )
        task = integers(table, "task_index", item.path)
        if task.min() < 0 or task.max() >= len(self._tasks):
            raise FoundryError(
                f"{item.path}: column 'task_index' reaches {task.max()}, "
                f"{schema.TASKS} knows {len(self._tasks)} tasks; {REMAKE}"
            )

    def _check_times(self, times: npt.NDArray[np.float32], item: DataFile) -> None:
        """Within an episode frame k is at k / fps seconds, to lerobot's tolerance."""
        length, start = self.episodes["length"].to_numpy(), self.episodes["start"].to_numpy()
        rows = slice(item.first, item.first + len(times))
        step = np.arange(rows.start, rows.stop) - np.repeat(start, length)[rows]
        wrong = np.flatnonzero(~(np.abs(times - step / self.spec.fps) <= TOLERANCE_S))
        if len(wrong):
            row = int(wrong[0])
            raise FoundryError(
                f"{item.path}: column 'timestamp' is {times[row]:.4f} s at frame {item.first + row}, number "
                f"{step[row]} of its episode; with fps={self.spec.fps} as in {schema.INFO} it would be "
                f"{step[row] / self.spec.fps:.4f} s; correct fps there"
            )

    def _check_finite(self, values: npt.NDArray[np.float32], name: str, item: DataFile) -> None:
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            frame = item.first + int(wrong[0])
            episode = int(np.searchsorted(self.episodes["stop"].to_numpy(), frame, side="right"))
            raise FoundryError(
                f"{item.path}: column {name!r} is NaN or infinite at frame {frame} (episode {episode}), "
                f"{len(wrong)} such frames; {REMAKE}"
            )

    def _check_first_images(self, sources: Mapping[str, FrameSource]) -> None:
        size = self.spec.image_size
        for source in sources.values():
            source.decode(0, np.empty((size, size, 3), np.uint8))
            if isinstance(source, VideoFrames):
                image_format = source.codec
            else:
                offsets, data = self._encoded[self.spec.cameras[0]].read(0)
                image_format, _ = image_format_and_size(data[offsets[0] : offsets[0] + 24].tobytes())
            self.spec = dataclasses.replace(self.spec, image_format=image_format)

    @staticmethod
    def _encoded_images(encoded: EncodedFrames, frames: slice) -> list[bytes]:
        result: list[bytes] = []
        for group in np.unique(encoded.groups(np.arange(frames.start, frames.stop))):
            images = cut(*encoded.read(int(group)))
            first, _ = encoded.bounds(int(group))
            result += images[max(frames.start - first, 0) : frames.stop - first]
        return result
