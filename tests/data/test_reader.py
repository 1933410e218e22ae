"""RobotDataset: samples, cache, statistics and fingerprint of a good dataset."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.data.lerobot import Episode, EpisodeStore, RobotDataset, decode_image

LENGTHS = (5, 3, 40)
FRAME_BYTES = 16 * 16 * 3

Make = Callable[..., Episode]


@pytest.fixture(scope="module")
def opened(finished: Path) -> RobotDataset:
    return RobotDataset(finished)


@pytest.fixture(scope="module")
def episodes(make_episode: Make) -> list[Episode]:
    return [make_episode(seed, length) for seed, length in enumerate(LENGTHS)]


def sample(episodes: list[Episode], frame: int, horizon: int) -> dict[str, Any]:
    """One sample the slow way."""
    for episode in episodes:
        if frame < len(episode):
            break
        frame -= len(episode)
    defies = np.sign(episode.label[:, -1]) != np.sign(episode.action[:, -1])
    mistakes = [t for t in range(len(episode)) if defies[t] and not (t and defies[t - 1])]
    foreseen = min([t for t in mistakes if t >= frame], default=len(episode))
    steps = [min(step, len(episode) - 1) for step in range(frame, frame + horizon)]
    return {
        "images": {name: decode_image(encoded[frame]) for name, encoded in episode.images.items()},
        "state": episode.state[frame],
        "actions": episode.label[steps],
        "action_mask": [frame + step < len(episode) and frame + step <= foreseen for step in range(horizon)],
        "instruction": episode.instruction,
    }


@settings(max_examples=50, deadline=None)
@given(
    frames=st.lists(st.integers(0, sum(LENGTHS) - 1), max_size=12),
    horizon=st.integers(1, 50),
    cache_frames=st.sampled_from([1, 3, 10, 1000]),
)
def test_a_batch_is_its_samples(
    finished: Path, episodes: list[Episode], frames: list[int], horizon: int, cache_frames: int
) -> None:
    """Padding, images and order, whether the cache holds one frame, some or all, and on a second reading."""
    dataset = RobotDataset(finished, cache_bytes=2 * cache_frames * FRAME_BYTES)
    for _ in range(2):
        batch = dataset.batch(np.array(frames, np.int64), horizon)
        expected = [sample(episodes, frame, horizon) for frame in frames]
        assert batch["instruction"] == [one["instruction"] for one in expected]
        shapes = {"state": (8,), "actions": (horizon, 7), "action_mask": (horizon,)}
        for name, shape in shapes.items():
            wanted = np.array([one[name] for one in expected]).reshape(len(frames), *shape)
            np.testing.assert_array_equal(batch[name], wanted)
        for camera, images in batch["images"].items():
            wanted = np.array([one["images"][camera] for one in expected]).reshape(-1, 16, 16, 3)
            np.testing.assert_array_equal(images, wanted)


def test_types_and_lengths(opened: RobotDataset) -> None:
    batch = opened.batch(np.array([0, 7]), 4)
    assert len(opened) == opened.num_frames == sum(LENGTHS)
    assert batch["images"]["wrist"].dtype == np.uint8
    assert batch["state"].dtype == batch["actions"].dtype == np.float32
    assert batch["action_mask"].dtype == bool
    assert opened.spec.image_format == "png"
    assert list(opened.episodes["length"]) == list(LENGTHS)
    assert list(opened.episodes["stop"]) == [5, 8, 48]
    assert list(opened.episodes["task_index"]) == [0, 1, 0]
    assert opened.episodes["success"].all()


def test_a_batch_belongs_to_the_caller(opened: RobotDataset) -> None:
    first = opened.batch(np.array([2]), 1)
    for array in (*first["images"].values(), first["state"], first["actions"]):
        array[:] = 0
    assert opened.batch(np.array([2]), 1)["images"]["wrist"].any()
    assert opened.batch(np.array([2]), 1)["state"].any()


@pytest.mark.parametrize("frame", [-1, sum(LENGTHS)])
def test_frames_outside(opened: RobotDataset, frame: int) -> None:
    with pytest.raises(IndexError, match=r"0\.\.47"):
        opened.batch(np.array([0, frame]), 1)


def test_episodes_outside(opened: RobotDataset) -> None:
    with pytest.raises(IndexError):
        opened.episode(3)


@pytest.mark.parametrize("cache_frames", [4, 1000])
def test_threads_see_the_same_frames(finished: Path, opened: RobotDataset, cache_frames: int) -> None:
    dataset = RobotDataset(finished, cache_bytes=2 * cache_frames * FRAME_BYTES)
    wanted = opened.batch(np.arange(len(opened)), 1)["images"]

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            frames = rng.integers(0, len(dataset), 8)
            images = dataset.batch(frames, 1)["images"]
            for camera, pixels in wanted.items():
                np.testing.assert_array_equal(images[camera], pixels[frames])
            episode = dataset.episode(seed % 3)
            assert episode.images["wrist"][0][:4] == b"\x89PNG"
            assert episode.info["attempts"] == seed % 3

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(read, seed) for seed in range(4)]:
            done.result()


def test_cameras_under_other_names(finished: Path, opened: RobotDataset) -> None:
    dataset = RobotDataset(finished, cameras={"front": "agentview", "hand": "observation.images.wrist"})
    assert dataset.spec.cameras == ("front", "hand")
    images, wanted = dataset.batch(np.arange(3), 1)["images"], opened.batch(np.arange(3), 1)["images"]
    np.testing.assert_array_equal(images["hand"], wanted["wrist"])
    assert set(RobotDataset(finished, cameras={"wrist": "wrist"}).batch(np.arange(2), 1)["images"]) == {
        "wrist"
    }


def test_statistics_are_those_of_the_frames(opened: RobotDataset, episodes: list[Episode]) -> None:
    statistics = opened.statistics()
    for name, values in (
        ("state", np.concatenate([episode.state for episode in episodes])),
        ("action", np.concatenate([episode.label for episode in episodes])),
    ):
        table = values.astype(np.float64)
        np.testing.assert_allclose(statistics[name]["mean"], table.mean(axis=0))
        np.testing.assert_allclose(statistics[name]["std"], table.std(axis=0))
        np.testing.assert_allclose(statistics[name]["q99"], np.quantile(table, 0.99, axis=0))
        np.testing.assert_array_equal(statistics[name]["min"], table.min(axis=0))
        np.testing.assert_array_equal(statistics[name]["count"], [48])


def test_fingerprint_follows_the_content(
    finished: Path, dataset: Path, opened: RobotDataset, make_episode: Make
) -> None:
    assert len(opened.fingerprint) == 16
    assert RobotDataset(dataset).fingerprint == opened.fingerprint
    (dataset / "README.md").write_text("a note")
    assert RobotDataset(dataset).fingerprint == opened.fingerprint
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    pq.write_table(table, dataset / "data/chunk-000/file-000.parquet")
    assert RobotDataset(dataset).fingerprint != opened.fingerprint


def test_what_an_open_dataset_says_survives_its_replacement(
    dataset: Path, opened: RobotDataset, make_episode: Make
) -> None:
    before = RobotDataset(dataset)
    store = EpisodeStore(dataset, before.spec)
    store.finalize(store.keys()[::-1])
    assert before.episode(0).images == opened.episode(0).images
    assert before.episode(0).info == opened.episode(0).info
    assert RobotDataset(dataset).episode(2).info == opened.episode(0).info


def test_jpeg(tmp_path: Path, make_episode: Make) -> None:
    from foundry_bench.data.lerobot import DatasetSpec, encode_image

    smooth = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (16, 16, 3)).copy()
    images = {camera: [encode_image(smooth, "jpeg")] * 2 for camera in ("agentview", "wrist")}
    store = EpisodeStore(tmp_path / "dataset", DatasetSpec(image_size=16, image_format="jpeg"))
    store.add("one", make_episode(0, 2, images=images))
    read = RobotDataset(store.finalize(["one"]))
    assert read.spec.image_format == "jpeg"
    assert np.abs(read.batch(np.array([1]), 1)["images"]["wrist"][0].astype(int) - smooth).max() < 8
