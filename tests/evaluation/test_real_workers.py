"""A seeded policy in the real simulator: the same with any number of workers, in any order, resumed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundry_bench.envs.suites import Task, suite
from foundry_bench.evaluation.protocol import Protocol
from foundry_bench.evaluation.runner import evaluate
from foundry_bench.policies.base import PolicySpec, RandomPolicy

_PROTOCOL = Protocol(
    image_size=48, replan=4, max_steps={"libero_object": 24, "libero_goal": 24, "robosuite": 24}
)
_FIELDS = (
    "suite",
    "task_index",
    "init_state",
    "seed",
    "outcome",
    "steps",
    "chunks",
    "error",
    "protocol_hash",
)


class Watchful(RandomPolicy):
    """Acts at random and remembers what it saw, by noise seed, which names episode and chunk."""

    def __init__(self) -> None:
        super().__init__(PolicySpec(("agentview", "wrist"), image_size=48, horizon=8))
        self.seen: dict[int, str] = {}

    def adapted(self, state_dim: int, action_dim: int, action_convention: str) -> Watchful:
        return self

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        for row, seed in enumerate(noise_seeds):
            parts = (observations[name][row].tobytes() for name in ("agentview", "wrist", "state"))
            self.seen[seed] = hashlib.sha256(b"".join(parts)).hexdigest()
        return super().predict(observations, noise_seeds)


def judged(out: Path, tasks: Sequence[Task], **settings: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """What the records say of each episode, in order of its name, and everything the policy saw."""
    policy = Watchful()
    records = evaluate(policy, list(tasks), _PROTOCOL, out, episodes=3, progress=False, run="x", **settings)
    return sorted(
        ({name: getattr(record, name) for name in _FIELDS} for record in records), key=str
    ), policy.seen


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_records_do_not_depend_on_workers_order_or_interruptions(tmp_path: Path) -> None:
    tasks = [suite("libero_object").tasks[0], suite("libero_goal").tasks[9], suite("robosuite").tasks[2]]
    alone, seen = judged(tmp_path / "alone", tasks, workers=1, slots_per_worker=1)
    assert len(alone) == 9
    assert {episode["outcome"] for episode in alone} <= {"success", "failure"}
    assert len(set(seen.values())) == len(seen) == sum(episode["chunks"] for episode in alone)
    shuffled = list(tasks)
    random.Random(1).shuffle(shuffled)
    assert shuffled != tasks
    for name, order, workers in (("two", tasks, 2), ("four", tasks, 4), ("shuffled", shuffled, 2)):
        assert judged(tmp_path / name, order, workers=workers) == (alone, seen)
    lines = (tmp_path / "alone" / "records.jsonl").read_text().splitlines(keepends=True)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "records.jsonl").write_text("".join(lines[:4]))
    resumed, again = judged(torn, tasks, workers=2)
    assert resumed == alone
    assert again.items() < seen.items()


@pytest.mark.slow
def test_the_expert_acts_in_the_workers(tmp_path: Path) -> None:
    protocol = Protocol(image_size=48, replan=4)
    records = evaluate(
        "scripted",
        [suite("libero_object").tasks[2]],
        protocol,
        tmp_path,
        episodes=2,
        videos=1,
        progress=False,
    )
    assert [record.outcome for record in records] == ["success", "success"]
    assert {record.policy for record in records} == {"scripted"}
    assert all(40 < record.steps < 280 for record in records)
    assert records[0].video
    assert (tmp_path / records[0].video).stat().st_size > 1000
