"""The scene cache's size limit, its labels, and what may be deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.envs import cache, scene
from foundry_bench.envs.scene import PROFILES, load_scene
from foundry_bench.errors import FoundryError

_XML = "<mujoco><worldbody><geom name='floor' type='plane' size='1 1 1'/></worldbody></mujoco>"
_KIB = 1 / 2**20  # in GiB


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv(cache.LIMIT_VARIABLE, raising=False)
    return tmp_path


def put(path: Path, size: int = 1024, age_s: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def put_scene(root: Path, digit: str, size: int = 1024, age_s: float = 0) -> Path:
    return put(root / "scenes" / f"{digit * 24}.mjb", size, age_s)


def kept(root: Path) -> str:
    return "".join(sorted(path.name[0] for path in (root / "scenes").glob("*.mjb")))


def test_least_recently_used_goes_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for digit, age in zip("abcd", (10, 40, 30, 20), strict=True):
        put_scene(root, digit, age_s=age)
    newest = put_scene(root, "e")
    cache.evict(newest)
    assert kept(root) == "abcde"
    monkeypatch.setenv(cache.LIMIT_VARIABLE, repr(3 * _KIB))
    cache.evict(newest)
    assert kept(root) == "ade"


def test_what_was_just_written_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, repr(_KIB))
    put_scene(root, "a", age_s=5)
    large = put_scene(root, "b", size=5000, age_s=50)  # a clock may say that it is old
    cache.evict(large)
    assert kept(root) == "b"


def test_reading_a_scene_keeps_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def xml(name: str) -> str:
        return _XML.replace("floor", name)

    for name, age in (("one", 30), ("two", 20)):
        load_scene(xml(name), PROFILES["exact"], name)
        for path in (root / "scenes").glob("*.mjb"):
            if cache.read_label(path)["what"] == name:
                os.utime(path, (time.time() - age, time.time() - age))
    load_scene(xml("one"), PROFILES["exact"])
    size = max(entry.size for entry in cache.entries())
    monkeypatch.setenv(cache.LIMIT_VARIABLE, repr(2.5 * size / 2**30))
    load_scene(xml("three"), PROFILES["exact"], "three")
    assert [cache.read_label(entry.path)["what"] for entry in cache.entries()] == ["one", "three"]
    assert len(list((root / "scenes").iterdir())) == 4  # a label goes with its scene


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_limit_is_read_in_gib(value: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.LIMIT_VARIABLE, repr(value))
        assert cache.limit_bytes() == int(value * 2**30)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_is_a_limit_or_a_plain_error(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.LIMIT_VARIABLE, text)
        try:
            assert cache.limit_bytes() >= 0
        except FoundryError as error:
            assert cache.LIMIT_VARIABLE in str(error)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e308", "20GB", "twenty"])
def test_bad_limit_names_variable_value_and_way_out(
    text: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, text)
    monkeypatch.setattr(scene, "_compile", lambda *_: pytest.fail("compiled before the mistake was told"))
    with pytest.raises(FoundryError, match=rf"FOUNDRY_BENCH_CACHE_GB={text}: .* a positive number"):
        load_scene(_XML, PROFILES["exact"])


@pytest.mark.parametrize("text", ["", " "])
def test_limit_is_20_gib_where_nothing_is_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, text)
    assert cache.limit_bytes() == 20 * 2**30


def test_files_that_vanish_meanwhile_are_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = put_scene(root, "c")
    put_scene(root, "a", age_s=20)
    put_scene(root, "b", age_s=10)
    stat, unlink = Path.lstat, Path.unlink

    def stat_late(path: Path) -> os.stat_result:
        if path.name.startswith("a"):
            path.unlink(missing_ok=True)
        return stat(path)

    def unlink_late(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=True)
        unlink(path, missing_ok)

    monkeypatch.setenv(cache.LIMIT_VARIABLE, repr(_KIB))
    monkeypatch.setattr(Path, "lstat", stat_late)
    monkeypatch.setattr(Path, "unlink", unlink_late)
    cache.evict(newest)
    assert kept(root) == "c"


def test_no_folder_is_an_empty_cache(root: Path) -> None:
    assert cache.entries() == []
    assert cache.asset_bytes() == 0
    assert cache.clear() == cache.Cleared(0, 0, ())


def test_leftovers_of_killed_writers_go_after_an_hour(root: Path) -> None:
    newest = put_scene(root, "a")
    folder = root / "scenes"
    stale = put(folder / f".{'b' * 24}.mjb.x_1abcde.tmp", age_s=4000)
    lonely = put(folder / f"{'c' * 24}.json", age_s=4000)
    fresh = put(folder / f".{'d' * 24}.mjb.x_1abcde.tmp", age_s=3000)
    label = put(folder / f"{'e' * 24}.json", age_s=3000)
    foreign = put(folder / ".notes.tmp", age_s=4000)
    asset = put(root / "assets" / f".{'f' * 24}.npz.x_1abcde.tmp", age_s=4000)
    cache.evict(newest)
    assert not any(path.exists() for path in (stale, lonely, asset))
    assert all(path.exists() for path in (newest, fresh, label, foreign))


def test_label_says_what_a_scene_is(root: Path) -> None:
    load_scene(_XML, PROFILES["fast"], "libero_goal-03")
    (path,) = (root / "scenes").glob("*.json")
    label = json.loads(path.read_text())
    assert (label["what"], label["profile"]) == ("libero_goal-03", "fast")
    assert (label["meshes"], label["vertices"]) == (0, 0)
    assert label["packages"]["mujoco"] == "3.3.2"


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[1]", b"\xff", b"[" * 50_000, b'{"what": 3}'])
def test_missing_or_damaged_label_is_no_error(root: Path, damage: bytes | None) -> None:
    load_scene(_XML, PROFILES["exact"], "a")
    (path,) = (root / "scenes").glob("*.json")
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    (entry,) = cache.entries()
    assert cache.read_label(entry.path) == {}
    assert load_scene(_XML, PROFILES["exact"], "a").ngeom == 1
    (entry,) = cache.entries()
    assert cache.read_label(entry.path)["what"] == "a"  # without its checksum the scene was made again
    cache.evict(entry.path)


def test_a_folder_that_cannot_be_read_costs_the_cache_and_not_the_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(keep: Path) -> None:
        raise PermissionError(keep)

    monkeypatch.setattr(cache, "evict", fail)
    assert load_scene(_XML, PROFILES["exact"]).ngeom == 1


def test_clear_deletes_ours_and_leaves_the_rest(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = put(tmp_path_factory.mktemp("outside") / f"{'1' * 24}.mjb")
    ours = [put_scene(root, "a"), put(root / "scenes" / f"{'a' * 24}.json")]
    ours += [put(root / "assets" / f"{'b' * 24}{suffix}") for suffix in (".npz", ".png")]
    ours += [put(root / "assets" / f".{'b' * 24}.png.abcd1234.tmp", age_s=4000)]
    foreign = [
        put(root / "notes.json"),
        put(root / "assets" / "holiday.png"),
        put(root / "assets" / ".holiday.png.tmp", age_s=4000),
        put(root / "scenes" / "deeper" / f"{'c' * 24}.mjb"),
        put(root / "scenes" / f"{'C' * 24}.mjb"),
        put(root / "scenes" / f".{'d' * 24}.mjb.abcd1234.tmp"),
    ]
    link = root / "scenes" / f"{'f' * 24}.mjb"
    link.symlink_to(outside)
    done = cache.clear()
    assert (done.files, done.size) == (5, 5 * 1024)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in (*foreign, outside, link))
    assert [line[line.index("(") :] for line in done.left] == [
        "(being written)",
        "(not ours)",
        "(not ours)",
        "(a link)",
        "(not ours)",
        "(not ours)",
    ]


def test_clear_does_not_follow_a_folder_that_is_a_link(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = put(tmp_path_factory.mktemp("outside") / f"{'a' * 24}.mjb")
    (root / "scenes").symlink_to(outside.parent)
    assert cache.clear() == cache.Cleared(0, 0, (f"{root / 'scenes'} (a link)",))
    assert outside.exists()


_WORK = """
import sys, time
from foundry_bench.envs import cache
from foundry_bench.envs.scene import PROFILES, load_scene
while time.time() < float(sys.argv[2]):  # all begin at once
    pass
for turn in range(40):
    assert load_scene(sys.argv[1], PROFILES["exact"], "floor").ngeom == 1
    for entry in cache.entries()[turn % 3:]:
        entry.path.unlink(missing_ok=True)
assert load_scene(sys.argv[1], PROFILES["exact"], "floor").ngeom == 1
"""


def test_processes_that_write_read_and_delete_one_scene_end_with_a_good_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, repr(_KIB))
    words = [sys.executable, "-c", _WORK, _XML, repr(time.time() + 3)]
    workers = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(worker.communicate(timeout=120)[1], worker.returncode) for worker in workers]
    assert ended == [("", 0)] * 3
    load_scene(_XML, PROFILES["exact"], "floor")
    monkeypatch.setattr(scene, "_compile", lambda *_: pytest.fail("the file in the cache is not good"))
    assert load_scene(_XML, PROFILES["exact"]).ngeom == 1
    assert not list((root / "scenes").glob(".*.tmp"))
