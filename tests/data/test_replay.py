"""Simulating datasets again: ours to the last bit, LIBERO's HDF5 nearly, and interrupted replays go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from foundry_bench.data.convert import to_lerobot
from foundry_bench.data.hdf5_write import to_hdf5
from foundry_bench.data.lerobot import RobotDataset
from foundry_bench.data.recordings import Recording
from foundry_bench.data.replay import ReplayConfig, ReplayLog, replay_dataset
from foundry_bench.data.resimulate import check
from foundry_bench.data.sources import open_source
from foundry_bench.errors import FoundryError
from tests.data.demo_files import TASK, write

SETTINGS = {"mode": "actions"}


def recording(**changes: Any) -> Recording:
    rows = np.zeros((3, 7))
    fields: dict[str, Any] = {
        "suite": "libero_goal",
        "task_index": 1,
        "instruction": "put the bowl on the stove",
        "actions": rows,
        "labels": rows,
        "robot": np.zeros((3, 8), np.float32),
        "states": np.zeros((3, 92)),
        "init_state": np.zeros(92),
        "wait_steps": 0,
    }
    return Recording(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "mode", "message"),
    [
        ({"suite": "", "task_index": -1}, "actions", "'put the bowl on the stove' is none of LIBERO's"),
        ({"init_state": np.zeros(0)}, "actions", "no init state was recorded"),
        ({"states": None}, "states", r"no simulator states were recorded; use replay\.mode=actions"),
        ({}, "state", r"replay\.mode=state: known: actions, states"),
    ],
)
def test_what_cannot_be_replayed(changes: dict[str, Any], mode: str, message: str) -> None:
    check(recording(), "states")
    with pytest.raises(FoundryError, match=message):
        check(recording(**changes), mode)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(FoundryError, match=r"replay\.mode=actoins: .*did you mean 'actions'"):
        ReplayConfig(mode="actoins")
    with pytest.raises(FoundryError, match=r"replay\.episodes=0"):
        ReplayConfig(episodes=0)


def test_log_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    ReplayLog(path, SETTINGS).add({"index": 3, "error": ""})
    with path.open("a") as file:
        file.write('{"index": 4, "err')
    again = ReplayLog(path, SETTINGS)
    assert list(again.results) == [3]
    again.add({"index": 5, "error": "x"})
    assert [json.loads(line).get("index") for line in path.read_text().splitlines()] == [None, 3, 5]
    with pytest.raises(FoundryError, match=r"log\.jsonl: holds the replay of another dataset or with other"):
        ReplayLog(path, {"mode": "states"})
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(FoundryError, match=r"log\.jsonl:4: not a result of a replay; delete the file"):
        ReplayLog(path, SETTINGS)


def test_log_torn_in_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"settings": {"mo')
    ReplayLog(path, SETTINGS).add({"index": 0, "error": ""})
    assert list(ReplayLog(path, SETTINGS).results) == [0]


@pytest.mark.timeout(300)
def test_episodes_that_do_not_fit_are_errors_of_their_own(tmp_path: Path) -> None:
    """States of another simulator: named in the log, nothing is replayed, and nothing falls over."""
    path = tmp_path / f"{TASK}_demo.hdf5"
    write(path, "libero")
    results, log = replay_dataset(path, ReplayConfig(), tmp_path / "out", workers=1, progress=False)
    assert [result["key"] for result in results] == [f"put-the-bowl-on-the-stove-00000{n}" for n in (0, 1)]
    for result in results:
        assert "the recorded state has 19 numbers, the simulator's" in result["error"]
        assert "success" not in result
    assert len(log.read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scripted demonstration at 64 px, with stock LIBERO's pixels."""
    from foundry_bench.data.demos import DemosConfig, collect
    from foundry_bench.envs.suites import task

    root = tmp_path_factory.mktemp("demonstrations") / "one"
    config = DemosConfig(per_task=1, image_size=64, render_profile="exact")
    collect([task("libero_spatial", 0)], config, root, 1, False)
    return root


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ours_are_repeated_to_the_last_bit_in_every_form(demonstrations: Path, tmp_path: Path) -> None:
    source = open_source(demonstrations)
    written = to_hdf5(source, tmp_path / "hdf5")
    assert (written.episodes, written.without_states) == (1, 0)
    back = to_lerobot(open_source(tmp_path / "hdf5"), tmp_path / "back", "h264").root
    first, second = RobotDataset(demonstrations).episode(0), RobotDataset(back).episode(0)
    for name in ("state", "action", "label", "init_state"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for path, mode in (
        (demonstrations, "actions"),
        (tmp_path / "hdf5", "actions"),
        (tmp_path / "hdf5", "states"),
        (back, "actions"),
    ):
        config = ReplayConfig(mode=mode)
        results, log = replay_dataset(path, config, tmp_path / "replays", workers=1, progress=False)
        for result in results:
            assert (result["success"], result["error"]) == (True, "")
            assert result["success_step"] == result["steps"]
            assert result["state_difference"] in (None, 0.0)
            assert result["robot_difference"] == 0.0 or mode == "states"
        before = log.read_bytes()
        replay_dataset(path, config, tmp_path / "replays", workers=1, progress=False)
        assert log.read_bytes() == before  # nothing was left to do


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_made_as_libero_makes_them(demonstrations: Path, tmp_path: Path) -> None:
    """Stock LIBERO plays our demonstrations and writes them as create_dataset.py does."""
    from foundry_bench.envs.simulation import Simulation
    from foundry_bench.envs.suites import task

    path = tmp_path / "as_libero_demo.hdf5"
    program = Path(__file__).with_name("create_dataset_as_libero.py")
    done = subprocess.run(
        [sys.executable, str(program), str(demonstrations), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    source = open_source(path)
    recorded = source.recording(0)
    assert (source.kind, recorded.suite, recorded.task_index) == ("HDF5, libero", "libero_spatial", 0)
    ours = RobotDataset(demonstrations)
    original = ours.recording(0)
    # Ten steps of rest, of which LIBERO's script leaves out five and the pairing one more.
    np.testing.assert_array_equal(recorded.actions[4:], original.actions)
    np.testing.assert_allclose(recorded.robot[4:], original.robot, atol=1e-6)
    assert recorded.fixtures.keys() >= original.fixtures.keys()
    for name, pose in original.fixtures.items():
        np.testing.assert_allclose(recorded.fixtures[name], pose, atol=1e-6)
    for camera in ("agentview", "wrist"):
        frames = np.stack(list(source.images(0, camera)))[4:].astype(int)
        expected = ours.images(camera, np.arange(len(original.actions)))
        assert np.abs(frames - expected).mean() < 2  # of 255; mirrored or a step apart it is ten times that
        assert np.abs(frames[:, :, ::-1] - expected).mean() > 10
    for mode in ("actions", "states"):
        results, _ = replay_dataset(path, ReplayConfig(mode=mode), tmp_path, workers=1, progress=False)
        assert [result["error"] for result in results] == [""]
        # What the controller had in mind where LIBERO's rows begin is not known: actions drift by millimetres
        assert max(result["robot_difference"] for result in results) < (0.02 if mode == "actions" else 0.01)
        if mode == "states":
            assert max(result["state_difference"] for result in results) == 0.0
    with h5py.File(path, locking=False) as file:
        size = Simulation(task("libero_spatial", 0), (), 64, "native", "fast").problem.state_size
        assert file["data/demo_0/states"].shape[1] == size
