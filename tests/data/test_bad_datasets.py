"""Whatever is wrong with a dataset: one line that names the file, what is wrong there, and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundry_bench.data.images import encode_image
from foundry_bench.data.lerobot import DatasetSpec, EpisodeStore, RobotDataset
from foundry_bench.errors import FoundryError

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
INFO = "meta/info.json"
WRIST = "observation.images.wrist"

Harm = Callable[[Path], None]


def info(**changes: Any) -> Harm:
    def harm(root: Path) -> None:
        content = json.loads((root / INFO).read_text())
        (root / INFO).write_text(json.dumps({**content, **changes}))

    return harm


def feature(name: str, **changes: Any) -> Harm:
    def harm(root: Path) -> None:
        content = json.loads((root / INFO).read_text())
        content["features"][name].update(changes)
        (root / INFO).write_text(json.dumps(content))

    return harm


def text(path: str, content: str) -> Harm:
    return lambda root: (root / path).write_text(content) and None


def missing(path: str) -> Harm:
    return lambda root: (root / path).unlink()


def truncated(path: str) -> Harm:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-200]) and None


def column(path: str, name: str, change: Callable[[pa.ChunkedArray], pa.Array] | None) -> Harm:
    """Replace one column of a parquet file, or drop it."""

    def harm(root: Path) -> None:
        table = pq.read_table(root / path)
        index = table.column_names.index(name)
        if change is None:
            table = table.remove_column(index)
        else:
            table = table.set_column(index, name, change(table.column(index)))
        pq.write_table(table, root / path)

    return harm


def rows(path: str, keep: slice) -> Harm:
    def harm(root: Path) -> None:
        table = pq.read_table(root / path)
        pq.write_table(table.take(np.arange(len(table))[keep]), root / path)

    return harm


def cell(row: int, value: Any) -> Callable[[pa.ChunkedArray], pa.Array]:
    def change(old: pa.ChunkedArray) -> pa.Array:
        values = old.to_pylist()
        values[row] = value
        return pa.array(values, old.type)

    return change


def numbers(row: int, value: float) -> Callable[[pa.ChunkedArray], pa.Array]:
    def change(old: pa.ChunkedArray) -> pa.Array:
        values = old.to_pylist()
        values[row][3] = value
        return pa.array(values, old.type)

    return change


def shorter(old: pa.ChunkedArray) -> pa.Array:
    return pa.array([value[:-1] for value in old.to_pylist()], pa.list_(pa.float32()))


def as_text(old: pa.ChunkedArray) -> pa.Array:
    return pa.array([str(value) for value in old.to_pylist()])


BAD_WHEN_OPENED: list[tuple[str, Harm, str]] = [
    ("no info", missing(INFO), r"info\.json: is missing.*foundry-bench demos"),
    ("info not JSON", text(INFO, "{'a'"), r"info\.json: not readable as JSON"),
    ("info too deep", text(INFO, "[" * 100_000), r"info\.json: not readable as JSON"),
    ("info a list", text(INFO, "[]"), r"info\.json: holds a list"),
    ("version 2.1", info(codebase_version="v2.1"), r"codebase_version is 'v2.1', expected 'v3.0'; convert"),
    ("no version", info(codebase_version=None), r"codebase_version is None"),
    ("fps text", info(fps="20"), r"info\.json: fps is '20'"),
    ("fps zero", info(fps=0), r"fps is 0"),
    ("fps true", info(fps=True), r"fps is True"),
    ("fps infinite", info(fps=float("inf")), r"fps is inf"),
    ("fps broken", info(fps=29.97), r"fps is 29.97"),
    ("count text", info(total_frames="48"), r"total_frames is '48'"),
    ("count wrong", info(total_frames=49), r"48 frames, but .*info\.json says 49"),
    ("episodes wrong", info(total_episodes=2), r"3 episodes, but .*info\.json says 2"),
    ("no features", info(features=None), r"features is missing"),
    ("bad feature", info(features={"action": {"dtype": "float32"}}), r"feature 'action' has no valid dtype"),
    ("no state", info(features={}), r"the dataset has no camera"),
    (
        "action missing",
        lambda root: drop_feature(root, "action"),
        r"feature 'action' is missing; did you mean",
    ),
    (
        "state 2-d",
        feature("observation.state", shape=[8, 2]),
        r"'observation.state' is float32 of shape \[8, 2\]",
    ),
    ("state text", feature("observation.state", dtype="string"), r"'observation.state' is string"),
    ("state width", feature("observation.state", shape=[9]), r"'observation.state' does not hold 9 numbers"),
    (
        "video",
        feature(WRIST, dtype="video"),
        r"'agentview', 'wrist'\] are stored as images and some as video",
    ),
    ("fps wrong", info(fps=10), r"'timestamp' is 0\.0500 s at frame 1.*with fps=10 .*0\.1000 s; correct fps"),
    (
        "timestamp NaN",
        column(DATA, "timestamp", cell(3, float("nan"))),
        r"'timestamp' is nan s at frame 3",
    ),
    ("not square", feature(WRIST, shape=[16, 20, 3]), r"camera 'wrist' has shape \[16, 20, 3\]"),
    ("two sizes", feature(WRIST, shape=[32, 32, 3]), r"camera 'wrist' has shape \[32, 32, 3\]"),
    ("huge", feature(WRIST, shape=[10**9, 10**9, 3]), rf"feature '{WRIST}' has no valid dtype and shape"),
    ("image 2-d", feature(WRIST, shape=[16, 16]), rf"feature '{WRIST}' is image of shape \[16, 16\]"),
    ("no tasks", missing(TASKS), r"tasks\.parquet: is missing"),
    ("tasks truncated", truncated(TASKS), r"tasks\.parquet: truncated"),
    (
        "tasks not text",
        column(TASKS, "__index_level_0__", lambda _: pa.array([0, 1])),
        r"tasks\.parquet: columns are .*expected task_index and a text",
    ),
    (
        "tasks uncounted",
        column(TASKS, "task_index", lambda old: pa.array([0, 7])),
        r"'task_index' does not count",
    ),
    ("no episodes", missing(EPISODES), r"meta/episodes: holds no parquet file"),
    ("episodes empty", text(EPISODES, ""), r"file-000\.parquet: truncated, damaged or not parquet"),
    ("episodes truncated", truncated(EPISODES), r"meta/episodes/.*: truncated"),
    ("episodes column", column(EPISODES, "length", None), r"meta/episodes/.*: column 'length' is missing"),
    (
        "episodes text",
        column(EPISODES, "length", as_text),
        r"column 'length' is string, expected whole numbers",
    ),
    ("episodes gap", column(EPISODES, "length", cell(1, None)), r"column 'length' has 1 empty"),
    ("episode too long", column(EPISODES, "length", cell(1, 4)), r"episode 1 says length 4, frames 5 to 8"),
    ("episode negative", column(EPISODES, "length", cell(0, -5)), r"episode 0 says length -5"),
    ("episode number", column(EPISODES, "episode_index", cell(2, 7)), r"episode 2 says length 40"),
    ("seed text", column(EPISODES, "seed", as_text), r"column 'seed' is string.*expected int64"),
    ("suite gap", column(EPISODES, "suite", cell(0, None)), r"column 'suite' is string with 1 empty"),
    (
        "file elsewhere",
        column(EPISODES, "data/file_index", cell(2, 9)),
        r"holds 48 frames, meta/episodes says 8",
    ),
    ("no data", missing(DATA), r"data/.*: is missing"),
    (
        "data truncated",
        truncated(DATA),
        r"data/chunk-000/file-000\.parquet: truncated, damaged or not parquet",
    ),
    ("data too short", rows(DATA, slice(0, 47)), r"holds 47 frames, meta/episodes says 48"),
    ("data mixed up", rows(DATA, slice(None, None, -1)), r"'episode_index' at frame 0 does not fit"),
    ("data column", column(DATA, "action", None), r"data/.*: column 'action' is missing, it has"),
    (
        "action text",
        column(DATA, "action", as_text),
        r"column 'action' is string, expected lists of 7 numbers",
    ),
    ("action narrow", column(DATA, "action", shorter), r"column 'action' does not hold 7 numbers"),
    (
        "action gap",
        column(DATA, "action", lambda o: cell(3, None)(o.cast(pa.list_(pa.float32())))),
        r"column 'action' has 1 empty cells",
    ),
    (
        "action NaN",
        column(DATA, "action", numbers(6, np.nan)),
        r"column 'action' is NaN or infinite at frame 6 \(episode 1\), 1 such frames",
    ),
    (
        "state infinite",
        column(DATA, "observation.state", numbers(47, np.inf)),
        r"'observation.state' is NaN or infinite at frame 47 \(episode 2\)",
    ),
    ("executed NaN", column(DATA, "action.executed", numbers(0, np.nan)), r"'action.executed' is NaN"),
    ("task unknown", column(DATA, "task_index", cell(4, 2)), r"'task_index' reaches 2, .* knows 2 tasks"),
    ("images missing", column(DATA, WRIST, None), rf"column '{WRIST}'"),
    (
        "images as paths",
        column(DATA, WRIST, lambda old: pa.array(["a.png"] * len(old))),
        rf"column '{WRIST}' does not hold the bytes of an image",
    ),
    (
        "image gap",
        column(DATA, WRIST, cell(2, {"bytes": None, "path": "a.png"})),
        r"bytes of an image in every row",
    ),
    (
        "first not an image",
        column(DATA, WRIST, cell(0, {"bytes": b"\x80\x04pickle", "path": None})),
        rf"column '{WRIST}', frame 0: the bytes are not an image",
    ),
    (
        "first empty",
        column(DATA, WRIST, cell(0, {"bytes": b"", "path": None})),
        r"frame 0: the bytes are not",
    ),
]


def drop_feature(root: Path, name: str) -> None:
    content = json.loads((root / INFO).read_text())
    del content["features"][name]
    (root / INFO).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [pytest.param(harm, message, id=name) for name, harm, message in BAD_WHEN_OPENED],
)
def test_bad_when_opened(dataset: Path, harm: Harm, message: str) -> None:
    harm(dataset)
    with pytest.raises(FoundryError, match=message) as raised:
        RobotDataset(dataset)
    assert "\n" not in str(raised.value)
    assert str(dataset) in str(raised.value)


@pytest.mark.parametrize("cache_bytes", [None, 1])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"nothing", "the bytes are not an image"),
        (encode_image(np.zeros((16, 16, 3), np.uint8))[:-20], "the bytes are not an image"),
        (encode_image(np.zeros((32, 16, 3), np.uint8)), "the image is 16x32 pixels instead of 16x16"),
        (encode_image(np.zeros((8, 8, 3), np.uint8), "jpeg"), "the image is 8x8 pixels instead of 16x16"),
    ],
)
def test_a_bad_image_is_named_when_it_is_read(
    dataset: Path, image: bytes, message: str, cache_bytes: int | None
) -> None:
    column(DATA, WRIST, cell(9, {"bytes": image, "path": None}))(dataset)
    opened = RobotDataset(dataset, cache_bytes=cache_bytes)
    for _ in range(2):
        with pytest.raises(FoundryError, match=rf"file-000\.parquet: column '{WRIST}', frame 9: {message}"):
            opened.batch(np.array([9]), 4)


def test_flipped_bits_in_an_image_are_found(dataset: Path) -> None:
    """The page checksum notices what a JPEG decoder would not."""
    content = bytearray((dataset / DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (dataset / DATA).write_bytes(bytes(content))
    with pytest.raises(FoundryError, match=r"file-000\.parquet: (truncated|column)"):
        RobotDataset(dataset).batch(np.arange(48), 1)


def test_a_camera_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(
        FoundryError, match=r"camera 'front' .*is missing, it has: agentview, wrist; name one"
    ):
        RobotDataset(dataset, cameras={"front": "front_camera"})


def test_an_origin_that_is_not_json(dataset: Path) -> None:
    column(EPISODES, "info", cell(1, "{"))(dataset)
    opened = RobotDataset(dataset)
    assert opened.episode(0).info == {"noise": 0.25, "attempts": 0}
    with pytest.raises(FoundryError, match=r"column 'info' of episode 1 is not JSON"):
        opened.episode(1)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="is missing"):
        RobotDataset(tmp_path / "nowhere")


def test_a_dataset_made_elsewhere_is_read_but_not_overwritten(dataset: Path) -> None:
    for name in (
        "episode_key",
        "suite",
        "suite_task_index",
        "seed",
        "expert",
        "success",
        "init_state",
        "info",
    ):
        column(EPISODES, name, None)(dataset)
    column(DATA, "action", lambda old: old.cast(pa.list_(pa.float64())))(dataset)
    drop_feature(dataset, "action.executed")
    opened = RobotDataset(dataset)
    episode = opened.episode(1)
    assert (episode.suite, episode.seed, episode.info, len(episode.init_state)) == ("", -1, {}, 0)
    np.testing.assert_array_equal(episode.action, episode.label)
    assert opened.batch(np.arange(48), 3)["actions"].dtype == np.float32
    with pytest.raises(FoundryError, match="made by another tool; give another folder"):
        EpisodeStore(dataset, DatasetSpec(image_size=16)).keys()


def test_random_damage_is_harmless_or_named(dataset: Path) -> None:
    """Cut and overwritten bytes anywhere: the reader works or says what is wrong, and never crashes."""
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(80):
        path = files[rng.integers(len(files))]
        good = path.read_bytes()
        harmed = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.3 else good)
        for position in rng.integers(0, max(len(harmed), 1), min(3, len(harmed))):
            harmed[position] = rng.integers(256)
        path.write_bytes(harmed)
        try:
            opened = RobotDataset(dataset)
            opened.batch(np.arange(len(opened)), 2)
            outcomes += ["fine" for index in range(len(opened.episodes)) if opened.episode(index)]
        except FoundryError as error:
            outcomes.append("named")
            assert "\n" not in str(error)
        path.write_bytes(good)
    assert "named" in outcomes
