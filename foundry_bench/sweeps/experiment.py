"""One experiment: what it is about and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from foundry_bench.envs.suites import Task
from foundry_bench.sweeps.state import ExperimentState


@dataclass(frozen=True)
class Experiment:
    """One experiment: its configuration, folder, tasks and memory."""

    config: DictConfig
    folder: Path
    tasks: tuple[Task, ...]
    state: ExperimentState
    console: Console

    @property
    def checkpoint(self) -> Path:
        """Where training leaves the policy."""
        return self.folder / "train" / "checkpoint"

    @property
    def records(self) -> Path:
        """Where evaluation leaves one line per episode."""
        return self.folder / "eval" / "records.jsonl"

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line as it is, unbroken, so that paths can be copied and lines be searched."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def say_finished(self, phase: str) -> None:
        """Say that a phase is not repeated."""
        self.say(f"finished earlier, in {self.state.seconds()[phase]:.0f} s")


def experiment_folder(config: DictConfig) -> Path:
    """The folder of the experiment that ``config`` stands for."""
    return Path(config.paths.results).expanduser() / str(config.experiment)
