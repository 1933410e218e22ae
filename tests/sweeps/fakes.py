"""Stand-ins for simulator, training and plots, so that the pipeline's own work can be tested in seconds."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from foundry_bench.policies.base import RandomPolicy


@dataclass
class World:
    """What was called, and what shall go wrong.

    Attributes:
        calls: how often each phase did its work.
        fail: phase -> exception it raises, once.
        without_expert: keys of tasks that no expert solves.
        errors: how many episodes of the next evaluation end in an error.
        judged: keys of the tasks of the last evaluation.
        meta: what the last report was told.
        shown: how many demonstrations of each task the overview was told of.
    """

    calls: Counter[str] = field(default_factory=Counter)
    fail: dict[str, BaseException] = field(default_factory=dict)
    without_expert: set[str] = field(default_factory=set)
    errors: int = 0
    judged: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    shown: list[int] = field(default_factory=list)

    def begin(self, phase: str) -> None:
        self.calls[phase] += 1
        if phase in self.fail:
            raise self.fail.pop(phase)

    def collect(self, tasks: Any, config: Any, out: Path, workers: int, progress: bool = True) -> Any:
        self.begin("demos")
        (out / "meta").mkdir(parents=True, exist_ok=True)
        (out / "meta" / "info.json").write_text("{}")
        return SimpleNamespace(root=out, per_task=[self._entry(task, config) for task in tasks])

    def _entry(self, task: Any, config: Any) -> dict[str, Any]:
        missing = task.key in self.without_expert
        return {
            "suite": task.suite,
            "task": task.index,
            "instruction": task.instruction,
            "kept": 0 if missing else config.per_task,
            "attempts": 0 if missing else config.per_task + 1,
            "skipped": "no skill for Turnon" if missing else None,
        }

    def write_overview(self, dataset: Any, report: Any, folder: Path) -> Path:
        self.shown = [entry["kept"] for entry in report]
        return folder / "demonstrations.csv"

    def train(
        self, config: Any, model: Any, dataset: Any, out: Path, device: str = "auto", beside: Any = None
    ) -> Path:
        self.begin("train")
        assert (beside.captions, beside.text) == (0, 0)  # nothing, where nothing is asked for
        checkpoint = out / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").write_text(f"{config.samples} samples")
        return checkpoint

    def evaluate(self, policy: Any, tasks: Any, protocol: Any, out: Path, *, episodes: int, **_: Any) -> Any:
        self.begin("eval")
        self.judged = [task.key for task in tasks]
        outcomes = ["error"] * self.errors + ["success"] * (len(tasks) * episodes - self.errors)
        out.mkdir(parents=True, exist_ok=True)
        (out / "records.jsonl").write_text("".join(json.dumps({"outcome": o}) + "\n" for o in outcomes))
        return [SimpleNamespace(outcome=outcome) for outcome in outcomes]

    def write_report(self, records: Any, out: Path, meta: dict[str, Any]) -> Path:
        self.begin("report")
        self.meta = meta
        (out / "table.md").write_text("| task |\n")
        return out / "table.md"


class FakeDataset:
    """Two demonstrations of the first task of libero_object."""

    fingerprint = "0123456789abcdef"

    def __init__(self, root: Path, cameras: Any = None, cache_bytes: int | None = None) -> None:
        self.episodes = pd.DataFrame({"suite": ["libero_object"] * 2, "task_index": [0, 0]})

    def __len__(self) -> int:
        return 100


def install(monkeypatch: pytest.MonkeyPatch) -> World:
    """Put the fakes where the pipeline imports from."""
    # Before the fakes: they stand in for parts of these packages.
    import foundry_bench.data.demos
    import foundry_bench.evaluation.expert

    world = World()
    policy = RandomPolicy()

    def put(name: str, **contents: Any) -> None:
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    put("foundry_bench.data.lerobot", RobotDataset=FakeDataset)
    put("foundry_bench.data.overview", write_overview=world.write_overview)
    put("foundry_bench.training.loop", train=world.train)
    put("foundry_bench.evaluation.runner", evaluate=world.evaluate)
    put("foundry_bench.analysis.report", write_report=world.write_report, print_table=nothing)
    monkeypatch.setattr(foundry_bench.data.demos, "collect", world.collect)
    monkeypatch.setattr(foundry_bench.evaluation.expert, "load_policy", lambda source, device: policy)
    monkeypatch.setattr("foundry_bench.doctor.require_rendering", nothing)
    monkeypatch.setattr("foundry_bench.runtime.use_torch_threads", nothing)
    return world
