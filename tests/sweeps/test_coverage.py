"""Which tasks a configuration stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_bench.configs.compose import compose
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps.coverage import coverage, selected_tasks, skipped_tasks


def keys(*words: str) -> list[str]:
    return [task.key for task in selected_tasks(compose(words))]


def test_quick_takes_two_tasks_of_each_suite() -> None:
    chosen = keys()
    assert len(chosen) == 8
    assert {key.rsplit("-", 1)[0] for key in chosen} == {
        "libero_spatial",
        "libero_object",
        "libero_goal",
        "libero_10",
    }


def test_smoke_is_one_task_of_whatever_suite() -> None:
    for suite in ("libero", "libero_spatial", "libero_goal", "libero_90"):
        assert len(keys("scale=smoke", f"suite={suite}")) == 1


def test_tasks_by_number_and_by_suite() -> None:
    assert keys("suite=libero_goal", "tasks=[3,0,3]") == ["libero_goal-00", "libero_goal-03"]
    assert keys("tasks={libero_goal:[4]}") == ["libero_goal-04"]
    assert keys("tasks={libero_goal:[4],default:[0]}", "suite=libero_object") == ["libero_object-00"]
    assert len(keys("tasks={libero_goal:null}")) == 10
    assert len(keys("scale=laptop")) == len(keys("tasks=null")) == 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["suite=libero_goal", "tasks=[10]"], "libero_goal has tasks 0 to 9"),
        (["suite=libero_goal", "tasks=[-1]"], "libero_goal has tasks 0 to 9"),
        (["tasks={libero_gaol:[1]}"], "libero_goal"),
        (["suite=libero_goal", "tasks={libero_object:[1]}"], "nothing of suite=libero_goal"),
    ],
)
def test_task_that_is_not_there(words: list[str], said: str) -> None:
    with pytest.raises(FoundryError) as caught:
        keys(*words)
    assert said in str(caught.value)


def test_sentence_says_what_is_covered_and_how_to_get_the_rest() -> None:
    config = compose(["tasks=[0,1]", "suite=libero_goal", "eval.episodes=1"])
    assert coverage(config, selected_tasks(config)) == (
        "libero_goal, scale quick: 2 of 10 tasks, 1 episode each; all: scale=laptop"
    )
    config = compose(["scale=laptop", "suite=libero_goal"])
    assert coverage(config, selected_tasks(config)) == (
        "libero_goal, scale laptop: all 10 tasks, 10 episodes each"
    )


def test_skipped_tasks_are_counted() -> None:
    assert skipped_tasks(None) == skipped_tasks({"skipped": []}) == ""
    assert "2 of them skipped" in skipped_tasks({"skipped": [{}, {}]})


def test_what_is_said_of_suites_in_general_is_cut_to_what_a_suite_has(tmp_path: Path) -> None:
    (tmp_path / "only.bddl").write_text("(define (problem X) (:language do it))")
    config = compose([f"suites={{mine: '{tmp_path}'}}", "suite=mine", "scale=quick"])
    assert [task.name for task in selected_tasks(config)] == ["only"]
