"""Success rates per task, per suite and in total: the numbers behind every table and plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from foundry_bench.analysis.intervals import wilson
from foundry_bench.errors import FoundryError

CONFIDENCE = 0.95
SKIPPED = "skipped (no demonstrations)"
_SUITE_ORDER = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        level: what it sums up.
        suite: empty for the total.
        task: index in the suite; None unless ``level`` is ``task``.
        instruction: of the task; for suites and total, over how many tasks the mean is taken.
        episodes: successes and failures. Errors are not episodes: the policy was not judged.
        successes, errors: counts.
        rate: of a task, successes / episodes; of a suite or the total, the mean over its tasks, each with
            the same weight; None without episodes.
        low, high: 95 % Wilson interval of the pooled counts; None without episodes.
        demonstrations: how many the policy was trained on for this task; None if not known.
        skipped: why the task was not attempted, else empty.
        protocols: ``name@hash`` of the protocols its episodes ran under.
    """

    level: Literal["task", "suite", "total"]
    suite: str
    task: int | None
    instruction: str
    episodes: int
    successes: int
    errors: int
    rate: float | None
    low: float | None
    high: float | None
    demonstrations: int | None = None
    skipped: str = ""
    protocols: tuple[str, ...] = ()

    @property
    def pooled(self) -> float | None:
        """Successes over episodes, whatever the tasks; None without episodes."""
        return self.successes / self.episodes if self.episodes else None


@dataclass(frozen=True)
class Report:
    """All rows, tasks of a suite before the suite, the total last, and what they were measured on."""

    rows: tuple[Row, ...]
    meta: Mapping[str, Any]
    policy: str
    checkpoint_hash: str
    protocols: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]
    wall_seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def tasks(self) -> tuple[Row, ...]:
        """The rows of tasks."""
        return tuple(row for row in self.rows if row.level == "task")

    @property
    def suites(self) -> tuple[Row, ...]:
        """The rows of suites."""
        return tuple(row for row in self.rows if row.level == "suite")

    @property
    def total(self) -> Row:
        """The row of the total."""
        return self.rows[-1]

    @property
    def mixed(self) -> bool:
        """Whether episodes of different protocols were put together."""
        return len(self.protocols) > 1


def build_report(
    frame: pd.DataFrame, meta: Mapping[str, Any] | None = None, allow_mixed: bool = False
) -> Report:
    """Count successes.

    Args:
        frame: from :func:`foundry_bench.analysis.load.load_records`.
        meta: what records do not hold; see :func:`foundry_bench.analysis.report.write_report`.
        allow_mixed: put episodes of different protocols together, and say so.

    Raises:
        FoundryError: several protocols (unless allowed) or several policies in one table.
    """
    meta = meta or {}
    protocols = tuple(sorted((frame["protocol"] + "@" + frame["protocol_hash"]).unique()))
    if len(protocols) > 1 and not allow_mixed:
        raise FoundryError(
            f"records of different protocols do not go into one table: {', '.join(protocols)}; "
            "judge with one protocol, or allow the mixture and it is marked"
        )
    policies = (frame["policy"] + "@" + frame["checkpoint_hash"]).unique()
    if len(policies) > 1:
        raise FoundryError(
            f"records of different policies do not go into one table: {', '.join(sorted(policies))}"
        )
    by_task = dict(iter(frame.groupby(["suite", "task_index"])))
    rows: list[Row] = []
    known = _known_tasks(by_task, meta)
    for suite in sorted({key[0] for key in known}, key=_suite_position):
        tasks = [_task_row(key, by_task.get(key), known[key]) for key in sorted(known) if key[0] == suite]
        rows += [*tasks, _sum("suite", suite, tasks)]
    rows.append(_sum("total", "", [row for row in rows if row.level == "task"]))
    return Report(
        rows=tuple(rows),
        meta=meta,
        policy=str(frame["policy"].iloc[0]),
        checkpoint_hash=str(frame["checkpoint_hash"].iloc[0]),
        protocols=protocols,
        versions=_versions(frame["versions"]),
        wall_seconds=float(frame["wall_seconds"].sum()),
        notes=_notes(rows),
    )


