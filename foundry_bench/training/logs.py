"""What training writes while it runs: a JSON line and TensorBoard scalars now and then, a progress bar."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingLog:
    """``train.jsonl`` and ``tensorboard/`` in a folder; a run continues both at its step, or begins them."""

    def __init__(self, out: Path, step: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "train.jsonl"
        _forget_after(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # a slow import that only training needs

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, event: str, step: int, samples: int, values: dict[str, Any]) -> None:
        """One line, flushed; numbers also go to TensorBoard as ``event/name`` over steps."""
        self._file.write(json.dumps({"event": event, "step": step, "samples": samples, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{event}/{name}", value, step)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()


def _forget_after(path: Path, step: int) -> None:
    """Drop what a killed run logged after the state it resumes from (0: all), and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if step and json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    rewritten = path.with_name(path.name + ".new")
    rewritten.write_text("".join(kept), encoding="utf-8")
    rewritten.replace(path)


class TrainingBar:
    """Samples done, loss, samples/s and time left; one plain line per tenth where there is no terminal."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.console = Console(stderr=True)
        self._live = shown and self.console.is_terminal
        self._plain = shown and not self._live
        self._total, self._first, self._start = total, done, time.perf_counter()
        self._tenth = 10 * done // total
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("samples, loss {task.fields[loss]:.4f}, {task.fields[rate]:.0f} samples/s, left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._live,
        )
        self._task = self._progress.add_task(
            "training", total=total, completed=done, loss=float("nan"), rate=0.0
        )

    def update(self, done: int, loss: float) -> None:
        """Show where training stands."""
        seconds = time.perf_counter() - self._start
        rate = (done - self._first) / max(seconds, 1e-9)
        self._progress.update(self._task, completed=done, loss=loss, rate=rate)
        if self._plain and 10 * done // self._total > self._tenth:
            self._tenth = 10 * done // self._total
            left = (self._total - done) / max(rate, 1e-9)
            self.console.print(
                f"training {done}/{self._total} samples, loss {loss:.4f}, "
                f"{rate:.0f} samples/s, {left:.0f} s left"
            )

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._live or self._plain:
            self.console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> TrainingBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
