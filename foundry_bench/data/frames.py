"""Episodes as Arrow tables of frames, and as the single staged file that a killed run leaves behind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from foundry_bench.data import schema
from foundry_bench.data.episode import DatasetSpec, Episode, canonical_json
from foundry_bench.data.parquet_io import encoded_images, open_parquet, parquet_writer, read_columns, vectors
from foundry_bench.errors import FoundryError

_ORIGIN = b"foundry_bench.episode"
_CLIP_PREFIX = "clip."  # column of a staged episode whose first row holds the whole clip of a camera
_SUFFIXES = {"png": "png", "jpeg": "jpg"}


def frame_table(
    episode: Episode, spec: DatasetSpec, episode_index: int, first: int, task_index: int
) -> pa.Table:
    """The frames of one episode; ``first`` is the dataset-wide index of its first frame."""
    columns: dict[str, pa.Array] = {}
    for camera in spec.cameras if not spec.is_video else ():
        columns[schema.IMAGE_PREFIX + camera] = _images(episode.images[camera], _SUFFIXES[spec.image_format])
    columns[schema.STATE] = _vectors(episode.state)
    columns[schema.LABEL] = _vectors(episode.label)
    columns[schema.EXECUTED] = _vectors(episode.action)
    for name, values in index_columns(len(episode), spec.fps, episode_index, first, task_index).items():
        columns[name] = pa.array(values)
    ordered = schema.frame_schema(spec)
    return pa.Table.from_arrays([columns[field.name] for field in ordered], schema=ordered)


def index_columns(
    length: int, fps: int, episode_index: int, first: int, task_index: int
) -> dict[str, npt.NDArray[Any]]:
    """The standard columns that count frames, episodes and tasks; ``timestamp`` is in seconds."""
    steps = np.arange(length, dtype=np.int64)
    return {
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, episode_index, np.int64),
        "index": steps + first,
        "task_index": np.full(length, task_index, np.int64),
    }


def stage(episode: Episode, spec: DatasetSpec) -> bytes:
    """One episode as the bytes of a parquet file of its own; `unstage` gives the episode back."""
    origin = {
        "suite": episode.suite,
        "task_index": int(episode.task_index),
        "instruction": episode.instruction,
        "seed": int(episode.seed),
        "expert": episode.expert,
        "init_state": np.asarray(episode.init_state, np.float64).tolist(),
        "fixtures": episode.fixtures,
        "info": episode.info,
    }
    table = frame_table(episode, spec, episode_index=0, first=0, task_index=0)
    for camera in spec.cameras if spec.is_video else ():
        clip = pa.array([episode.clips[camera], *[b""] * (len(episode) - 1)], pa.binary())
        table = table.append_column(_CLIP_PREFIX + camera, clip)
    metadata = {**table.schema.metadata, _ORIGIN: canonical_json(origin, "episode").encode()}
    table = table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with parquet_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(memoryview(sink.getvalue()))


def unstage(path: Path, spec: DatasetSpec) -> Episode:
    """Read what `stage` wrote.

    Raises:
        FoundryError: the file is damaged; deleting it and running again makes that one episode again.
    """
    try:
        file = open_parquet(path)
        origin = json.loads(file.schema_arrow.metadata[_ORIGIN])
        prefix = _CLIP_PREFIX if spec.is_video else schema.IMAGE_PREFIX
        images, clips = {}, {}
        for camera in spec.cameras:
            name = prefix + camera
            parts = cut(*encoded_images(read_columns(file, path, [name]), name, path))
            if spec.is_video:
                clips[camera] = parts[0]
            else:
                images[camera] = parts
        names = [schema.STATE, schema.LABEL, schema.EXECUTED]
        table = read_columns(file, path, names)
        widths = [len(spec.state_names), len(spec.action_names), len(spec.action_names)]
        state, label, action = (vectors(table, n, w, path) for n, w in zip(names, widths, strict=True))
        init_state = np.array(origin.pop("init_state"), np.float64)
        arrays: dict[str, Any] = {"state": state, "label": label, "action": action, "init_state": init_state}
        return Episode(images=images, clips=clips, **arrays, **origin)
    except (FoundryError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FoundryError(f"{path}: staged episode is damaged; delete this file and run again") from error


def cut(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> list[bytes]:
    """The single images of a column as given by `encoded_images`."""
    return [data[start:stop].tobytes() for start, stop in itertools.pairwise(offsets)]


def _images(frames: list[bytes], suffix: str) -> pa.Array:
    # The path is what lerobot itself keeps beside embedded bytes: the name the frame would have as a file.
    paths = [f"frame-{step:06d}.{suffix}" for step in range(len(frames))]
    children = [pa.array(frames, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(children, fields=list(schema.IMAGE_TYPE))


def _vectors(values: npt.NDArray[np.float32]) -> pa.Array:
    table = np.ascontiguousarray(values, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
