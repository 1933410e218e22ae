"""The training loop: one for every stage.

``train`` is what the command line calls for the VLA; ``run`` is the loop itself, which knows no stage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.storage import settle_folder
from foundry_bench.policies.vla_policy import pick_device
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.logs import TrainingBar, TrainingLog
from foundry_bench.training.optimizer import MovingAverage, Optimizer, learning_rate
from foundry_bench.training.order import NOISE, torch_seed
from foundry_bench.training.prefetch import Prefetcher
from foundry_bench.training.stage import Batch, Stage
from foundry_bench.training.state import (
    TrainerState,
    check_identity,
    check_state_tensors,
    load_state,
    save_state,
)

if TYPE_CHECKING:
    from foundry_bench.data.reader import RobotDataset

__all__ = ["TrainConfig", "Trainer", "run", "train"]


def train(
    config: TrainConfig,
    model_config: VLAConfig,
    dataset: RobotDataset,
    out: Path,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a VLA on demonstrations, or go on where a killed run in ``out`` stopped.

    Writes ``out/checkpoint`` (moving average of the weights; see policies.checkpoint), ``out/state`` (to
    resume), ``out/train.jsonl`` and ``out/tensorboard``. On one machine with one number of threads the
    result is the same bit for bit whether or not the run was killed in between.

    Args:
        device: ``auto`` takes a GPU where there is one; bfloat16 is used there and only there.
        progress: show loss, samples/s and time left.

    Returns:
        the checkpoint folder. A finished run returns at once.

    Raises:
        FoundryError: ``out`` holds a run of another config (the key is named), demonstrations and model do
            not fit, the loss is no longer finite, or saving failed. The last good checkpoint stays.
    """
    from foundry_bench.training.vla_stage import VLAStage

    out = Path(out)
    state = load_state(out / "state")
    stage = VLAStage(config, model_config, dataset, state.files if state else None)
    if config.feature_views and (state is None or state.step < config.steps):
        if state is not None:
            check_identity(state.identity, stage.identity(), out)  # before minutes are spent on features
        stage.keep_features(pick_device(device), progress)
    return run(stage, config, out, state, device, progress)


