"""Packing episodes into a LeRobotDataset v3.0: same episodes, same order, same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from foundry_bench.data import schema
from foundry_bench.data.episode import DatasetSpec, Episode, canonical_json
from foundry_bench.data.frames import frame_table, index_columns
from foundry_bench.data.parquet_io import parquet_writer
from foundry_bench.data.statistics import (
    Statistics,
    clip_histogram,
    image_histogram,
    image_statistics,
    vector_statistics,
)
from foundry_bench.data.video import ClipWriter
from foundry_bench.errors import FoundryError

#: Frames per row group. A row group is the least that can be read, so a random frame costs this many.
ROW_GROUP = 32

_EPISODES_PER_FILE = 5000


class Packer:
    """Writes one dataset to the new folder ``out``; holds only one episode's images at a time."""

    def __init__(
        self,
        spec: DatasetSpec,
        out: Path,
        file_bytes: int = schema.DATA_FILE_MB * 1_000_000,
        video_bytes: int = schema.VIDEO_FILE_MB * 1_000_000,
    ) -> None:
        self.spec = spec
        self.out = out
        self.frames = 0
        self.tasks: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []
        self._data = _DataFiles(out, schema.frame_schema(spec), file_bytes)
        cameras = spec.cameras if spec.is_video else ()
        self._videos = {camera: _VideoFiles(out, camera, spec.fps, video_bytes) for camera in cameras}
        self._vectors: dict[str, list[npt.NDArray[Any]]] = {}
        self._histograms: dict[str, npt.NDArray[np.int64]] = {}
        self._sampled: dict[str, int] = {}

    def run(self, episodes: Iterable[tuple[str, Episode]]) -> None:
        """Write ``episodes``, pairs of a key and an episode, in the order given; info.json comes last.

        Raises:
            FoundryError: an episode does not fit the spec or holds an image that cannot be decoded.
        """
        try:
            for key, episode in episodes:
                self._add(key, episode)
        finally:
            self._data.close()
            for files in self._videos.values():
                files.close()
        self._write_episodes()
        self._write_tasks()
        _write_json(
            self.out / schema.STATS, {name: _lists(value) for name, value in self._statistics().items()}
        )
        content = schema.info(self.spec, len(self.rows), self.frames, len(self.tasks))
        _write_json(self.out / schema.INFO, content)

    def _add(self, key: str, episode: Episode) -> None:
        episode.check(self.spec, key)
        number = len(self.rows)
        task = self.tasks.setdefault(episode.instruction, len(self.tasks))
        file = self._data.write(frame_table(episode, self.spec, number, self.frames, task))
        row = {
            "episode_index": number,
            "tasks": [episode.instruction],
            "length": len(episode),
            "data/chunk_index": file["chunk_index"],
            "data/file_index": file["file_index"],
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(episode),
            **_origin(key, episode),
        }
        for camera, files in self._videos.items():
            row.update(files.write(episode.clips[camera], key))
        for name, statistics in self._episode_statistics(key, episode, number, task).items():
            row.update(
                {f"stats/{name}/{statistic}": value for statistic, value in _lists(statistics).items()}
            )
        self.rows.append(row)
        self.frames += len(episode)

    def _episode_statistics(
        self, key: str, episode: Episode, number: int, task: int
    ) -> dict[str, Statistics]:
        """Statistics of one episode; what the dataset's own are made from is kept."""
        result: dict[str, Statistics] = {}
        for camera in self.spec.cameras:
            name = schema.IMAGE_PREFIX + camera
            try:
                if self.spec.is_video:
                    histogram, sampled = clip_histogram(episode.clips[camera], len(episode))
                else:
                    histogram, sampled = image_histogram(episode.images[camera])
            except ValueError as error:
                raise FoundryError(
                    f"episode {key}: camera {camera!r}: {error}; remove this episode"
                ) from error
            result[name] = image_statistics(histogram, sampled)
            self._histograms[name] = self._histograms.get(name, np.zeros_like(histogram)) + histogram
            self._sampled[name] = self._sampled.get(name, 0) + sampled
        columns = {schema.STATE: episode.state, schema.LABEL: episode.label, schema.EXECUTED: episode.action}
        columns.update(index_columns(len(episode), self.spec.fps, number, self.frames, task))
        for name, values in columns.items():
            table = values.reshape(len(episode), -1)
            result[name] = vector_statistics(table)
            self._vectors.setdefault(name, []).append(table)
        return result

    def _statistics(self) -> dict[str, Statistics]:
        """Statistics of the whole dataset, exact for vectors, not averaged over episodes."""
        result = {
            name: image_statistics(self._histograms[name], self._sampled[name]) for name in self._histograms
        }
        result.update(
            {name: vector_statistics(np.concatenate(parts)) for name, parts in self._vectors.items()}
        )
        return result

    def _write_episodes(self) -> None:
        arrow_schema = schema.episode_schema(self.spec)
        for number, first in enumerate(range(0, len(self.rows), _EPISODES_PER_FILE)):
            rows = self.rows[first : first + _EPISODES_PER_FILE]
            for row in rows:
                row.update({f"meta/episodes/{name}": value for name, value in schema.place(number).items()})
            path = self.out / schema.EPISODES.format(**schema.place(number))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file, parquet_writer(file, arrow_schema) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=arrow_schema))

    def _write_tasks(self) -> None:
        # lerobot reads this file with pandas and looks a task up by its index label.
        tasks = pd.DataFrame({"task_index": list(self.tasks.values())}, index=list(self.tasks))
        table = pa.Table.from_pandas(tasks)
        with (self.out / schema.TASKS).open("wb") as file, parquet_writer(file, table.schema) as writer:
            writer.write_table(table)


