from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.data.attempts import AttemptLog, TaskProgress
from foundry_bench.envs.suites import task
from foundry_bench.errors import FoundryError

_SETTINGS = {"noise": 0.25, "per_task": 2, "max_attempts_factor": 3}


def _outcome(success: bool) -> dict[str, object]:
    return {"success": success, "steps": 5, "reason": "", "seconds": 1.0}


def test_what_was_logged_is_read_back(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "log", _SETTINGS)
    log.reason("a-00", "")
    log.add("a-00", 0, _outcome(True))
    log.add("a-00", 1, _outcome(False))
    entries = AttemptLog(tmp_path / "log", {**_SETTINGS, "per_task": 9}).of("a-00", ["a-00-000000"])
    assert {number: entry.get("success") for number, entry in entries.items()} == {
        -1: None,
        0: True,
        1: False,
    }


def test_a_success_whose_episode_is_gone_is_made_again(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "log", _SETTINGS)
    log.add("a-00", 0, _outcome(True))
    assert AttemptLog(tmp_path / "log", _SETTINGS).of("a-00", []) == {}


@given(cut=st.integers(1, 60))
def test_a_torn_last_line_costs_that_attempt_only(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = AttemptLog(path, _SETTINGS)
    log.add("a-00", 0, _outcome(False))
    whole = path.read_bytes()
    log.add("a-00", 1, _outcome(False))
    torn = path.read_bytes()
    path.write_bytes(torn[: max(len(whole), len(torn) - cut)])
    AttemptLog(path, _SETTINGS).add("a-00", 2, _outcome(False))
    numbers = set(AttemptLog(path, _SETTINGS).of("a-00", []))
    assert numbers - {1} == {0, 2}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "log", _SETTINGS)
    log.add("a-00", 0, _outcome(False))
    text = (tmp_path / "log").read_text()
    (tmp_path / "log").write_text(text.replace("success", 'succ"ess', 1))
    with pytest.raises(FoundryError, match=r"log:2"):
        AttemptLog(tmp_path / "log", _SETTINGS)


def test_other_settings_are_named(tmp_path: Path) -> None:
    AttemptLog(tmp_path / "log", _SETTINGS)
    with pytest.raises(FoundryError, match=r"demos\.noise=0\.25, asked for 0\.5"):
        AttemptLog(tmp_path / "log", {**_SETTINGS, "noise": 0.5})


@given(
    results=st.lists(st.booleans(), min_size=30, max_size=30),
    order=st.randoms(use_true_random=False),
    workers=st.integers(1, 5),
)
def test_the_kept_attempts_do_not_depend_on_who_finishes_first(
    results: list[bool], order: object, workers: int
) -> None:
    progress = TaskProgress(task("libero_object", 0), 5, 30, {-1: {"plan": ""}})
    under_way: list[int] = []
    while not progress.finished:
        while len(under_way) < workers and progress.next_attempt() is not None:
            under_way.append(progress.take())
        done = under_way.pop(order.randrange(len(under_way)))  # type: ignore[attr-defined]
        progress.in_flight.discard(done)
        progress.outcomes[done] = _outcome(results[done])
    assert progress.kept == [number for number, success in enumerate(results) if success][:5]