@dataclass(frozen=True)
class _Known:
    instruction: str
    demonstrations: int | None = None
    skipped: str = ""


def _known_tasks(
    by_task: Mapping[Any, pd.DataFrame], meta: Mapping[str, Any]
) -> dict[tuple[str, int], _Known]:
    """Every task that was judged, trained on, or skipped."""
    known: dict[tuple[str, int], _Known] = {}
    for entry in meta.get("skipped") or []:
        key = (str(entry["suite"]), int(entry["task"]))
        known[key] = _Known(str(entry["instruction"]), skipped=str(entry["reason"]))
    for entry in (meta.get("demonstrations") or {}).get("tasks") or []:
        key = (str(entry["suite"]), int(entry["task"]))
        known[key] = _Known(str(entry["instruction"]), demonstrations=int(entry["kept"]))
    for (suite, task), group in by_task.items():
        key = (str(suite), int(task))
        if key not in known or known[key].skipped:  # what has episodes was not skipped
            known[key] = _Known(str(group["instruction"].iloc[0]))
    return known


def _task_row(key: tuple[str, int], group: pd.DataFrame | None, known: _Known) -> Row:
    counts = {"success": 0, "failure": 0, "error": 0}
    protocols: tuple[str, ...] = ()
    if group is not None:
        counts.update(group["outcome"].value_counts().to_dict())
        protocols = tuple(sorted((group["protocol"] + "@" + group["protocol_hash"]).unique()))
    successes, episodes = counts["success"], counts["success"] + counts["failure"]
    low, high = wilson(successes, episodes, CONFIDENCE) if episodes else (None, None)
    return Row(
        "task",
        key[0],
        key[1],
        known.instruction,
        episodes,
        successes,
        counts["error"],
        successes / episodes if episodes else None,
        low,
        high,
        known.demonstrations,
        known.skipped,
        protocols,
    )


def _sum(level: Literal["suite", "total"], suite: str, tasks: Sequence[Row]) -> Row:
    judged = [row for row in tasks if row.rate is not None]
    episodes, successes = sum(row.episodes for row in tasks), sum(row.successes for row in tasks)
    low, high = wilson(successes, episodes, CONFIDENCE) if episodes else (None, None)
    over = f"mean of {len(judged)} task{'s' if len(judged) != 1 else ''}"
    skipped = sum(bool(row.skipped) for row in tasks)
    return Row(
        level,
        suite,
        None,
        f"{over}, {skipped} skipped" if skipped else over,
        episodes,
        successes,
        sum(row.errors for row in tasks),
        sum(row.rate for row in judged if row.rate is not None) / len(judged) if judged else None,
        low,
        high,
        protocols=tuple(sorted({name for row in tasks for name in row.protocols})),
    )


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What a reader must know about how the rows were summed up."""
    notes = []
    total = rows[-1]
    unequal = len({row.episodes for row in rows if row.level == "task" and row.episodes}) > 1
    if unequal and total.pooled is not None:
        notes.append(
            f"Tasks have unequal numbers of episodes; pooled over all, {100 * total.pooled:.1f} % succeed."
        )
    if total.errors:
        notes.append(f"{total.errors} episodes ended in errors and are counted neither way.")
    skipped = ", ".join(f"{row.suite} {row.task}" for row in rows if row.skipped)
    if skipped:
        notes.append(f"Skipped for want of demonstrations: {skipped}.")
    missing = [row for row in rows if row.level == "task" and not row.episodes and not row.skipped]
    if missing:
        names = ", ".join(f"{row.suite} {row.task}" for row in missing)
        notes.append(f"Without any finished episode: {names}.")
    return tuple(notes)


def _suite_position(suite: str) -> tuple[int, str]:
    """LIBERO's order of reporting, then by name."""
    return (_SUITE_ORDER.index(suite) if suite in _SUITE_ORDER else len(_SUITE_ORDER), suite)


def _versions(column: pd.Series) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for versions in {tuple(sorted(entry.items())) for entry in column}:
        for name, version in versions:
            found.setdefault(name, set()).add(str(version))
    return {name: tuple(sorted(found[name])) for name in sorted(found)}
