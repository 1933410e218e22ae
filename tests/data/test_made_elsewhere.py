"""Datasets that the real lerobot package (0.4.4) made by make_lerobot_fixtures.py: images, and AV1 video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from foundry_bench.data.convert import to_lerobot
from foundry_bench.data.inspection import frame_sheet, inspect
from foundry_bench.data.lerobot import RobotDataset
from foundry_bench.data.sources import open_source
from foundry_bench.errors import FoundryError
from tests.data.make_lerobot_fixtures import FPS, LENGTHS, SIZE, TASKS, frame, vectors

MADE = Path(__file__).parent / "made_by_lerobot"
NAMES = {"agentview": "image", "wrist": "image2"}
STEPS = [(episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)]


@pytest.mark.parametrize("kind", ["images", "video"])
@pytest.mark.parametrize("cache_bytes", [None, 1])
def test_every_sample_is_what_was_recorded(kind: str, cache_bytes: int | None) -> None:
    read = RobotDataset(MADE / kind, NAMES, cache_bytes=cache_bytes)
    assert (read.spec.fps, read.spec.cameras, read.spec.image_size) == (FPS, ("agentview", "wrist"), SIZE)
    assert (read.spec.image_format, read.spec.is_video) == (
        ("png", False) if kind == "images" else ("av1", True)
    )
    assert read.spec.state_names[:2] == ("s0", "s1")
    assert list(read.episodes["instruction"]) == list(TASKS)
    order = np.random.default_rng(0).permutation(len(STEPS))
    batch = read.batch(order, 3)
    for row, number in enumerate(order):
        episode, step = STEPS[number]
        state, _ = vectors(episode, step)
        np.testing.assert_array_equal(batch["state"][row], state)
        last = LENGTHS[episode] - 1
        wanted = [vectors(episode, min(step + ahead, last))[1] for ahead in range(3)]
        np.testing.assert_array_equal(batch["actions"][row], wanted)
        assert batch["action_mask"][row].tolist() == [step + ahead <= last for ahead in range(3)]
        assert batch["instruction"][row] == TASKS[episode]
        for camera, name in enumerate(NAMES):
            apart = [
                np.abs(batch["images"][name][row].astype(int) - frame(*other, camera)).mean()
                for other in STEPS
            ]
            assert int(np.argmin(apart)) == number
            assert apart[number] == 0 if kind == "images" else apart[number] < 8


def test_the_fixtures_are_in_several_files() -> None:
    assert len(list((MADE / "images/data/chunk-000").iterdir())) > 1
    assert len(list((MADE / "video/videos/observation.images.image/chunk-000").iterdir())) > 1


@pytest.mark.parametrize("kind", ["images", "video"])
def test_it_is_inspected_and_made_ours(kind: str, tmp_path: Path) -> None:
    source = open_source(MADE / kind, NAMES)
    found = inspect(source)
    assert (found.episodes, found.frames, found.fps) == (3, 15, FPS)
    assert found.experts == {"unknown": 3}
    assert frame_sheet(source)[1] == []
    done = to_lerobot(source, tmp_path / "ours", "h264", image_size=32)
    assert (done.episodes, done.unknown) == (3, 3)
    ours = RobotDataset(tmp_path / "ours")
    assert (ours.spec.fps, ours.spec.image_size, ours.spec.cameras) == (FPS, 32, ("agentview", "wrist"))
    np.testing.assert_array_equal(ours.recording(2).robot, source.recording(2).robot)
    with pytest.raises(FoundryError, match="'put the bowl on the stove' is no task of LIBERO"):
        from foundry_bench.data.hdf5_write import to_hdf5

        to_hdf5(source, tmp_path / "hdf5")


def test_version_2_1_says_how_to_go_on(tmp_path: Path) -> None:
    old = Path(shutil.copytree(MADE / "images", tmp_path / "old"))
    info = json.loads((old / "meta/info.json").read_text())
    (old / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(FoundryError, match=r"codebase_version is 'v2\.1', .*convert_dataset_v21_to_v30"):
        open_source(old)
