"""What `data inspect` finds in good and in odd demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundry_bench.data.images import encode_image
from foundry_bench.data.inspection import frame_sheet, inspect
from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore
from foundry_bench.data.sources import open_source

Make = Callable[..., Episode]


def odd(make_episode: Make, number: int) -> Episode:
    """An episode with one thing wrong by its number."""
    length = 3 if number == 3 else 12
    episode = make_episode(0 if number == 4 else number, length)
    label = episode.label
    label[:, 2] = np.where(np.arange(length) % 2, 1.0, -0.3)  # at its limit half of the time
    label[:, 4] = 0.25
    if number == 0:
        label[:, -1] = -1.0
    if number == 1:
        label[5, 0] = 1.5
    if number == 2:
        label[:, :-1] = 0.0
    if number == 4:
        label[:] = odd(make_episode, 0).label
        episode.images["wrist"] = [encode_image(np.zeros((16, 16, 3), np.uint8))] * length
    if number == 5:
        episode.info["success"] = False
    return episode


@pytest.fixture
def strange(tmp_path: Path, make_episode: Make) -> Path:
    store = EpisodeStore(tmp_path / "dataset", DatasetSpec(image_size=16))
    for number in range(6):
        store.add(f"key-{number}", odd(make_episode, number))
    return store.finalize(store.keys())


def test_counts(finished: Path) -> None:
    found = inspect(open_source(finished))
    assert (found.episodes, found.frames, found.fps, found.lengths) == (3, 48, 20, (3, 5.0, 40))
    assert found.experts == {"scripted-1": 3}
    assert [(task["task"], task["episodes"], task["length"]) for task in found.tasks] == [
        (0, 2, 22.5),
        (1, 1, 3),
    ]
    names = [name for name, _ in found.ranges]
    assert (names[0], names[-1], len(names)) == ("state eef_x", "action gripper", 15)
    assert all(row == sorted(row) for _, row in found.ranges)
    assert found.warnings == ["fewer than 5 frames in 1 of 3 episodes: libero_object-000001"]


def test_warnings(strange: Path) -> None:
    said = inspect(open_source(strange)).warnings
    for expected in (
        "action delta_x reaches 1.5, beyond the controller's range of 1",
        "the gripper never moves in 2 of 6 episodes: key-0, key-4",
        "the arm never moves in 1 of 6 episodes: key-2",
        "fewer than 5 frames in 1 of 6 episodes: key-3",
        "the same actions as an earlier episode in 1 of 6 episodes: key-4",
        "1 of 6 episodes are marked as failures",
    ):
        assert expected in said
    assert any(warning.startswith("action delta_z is at its limit in ") for warning in said)


def test_a_number_that_never_changes(tmp_path: Path, make_episode: Make) -> None:
    store = EpisodeStore(tmp_path / "dataset", DatasetSpec(image_size=16))
    episode = make_episode(0, 9)
    episode.state[:, 3] = 2.0
    episode.label[:, 4] = 0.25
    store.add("key", episode)
    said = inspect(open_source(store.finalize(["key"]))).warnings
    assert said == ["state eef_rx is always 2", "action delta_ry is always 0.25"]


def test_frame_sheet(strange: Path) -> None:
    sheet, warnings = frame_sheet(open_source(strange))
    assert sheet.shape == (6 * (18 + 2 * 128), 6 * 128, 3)
    assert warnings == ["key-4: camera wrist shows a single colour"]
    assert sheet[18:, :].std() > 20
