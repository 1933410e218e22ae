"""Made-up episode records for tests of tables and plots."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundry_bench.evaluation import EpisodeRecord

BASE = EpisodeRecord(
    run="demo",
    policy="vla",
    checkpoint_hash="0123456789abcdef",
    protocol="foundry",
    protocol_hash="aaaabbbbcccc",
    suite="libero_spatial",
    task_index=0,
    instruction="pick up the black bowl",
    init_state=0,
    seed=7,
    outcome="success",
    steps=90,
    chunks=23,
    simulated_seconds=4.5,
    wall_seconds=1.25,
    versions={"mujoco": "3.3.2", "libero": "0.1.1"},
)


def episodes(suite: str, task: int, outcomes: str, **changes: Any) -> list[EpisodeRecord]:
    """One record for each letter: s(uccess), f(ailure), e(rror)."""
    names = {"s": "success", "f": "failure", "e": "error"}
    return [
        replace(
            BASE,
            suite=suite,
            task_index=task,
            instruction=f"do {suite} task {task}",
            init_state=number,
            outcome=names[letter],
            error="worker killed by signal 9" if letter == "e" else "",
            **changes,
        )
        for number, letter in enumerate(outcomes)
    ]


def suite_of_tasks(suite: str, rates: list[float], count: int = 10) -> list[EpisodeRecord]:
    generator = random.Random(suite)
    return [
        record
        for task, rate in enumerate(rates)
        for record in episodes(
            suite, task, "".join("s" if generator.random() < rate else "f" for _ in range(count))
        )
    ]


def write(path: Path, records: list[EpisodeRecord]) -> Path:
    path.write_text("".join(record.to_line() + "\n" for record in records))
    return path


META: dict[str, Any] = {
    "experiment": "libero_goal-quick",
    "suite": "libero",
    "scale": "quick",
    "policy": {"name": "vla", "checkpoint": "train/checkpoint", "hash": "0123456789abcdef"},
    "demonstrations": {
        "source": "scripted",
        "per_task": 20,
        "tasks": [
            {"suite": "libero_spatial", "task": 0, "instruction": "do libero_spatial task 0", "kept": 20},
            {"suite": "libero_spatial", "task": 1, "instruction": "do libero_spatial task 1", "kept": 20},
        ],
    },
    "skipped": [
        {
            "suite": "libero_goal",
            "task": 3,
            "instruction": "open the drawer & look",
            "reason": "no skill | opens",
        }
    ],
    "protocol": {"name": "foundry", "hash": "aaaabbbbcccc", "replan": 4},
    "seconds": {"demos": 61.5, "train": 420.2, "eval": 99.0},
}
