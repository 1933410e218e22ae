"""Which attempts at demonstrations were made, and which are worth making next."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError


def episode_key(task: Task, attempt: int) -> str:
    """The name of an attempt's demonstration; sorts by suite, task and attempt."""
    return _key(task.key, attempt)


def _key(task_key: str, attempt: int) -> str:
    return f"{task_key}-{attempt:06d}"


class AttemptLog:
    """What became of every attempt, one JSON line each, so that failures are not repeated after a restart.

    Args:
        path: the log; a torn last line is ignored.
        settings: what the attempts depend on; a log of other settings is refused.

    Raises:
        FoundryError: the log belongs to other settings or cannot be read.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._entries: dict[str, dict[int, dict[str, Any]]] = {}
        settings = json.loads(json.dumps(settings))
        known = False
        for entry in self._read():
            if "settings" in entry:
                known = True
                # More demonstrations per task only adds attempts; everything else changes them.
                changed = {k for k, v in settings.items() if entry["settings"].get(k) != v} - {
                    "per_task",
                    "max_attempts_factor",
                }
                if changed:
                    key = min(changed)
                    raise FoundryError(
                        f"{path}: made with demos.{key}={entry['settings'].get(key)}, "
                        f"asked for {settings[key]}; "
                        "give another folder or delete this one"
                    )
            else:
                self._entries.setdefault(entry["task"], {})[entry["number"]] = entry
        if not known:
            self._append({"settings": settings})

    def of(self, task_key: str, stored: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Finished attempts of a task by number; a success counts only while its episode is stored."""
        keys = set(stored)
        entries = self._entries.get(task_key, {})
        return {n: e for n, e in entries.items() if not e.get("success") or _key(task_key, n) in keys}

    def add(self, task_key: str, number: int, outcome: dict[str, Any]) -> None:
        """Append the outcome of an attempt."""
        self._append({"task": task_key, "number": number, **outcome})

    def reason(self, task_key: str, reason: str) -> None:
        """Append why a task has no expert (empty if it has one)."""
        self._append({"task": task_key, "number": -1, "plan": reason})

    def _read(self) -> list[dict[str, Any]]:
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        entries = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                entries.append(dict(json.loads(line)))
            except ValueError:
                if number == len(lines):
                    break  # torn by a kill; that attempt is made again
                raise FoundryError(
                    f"{self._path}:{number}: not a line of JSON; delete the file to start over"
                ) from None
        if lines and lines[-1]:
            # The torn line must not be continued by the next entry.
            with self._path.open("a", encoding="utf-8") as handle:
                handle.truncate(len("\n".join(lines[:-1]).encode()) + (1 if len(lines) > 1 else 0))
        return entries

    def _append(self, entry: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")
            handle.flush()
            os.fsync(handle.fileno())


@dataclass
class TaskProgress:
    """Where the collection of one task stands.

    Attributes:
        task: the task.
        wanted: how many demonstrations are wanted.
        limit: how many attempts may be made for them.
        outcomes: what became of each attempt, by its number.
        skipped: why the task has no expert, if that is known.
        in_flight: attempts under way.
        again: attempts whose worker died.
    """

    task: Task
    wanted: int
    limit: int
    outcomes: dict[int, dict[str, Any]]
    skipped: str | None = field(init=False, default=None)
    in_flight: set[int] = field(init=False, default_factory=set)
    again: deque[int] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        plan = self.outcomes.pop(-1, None)
        self.planned = plan is not None
        if plan is not None and plan["plan"]:
            self.skipped = plan["plan"]

    @property
    def successes(self) -> list[int]:
        return sorted(number for number, outcome in self.outcomes.items() if outcome["success"])

    @property
    def kept(self) -> list[int]:
        return self.successes[: self.wanted]

    @property
    def finished(self) -> bool:
        if self.skipped is not None:
            return True
        return self.planned and not self.in_flight and self.next_attempt() is None

    def next_attempt(self) -> int | None:
        """The next attempt worth making now: none while those under way may be enough."""
        if self.skipped is not None or not self.planned:
            return None
        if self.again:
            return self.again[0]
        if len(self.successes) + len(self.in_flight) >= self.wanted:
            return None
        number = next(n for n in range(10**9) if n not in self.outcomes and n not in self.in_flight)
        return number if number < self.limit else None

    def take(self) -> int:
        """Take the next attempt."""
        number = self.next_attempt()
        if number is None:
            raise ValueError(f"{self.task.key}: there is no attempt to make")
        if self.again:
            self.again.popleft()
        self.in_flight.add(number)
        return number

    def report(self) -> dict[str, Any]:
        kept = self.kept
        attempts = len([n for n in self.outcomes if not kept or n <= kept[-1] or len(kept) < self.wanted])
        lengths = [self.outcomes[number]["steps"] for number in kept]
        return {
            "suite": self.task.suite,
            "task": self.task.index,
            "instruction": self.task.instruction,
            "kept": len(kept),
            "attempts": attempts,
            "yield_": len(kept) / attempts if attempts else 0.0,
            "mean_length": float(np.mean(lengths)) if lengths else 0.0,
            "seconds": round(sum(outcome["seconds"] for outcome in self.outcomes.values()), 3),
            "skipped": self.skipped,
        }
