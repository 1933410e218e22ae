"""Model, optimiser and moving average, one update at a time; alone or as one of several processes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.chance import RowGenerator
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.distributed import World, clip_gradients, without_sync, wrapped_loss
from foundry_bench.training.meter import PHASES, Unlogged, Update
from foundry_bench.training.optimizer import MovingAverage, Optimizer
from foundry_bench.training.order import NOISE, torch_seed
from foundry_bench.training.parts import Freezing
from foundry_bench.training.precision import MasterWeights, autocast
from foundry_bench.training.recompute import recompute_blocks
from foundry_bench.training.schedule import learning_rate
from foundry_bench.training.sharded import ShardedAverage, described, load_into, save_sharded
from foundry_bench.training.stage import Batch, Rows, Stage, cut, weight_of
from foundry_bench.training.state import TrainerState, check_state_tensors, save_state


class Part(NamedTuple):
    """Rows of a batch that go through the model together."""

    batch: Batch
    rows: Rows | None = None  # None: the whole batch
    weight: float = 1.0  # of its mean in the mean of all parts of all processes, which sum to 1


class Trainer:
    """Model, optimiser and moving average, one update at a time.

    Attributes:
        step: updates done.
        model: the weights of record: what is optimised, averaged and saved (for precision=bf16, masters).
        timed: measure the phases of the next updates; on a GPU that makes it wait between them.
        best: of the measure that ``train.keep_best`` names, so far.
        unlogged: steps that the log has yet to take the means of; saved with the rest.
    """

    def __init__(
        self,
        stage: Stage,
        config: TrainConfig,
        out: Path,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        self.stage, self.config, self.out, self.device = stage, config, out, device
        self.world = world or World(device)
        self.step = 0
        self.timed = device.type == "cpu"
        self.best: float | None = None
        self.unlogged: list[Unlogged] = []
        self._saved: int | None = None
        self._clock: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        working = stage.model.to(device).train()
        self._freezing = Freezing(working, config, drop=self.world.parallel != "none")
        template = copy.deepcopy(working) if self.world.sharded else working
        self._masters: MasterWeights | None = None
        if config.precision == "bf16" and not self.world.sharded:
            self._masters = MasterWeights(working)
        self.model = self._masters.model if self._masters else working
        plain = None if self.world.sharded else MovingAverage(self.model, config.ema_decay)
        if config.checkpoint_activations:
            recompute_blocks(working)
        loss: Callable[[Batch, torch.Generator], Tensor] = stage.loss
        if config.compile:
            loss = torch.compile(stage.loss, dynamic=False)
        self._loss = wrapped_loss(stage, loss, self.world, config.precision)
        self.average = plain or ShardedAverage(self.model, config.ema_decay, template, self.world.writes)
        self.optimizer = Optimizer(self.model, config)

    def update(self, batch: Batch) -> Update:
        """One step on this process' rows of one batch.

        Raises:
            FoundryError: loss or gradient norm is not finite, or memory ran out; nothing has been changed by
                this step then.
        """
        self._clock = dict.fromkeys(PHASES, 0.0)
        with self.memory_explained():
            self.clear()
            parts = self.parts(batch)
            value = 0.0
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                with without_sync(self._loss, skip=not last):
                    loss = self.forward(part.batch, part.rows)
                    self.backward(loss if part.rows is None else loss * (part.weight * self.world.size))
                value += float(loss.detach()) * part.weight
            norm = self.clip()
        if self.world.size > 1:
            value = self.world.sum([value])[0]
        if not (math.isfinite(value) and math.isfinite(norm)):
            self._stop(value, norm, batch)
        self.apply()
        return Update(value, norm, self._clock if self.timed else None)

    def parts(self, batch: Batch) -> list[Part]:
        """This process' rows of a batch, divided as ``train.accumulate`` says (alone, with 1: all of it)."""
        if self.config.accumulate == 1 and self.world.size == 1:
            return [Part(batch)]
        held = self.world.rows(self.config.batch_size)
        found = []
        for rows in held.divide(self.config.accumulate):
            part = cut(self.stage, batch, held, rows)
            found.append(Part(part, rows, weight_of(self.stage, part, rows)))
        total = self.world.sum([sum(part.weight for part in found)])[0]
        return [part._replace(weight=part.weight / max(total, 1e-12)) for part in found]

    def clear(self) -> None:
        """Forget all gradients, and freeze what is frozen in this step."""
        self._freezing.begin(self.stage.model, self.step)
        self.optimizer.zero_grad()
        if self._masters:
            self.stage.model.zero_grad(set_to_none=True)

    def forward(self, batch: Batch, rows: Rows | None = None) -> Tensor:
        """Loss of (some rows of) a batch, its chance drawn from (seed, step)."""
        seed = torch_seed(self.config.seed, NOISE, self.step)
        generator = torch.Generator().manual_seed(seed) if rows is None else RowGenerator(seed, *rows)
        with self._timing("forward"):
            moved = {  # single numbers say something about the batch, and are asked for where Python runs
                name: tensor.to(self.device, non_blocking=True) if tensor.ndim else tensor
                for name, tensor in batch.items()
            }
            with autocast(self.device, self.config.precision):
                return self._loss(moved, generator)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        with self._timing("backward"):
            loss.backward()

    def clip(self) -> float:
        """Clip the gradients, once all are there; their norm before."""
        with self._timing("backward"):
            self._freezing.end(self.stage.model, self.step)
            if self._masters:
                self._masters.take_gradients()
            return clip_gradients(list(self.model.parameters()), self.config.clip, self.world)

    def apply(self) -> None:
        """Update weights and moving average with the gradients at hand."""
        with self._timing("optimiser"):
            self.optimizer.step(learning_rate(self.step, self.config))
            if self._masters:
                self._masters.put_weights()
            self.average.update(self.step)
        self.step += 1

    def averaged(self) -> nn.Module | None:
        """The averaged model in the process that writes; None in the others (all must call)."""
        if isinstance(self.average, ShardedAverage):
            return self.average.gathered()
        return self.average.model if self.world.writes else None

    def save(self) -> None:
        """Checkpoint first, then state: a finished state implies a finished checkpoint (all must call)."""
        averaged = self.averaged()
        if averaged is not None:
            self.stage.save(self.out / "checkpoint", averaged)
        tensors = self._tensors() if self.world.writes or self.world.sharded else {}
        state = TrainerState(
            self.step,
            self.stage.identity(),
            tensors,
            self.stage.files(),
            self.optimizer.counts(self.step),
            self.best,
            self.unlogged,
        )
        if self.world.sharded:
            save_sharded(self.out / "state", tensors, state.described(), self.world)
        elif self.world.writes:
            save_state(self.out / "state", state)
        self.world.wait()
        self._saved = self.step

    def restore(self, state: TrainerState) -> None:
        """Go on from a saved state, whichever number of processes saved it."""
        tensors = dict(self._tensors())
        folder = self.out / "state"
        if self.world.sharded:
            check_state_tensors(described(folder), tensors, folder)
            load_into(tensors, folder)
        else:
            check_state_tensors(state.tensors, tensors, folder)
            tensors = dict(state.tensors)
            self.model.load_state_dict(_under("weights", tensors))
            assert isinstance(self.average, MovingAverage)
            self.average.restore(_under("average", tensors))
        self.optimizer.restore(tensors, state.step, state.counts)
        if self._masters:
            self._masters.spread()
        self.step = self._saved = state.step
        self.best, self.unlogged = state.best, list(state.unlogged)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **{f"weights.{name}": value for name, value in self.model.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.tensors().items()},
            **self.optimizer.tensors(),
        }

    @contextmanager
    def _timing(self, phase: str) -> Iterator[None]:
        start = self._now()
        yield
        self._clock[phase] += self._now() - start

    def _now(self) -> float:
        if self.timed and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def memory_explained(self) -> Iterator[None]:
        """Within the block, running out of memory is a FoundryError that names the ways out."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            text = str(error)
            of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not of_memory and "not enough memory" not in text:  # what torch says of a CPU's
                raise
            self.optimizer.zero_grad()
            more = 2 * self.config.accumulate
            raise FoundryError(
                f"out of memory at step {self.step} ({text.splitlines()[0] if text else 'MemoryError'}); "
                f"{self._kept()}; train.accumulate={more} takes the same steps in smaller parts, "
                "train.checkpoint_activations=true keeps less of each, train.batch_size (now "
                f"{self.config.batch_size}) can be lowered in a new run"
            ) from error

    def _kept(self) -> str:
        if self._saved is None:
            return "no checkpoint had been saved yet"
        return f"{self.out / 'checkpoint'} holds step {self._saved}"

    def _stop(self, loss: float, norm: float, batch: Batch) -> NoReturn:
        describe: Any = getattr(self.stage, "describe", None)
        said = f"; the batch: {describe(self.step)}" if describe is not None else ""
        broken = [
            f"'{name}' in rows {_numbers(tensor)}"
            for name, tensor in batch.items()
            if tensor.is_floating_point() and tensor.ndim and not bool(torch.isfinite(tensor).all())
        ]
        if broken:
            said += f"; not finite are {' and '.join(broken)} of it"
        raise FoundryError(
            f"training stopped at step {self.step}: loss {loss:g}, gradient norm {norm:g}{said}; "
            f"{self._kept()}; lower train.learning_rate (now {self.config.learning_rate:g}) or look for "
            "broken demonstrations"
        )


def _numbers(tensor: Tensor) -> str:
    """The rows of a tensor that are not finite, the first few."""
    rows = (~torch.isfinite(tensor)).flatten(1).any(dim=1) if tensor.ndim > 1 else ~torch.isfinite(tensor)
    found = rows.nonzero().flatten().tolist()
    return ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = len(prefix) + 1
    return {name[start:]: value for name, value in tensors.items() if name.startswith(prefix + ".")}
