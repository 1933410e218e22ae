"""Which phases run, which are skipped, and what is said; with fakes for the work itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foundry_bench import cli
from foundry_bench.configs.compose import compose
from foundry_bench.sweeps.state import only_one
from tests.sweeps.fakes import World, install

Capture = pytest.CaptureFixture[str]
ONCE = {"demos": 1, "train": 1, "eval": 1, "report": 1}


@pytest.fixture
def world(here: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return install(monkeypatch)


def run(*words: str) -> int:
    return cli.main(list(words))


def test_first_and_last_line_say_what_is_covered(world: World, capsys: Capture) -> None:
    assert run("train-and-eval", "suite=libero") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    said = "libero, scale quick: 8 of 40 tasks, 10 episodes each; all: scale=laptop"
    assert lines[0] == lines[-1] == said
    assert lines[-2] == "files: results/libero-quick"
    assert [line for line in lines if line[:3] in ("1/4", "2/4", "3/4", "4/4")]


def test_second_run_repeats_nothing(world: World, capsys: Capture) -> None:
    assert run("train-and-eval") == 0
    assert run("train-and-eval") == 0
    assert world.calls == ONCE
    assert capsys.readouterr().out.count("finished earlier") == 3


@pytest.mark.parametrize("phase", ["demos", "train", "eval", "report"])
def test_interrupted_run_goes_on_where_it_stopped(phase: str, world: World) -> None:
    world.fail[phase] = KeyboardInterrupt()
    assert run("train-and-eval") == 130
    assert run("train-and-eval") == 0
    assert world.calls == {**ONCE, phase: 2}


def test_harmless_keys_repeat_nothing_and_others_make_another_experiment(world: World, here: Path) -> None:
    assert run("train-and-eval") == 0
    assert run("train-and-eval", "eval.workers=1", "device=cpu") == 0
    assert world.calls == ONCE
    assert run("train-and-eval", "train.samples=64") == 0
    assert world.calls["train"] == 2
    assert len(list((here / "results").glob("libero-quick*"))) == 2


def test_demonstrations_are_shared_between_experiments(world: World, here: Path) -> None:
    assert run("train-and-eval") == 0
    assert run("train-and-eval", "train.samples=64") == 0
    assert len([path for path in (here / "results" / "data").iterdir() if path.is_dir()]) == 1


def test_named_experiment_with_other_settings_is_refused(world: World, capsys: Capture) -> None:
    assert run("train-and-eval", "experiment=mine") == 0
    assert run("train-and-eval", "experiment=mine", "demos.per_task=7") == 2
    assert f"made with demos.per_task={compose([]).demos.per_task}, not 7" in capsys.readouterr().err
    assert world.calls == ONCE


def test_removed_outputs_are_made_again(world: World, here: Path) -> None:
    assert run("train-and-eval") == 0
    (here / "results/libero-quick/train/checkpoint/model.safetensors").unlink()
    assert run("train-and-eval") == 0
    assert world.calls == {**ONCE, "train": 2}


def test_task_without_an_expert_is_named_skipped_and_shown(world: World, capsys: Capture) -> None:
    world.without_expert = {"libero_goal-07"}
    assert run("train-and-eval", "suite=libero_goal", "tasks=[7,8]") == 0
    out = capsys.readouterr().out
    assert 'skipped: libero_goal task 7, "turn on the stove": no skill for Turnon' in out
    assert out.strip().splitlines()[-1].endswith("1 of them skipped (no demonstrations)")
    assert world.judged == ["libero_goal-08"]
    assert [entry["task"] for entry in world.meta["skipped"]] == [7]


def test_no_task_with_an_expert_is_an_error(world: World, capsys: Capture) -> None:
    world.without_expert = {"libero_goal-07"}
    assert run("train-and-eval", "suite=libero_goal", "tasks=[7]") == 2
    assert "none of the selected tasks has demonstrations" in capsys.readouterr().err
    assert world.calls == {"demos": 1}


def test_episodes_that_ended_in_an_error_are_tried_again(world: World, capsys: Capture) -> None:
    world.errors = 2
    assert run("train-and-eval") == 0
    assert "2 episodes ended in an error" in capsys.readouterr().out
    world.errors = 0
    assert run("train-and-eval") == 0
    assert run("train-and-eval") == 0
    assert world.calls == {"demos": 1, "train": 1, "eval": 2, "report": 2}


def test_report_is_told_where_its_numbers_come_from(world: World) -> None:
    assert run("train-and-eval", "suite=libero_object") == 0
    assert world.meta["demonstrations"]["source"] == "scripted"
    assert world.meta["demonstrations"]["per_task"] == compose([]).demos.per_task
    assert world.meta["policy"]["checkpoint"].endswith("train/checkpoint")
    assert set(world.meta["seconds"]) == {"demos", "train", "eval"}
    assert len(world.meta["protocol"]["hash"]) == 12
    json.dumps(world.meta)


def test_budget_grows_with_the_number_of_tasks(world: World, here: Path) -> None:
    per_task = compose([]).train.samples_per_task
    assert run("train", "suite=libero_object", "tasks=[0,1,2]") == 0
    (weights,) = here.glob("results/*/train/checkpoint/model.safetensors")
    assert weights.read_text() == f"{3 * per_task} samples"


def test_commands_share_an_experiment(world: World, here: Path) -> None:
    for command in ("demos", "train", "eval", "report"):
        assert run(command, "suite=libero_object") == 0
    assert run("train-and-eval", "suite=libero_object") == 0
    assert world.calls == ONCE
    assert run("report", "experiment=libero_object-quick") == 0


def test_checkpoint_of_ours_brings_its_demonstrations_along(world: World) -> None:
    assert run("train", "suite=libero_object", "experiment=mine") == 0
    assert run("eval", "suite=libero_goal", "checkpoint=results/mine/train/checkpoint") == 0
    assert world.meta["demonstrations"]["per_task"] == compose([]).demos.per_task
    assert world.judged == ["libero_goal-00", "libero_goal-01"]
    assert run("eval", "suite=libero_goal", "checkpoint=random") == 0
    assert world.meta["demonstrations"]["source"] == "unknown"


def test_given_demonstrations_are_used_as_they_are(world: World, here: Path, capsys: Capture) -> None:
    assert run("train", "suite=libero_object", "demos.root=mine") == 0
    assert world.calls == {"train": 1}
    assert "skipped: libero_object task 1" in capsys.readouterr().out


def test_two_at_once_in_one_folder_are_refused(world: World, here: Path, capsys: Capture) -> None:
    with only_one(here / "results/libero-quick/.lock"):
        assert run("train-and-eval") == 2
    assert "another foundry-bench is at work there" in capsys.readouterr().err


def test_values_that_only_their_owner_can_judge_are_refused_before_any_work(
    world: World, here: Path, capsys: Capture
) -> None:
    assert run("train-and-eval", "model.heads=7") == 2
    assert "model.width=128" in capsys.readouterr().err
    assert not (here / "results").exists()


def test_what_was_collected_is_shown(world: World) -> None:
    assert run("demos", "suite=libero_object", "demos.per_task=3", "tasks=[0,1]") == 0
    assert world.shown == [3, 3]
