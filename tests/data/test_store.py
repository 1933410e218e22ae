"""EpisodeStore: what is added is kept, and finalize gives the same bytes whatever happened on the way."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore, RobotDataset
from foundry_bench.errors import FoundryError

Make = Callable[..., Episode]
Tree = Callable[[Path], dict[str, bytes]]
Same = Callable[[Episode, Episode], bool]

KEYS = [f"libero_object-{seed:06d}" for seed in range(3)]
leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=5)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(root: Path, spec: DatasetSpec, make_episode: Make) -> Path:
    """What a run of `demos` does: make what is not there yet, then pack."""
    store = EpisodeStore(root, spec)
    there = set(store.keys())
    for seed, key in enumerate(KEYS):
        if key not in there:
            store.add(key, make_episode(seed, 3 + seed))
    return store.finalize(KEYS)


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, spec: DatasetSpec, make_episode: Make, tree: Tree
) -> dict[str, bytes]:
    return tree(fill(tmp_path_factory.mktemp("reference") / "dataset", spec, make_episode))


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 40),
    seed=st.integers(-(2**63), 2**63 - 1),
    instruction=st.text(min_size=1, max_size=30),
    info=st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    fixtures=st.dictionaries(st.text(max_size=8), st.lists(st.floats(-1e3, 1e3), max_size=7), max_size=3),
)
def test_an_episode_comes_back_as_it_was(
    make_episode: Make, spec: DatasetSpec, same_episode: Same, length: int, **fields: Any
) -> None:
    episode = make_episode(1, length, **fields)
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(Path(folder, "dataset"), spec)
        store.add("first", make_episode(0, 2))
        store.add("second", episode)
        read = RobotDataset(store.finalize(["first", "second"]))
        assert same_episode(read.episode(1), episode)
        assert read.episodes.iloc[1]["key"] == "second"


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(KEYS), again=st.sampled_from(KEYS))
def test_bytes_do_not_depend_on_the_order_of_adding(
    make_episode: Make,
    spec: DatasetSpec,
    reference: dict[str, bytes],
    tree: Tree,
    order: list[str],
    again: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(Path(folder, "dataset"), spec)
        for key in [*order, again]:
            store.add(key, make_episode(KEYS.index(key), 3 + KEYS.index(key)))
        assert store.keys() == KEYS
        assert tree(store.finalize(KEYS)) == reference
        assert names(Path(folder)) == ["dataset"]


class Killed(BaseException):
    """Stands for the end of the process: nothing that could tidy up runs after it."""


@contextmanager
def killed_at(number: int) -> Iterator[list[int]]:
    """Let the process "die" just before its ``number``-th change of the disk; yields the count so far."""
    count = [0]
    calls = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
    real = {name: getattr(os, name) for name in calls}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] >= number:
                raise Killed
            return real[name](*args, **kwargs)

        return call

    try:
        for name in calls:
            setattr(os, name, counted(name))
        yield count
    finally:
        for name in calls:
            setattr(os, name, real[name])


def test_death_before_any_change_of_the_disk_ends_in_the_same_bytes(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make, reference: dict[str, bytes], tree: Tree
) -> None:
    for number in itertools.count(1):
        root = tmp_path / str(number) / "dataset"
        root.parent.mkdir()
        try:
            with killed_at(number):
                fill(root, spec, make_episode)
        except Killed:
            assert not root.exists() or tree(root) == reference
            assert tree(fill(root, spec, make_episode)) == reference
            assert names(root.parent) == ["dataset"]
        else:
            break
    assert number > 30


def test_death_while_extending_keeps_one_complete_dataset(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make, reference: dict[str, bytes], tree: Tree
) -> None:
    for number in itertools.count(1, 3):
        root = tmp_path / str(number) / "dataset"
        root.parent.mkdir()
        store = EpisodeStore(root, spec)
        for seed, key in enumerate(KEYS[:2]):
            store.add(key, make_episode(seed, 3 + seed))
        store.finalize(KEYS[:2])
        try:
            with killed_at(number):
                fill(root, spec, make_episode)
        except Killed:
            assert EpisodeStore(root, spec).keys()[:2] == KEYS[:2]
            assert len(RobotDataset(root).episodes) in (2, 3)
            assert tree(fill(root, spec, make_episode)) == reference
        else:
            break
    assert tree(root) == reference


@pytest.mark.parametrize("wait_s", [0.0, 0.03, 0.1])
def test_kill_9_and_resume_ends_in_the_same_bytes(
    tmp_path: Path,
    spec: DatasetSpec,
    make_episode: Make,
    reference: dict[str, bytes],
    tree: Tree,
    wait_s: float,
) -> None:
    """A real process is killed while it adds and finalizes over and over."""
    root = tmp_path / "dataset"
    source = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from conftest import build_episode
from pathlib import Path
from foundry_bench.data.lerobot import DatasetSpec, EpisodeStore
store = EpisodeStore(Path({str(root)!r}), DatasetSpec(image_size={spec.image_size}))
print("ready", flush=True)
while True:
    for seed, key in enumerate({KEYS!r}):
        store.add(key, build_episode(seed, 3 + seed))
    store.finalize({KEYS!r})
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert tree(fill(root, spec, make_episode)) == reference
    assert names(tmp_path) == ["dataset"]


@contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """Make the kernel refuse writes as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make, reference: dict[str, bytes], tree: Tree
) -> None:
    root = tmp_path / "dataset"
    store = EpisodeStore(root, spec)
    store.add(KEYS[0], make_episode(0, 3))
    with no_file_larger_than(2_000), pytest.raises(FoundryError, match="no space left on the disk"):
        store.add(KEYS[1], make_episode(1, 4))
    assert store.keys() == KEYS[:1]
    assert names(store.staging) == [f"{KEYS[0]}.parquet", "spec.json"]
    for seed in (1, 2):
        store.add(KEYS[seed], make_episode(seed, 3 + seed))
    with no_file_larger_than(20_000), pytest.raises(FoundryError, match="run the same command again"):
        store.finalize(KEYS)
    assert not root.exists()
    assert store.keys() == KEYS
    assert tree(store.finalize(KEYS)) == reference


