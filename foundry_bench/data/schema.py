"""Names, paths, features and Arrow schemas of LeRobotDataset v3.0.

The layout on disk::

    meta/info.json                                 features, counts, fps
    meta/stats.json                                statistics of every feature
    meta/tasks.parquet                             instruction (index) -> task_index
    meta/episodes/chunk-000/file-000.parquet       one row per episode
    data/chunk-000/file-000.parquet                one row per frame, images as encoded bytes
    videos/CAMERA/chunk-000/file-000.mp4           instead of those: the frames of one episode after the other

``action`` is the expert's clean action, what a policy imitates; ``action.executed`` is what was done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from foundry_bench.data.episode import DatasetSpec
from foundry_bench.data.video import PIXEL_FORMAT

VERSION = "v3.0"
ROBOT = "panda"

INFO = Path("meta/info.json")
STATS = Path("meta/stats.json")
TASKS = Path("meta/tasks.parquet")
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

IMAGE_PREFIX = "observation.images."
STATE = "observation.state"
LABEL = "action"
EXECUTED = "action.executed"
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

#: Columns of meta/episodes that say how an episode was made; other tools ignore them.
ORIGIN_FIELDS = [
    pa.field("episode_key", pa.string()),
    pa.field("suite", pa.string()),
    pa.field("suite_task_index", pa.int64()),
    pa.field("seed", pa.int64()),
    pa.field("expert", pa.string()),
    pa.field("success", pa.bool_()),
    pa.field("init_state", pa.list_(pa.float64())),
    pa.field("fixtures", pa.string()),
    pa.field("info", pa.string()),
]


def features(spec: DatasetSpec) -> dict[str, dict[str, Any]]:
    """The ``features`` of info.json: name -> dtype, shape, names; in the order of the columns."""
    size = spec.image_size
    image: dict[str, Any] = {
        "dtype": "image",
        "shape": [size, size, 3],
        "names": ["height", "width", "channels"],
    }
    if spec.is_video:
        image.update(dtype="video", info=_video_info(spec))
    result: dict[str, dict[str, Any]] = {IMAGE_PREFIX + camera: dict(image) for camera in spec.cameras}
    result[STATE] = _vector(spec.state_names)
    result[LABEL] = _vector(spec.action_names)
    result[EXECUTED] = _vector(spec.action_names)
    for name, dtype in INDEX_COLUMNS.items():
        result[name] = {"dtype": dtype, "shape": [1], "names": None}
    return result


def info(spec: DatasetSpec, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """The content of info.json."""
    return {
        "codebase_version": VERSION,
        "robot_type": ROBOT,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": spec.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA,
        "video_path": VIDEOS if spec.is_video else None,
        "features": features(spec),
    }


def frame_schema(spec: DatasetSpec) -> pa.Schema:
    """Arrow schema of the data files, with the metadata by which Hugging Face `datasets` sees images."""
    fields: list[pa.Field] = []
    described: dict[str, Any] = {}
    for name, feature in features(spec).items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            fields.append(pa.field(name, IMAGE_TYPE))
            described[name] = {"_type": "Image"}
            continue
        value_type = pa.float32() if feature["dtype"] == "float32" else pa.int64()
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["names"] is None:
            fields.append(pa.field(name, value_type))
            described[name] = value
        else:
            length = feature["shape"][0]
            fields.append(pa.field(name, pa.list_(value_type, length)))
            described[name] = {"feature": value, "length": length, "_type": "List"}
    huggingface = json.dumps({"info": {"features": described}}, separators=(",", ":"))
    return pa.schema(fields, metadata={"huggingface": huggingface})


def episode_schema(spec: DatasetSpec) -> pa.Schema:
    """Arrow schema of meta/episodes."""
    fields = [
        pa.field("episode_index", pa.int64()),
        pa.field("tasks", pa.list_(pa.string())),
        pa.field("length", pa.int64()),
        pa.field("data/chunk_index", pa.int64()),
        pa.field("data/file_index", pa.int64()),
        pa.field("dataset_from_index", pa.int64()),
        pa.field("dataset_to_index", pa.int64()),
        *(field for camera in spec.cameras if spec.is_video for field in video_fields(camera)),
        *ORIGIN_FIELDS,
    ]
    for name, feature in features(spec).items():
        vector = pa.list_(pa.float64())
        value = pa.list_(pa.list_(vector)) if feature["dtype"] in ("image", "video") else vector
        for statistic in ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"):
            kind = pa.list_(pa.int64()) if statistic == "count" else value
            fields.append(pa.field(f"stats/{name}/{statistic}", kind))
    fields += [
        pa.field("meta/episodes/chunk_index", pa.int64()),
        pa.field("meta/episodes/file_index", pa.int64()),
    ]
    return pa.schema(fields)


def video_fields(camera: str) -> list[pa.Field]:
    """Columns of meta/episodes that say where a camera's video of an episode is, from when to when (s)."""
    prefix = f"videos/{IMAGE_PREFIX}{camera}/"
    whole, seconds = pa.int64(), pa.float64()
    kinds = {"chunk_index": whole, "file_index": whole, "from_timestamp": seconds, "to_timestamp": seconds}
    return [pa.field(prefix + name, kind) for name, kind in kinds.items()]


def _video_info(spec: DatasetSpec) -> dict[str, Any]:
    """What lerobot's ``get_video_info`` would find in the files."""
    return {
        "video.height": spec.image_size,
        "video.width": spec.image_size,
        "video.codec": spec.image_format,
        "video.pix_fmt": PIXEL_FORMAT,
        "video.is_depth_map": False,
        "video.fps": spec.fps,
        "video.channels": 3,
        "has_audio": False,
    }


def place(number: int) -> dict[str, int]:
    """Chunk and file index of the ``number``-th file."""
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


def _vector(names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}
