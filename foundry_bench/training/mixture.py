"""Co-training: every step learns from one of several sources, drawn by weight.

Which source a step has, and how many of its batches came before, are pure functions of (seed, step), so a
run that is killed and resumed sees what it would have seen. Actions can be learned while the language loss is
kept.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.training.order import SOURCE, generator
from foundry_bench.training.stage import Batch, Rows, Stage, batch_rows, cut, weight_of

SOURCE_KEY = "source"  # in a batch: the number of its source
_BLOCK = 1024  # steps that are drawn at once


class Source(Protocol):
    """One kind of data with the loss it trains.

    It may also have ``batch_rows``, ``cut``, ``weight`` and ``describe``, as a Stage may (see stage.Stage;
    their step is then the number of the source's batch), ``identity() -> Mapping``: plain values that must be
    the same for a run to be resumed, and ``files() -> Mapping``: small text files that resuming needs.
    """

    @property
    def name(self) -> str:
        """How weights and logs call it."""
        ...

    def batch(self, number: int) -> Batch:
        """Its batch of a number (0, 1, ...), ``train.batch_size`` rows; called from another thread."""
        ...

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch; all its chance comes from the (CPU) generator."""
        ...

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Measures on held-out data; empty where nothing is held out."""
        ...


class StageSource:
    """A stage as a source: its model is the mixture's, its batches and its loss are one of several."""

    def __init__(self, name: str, stage: Stage) -> None:
        self.name, self.stage = name, stage

    def batch(self, number: int) -> Batch:
        """See Source.batch."""
        return self.stage.batch(number)

    def batch_rows(self, number: int, rows: Rows) -> Batch:
        """See stage.Stage."""
        return batch_rows(self.stage, number, rows)

    def cut(self, batch: Batch, first: int, stop: int) -> Batch:
        """See stage.Stage."""
        own = getattr(self.stage, "cut", None)
        return own(batch, first, stop) if own is not None else _plain_cut(batch, first, stop)

    def weight(self, batch: Batch) -> float:
        """See stage.Stage."""
        rows = max(len(tensor) for tensor in batch.values() if tensor.ndim)
        return weight_of(self.stage, batch, Rows(0, rows, rows))

    def describe(self, number: int) -> str:
        """See stage.Stage."""
        own = getattr(self.stage, "describe", None)
        return own(number) if own is not None else f"batch {number}"

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """See Source.loss; the stage's own model is what it looks at."""
        return self.stage.loss(batch, generator)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """See Source.validate."""
        return self.stage.validate(model)


class SourceOrder:
    """Which source a step draws, and how many of the source's batches came before it."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._edges = np.cumsum(np.asarray(weights, dtype=np.float64) / sum(weights))[:-1]
        self._count, self._seed = len(weights), seed
        self._before: list[npt.NDArray[np.int64]] = [np.zeros(len(weights), dtype=np.int64)]  # each block
        self._blocks: dict[int, npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()  # the loop asks from one thread, the prefetcher from another

    def draw(self, step: int) -> tuple[int, int]:
        """The number of the source, and which of its batches the step has."""
        block, place = divmod(step, _BLOCK)
        with self._lock:
            while len(self._before) <= block:
                drawn = self._block(len(self._before) - 1)
                self._before.append(self._before[-1] + np.bincount(drawn, minlength=self._count))
            drawn = self._block(block)
            source = int(drawn[place])
            return source, int(self._before[block][source] + (drawn[:place] == source).sum())

    def _block(self, block: int) -> npt.NDArray[np.int64]:
        if block not in self._blocks:
            if len(self._blocks) > 2:
                self._blocks.clear()
            chance = generator(self._seed, SOURCE, block).random(_BLOCK)
            self._blocks[block] = np.searchsorted(self._edges, chance, side="right").astype(np.int64)
        return self._blocks[block]


class MixedStage:
    """A stage whose steps are those of its sources (see stage.Stage).

    Args:
        base: has the model, saves it and resumes; to have it learn too, give ``StageSource(name, base)`` as
            one of the sources.
        sources: with different names.
        weights: for each source's name, how often it is drawn in comparison with the others.
        seed: of the draws.

    Raises:
        FoundryError: a weight without a source or a source without a weight, or one that is not above 0.
    """

    def __init__(
        self, base: Stage, sources: Sequence[Source], weights: Mapping[str, float], seed: int
    ) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) != len(names):
            raise FoundryError(f"a mixture of the sources {names}: name at least one, each once")
        for name in weights:
            if name not in names:
                raise FoundryError(f"the mixture has no source '{name}': {nearest(name, names)}")
        for name in names:
            if not weights.get(name, 0) > 0:
                raise FoundryError(
                    f"source '{name}' of the mixture has weight {weights.get(name, 'none')}; give a number "
                    "above 0, or leave the source out"
                )
        self.base, self.sources = base, list(sources)
        self._weights = {name: float(weights[name]) for name in names}
        self._order = SourceOrder(list(self._weights.values()), seed)

    @property
    def model(self) -> nn.Module:
        """The base's."""
        return self.base.model

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """See Stage.identity."""
        mixture: dict[str, Any] = {f"weights.{name}": weight for name, weight in self._weights.items()}
        for source in self.sources:
            own = getattr(source, "identity", None)
            if own is not None:
                mixture[source.name] = dict(own())
        return {**self.base.identity(), "mixture": mixture}

    def files(self) -> Mapping[str, str]:
        """See Stage.files: those of the base, and where streamed sources stand."""
        files = dict(self.base.files())
        for source in self.sources:
            own = getattr(source, "files", None)
            if own is not None:
                files.update(own())
        return files

    def prepare(self, device: torch.device, progress: bool) -> None:
        """See Stage: what the base does."""
        own = getattr(self.base, "prepare", None)
        if own is not None:
            own(device, progress)

    def batch(self, step: int) -> Batch:
        """See Stage.batch."""
        source, number = self._order.draw(step)
        return self._marked(self.sources[source].batch(number), source)

    def batch_rows(self, step: int, rows: Rows) -> Batch:
        """See Stage."""
        source, number = self._order.draw(step)
        return self._marked(batch_rows(self.sources[source], number, rows), source)

    def cut(self, batch: Batch, first: int, stop: int) -> Batch:
        """See Stage."""
        source, rest = self._of(batch)
        own = getattr(self.sources[source], "cut", None)
        part = own(rest, first, stop) if own is not None else _plain_cut(rest, first, stop)
        return self._marked(part, source)

    def weight(self, batch: Batch) -> float:
        """See Stage."""
        source, rest = self._of(batch)
        rows = max(len(tensor) for tensor in rest.values() if tensor.ndim)
        return weight_of(self.sources[source], rest, Rows(0, rows, rows))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See Stage.loss: that of the batch's source."""
        source, rest = self._of(batch)
        return self.sources[source].loss(self.model, rest, generator)

    def source_name(self, step: int) -> str:
        """See Stage."""
        return self.sources[self._order.draw(step)[0]].name

    def describe(self, step: int) -> str:
        """See Stage."""
        source, number = self._order.draw(step)
        own = getattr(self.sources[source], "describe", None)
        said = own(number) if own is not None else f"batch {number}"
        return f"source '{self.sources[source].name}', {said}"

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """Every source's measures: the base's under their own names, the others' as ``source/measure``."""
        measures: dict[str, float] = {}
        for source in self.sources:
            ours = isinstance(source, StageSource) and source.stage is self.base
            for name, value in source.validate(averaged).items():
                measures[name if ours else f"{source.name}/{name}"] = value
        return measures

    def save(self, folder: Path, averaged: nn.Module) -> None:
        """See Stage.save."""
        self.base.save(folder, averaged)

    def _marked(self, batch: Batch, source: int) -> Batch:
        return {**batch, SOURCE_KEY: torch.tensor(source)}

    def _of(self, batch: Batch) -> tuple[int, Batch]:
        rest = {name: tensor for name, tensor in batch.items() if name != SOURCE_KEY}
        return int(batch[SOURCE_KEY]), rest


def _plain_cut(batch: Batch, first: int, stop: int) -> Batch:
    rows = max(len(tensor) for tensor in batch.values() if tensor.ndim)
    return cut(None, batch, Rows(0, rows, rows), Rows(first, stop, rows))
