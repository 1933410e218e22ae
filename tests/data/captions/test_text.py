"""Instructions in other words, and plans from goals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.data.captions.text import paraphrases, plan, texts_of_tasks
from foundry_bench.envs.suites import Task, suite, task
from foundry_bench.errors import FoundryError


@pytest.mark.parametrize(
    ("which", "steps"),
    [
        # Nothing says "open the drawer" in this goal: it must be open for what goes in.
        (("libero_goal", 3), ["open the top drawer of the cabinet", "grasp the black bowl", "lift it",
                              "place it in the top drawer of the cabinet", "let go of it", "move back"]),
        # The microwave stands open from the start, and is to be closed last.
        (("libero_10", 9), ["grasp the yellow and white mug", "lift it", "place it in the microwave",
                            "let go of it", "close the microwave", "move back"]),
        (("libero_10", 8), ["grasp one moka pot", "lift it", "place it on the stove", "let go of it",
                            "grasp the other moka pot", "lift it", "place it on the stove", "let go of it",
                            "move back"]),
        (("libero_goal", 5), ["push the plate in front of the stove", "move back"]),
        (("libero_goal", 7), ["turn on the stove", "move back"]),
    ],
)  # fmt: skip
def test_plans(which: tuple[str, int], steps: list[str]) -> None:
    assert plan(task(*which)) == steps


@pytest.mark.parametrize("name", ["libero_90", "libero_10", "libero_goal_task", "libero_spatial_lan"])
def test_every_task_has_a_plan_and_paraphrases(name: str) -> None:
    for one in suite(name).tasks:
        steps = plan(one)
        assert len(steps) >= 2
        assert not any("_" in step or "region" in step for step in steps), steps
        assert len(paraphrases(one.instruction)) >= 8


def test_paraphrases_keep_objects_and_places() -> None:
    told = paraphrases("put the black bowl at the back on the plate")
    assert "move the black bowl at the back so that it is on the plate" in told
    assert all("the black bowl at the back" in text and "on the plate" in text for text in told)
    both = paraphrases("put both moka pots on the stove")
    assert "take both moka pots and place them on the stove" in both


@given(st.text(max_size=60))
def test_any_instruction_can_be_paraphrased(instruction: str) -> None:
    told = paraphrases(instruction)
    assert len(told) == len(set(told))
    assert instruction not in told


def test_texts_are_split_without_overlap_and_seeded() -> None:
    tasks = list(suite("libero_goal").tasks)
    texts = texts_of_tasks(tasks, 0)
    assert texts == texts_of_tasks(tasks, 0)
    assert {text.text for text in texts} != {text.text for text in texts_of_tasks(tasks, 1)}
    assert len({text.text for text in texts}) == len(texts)
    assert {text.split for text in texts if text.kind == "instruction"} == {"train"}
    assert {"val", "test"} <= {text.split for text in texts}


@pytest.mark.parametrize("content", ["", "(define", "nonsense", "(define (problem x) (:goal (And)))"])
def test_a_malformed_bddl_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.bddl"
    path.write_text(content)
    with pytest.raises(FoundryError, match=r"mine\.bddl"):
        plan(Task("mine", 0, "mine", "do it", path))
