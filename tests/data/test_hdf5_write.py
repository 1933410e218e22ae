"""Writing LIBERO's HDF5 layout; with simulator states in test_replay.py."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from foundry_bench.data.convert import to_lerobot
from foundry_bench.data.hdf5_write import to_hdf5
from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore, RobotDataset
from foundry_bench.data.sources import open_source
from foundry_bench.errors import FoundryError

FIRST = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket_demo.hdf5"
SECOND = "libero_object/pick_up_the_cream_cheese_and_place_it_in_the_basket_demo.hdf5"


@pytest.fixture
def dataset(tmp_path: Path, make_episode: Callable[..., Episode]) -> Path:
    """Episodes of two tasks that cannot be simulated again, because where they began was not kept."""
    store = EpisodeStore(tmp_path / "dataset", DatasetSpec(image_size=16))
    for number, length in enumerate((5, 4, 6)):
        store.add(f"key-{number}", make_episode(number, length, init_state=np.zeros(0)))
    return store.finalize(store.keys())


def test_layout_is_liberos(dataset: Path, tmp_path: Path) -> None:
    done = to_hdf5(open_source(dataset), tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in done.files] == [FIRST, SECOND]
    assert (done.episodes, done.without_states) == (3, 3)
    episode = RobotDataset(dataset).episode(2)
    images = RobotDataset(dataset).images("wrist", np.arange(9, 15))
    with h5py.File(tmp_path / "out" / FIRST) as file:
        data = file["data"]
        assert (sorted(data), data.attrs["num_demos"], data.attrs["total"]) == (["demo_0", "demo_1"], 2, 11)
        assert data.attrs["macros_image_convention"] == "opengl"
        assert json.loads(data.attrs["problem_info"])["language_instruction"].startswith(
            "pick up the alphabet"
        )
        assert data.attrs["bddl_file_name"].endswith("alphabet_soup_and_place_it_in_the_basket.bddl")
        assert "(:goal" in data.attrs["bddl_file_content"]
        assert json.loads(data.attrs["env_args"])["env_kwargs"]["control_freq"] == 20
        demo = data["demo_1"]
        np.testing.assert_array_equal(demo["obs/eye_in_hand_rgb"][()], images[:, ::-1, ::-1])
        np.testing.assert_array_equal(demo["actions"][()], episode.action)
        np.testing.assert_array_equal(demo["clean_actions"][()], episode.label)
        np.testing.assert_array_equal(demo["obs/ee_states"][()], episode.state[:, :6])
        np.testing.assert_array_equal(demo["obs/gripper_states"][()], episode.state[:, 6:])
        assert demo["dones"][()].tolist() == demo["rewards"][()].tolist() == [0, 0, 0, 0, 0, 1]
        assert demo.attrs["num_samples"] == 6


def test_there_and_back_again(dataset: Path, tmp_path: Path) -> None:
    to_hdf5(open_source(dataset), tmp_path / "out")
    back = RobotDataset(to_lerobot(open_source(tmp_path / "out"), tmp_path / "back").root)
    before = RobotDataset(dataset)
    for old, new in ((0, 0), (2, 1), (1, 2)):
        one, other = before.episode(old), back.episode(new)
        for name in ("state", "action", "label"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.images, one.seed, one.expert) == (other.images, other.seed, other.expert)
        assert (one.suite, one.task_index) == (other.suite, other.task_index)


def test_an_interrupted_conversion_goes_on(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_hdf5(open_source(dataset), out, stop)
    assert [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()] == [FIRST]
    when = (out / FIRST).stat().st_mtime_ns
    (out / SECOND).write_bytes(b"half a file")
    assert to_hdf5(open_source(dataset), out).episodes == 3
    assert (out / FIRST).stat().st_mtime_ns == when
    assert len(open_source(out)) == 3


@contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """Make the kernel refuse writes as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(dataset: Path, tmp_path: Path) -> None:
    source = open_source(dataset)
    with no_file_larger_than(6_000), pytest.raises(FoundryError, match="no space left on the disk"):
        to_hdf5(source, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert to_hdf5(source, tmp_path / "out").episodes == 3


def test_other_cameras_are_named(dataset: Path, tmp_path: Path) -> None:
    source = open_source(dataset, {"agentview": "agentview", "front": "wrist"})
    with pytest.raises(
        FoundryError, match=r"cameras \['agentview', 'wrist'\], the dataset has \['agentview', 'front'"
    ):
        to_hdf5(source, tmp_path / "out")
