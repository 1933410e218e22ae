"""Means of what training logs, since the last reading."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

PHASES = ("forward", "backward", "optimiser")


class Update(NamedTuple):
    """What came of one step: loss and gradient norm (before clipping), and seconds by phase where timed."""

    loss: float
    gradient_norm: float
    seconds: dict[str, float] | None = None


class Unlogged(NamedTuple):
    """Of a step that no reading has taken in yet: what a resumed run must know of it."""

    loss: float
    gradient_norm: float
    source: str | None = None


class Meter:
    """Takes in steps, gives their means.

    Args:
        batch_size: samples of a step.
        tokens_per_sample: where it is known.
        flops_per_step: of one process, where they were counted.
        peak: operations per second that a matrix product reaches.
        unlogged: steps that a run which is resumed had not logged yet; means are over them too, speeds not.
    """

    def __init__(
        self,
        batch_size: int,
        tokens_per_sample: float | None = None,
        flops_per_step: float | None = None,
        peak: float | None = None,
        unlogged: Iterable[Unlogged] = (),
    ) -> None:
        self._size, self._tokens = batch_size, tokens_per_sample
        self._flops, self._peak = flops_per_step, peak
        self._reset()
        self._steps.extend(unlogged)

    def _reset(self) -> None:
        self._steps: list[Unlogged] = []
        self._seconds: list[dict[str, float] | None] = []  # of the steps of this process
        self._waited = 0.0
        self._start = time.perf_counter()

    def add(self, update: Update, waited: float, source: str | None = None) -> None:
        """Take in one step; ``waited`` is the time it spent waiting for its batch, in seconds."""
        self._steps.append(Unlogged(update.loss, update.gradient_norm, source))
        self._seconds.append(update.seconds)
        self._waited += waited

    @property
    def unlogged(self) -> list[Unlogged]:
        """The steps since the last reading."""
        return self._steps

    @property
    def loss(self) -> float:
        """Mean loss since the last reading (at most 50 steps back)."""
        recent = [step.loss for step in self._steps[-50:]]
        return sum(recent) / len(recent) if recent else float("nan")

    def read(self, rate: float) -> dict[str, float]:
        """The means, and start anew; ``*_ms`` are of a step, ``data_wait_s`` of all."""
        seconds, count = time.perf_counter() - self._start, len(self._seconds)
        steps = len(self._steps)
        samples = count * self._size / seconds
        values = {
            "loss": sum(step.loss for step in self._steps) / steps,
            "gradient_norm": sum(step.gradient_norm for step in self._steps) / steps,
            "learning_rate": rate,
            "samples_per_s": round(samples, 1),
            "data_wait_s": round(self._waited, 3),
        }
        sources: dict[str, list[float]] = defaultdict(list)
        for step in self._steps:
            if step.source is not None:
                sources[step.source].append(step.loss)
        for name, losses in sorted(sources.items()):
            values[f"loss/{name}"] = sum(losses) / len(losses)
        if self._tokens is not None:
            values["tokens_per_s"] = round(samples * self._tokens, 1)
        if self._flops and self._peak:
            values["mfu"] = round(self._flops * count / seconds / self._peak, 4)
        timed = [each for each in self._seconds if each]
        if timed:
            for phase in PHASES:
                values[f"{phase}_ms"] = round(1e3 * sum(each[phase] for each in timed) / len(timed), 2)
        self._reset()
        return values
