"""The files are those of LeRobotDataset v3.0; tests/data/check_with_lerobot.py asks the real package."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow.parquet as pq
import pytest

from foundry_bench.data.images import decode_image, encode_image
from foundry_bench.data.lerobot import DatasetSpec, Episode, RobotDataset
from foundry_bench.data.packing import ROW_GROUP, Packer
from foundry_bench.data.statistics import image_histogram, image_statistics, vector_statistics


def test_files(finished: Path, tree: Callable[[Path], dict[str, bytes]]) -> None:
    assert sorted(tree(finished)) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
    ]


def test_info(finished: Path) -> None:
    info = json.loads((finished / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 48, 2)
    assert info["fps"] == 20
    assert info["splits"] == {"train": "0:3"}
    assert info["features"]["observation.images.wrist"] == {
        "dtype": "image",
        "shape": [16, 16, 3],
        "names": ["height", "width", "channels"],
    }
    assert info["features"]["action"]["shape"] == [7]
    assert len(info["features"]["observation.state"]["names"]) == 8
    assert info["features"]["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}


def test_tasks_are_found_by_their_instruction(finished: Path) -> None:
    tasks = pd.read_parquet(finished / "meta/tasks.parquet")
    assert tasks.loc["pick up object 1"].task_index == 1
    assert tasks.iloc[0].name == "pick up object 0"


def test_frames(finished: Path) -> None:
    file = pq.ParquetFile(finished / "data/chunk-000/file-000.parquet")
    frames = file.read().to_pandas()
    assert list(frames["index"]) == list(range(48))
    assert list(frames["frame_index"][:7]) == [0, 1, 2, 3, 4, 0, 1]
    assert list(frames["task_index"][[0, 5, 8]]) == [0, 1, 0]
    np.testing.assert_allclose(frames["timestamp"][:3], [0, 0.05, 0.1])
    image = PIL.Image.open(io.BytesIO(frames["observation.images.wrist"][47]["bytes"]))
    assert image.size == (16, 16)
    described = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert described["observation.images.wrist"] == {"_type": "Image"}
    assert list(described) == file.schema_arrow.names
    assert max(file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)) == ROW_GROUP


def test_episodes(finished: Path, make_episode: Callable[..., Episode]) -> None:
    table = pq.read_table(finished / "meta/episodes/chunk-000/file-000.parquet")
    row = table.to_pylist()[2]
    episode = make_episode(2, 40)
    assert row["tasks"] == ["pick up object 0"]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["length"]) == (8, 48, 40)
    assert (row["data/chunk_index"], row["data/file_index"], row["meta/episodes/file_index"]) == (0, 0, 0)
    assert (row["seed"], row["expert"], row["suite"], row["success"]) == (
        2,
        "scripted-1",
        "libero_object",
        True,
    )
    np.testing.assert_array_equal(row["init_state"], episode.init_state)
    assert json.loads(row["fixtures"]) == episode.fixtures
    assert json.loads(row["info"]) == episode.info
    np.testing.assert_allclose(row["stats/action/mean"], episode.label.astype(np.float64).mean(axis=0))
    assert np.shape(row["stats/observation.images.wrist/q01"]) == (3, 1, 1)
    assert row["stats/index/count"] == [40]


def test_stats(finished: Path) -> None:
    stats = json.loads((finished / "meta/stats.json").read_text())
    info = json.loads((finished / "meta/info.json").read_text())
    assert list(stats) == list(info["features"])
    keys = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    assert all(set(feature) == keys for feature in stats.values())
    assert stats["index"]["max"] == [47]
    assert np.shape(stats["observation.images.agentview"]["mean"]) == (3, 1, 1)


def test_data_files_are_split(
    tmp_path: Path, spec: DatasetSpec, make_episode: Callable[..., Episode], finished: Path
) -> None:
    episodes = [(f"key-{number}", make_episode(number, 3)) for number in range(5)]
    Packer(spec, tmp_path, file_bytes=13_000).run(episodes)
    assert len(list((tmp_path / "data/chunk-000").iterdir())) == 3
    split = RobotDataset(tmp_path)
    whole = tmp_path / "whole"
    Packer(spec, whole).run(episodes)
    one, other = (RobotDataset(root).batch(np.arange(15)[::-1], 4) for root in (split.root, whole))
    np.testing.assert_array_equal(one["actions"], other["actions"])
    np.testing.assert_array_equal(one["images"]["wrist"], other["images"]["wrist"])
    assert split.episode(4).images == episodes[4][1].images


def test_image_statistics_are_those_of_the_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    histogram, count = image_histogram([encode_image(frame) for frame in frames])
    statistics = image_statistics(histogram, count)
    pixels = frames.reshape(-1, 3) / 255
    np.testing.assert_allclose(statistics["mean"].ravel(), pixels.mean(axis=0))
    np.testing.assert_allclose(statistics["std"].ravel(), pixels.std(axis=0))
    np.testing.assert_allclose(statistics["min"].ravel(), pixels.min(axis=0))
    np.testing.assert_allclose(statistics["max"].ravel(), pixels.max(axis=0))
    np.testing.assert_allclose(
        statistics["q50"].ravel(), np.quantile(pixels, 0.5, axis=0, method="inverted_cdf")
    )
    assert statistics["count"] == [4]


def test_one_frame_has_statistics() -> None:
    statistics = vector_statistics(np.array([[1.0, 2.0]]))
    assert statistics["std"].tolist() == [0, 0]
    assert statistics["q99"].tolist() == [1, 2]


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_colours_stay_in_order(image_format: str) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    encoded = encode_image(red, image_format)
    assert PIL.Image.open(io.BytesIO(encoded)).getpixel((3, 3))[0] > 250
    assert decode_image(encoded)[3, 3, 0] > 250
    assert decode_image(encoded)[3, 3, 2] < 5
