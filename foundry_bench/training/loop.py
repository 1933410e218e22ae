"""The training loop: one for every stage.

``train`` is what the command line calls for the VLA; ``run`` is the loop itself, which knows no stage.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.architectures import ModelConfig
from foundry_bench.policies.storage import settle_folder
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.distributed import World, joined
from foundry_bench.training.interrupt import StopRequest, TerminatedError
from foundry_bench.training.logs import TrainingBar, TrainingLog
from foundry_bench.training.meter import Meter
from foundry_bench.training.precision import matmul_dtype
from foundry_bench.training.prefetch import Prefetcher
from foundry_bench.training.schedule import learning_rate
from foundry_bench.training.stage import Batch, Stage, batch_rows
from foundry_bench.training.state import TrainerState, check_identity, load_state, put_weights
from foundry_bench.training.throughput import count_flops, matmul_peak
from foundry_bench.training.trainer import Trainer
from foundry_bench.training.warm_start import start_from

if TYPE_CHECKING:
    from foundry_bench.data.reader import RobotDataset
    from foundry_bench.training.beside import Beside

__all__ = ["TrainConfig", "Trainer", "run", "train"]

# Measures of which more is better; of all others (errors, losses) less is.
_MORE_IS_BETTER = ("accuracy", "success", "qa_")


def train(
    config: TrainConfig,
    model_config: ModelConfig,
    dataset: RobotDataset,
    out: Path,
    device: str = "auto",
    progress: bool = True,
    beside: Beside | None = None,
) -> Path:
    """Train a VLA or a baseline on demonstrations, or go on where a killed run in ``out`` stopped.

    Writes ``out/checkpoint`` (moving average of the weights; see policies.checkpoint), ``out/state`` (to
    resume), ``out/train.jsonl`` and ``out/tensorboard``, and with ``train.keep_best`` ``out/best``. On one
    machine with one number of threads the result is the same bit for bit whether or not the run was killed
    in between.

    Args:
        device: ``auto`` takes a GPU where there is one; bfloat16 is used there and only there, unless
            ``train.precision`` says otherwise.
        progress: show loss, samples/s and time left.
        beside: what else is learned in the same run (co-training); None: nothing.

    Returns:
        the checkpoint folder. A finished run returns at once.

    Raises:
        FoundryError: ``out`` holds a run of another config (the key is named), demonstrations and model do
            not fit, the loss is no longer finite, memory ran out, or saving failed. The last good checkpoint
            stays. TerminatedError, one of them, after SIGTERM.
    """
    from foundry_bench.training.vla_stage import VLAStage

    out = Path(out)
    with joined(config.parallel, device) as world:
        state = world.first(lambda: load_state(out / "state", tensors=not world.sharded))
        files = state.files if state else None
        robot = VLAStage(config, model_config, dataset, files)
        stage: Stage = beside.added_to("robot", robot, config, files) if beside is not None else robot
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
    with joined(config.parallel, device) as world:
        return _run(stage, config, out, state, world, progress)


def _run(
    stage: Stage, config: TrainConfig, out: Path, state: TrainerState | None, world: World, progress: bool
) -> Path:
    _check_share(config, world)
    if state is not None:
        check_identity(state.identity, stage.identity(), out)
    checkpoint = out / "checkpoint"
    world.first(lambda: settle_folder(checkpoint))
    if state is not None and state.step >= config.steps and world.share(checkpoint.is_dir()):
        return checkpoint
    started = None
    if state is None and config.init_from:
        started = start_from(Path(config.init_from), stage.model, stage.files(), config.init_partial)
    _prepare(stage, config, out, state, world, progress)
    trainer = Trainer(stage, config, out, world.device, world)
    if state is not None:
        trainer.restore(state)
        if trainer.step >= config.steps:  # only the checkpoint is gone: it is made again
            trainer.save()
    steps, size = config.steps, config.batch_size
    rows = world.rows(size)
    with ExitStack() as stack:
        log = stack.enter_context(TrainingLog(out, trainer.step)) if world.writes else None
        bar = stack.enter_context(TrainingBar(steps * size, trainer.step * size, progress and world.writes))
        batches = stack.enter_context(
            Prefetcher(lambda step: batch_rows(stage, step, rows), trainer.step, steps, config.prefetch)
        )
        stop = stack.enter_context(StopRequest())
        if started is not None and log is not None:
            bar.say(str(started))
            log.write("init", 0, 0, {"taken": len(started.taken), "new": started.new, "part": started.part})
        _loop(trainer, batches, log, bar, stop)
    return checkpoint


def _prepare(
    stage: Stage, config: TrainConfig, out: Path, state: TrainerState | None, world: World, progress: bool
) -> None:
    """Let the stage compute what it wants of its model, whose weights are those that the run goes on with."""
    prepare: Any = getattr(stage, "prepare", None)
    if prepare is None or (state is not None and state.step >= config.steps):
        return
    if state is not None:
        put_weights(stage.model, state, out / "state")
    world.first(lambda: prepare(world.device, progress and world.writes))


def _loop(
    trainer: Trainer, batches: Prefetcher, log: TrainingLog | None, bar: TrainingBar, stop: StopRequest
) -> None:
    stage, config, world = trainer.stage, trainer.config, trainer.world
    steps, size = config.steps, config.batch_size
    save_every, log_every, validate_every = map(
        config.in_steps, (config.save_every, config.log_every, config.validate_every)
    )
    source_name: Any = getattr(stage, "source_name", lambda step: None)
    meter: Meter | None = None
    while trainer.step < steps:
        started = time.perf_counter()
        batch = batches.next()
        waited = time.perf_counter() - started
        if meter is None:
            meter = _meter(trainer, batch)
        due = (trainer.step + 1) % log_every == 0 or trainer.step + 1 == steps
        trainer.timed = due or trainer.device.type == "cpu"
        meter.add(trainer.update(batch), waited, source_name(trainer.step - 1))
        step, last = trainer.step, trainer.step == steps
        bar.update(step * size, meter.loss)
        if due:
            means = meter.read(learning_rate(step - 1, config))
            if log is not None:
                log.write("train", step, step * size, means)
        trainer.unlogged = meter.unlogged
        if step % validate_every == 0 or last:
            _validate(trainer, log)
        saved = step % save_every == 0 or last
        if saved:
            trainer.save()
        if not last and world.any(stop.asked):
            if not saved:
                trainer.save()
            raise TerminatedError(
                f"asked to stop (SIGTERM) at step {step} of {steps}; all is saved in {trainer.out}, "
                "the same command goes on from there"
            )


def _meter(trainer: Trainer, batch: Batch) -> Meter:
    """What the log is made with; the operations of a step are counted by computing one for nothing."""

    def step() -> None:
        trainer.clear()
        for part in trainer.parts(batch):
            trainer.backward(trainer.forward(part.batch, part.rows))

    with trainer.memory_explained(), torch.compiler.set_stance("force_eager"):  # a compiled graph hides them
        flops = count_flops(trainer.stage.model, step)
    trainer.clear()
    peak = matmul_peak(trainer.device, matmul_dtype(trainer.device, trainer.config.precision))
    tokens: float | None = getattr(trainer.stage, "tokens_per_sample", None)
    return Meter(trainer.config.batch_size, tokens, flops, peak, trainer.unlogged)


def _validate(trainer: Trainer, log: TrainingLog | None) -> None:
    """Log the measures, and keep the averaged weights where they are the best so far (all must call)."""
    averaged = trainer.averaged()
    if averaged is None or log is None:
        return
    measures = dict(trainer.stage.validate(averaged))
    if measures:
        log.write("validation", trainer.step, trainer.step * trainer.config.batch_size, measures)
    if trainer.config.keep_best:
        _keep_best(trainer, averaged, measures)


def _keep_best(trainer: Trainer, averaged: nn.Module, measures: Mapping[str, float]) -> None:
    name = trainer.config.keep_best
    if name not in measures:
        known = nearest(name, measures) if measures else "nothing is held out; set train.validation_episodes"
        raise FoundryError(f"train.keep_best={name} is no measure of the validation: {known}")
    value = measures[name]
    sign = -1 if any(word in name for word in _MORE_IS_BETTER) else 1
    if trainer.best is None or sign * value < sign * trainer.best:
        trainer.stage.save(trainer.out / "best", averaged)
        trainer.best = value


def _check_share(config: TrainConfig, world: World) -> None:
    if world.size * config.accumulate > config.batch_size:
        raise FoundryError(
            f"train.batch_size={config.batch_size} cannot be shared by {world.size} processes with "
            f"train.accumulate={config.accumulate}; use a batch of at least {world.size * config.accumulate}"
        )
