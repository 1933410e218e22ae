"""The real command, killed in every phase and run again: the same bytes and the same records."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foundry_bench.evaluation.records import read_records

COMMAND = [
    *(sys.executable, "-m", "foundry_bench", "train-and-eval", "suite=libero_object", "scale=smoke"),
    *("experiment=run", "demos.per_task=3", "train.samples=256", "train.save_every=64"),
    *("eval.episodes=3", "eval.videos=0"),
]


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen(COMMAND, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def finish(folder: Path) -> None:
    assert start(folder).wait(timeout=400) == 0, (folder / "log.txt").read_text()


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def kill_when(folder: Path, pattern: str) -> None:
    """Start the command, kill it as soon as a file appears, and see its workers go too."""
    process = start(folder)
    wait_for(
        lambda: any(path.stat().st_size for path in folder.glob(pattern)) or process.poll() is not None,
        300,
        f"{pattern}\n{(folder / 'log.txt').read_text()}",
    )
    assert process.poll() is None, f"ended before {pattern}:\n{(folder / 'log.txt').read_text()}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: group_is_gone(process.pid), 60, "workers outlive their parent")


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def dataset(folder: Path) -> Path:
    (info,) = (folder / "results" / "data").glob("*/meta/info.json")
    return info.parent.parent


def records(folder: Path) -> list[dict[str, object]]:
    found = read_records(folder / "results/run/eval/records.jsonl")
    return [record.stable() for record in sorted(found, key=lambda record: record.key)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_three_times_gives_the_same_as_never(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    finish(whole)
    kill_when(torn, "results/data/*.staging/*.parquet")
    kill_when(torn, "results/run/train/state/**/*")
    kill_when(torn, "results/run/eval/records.jsonl")
    finish(torn)
    assert digest(dataset(torn)) == digest(dataset(whole))
    checkpoint = "results/run/train/checkpoint"
    assert digest(torn / checkpoint) == digest(whole / checkpoint)
    assert records(torn) == records(whole)
    before = digest(torn / "results")
    finish(torn)  # and once more: nothing is done again
    after = digest(torn / "results")
    assert {name for name in before if before[name] != after[name]} == set()