def run(
    stage: Stage,
    config: TrainConfig,
    out: Path,
    state: TrainerState | None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a stage from ``state`` (None: from the start) to the end of its budget."""
    if state is not None:
        check_identity(state.identity, stage.identity(), out)
    checkpoint = out / "checkpoint"
    settle_folder(checkpoint)
    if state is not None and state.step >= config.steps and checkpoint.is_dir():
        return checkpoint
    trainer = Trainer(stage, config, out, pick_device(device))
    if state is not None:
        trainer.restore(state)
        if trainer.step >= config.steps:  # only the checkpoint is gone: it is made again
            trainer.save()
    steps, size = config.steps, config.batch_size
    save_every, log_every, validate_every = map(
        config.in_steps, (config.save_every, config.log_every, config.validate_every)
    )
    with (
        TrainingLog(out, trainer.step) as log,
        TrainingBar(steps * size, trainer.step * size, progress) as bar,
        Prefetcher(stage.batch, trainer.step, steps, config.prefetch) as batches,
    ):
        meter = Meter()
        while trainer.step < steps:
            started = time.perf_counter()
            batch = batches.next()
            waited = time.perf_counter() - started
            meter.add(*trainer.update(batch), waited)
            step, last = trainer.step, trainer.step == steps
            bar.update(step * size, meter.loss)
            if step % log_every == 0 or last:
                log.write("train", step, step * size, meter.read(size, learning_rate(step - 1, config)))
            if step % validate_every == 0 or last:
                measures = stage.validate(trainer.average.model)
                if measures:
                    log.write("validation", step, step * size, dict(measures))
            if step % save_every == 0 or last:
                trainer.save()
    return checkpoint


class Trainer:
    """Model, optimiser and moving average, one update at a time."""

    def __init__(self, stage: Stage, config: TrainConfig, out: Path, device: torch.device) -> None:
        self.stage, self.config, self.out, self.device = stage, config, out, device
        self.step = 0  # updates done
        self.model = stage.model.to(device).train()
        self.average = MovingAverage(self.model, config.ema_decay)
        self.optimizer = Optimizer(self.model, config)
        self._saved: int | None = None
        self._loss: Callable[[Batch, torch.Generator], Tensor] = stage.loss
        if config.compile:
            self._loss = torch.compile(stage.loss, dynamic=False)

    def update(self, batch: Batch) -> tuple[float, float]:
        """One step on one batch; loss and gradient norm (before clipping).

        Raises:
            FoundryError: either is not finite; nothing has been changed by this step then.
        """
        loss = self.forward(batch)
        norm = self.backward(loss)
        value, size = float(loss.detach()), float(norm)
        if not (math.isfinite(value) and math.isfinite(size)):
            self._stop(value, size)
        self.apply()
        return value, size

    def forward(self, batch: Batch) -> Tensor:
        """Loss of a batch, its chance drawn from (seed, step)."""
        generator = torch.Generator().manual_seed(torch_seed(self.config.seed, NOISE, self.step))
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with self._precision():
            return self._loss(batch, generator)

    def backward(self, loss: Tensor) -> Tensor:
        """Gradients, clipped; their norm before."""
        self.optimizer.zero_grad()
        loss.backward()
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip, foreach=True)

    def apply(self) -> None:
        """Update weights and moving average with the gradients at hand."""
        self.optimizer.step(learning_rate(self.step, self.config))
        self.average.update(self.step)
        self.step += 1

    def save(self) -> None:
        """Checkpoint first, then state: a finished state implies a finished checkpoint."""
        self.stage.save(self.out / "checkpoint", self.average.model)
        state = TrainerState(self.step, self.stage.identity(), self._tensors(), self.stage.files())
        save_state(self.out / "state", state)
        self._saved = self.step

    def restore(self, state: TrainerState) -> None:
        """Go on from a saved state."""
        check_state_tensors(state, self._tensors(), self.out / "state")
        for prefix, model in (("weights", self.model), ("average", self.average.model)):
            start = len(prefix) + 1
            saved = {
                name[start:]: value for name, value in state.tensors.items() if name.startswith(prefix + ".")
            }
            if model is self.average.model:  # what is not trained is kept once
                saved |= {name: model.state_dict()[name] for name in self.average.shared}
            model.load_state_dict(saved)
        self.optimizer.restore(state.tensors, state.step)
        self.step = self._saved = state.step

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **{f"weights.{name}": value for name, value in self.model.state_dict().items()},
            **{
                f"average.{name}": value
                for name, value in self.average.model.state_dict().items()
                if name not in self.average.shared
            },
            **self.optimizer.tensors(),
        }

    def _precision(self) -> AbstractContextManager[object]:
        """bfloat16 on a GPU; a CPU is faster without (see benchmarks/training.py)."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _stop(self, loss: float, norm: float) -> None:
        kept = (
            f"{self.out / 'checkpoint'} holds step {self._saved}"
            if self._saved is not None
            else "no checkpoint had been saved yet"
        )
        raise FoundryError(
            f"training stopped at step {self.step}: loss {loss:g}, gradient norm {norm:g}; {kept}; "
            f"lower train.learning_rate (now {self.config.learning_rate:g}) or look for broken demonstrations"
        )


class Meter:
    """Means since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._waited = 0.0
        self._start = time.perf_counter()

    def add(self, loss: float, norm: float, waited: float) -> None:
        """Take in one step; ``waited`` is the time it spent waiting for its batch, in seconds."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._waited += waited

    @property
    def loss(self) -> float:
        """Mean loss since the last reading (at most 50 steps back)."""
        recent = self._losses[-50:]
        return sum(recent) / len(recent) if recent else float("nan")

    def read(self, batch_size: int, rate: float) -> dict[str, float]:
        """The means, and start anew."""
        seconds, count = time.perf_counter() - self._start, len(self._losses)
        values = {
            "loss": sum(self._losses) / count,
            "gradient_norm": sum(self._norms) / count,
            "learning_rate": rate,
            "samples_per_s": round(count * batch_size / seconds, 1),
            "data_wait_s": round(self._waited, 3),
        }
        self._reset()
        return values