class _DataFiles:
    """The data files: a new one is begun when the next episode would not fit into the current one."""

    def __init__(self, out: Path, arrow_schema: pa.Schema, file_bytes: int) -> None:
        self._out = out
        self._schema = arrow_schema
        self._limit = file_bytes
        self._number = -1
        self._size = 0
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> dict[str, int]:
        """Append one episode; returns the chunk and file index it went to."""
        size = table.nbytes
        writer = self._writer
        if writer is None or self._size + size > self._limit:
            writer = self._open_next()
        writer.write_table(table, row_group_size=ROW_GROUP)
        self._size += size
        return schema.place(self._number)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        file, self._file = self._file, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if file is not None:
                file.close()

    def _open_next(self) -> pq.ParquetWriter:
        self.close()
        self._number += 1
        self._size = 0
        path = self._out / schema.DATA.format(**schema.place(self._number))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._writer = parquet_writer(self._file, self._schema)
        return self._writer


class _VideoFiles:
    """One camera's video files: a new one is begun when the next clip would not fit into the current one."""

    def __init__(self, out: Path, camera: str, fps: int, file_bytes: int) -> None:
        self._out = out
        self._key = schema.IMAGE_PREFIX + camera
        self._fps = fps
        self._limit = file_bytes
        self._number = -1
        self._writer: ClipWriter | None = None

    def write(self, clip: bytes, episode: str) -> dict[str, Any]:
        """Append one clip; returns the columns of meta/episodes that say where it is."""
        writer = self._writer
        if writer is None or writer.size + len(clip) > self._limit:
            self.close()
            self._number += 1
            path = schema.VIDEOS.format(video_key=self._key, **schema.place(self._number))
            writer = self._writer = ClipWriter(self._out / path, self._fps)
        try:
            begin, end = writer.add(clip)
        except ValueError as error:
            raise FoundryError(
                f"episode {episode}: video of {self._key}: {error}; remove this episode"
            ) from error
        place = {**schema.place(self._number), "from_timestamp": begin, "to_timestamp": end}
        return {f"videos/{self._key}/{name}": value for name, value in place.items()}

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _origin(key: str, episode: Episode) -> dict[str, Any]:
    return {
        "episode_key": key,
        "suite": episode.suite,
        "suite_task_index": int(episode.task_index),
        "seed": int(episode.seed),
        "expert": episode.expert,
        "success": bool(episode.info.get("success", True)),
        "init_state": np.asarray(episode.init_state, np.float64).tolist(),
        "fixtures": canonical_json(episode.fixtures, f"episode {key}: fixtures"),
        "info": canonical_json(episode.info, f"episode {key}: info"),
    }


def _lists(statistics: Statistics) -> dict[str, Any]:
    return {name: value.tolist() for name, value in statistics.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
