"""``foundry-bench cache``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foundry_bench import cli
from foundry_bench.envs import cache

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two scenes, one of them without a label, and one lighter mesh."""
    monkeypatch.setenv("FOUNDRY_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv(cache.LIMIT_VARIABLE, raising=False)
    for name in ("scenes", "assets"):
        (tmp_path / name).mkdir()
    for digit, size, used in (("a", 3 * 2**20, 1.7e9), ("b", 700, 1.6e9)):
        path = tmp_path / "scenes" / f"{digit * 24}.mjb"
        path.write_bytes(bytes(size))
        os.utime(path, (used, used))
    label = {"what": "[red]libero_goal-03", "profile": "fast"}
    (tmp_path / "scenes" / f"{'a' * 24}.json").write_text(json.dumps(label))
    (tmp_path / "assets" / f"{'c' * 24}.npz").write_bytes(bytes(2048))
    return tmp_path


@pytest.mark.parametrize("words", [(), ("--list",), ("--list", "debug=true")])
def test_list_shows_what_is_kept_and_how_much_of_the_limit(
    words: tuple[str, ...], root: Path, capsys: Capture
) -> None:
    assert cli.main(["cache", *words]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    first = next(row for row in rows if row[:1] == ["[red]libero_goal-03"])
    assert first[1:4] == ["fast", "3.0", "MiB"]
    second = next(row for row in rows if row[:1] == ["b" * 24])
    assert second[1:4] == ["?", "700", "bytes"]
    assert rows.index(first) < rows.index(second)  # the last used is first
    assert f"2 scenes, 3.0 MiB of 20.0 GiB in {root / 'scenes'}\n" in text
    assert f"lighter meshes and textures: 2.0 KiB in {root / 'assets'}\n" in text


def test_list_of_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FOUNDRY_BENCH_CACHE", str(root / "elsewhere"))
    assert cli.main(["cache"]) == 0
    assert capsys.readouterr().out.startswith("0 scenes, 0 bytes of 20.0 GiB in ")


def test_clear_says_what_was_freed_and_what_was_left(root: Path, capsys: Capture) -> None:
    for number in range(12):
        (root / "assets" / f"holiday{number:02d}.png").touch()
    assert cli.main(["cache", "--clear"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("deleted 4 files, 3.0 MiB freed\n")
    assert f"left alone: {root / 'assets' / 'holiday00.png'} (not ours)\n" in text
    assert text.endswith("left alone: 2 more\n")
    assert list((root / "scenes").iterdir()) == []
    assert len(list((root / "assets").iterdir())) == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--claer",), "--claer: no such flag of cache, did you mean '--clear'?"),
        (("--clear", "--list"), "one of them at a time"),
        (("--clear=true",), "did you mean '--clear'?"),
        (("clear",), "expected key=value"),
        (("scale=quick",), "cache takes only: debug"),
    ],
)
def test_mistake_is_one_line_and_deletes_nothing(
    words: tuple[str, ...], said: str, root: Path, capsys: Capture
) -> None:
    assert cli.main(["cache", *words]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
    assert len(list(root.glob("*/*"))) == 4


def test_bad_limit_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "lots")
    assert cli.main(["cache"]) == 2
    assert "FOUNDRY_BENCH_CACHE_GB=lots" in capsys.readouterr().err


def test_help_shows_the_flags(capsys: Capture) -> None:
    assert cli.main(["cache", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: foundry-bench cache [--list | --clear]\n")
    assert "\n  --clear  delete every" in text


def test_other_commands_take_no_flags(capsys: Capture) -> None:
    assert cli.main(["list", "--clear"]) == 2
    assert "keys are written without dashes" in capsys.readouterr().err