def test_finalize_takes_what_is_asked_and_keeps_the_rest(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make, same_episode: Same
) -> None:
    store = EpisodeStore(tmp_path / "dataset", spec)
    for seed, key in enumerate(KEYS):
        store.add(key, make_episode(seed, 3))
    first = RobotDataset(store.finalize([KEYS[2], KEYS[0]]))
    assert list(first.episodes["key"]) == [KEYS[2], KEYS[0]]
    assert EpisodeStore(store.root, spec).keys() == KEYS
    every = RobotDataset(store.finalize(KEYS))
    assert list(every.episodes["key"]) == KEYS
    assert same_episode(every.episode(2), first.episode(0))
    assert not store.staging.exists()


def test_finalize_again_does_nothing(tmp_path: Path, spec: DatasetSpec, make_episode: Make) -> None:
    root = fill(tmp_path / "dataset", spec, make_episode)
    before = (root / "meta/info.json").stat().st_mtime_ns
    assert fill(root, spec, make_episode) == root
    assert (root / "meta/info.json").stat().st_mtime_ns == before


def test_keys_that_are_not_there_or_given_twice(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make
) -> None:
    store = EpisodeStore(tmp_path / "dataset", spec)
    store.add(KEYS[0], make_episode(0, 3))
    with pytest.raises(FoundryError, match="no episodes"):
        store.finalize([])
    with pytest.raises(FoundryError, match=KEYS[1]):
        store.finalize(KEYS)
    with pytest.raises(FoundryError, match="twice"):
        store.finalize([KEYS[0], KEYS[0]])


@pytest.mark.parametrize("key", ["", "../escape", "a/b", ".hidden", "a b", "x.partial-1"])
def test_keys_that_cannot_be_file_names(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make, key: str
) -> None:
    with pytest.raises(FoundryError, match="episode key"):
        EpisodeStore(tmp_path / "dataset", spec).add(key, make_episode(0, 2))


def test_settings_are_not_mixed(tmp_path: Path, spec: DatasetSpec, make_episode: Make) -> None:
    root = tmp_path / "dataset"
    EpisodeStore(root, spec).add(KEYS[0], make_episode(0, 3))
    with pytest.raises(FoundryError, match=r"image_size=16, asked for image_size=32"):
        EpisodeStore(root, DatasetSpec(image_size=32))
    fill(root, spec, make_episode)
    with pytest.raises(FoundryError, match=r"fps=20, asked for fps=10"):
        EpisodeStore(root, DatasetSpec(image_size=16, fps=10))


def test_a_damaged_staged_episode_is_named(tmp_path: Path, spec: DatasetSpec, make_episode: Make) -> None:
    store = EpisodeStore(tmp_path / "dataset", spec)
    store.add(KEYS[0], make_episode(0, 3))
    path = store.staging / f"{KEYS[0]}.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FoundryError, match=f"{KEYS[0]}.parquet: staged episode is damaged; delete this file"):
        store.finalize(KEYS[:1])
    assert path.exists()


def nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[1, 2] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"state": nan(e.state)}, "state is NaN or infinite"),
        (lambda e: {"label": nan(e.label)}, "label is NaN or infinite"),
        (lambda e: {"action": e.action[:, :6]}, r"action has shape \(3, 6\), expected \(3, 7\)"),
        (lambda e: {"label": e.label[:-1]}, r"label has shape"),
        (lambda e: {"images": {"agentview": e.images["agentview"]}}, "camera 'wrist' is missing"),
        (lambda e: {"images": {**e.images, "wrist": e.images["wrist"][:2]}}, "2 frames for 3 states"),
        (lambda e: {"images": {**e.images, "wrist": [b"not an image"] * 3}}, "not a png image"),
        (lambda e: {"info": {"noise": float("nan")}}, "info cannot be stored as JSON"),
        (lambda e: {"info": {"expert": object()}}, "info cannot be stored as JSON"),
        (lambda e: {"seed": 2**63}, "64 bits"),
        (lambda e: {"init_state": np.array([np.inf])}, "init_state is NaN or infinite"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(
    tmp_path: Path, spec: DatasetSpec, make_episode: Make, change: Any, message: str
) -> None:
    episode = make_episode(0, 3, **change(make_episode(0, 3)))
    store = EpisodeStore(tmp_path / "dataset", spec)
    with pytest.raises(FoundryError, match=message):
        store.add("key", episode)
    assert store.keys() == []


def test_another_image_size_is_refused(tmp_path: Path, spec: DatasetSpec, make_episode: Make) -> None:
    with pytest.raises(FoundryError, match="32x32 pixels, expected 16"):
        EpisodeStore(tmp_path / "dataset", spec).add("key", make_episode(0, 2, size=32))


def test_a_place_that_cannot_be_written(tmp_path: Path, spec: DatasetSpec, make_episode: Make) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FoundryError, match=r"cannot be written \(Not a directory\); choose another folder"):
        EpisodeStore(tmp_path / "file" / "dataset", spec).add(KEYS[0], make_episode(0, 2))
