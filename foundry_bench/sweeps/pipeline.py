"""One experiment from demonstrations to table: which phases a command runs, and what it says about them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from foundry_bench import runtime
from foundry_bench.errors import FoundryError
from foundry_bench.evaluation.expert import NAMED
from foundry_bench.sweeps import phases, sections
from foundry_bench.sweeps.coverage import coverage, selected_tasks, skipped_tasks
from foundry_bench.sweeps.demonstrations import Demonstrations, demonstrations, demonstrations_behind
from foundry_bench.sweeps.experiment import Experiment, experiment_folder
from foundry_bench.sweeps.processes import Onlooker, training_together
from foundry_bench.sweeps.stages import before_policy, check_stages, pretrained
from foundry_bench.sweeps.state import ExperimentState, load_config, only_one, remember_config

#: Every phase in order, with what its header says.
PHASES = {
    "pretrain": "stages before the policy",
    "demos": "scripted demonstrations",
    "train": "training",
    "eval": "closed-loop evaluation",
    "report": "table and plots",
}


def train_and_eval(config: DictConfig) -> Path:
    """Demonstrations, training, evaluation and report; returns the experiment's folder.

    A phase finished with the same inputs is not repeated, an interrupted one goes on where it stopped.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    if config.stage != "vla":
        raise FoundryError(
            f"stage={config.stage} is what `foundry-bench train` trains; what is judged is a policy: leave "
            f"it out, and name the stages before it in pretrain (now [{','.join(config.pretrain)}])"
        )
    return run_phases(config, [phase for phase in PHASES if phase != "pretrain" or before_policy(config)])


def train(config: DictConfig) -> Path:
    """Train the stage that ``stage`` names, and those before it; returns the experiment's folder.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    before = ["pretrain"] if before_policy(config) else []
    return run_phases(config, [*before, *(["demos", "train"] if config.stage == "vla" else [])])


def run_phases(config: DictConfig, wanted: Sequence[str]) -> Path:
    """Run some phases of one experiment in order; returns its folder.

    Args:
        config: as ``compose`` returns it.
        wanted: phases to run. ``train`` needs ``demos`` before it. ``eval`` without ``train`` judges
            ``checkpoint=``, or what the experiment trained before.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    if runtime.process_number() > 0:
        return _train_beside(config, wanted)
    tasks = selected_tasks(config)
    _check_checkpoint(config, wanted)
    sections.check_sections(config)
    check_stages(config)
    _check_device(config, wanted)
    if {"pretrain", "train"} & set(wanted):
        sections.check_packages(config)
    runtime.prepare_rendering()
    runtime.prepare_threads()
    folder = experiment_folder(config)
    with only_one(folder / ".lock"):
        remember_config(folder, config)
        run = Experiment(config, folder, tuple(tasks), ExperimentState(folder), Console(highlight=False))
        said = coverage(config, tasks)
        run.say(said, style="bold")
        _run(run, wanted)
        run.say(f"files: {folder}")
        run.say(said + skipped_tasks(run.state.output("demos")), style="bold")
    return folder


def _train_beside(config: DictConfig, wanted: Sequence[str]) -> Path:
    """What every process that torchrun started does, but the first: it trains with it."""
    runtime.prepare_threads()
    folder = experiment_folder(config)
    tasks, console = tuple(selected_tasks(config)), Console(quiet=True)
    with _joined_once(config, wanted):
        if "pretrain" in wanted:
            pretrained(Experiment(config, folder, tasks, Onlooker(folder), console))
        if "train" in wanted:
            with training_together(config) as told:
                run = Experiment(config, folder, tasks, Onlooker(folder), console)
                start = told["start"]
                phases.train(run, Demonstrations(**told["demos"]), Path(start) if start is not None else None)
    return folder


def _joined_once(config: DictConfig, wanted: Sequence[str]) -> AbstractContextManager[object]:
    """The processes stay together from the first stage to the last: once parted, they cannot meet again."""
    return training_together(config) if "pretrain" in wanted else nullcontext()


def report(config: DictConfig) -> Path:
    """Write table and plots again for the experiment that ``config`` names, by its own configuration."""
    folder = experiment_folder(config)
    made_with = load_config(folder / "config.yaml")
    tasks = tuple(selected_tasks(made_with))
    with only_one(folder / ".lock"):
        run = Experiment(made_with, folder, tasks, ExperimentState(folder), Console(highlight=False))
        phases.report(run)
        run.say(f"files: {folder}")
    return folder


def _check_checkpoint(config: DictConfig, wanted: Sequence[str]) -> None:
    """Refuse a missing or pointless checkpoint before a folder is made."""
    given = config.checkpoint
    if given is not None:
        if "eval" not in wanted:
            raise FoundryError("checkpoint= is what `foundry-bench eval` judges; this command takes none")
        if "train" in wanted:
            raise FoundryError(
                f"this command judges what it trains; use: foundry-bench eval checkpoint={given}"
            )
        if given not in NAMED and not Path(given).expanduser().is_dir():
            named = ", ".join(NAMED)
            raise FoundryError(
                f"checkpoint={given}: no such folder, and policy={given}: no such policy; give a folder that "
                f"training wrote, or one of: {named}"
            )
    elif "eval" in wanted and "train" not in wanted:
        own = experiment_folder(config) / "train" / "checkpoint"
        if not own.is_dir():
            raise FoundryError(
                f"{own}: no checkpoint; `foundry-bench train` with the same keys makes one, "
                "checkpoint=DIR names another"
            )


def _check_device(config: DictConfig, wanted: Sequence[str]) -> None:
    """Refuse a device that is not there before minutes go into demonstrations."""
    if config.device not in ("auto", "cpu") and {"pretrain", "train", "eval"} & set(wanted):
        from foundry_bench.policies.vla_policy import pick_device

        pick_device(config.device)


def _run(run: Experiment, wanted: Sequence[str]) -> None:
    demos: Demonstrations | None = None
    start: Path | None = None
    with _joined_once(run.config, wanted):
        if "pretrain" in wanted:
            _header(run, "pretrain", wanted)
            start = pretrained(run)
        if "demos" in wanted:
            _header(run, "demos", wanted)
            demos = demonstrations(run)
        if "train" in wanted and demos is not None:
            _header(run, "train", wanted)
            told = {"demos": asdict(demos), "start": str(start) if start is not None else None}
            with training_together(run.config, told):
                phases.train(run, demos, start)
    if "eval" in wanted:
        _header(run, "eval", wanted)
        _evaluate(run)
    if "report" in wanted:
        _header(run, "report", wanted)
        phases.report(run)


def _evaluate(run: Experiment) -> None:
    """Judge the named checkpoint on every selected task, our own on those it was trained on."""
    if run.config.checkpoint is not None:
        given = str(run.config.checkpoint)
        phases.evaluate(run, run.tasks, given, demonstrations_behind(Path(given).expanduser()))
        return
    demos = demonstrations_behind(run.checkpoint)
    tasks = demos.trained(run.tasks) if demos else run.tasks
    phases.evaluate(run, tasks, str(run.checkpoint), demos)


def _header(run: Experiment, phase: str, wanted: Sequence[str]) -> None:
    number = list(wanted).index(phase) + 1
    run.console.rule(f"{number}/{len(wanted)} {PHASES[phase]}", align="left")
