"""The progress bar of an evaluation."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foundry_bench.evaluation.records import EpisodeRecord


class EvaluationProgress:
    """Episodes done, successes so far, errors if any, time left; on stderr, silent unless ``show``."""

    def __init__(self, total: int, *, show: bool) -> None:
        self._progress = Progress(
            TextColumn("evaluating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        self._task = self._progress.add_task("episodes", total=total, score="")
        self._counts = {"success": 0, "failure": 0, "error": 0}

    def __enter__(self) -> EvaluationProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, record: EpisodeRecord) -> None:
        """Count an episode that ended, now or in an earlier run."""
        self._counts[record.outcome] += 1
        judged = self._counts["success"] + self._counts["failure"]
        score = f"{self._counts['success']}/{judged} solved"
        if self._counts["error"]:
            score += f", {self._counts['error']} errors"
        self._progress.update(self._task, advance=1, score=score)
