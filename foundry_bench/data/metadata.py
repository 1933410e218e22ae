"""Reading and checking the meta folder of a LeRobotDataset v3.0; nothing in it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from foundry_bench.data import schema
from foundry_bench.data.episode import DatasetSpec
from foundry_bench.data.parquet_io import (
    REMAKE,
    integers,
    open_parquet,
    parquet_errors,
    read_columns,
    vectors,
)
from foundry_bench.errors import FoundryError, nearest

_COUNTS = ("total_episodes", "total_frames")
_VIDEO_PLACES = ("chunk_index", "file_index", "from_timestamp")
_PLACES = ["length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index"]

#: What an episode of a dataset made elsewhere is given where that does not say.
_ORIGIN_DEFAULTS: dict[str, Any] = {
    "episode_key": "",
    "suite": "",
    "suite_task_index": -1,
    "seed": -1,
    "expert": "",
    "success": True,
}

EpisodeFile = tuple[Path, pq.ParquetFile]


@dataclass(frozen=True)
class Info:
    """What info.json says, checked for type and range."""

    path: Path
    fps: int
    total_episodes: int
    total_frames: int
    features: dict[str, dict[str, Any]]
    video_path: str = schema.VIDEOS

    def feature(self, name: str, dtypes: Sequence[str], rank: int) -> tuple[int, ...]:
        """Shape of feature ``name``.

        Raises:
            FoundryError: it is missing, or of another dtype or rank.
        """
        feature = self.features.get(name)
        if feature is None:
            raise FoundryError(f"{self.path}: feature {name!r} is missing; {nearest(name, self.features)}")
        shape = feature["shape"]
        if feature["dtype"] not in dtypes or len(shape) != rank:
            raise FoundryError(
                f"{self.path}: feature {name!r} is {feature['dtype']} of shape {shape}, "
                f"expected {dtypes[0]} with {rank} dimension{'s' * (rank > 1)}; {REMAKE}"
            )
        return tuple(shape)


def load_info(root: Path) -> Info:
    """Read meta/info.json.

    Raises:
        FoundryError: it is missing, not JSON, of another version, or a value is of the wrong type.
    """
    path = root / schema.INFO
    if not path.is_file():
        raise FoundryError(
            f"{path}: is missing, so this is no finished LeRobotDataset; make one with `foundry-bench demos`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FoundryError(f"{path}: not readable as JSON ({error}); {REMAKE}") from error
    if not isinstance(content, dict):
        raise FoundryError(f"{path}: holds a {type(content).__name__}, expected a JSON object; {REMAKE}")
    version = content.get("codebase_version")
    if version != schema.VERSION:
        raise FoundryError(
            f"{path}: codebase_version is {version!r}, expected {schema.VERSION!r}; "
            "convert the dataset with lerobot's convert_dataset_v21_to_v30, or make it again"
        )
    fps = content.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 10_000 or fps != int(fps):
        raise FoundryError(
            f"{path}: fps is {fps!r}, expected a positive whole number; correct it or {REMAKE}"
        )
    for name in _COUNTS:
        if not isinstance(content.get(name), int) or content[name] <= 0:
            raise FoundryError(
                f"{path}: {name} is {content.get(name)!r}, expected a positive number; {REMAKE}"
            )
    features = _checked_features(content.get("features"), path)
    video_path = _checked_video_path(content.get("video_path"), path)
    return Info(path, int(fps), content["total_episodes"], content["total_frames"], features, video_path)


def spec_of(info: Info, cameras: Mapping[str, str] | None) -> tuple[DatasetSpec, dict[str, str]]:
    """The dataset's spec, and camera name -> column.

    Args:
        info: from `load_info`.
        cameras: our name -> theirs, with or without ``observation.images.``; None for all, as they are named.

    Raises:
        FoundryError: a camera is missing, not square, or of another size than the first, or some cameras are
            stored as images and others as video.
    """
    stored = {name for name, feature in info.features.items() if feature["dtype"] in ("image", "video")}
    if cameras is None:
        columns = {name.removeprefix(schema.IMAGE_PREFIX): name for name in info.features if name in stored}
    else:
        columns = {
            ours: theirs if theirs in stored else schema.IMAGE_PREFIX + theirs
            for ours, theirs in cameras.items()
        }
    for ours, column in columns.items():
        if column not in stored:
            known = ", ".join(sorted(name.removeprefix(schema.IMAGE_PREFIX) for name in stored)) or "none"
            raise FoundryError(
                f"{info.path}: camera {ours!r} ({column}) is missing, it has: {known}; "
                "name one of these in data.cameras"
            )
    kinds = {info.features[column]["dtype"] for column in columns.values()}
    if len(kinds) > 1:
        raise FoundryError(
            f"{info.path}: some of the cameras {list(columns)} are stored as images and some as video; "
            "choose cameras of one kind"
        )
    sizes = {ours: _image_shape(info, column) for ours, column in columns.items()}
    if not sizes:
        raise FoundryError(f"{info.path}: the dataset has no camera; {REMAKE}")
    first = next(iter(sizes.values()))
    for ours, size in sizes.items():
        if size != first or size[0] != size[1] or size[2] != 3:
            raise FoundryError(
                f"{info.path}: camera {ours!r} has shape {list(size)}, "
                f"expected square RGB of one size (the first is {list(first)}); {REMAKE}"
            )
    spec = DatasetSpec(
        fps=info.fps,
        cameras=tuple(columns),
        image_size=first[0],
        state_names=_names(info, schema.STATE),
        action_names=_names(info, schema.LABEL),
    )
    return spec, columns


def load_tasks(root: Path) -> list[str]:
    """Instructions by task index.

    Raises:
        FoundryError: meta/tasks.parquet is missing, damaged or has another layout.
    """
    path = root / schema.TASKS
    file = open_parquet(path)
    names = [name for name in file.schema_arrow.names if name != "task_index"]
    if len(names) != 1 or not pa.types.is_string(_decoded(file.schema_arrow.field(names[0]).type)):
        raise FoundryError(
            f"{path}: columns are {file.schema_arrow.names}, expected task_index and a text; {REMAKE}"
        )
    table = read_columns(file, path, ["task_index", *names])
    order = integers(table, "task_index", path)
    if sorted(order.tolist()) != list(range(len(order))):
        raise FoundryError(f"{path}: column 'task_index' does not count from 0 to {len(order) - 1}; {REMAKE}")
    with parquet_errors(path):
        texts = [str(text) for text in table.column(names[0]).to_pylist()]
    return [texts[row] for row in np.argsort(order)]


def load_episodes(files: Sequence[EpisodeFile], info: Info, videos: Sequence[str] = ()) -> pd.DataFrame:
    """One row per episode: ``length``, ``start`` and ``stop`` (frames), ``chunk_index``, ``file_index``, and
    where they were stored ``key``, ``suite``, ``task_index``, ``seed``, ``expert``, ``success``; for the
    columns in ``videos`` also where their videos are.

    Raises:
        FoundryError: the table is missing or damaged, or does not fit itself or info.json.
    """
    parts = []
    wheres = [(f"videos/{column}/{name}", name) for column in videos for name in _VIDEO_PLACES]
    for path, file in files:
        present = [name for name in _ORIGIN_DEFAULTS if name in file.schema_arrow.names]
        where = [name for name, _ in wheres]
        table = read_columns(file, path, ["episode_index", *_PLACES, *present, *where])
        for name in ("episode_index", *_PLACES, *(name for name, kind in wheres if kind.endswith("_index"))):
            integers(table, name, path)
        for name in (name for name, kind in wheres if kind == "from_timestamp"):
            _check_times(vectors(table, name, 1, path), name, path)
        _check_origin(table, present, path)
        with parquet_errors(path):
            parts.append(pd.DataFrame(table.to_pydict()))
    episodes = pd.concat(parts, ignore_index=True)
    _check_episodes(episodes, info, files[0][0].parents[1])
    for name, value in _ORIGIN_DEFAULTS.items():
        if name not in episodes:
            episodes[name] = value
    renamed = {
        "episode_key": "key",
        "suite_task_index": "task_index",
        "dataset_from_index": "start",
        "dataset_to_index": "stop",
        "data/chunk_index": "chunk_index",
        "data/file_index": "file_index",
    }
    return episodes.rename(columns=renamed)


def open_episode_files(root: Path) -> list[EpisodeFile]:
    """The files of meta/episodes in order, opened.

    Raises:
        FoundryError: there is none, or one is damaged.
    """
    paths = sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))
    if not paths:
        raise FoundryError(f"{root / 'meta/episodes'}: holds no parquet file; {REMAKE}")
    return [(path, open_parquet(path)) for path in paths]


def episode_origin(files: Sequence[EpisodeFile], index: int) -> dict[str, Any]:
    """``init_state``, ``fixtures`` and ``info`` of one episode; empty where a dataset does not keep them.

    Raises:
        FoundryError: naming the file and column that cannot be read.
    """
    for path, file in files:
        present = [name for name in ("init_state", "fixtures", "info") if name in file.schema_arrow.names]
        table = read_columns(file, path, ["episode_index", *present])
        rows = np.flatnonzero(integers(table, "episode_index", path) == index)
        if not len(rows):
            continue
        with parquet_errors(path):
            row = table.slice(int(rows[0]), 1).to_pylist()[0]
        result: dict[str, Any] = {"init_state": np.array(row.get("init_state") or [], np.float64)}
        for name in ("fixtures", "info"):
            try:
                result[name] = json.loads(row.get(name) or "{}")
            except ValueError as error:
                raise FoundryError(
                    f"{path}: column {name!r} of episode {index} is not JSON ({error}); {REMAKE}"
                ) from error
        return result
    raise FoundryError(f"{files[0][0]}: episode {index} is missing; {REMAKE}")


def _check_origin(table: pa.Table, names: Sequence[str], path: Path) -> None:
    kinds = {field.name: field.type for field in schema.ORIGIN_FIELDS}
    for name in names:
        column = table.column(name)
        if _decoded(column.type) != kinds[name] or column.null_count:
            raise FoundryError(
                f"{path}: column {name!r} is {column.type} with {column.null_count} empty cells, "
                f"expected {kinds[name]} without; {REMAKE}"
            )


def _check_episodes(episodes: pd.DataFrame, info: Info, path: Path) -> None:
    if len(episodes) != info.total_episodes:
        raise FoundryError(
            f"{path}: {len(episodes)} episodes, but {info.path} says {info.total_episodes}; {REMAKE}"
        )
    start, stop = episodes["dataset_from_index"].to_numpy(), episodes["dataset_to_index"].to_numpy()
    length = episodes["length"].to_numpy()
    expected_start = np.concatenate([[0], np.cumsum(length)[:-1]])
    wrong = np.flatnonzero(
        (episodes["episode_index"].to_numpy() != np.arange(len(episodes)))
        | (length <= 0)
        | (start != expected_start)
        | (stop != expected_start + length)
    )
    if len(wrong):
        row = int(wrong[0])
        raise FoundryError(
            f"{path}: episode {row} says length {length[row]}, frames {start[row]} to {stop[row]}, "
            f"expected to start at {expected_start[row]}; {REMAKE}"
        )
    if stop[-1] != info.total_frames:
        raise FoundryError(f"{path}: {stop[-1]} frames, but {info.path} says {info.total_frames}; {REMAKE}")


def _checked_features(features: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(features, dict):
        raise FoundryError(f"{path}: features is missing or no JSON object; {REMAKE}")
    for name, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        good_shape = isinstance(shape, list) and all(isinstance(n, int) and 0 < n < 100_000 for n in shape)
        if not good_shape or not isinstance(feature.get("dtype"), str):
            raise FoundryError(f"{path}: feature {name!r} has no valid dtype and shape; {REMAKE}")
    return features


def _checked_video_path(pattern: Any, path: Path) -> str:
    """``video_path`` of info.json, which must stay inside the dataset."""
    if pattern is None:
        return schema.VIDEOS
    try:
        example = str(pattern).format(video_key="camera", chunk_index=0, file_index=0)
    except (AttributeError, IndexError, KeyError, ValueError):
        example = ".."
    if not isinstance(pattern, str) or example.startswith("/") or ".." in Path(example).parts:
        raise FoundryError(f"{path}: video_path is {pattern!r}, expected {schema.VIDEOS!r}; {REMAKE}")
    return pattern


def _check_times(times: npt.NDArray[np.float32], name: str, path: Path) -> None:
    wrong = np.flatnonzero(~np.isfinite(times) | (times < 0))
    if len(wrong):
        raise FoundryError(f"{path}: column {name!r} is {times[wrong[0], 0]} in row {wrong[0]}; {REMAKE}")


def _image_shape(info: Info, column: str) -> tuple[int, ...]:
    """(height, width, channels) of a camera; lerobot also allows the channels to come first."""
    shape = info.feature(column, ["image", "video"], 3)
    first = info.features[column].get("names") or [""]
    return (
        (*shape[1:], shape[0]) if isinstance(first, list) and str(first[0]).startswith("channel") else shape
    )


def _names(info: Info, feature: str) -> tuple[str, ...]:
    """Names of a vector's numbers; invented where a dataset gives none."""
    width = info.feature(feature, ["float32", "float64"], 1)[0]
    names = info.features[feature].get("names")
    if isinstance(names, dict):
        names = next((value for value in names.values() if isinstance(value, list)), None)
    if isinstance(names, list) and len(names) == width:
        return tuple(str(name) for name in names)
    return tuple(f"{feature}_{index}" for index in range(width))


def _decoded(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _decoded(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) else kind
