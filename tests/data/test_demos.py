from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foundry_bench.data.captions.text import paraphrases, training_paraphrases
from foundry_bench.data.demonstrate import instruction
from foundry_bench.data.demos import CollectReport, DemosConfig, collect
from foundry_bench.data.lerobot import RobotDataset
from foundry_bench.envs import user_suites
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import Task, task
from foundry_bench.errors import FoundryError

_TIDY = Path(__file__).parents[2] / "examples" / "suites" / "tidy" / "put_the_butter_on_the_plate.bddl"
_CONFIG = DemosConfig(per_task=2, image_size=32, mistakes=0.0)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Task]]:
    """A task, and one whose goal no skill reaches: the butter is to hover."""
    folder = tmp_path_factory.mktemp("suites") / "hover"
    folder.mkdir()
    goal = _TIDY.read_text().replace("(On butter_1 plate_1))\n", "(Up butter_1))\n")
    assert "(Up butter_1)" in goal
    (folder / "let_the_butter_hover.bddl").write_text(goal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(user_suites.VARIABLE, json.dumps({"hover": str(folder)}))
        yield [task("libero_object", 2), task("hover", 0)]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory, tasks: list[Task]) -> CollectReport:
    """Two demonstrations of one task, and a task that has no expert."""
    return collect(tasks, _CONFIG, tmp_path_factory.mktemp("demos") / "set", workers=2, progress=False)


def test_the_report_says_what_was_kept_and_what_was_skipped(collected: CollectReport) -> None:
    done, skipped = collected.per_task
    assert (done["kept"], done["skipped"]) == (2, None)
    assert done["attempts"] >= 2
    assert done["mean_length"] > 20
    assert skipped["kept"] == 0
    assert "'up'" in skipped["skipped"]


def test_a_demonstration_is_made_again_from_its_seed_and_actions(collected: CollectReport) -> None:
    episode = RobotDataset(collected.root).episode(0)
    simulation = Simulation(task(episode.suite, episode.task_index), (), 32, "native", "fast")
    state, fixtures = simulation.problem.sample_state(episode.seed)
    np.testing.assert_array_equal(state, episode.init_state)
    assert fixtures == episode.fixtures
    simulation.begin(state, fixtures)
    simulation.wait(episode.info["wait_steps"])
    for step, action in enumerate(episode.action):
        np.testing.assert_allclose(simulation.proprioception()[6:], episode.state[step, 6:], atol=2e-3)
        assert not simulation.success()
        simulation.step(action.astype(np.float64), observe=False)
    assert simulation.success()


def test_labels_are_the_clean_actions(collected: CollectReport) -> None:
    episode = RobotDataset(collected.root).episode(1)
    difference = np.abs(episode.action - episode.label)
    assert difference[:, :6].max() > 0.05
    assert difference[:, 6].max() == 0
    assert set(np.unique(episode.label[:, 6])) <= {-1.0, 1.0}


def test_a_finished_collection_is_not_made_again(
    collected: CollectReport, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_workers(*_: object) -> None:
        pytest.fail("workers were started")

    monkeypatch.setattr("foundry_bench.data.demos.WorkerPool", no_workers)
    assert collect(tasks, _CONFIG, collected.root, workers=1, progress=False) == collected


def test_other_settings_are_refused_by_name(collected: CollectReport) -> None:
    other = DemosConfig(per_task=2, image_size=32, mistakes=0.0, noise=0.1)
    with pytest.raises(FoundryError, match=r"demos\.noise=0\.25"):
        collect([task("libero_object", 2)], other, collected.root, workers=1, progress=False)


@pytest.mark.slow
def test_a_paraphrase_changes_the_words_and_nothing_else(collected: CollectReport, tmp_path: Path) -> None:
    told = DemosConfig(per_task=1, image_size=32, mistakes=0.0, paraphrases=1.0)
    collect([task("libero_object", 2)], told, tmp_path / "told", workers=1, progress=False)
    plain, reworded = RobotDataset(collected.root).episode(0), RobotDataset(tmp_path / "told").episode(0)
    assert reworded.instruction in paraphrases(plain.instruction)
    assert (reworded.suite, reworded.task_index) == (plain.suite, plain.task_index)
    assert reworded.images == plain.images
    np.testing.assert_array_equal(reworded.action, plain.action)


def test_the_share_of_paraphrases_is_what_was_asked_for() -> None:
    what = task("libero_goal", 1)
    config = DemosConfig(paraphrases=0.5)
    told = [instruction(what, config, number) for number in range(400)]
    assert told == [instruction(what, config, number) for number in range(400)]
    reworded = [text for text in told if text != what.instruction]
    assert 150 < len(reworded) < 250
    # What the text corpus keeps for its other splits is left for evaluations.
    assert set(reworded) == set(training_paraphrases(what.instruction, config.seed))
    assert {instruction(what, DemosConfig(), number) for number in range(20)} == {what.instruction}


@pytest.mark.slow
def test_more_demonstrations_and_other_workers_keep_the_first_ones(
    collected: CollectReport, tmp_path: Path
) -> None:
    more = DemosConfig(per_task=3, image_size=32, mistakes=0.0)
    collect([task("libero_object", 2)], more, tmp_path / "more", workers=1, progress=False)
    first, second = RobotDataset(collected.root), RobotDataset(tmp_path / "more")
    for index in range(2):
        one, other = first.episode(index), second.episode(index)
        assert one.images == other.images
        np.testing.assert_array_equal(one.action, other.action)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("per_task", 0), ("image_size", 0), ("noise", -1.0), ("mistakes", 1.5), ("paraphrases", -0.1),
        ("max_attempts_factor", 0),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(FoundryError, match=rf"demos\.{key}"):
        DemosConfig(**{key: value})  # type: ignore[arg-type]
