"""What a stage decides: which model is trained, how a batch is made, which loss is taken, what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Rows(NamedTuple):
    """Rows ``first`` up to (not including) ``stop`` of the ``total`` rows of a step's batch."""

    first: int
    stop: int
    total: int

    def divide(self, parts: int) -> list[Rows]:
        """The same rows in ``parts`` nearly equal runs."""
        count = self.stop - self.first
        edges = [self.first + count * part // parts for part in range(parts + 1)]
        return [Rows(first, stop, self.total) for first, stop in pairwise(edges)]


class Stage(Protocol):
    """The seam between the one training loop and what it trains.

    A stage may also have any of these, which the functions below look for:

    - ``batch_rows(step, rows) -> Batch``: some rows of a step's batch, made without making the others. What a
      row holds must not depend on which rows are asked for.
    - ``cut(batch, first, stop) -> Batch``: some rows of a batch (of its own, counted from 0), where they are
      not simply those rows of every tensor that has one entry for each.
    - ``weight(batch) -> float``: what the mean in ``loss`` divides by (tokens, actions that are real), so
      that means of parts can be put together. Without it, the number of rows.
    - ``prepare(device, progress)``: called once the model has the weights that training goes on with, before
      the first batch; by rank 0 alone first, and by no process where the run is over.
    - ``tokens_per_sample: int``: for the log.
    - ``source_name(step) -> str``: whose loss a step's is, for the log.
    - ``describe(step) -> str``: what a step's batch was made of, for whoever looks for what went wrong.
    """

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """Sections of plain values that must be the same for a run to be resumed."""
        ...

    def files(self) -> Mapping[str, str]:
        """Small text files that were computed from the data and must not be computed again on resume."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step (``train.batch_size`` rows), on the CPU; called from another thread."""
        ...

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch; all its chance comes from the (CPU) generator."""
        ...

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """Measures on held-out data with the averaged weights; empty where nothing is held out."""
        ...

    def save(self, folder: Path, averaged: nn.Module) -> None:
        """Write the checkpoint folder, atomically."""
        ...


def batch_rows(stage: Any, step: int, rows: Rows) -> Batch:
    """Some rows of the batch of a step; ``stage`` may also be a source of a mixture."""
    if rows.stop - rows.first == rows.total:
        return stage.batch(step)
    own = getattr(stage, "batch_rows", None)
    if own is not None:
        return own(step, rows)
    return cut(stage, stage.batch(step), Rows(0, rows.total, rows.total), rows)


def cut(stage: Any, batch: Batch, held: Rows, wanted: Rows) -> Batch:
    """Of a batch that holds the rows ``held``, those that are ``wanted``."""
    first, stop = wanted.first - held.first, wanted.stop - held.first
    own = getattr(stage, "cut", None)
    if own is not None:
        return own(batch, first, stop)
    count = held.stop - held.first
    return {
        name: tensor[first:stop] if tensor.ndim and len(tensor) == count else tensor
        for name, tensor in batch.items()
    }


def weight_of(stage: Any, batch: Batch, rows: Rows) -> float:
    """How much the mean loss of these rows counts beside those of others."""
    own = getattr(stage, "weight", None)
    return float(own(batch)) if own is not None else float(rows.stop - rows.first)
