"""The demonstrations of an experiment: collected below ``paths.data``, or a folder that the user named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from foundry_bench import runtime
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps import sections
from foundry_bench.sweeps.experiment import Experiment
from foundry_bench.sweeps.sections import camera_names
from foundry_bench.sweeps.state import ExperimentState, fingerprint, only_one


@dataclass(frozen=True)
class Demonstrations:
    """What the demonstrations phase left.

    Attributes:
        root: the dataset's folder.
        source: "scripted", or the folder the user named.
        tasks: for each task that has some: suite, task, instruction, kept, and what else was measured.
        skipped: tasks that have none: suite, task, instruction, reason.
    """

    root: str
    source: str
    tasks: list[dict[str, Any]]
    skipped: list[dict[str, Any]]

    def trained(self, tasks: Sequence[Task]) -> list[Task]:
        """Those of ``tasks`` that have demonstrations."""
        without = {(entry["suite"], entry["task"]) for entry in self.skipped}
        return [task for task in tasks if (task.suite, task.index) not in without]

    def per_task(self) -> int | str | None:
        """Demonstrations per task: one number, or "fewest to most" where tasks differ."""
        counts = sorted({entry["kept"] for entry in self.tasks})
        if len(counts) < 2:
            return counts[0] if counts else None
        return f"{counts[0]} to {counts[-1]}"


def demonstrations(run: Experiment) -> Demonstrations:
    """Collect demonstrations, or take those in ``demos.root``; names the tasks that have none.

    Raises:
        FoundryError: none of the experiment's tasks has demonstrations, or the folder is not a dataset.
    """
    given = run.config.demos.root
    found = _given(run, Path(given).expanduser()) if given is not None else _collected(run)
    for entry in found.skipped:
        task = f'{entry["suite"]} task {entry["task"]}, "{entry["instruction"]}"'
        run.say(f"skipped: {task}: {entry['reason']}", style="yellow")
    if not found.trained(run.tasks):
        raise FoundryError(
            "none of the selected tasks has demonstrations: choose others with suite= and tasks="
        )
    return found


def demonstrations_behind(checkpoint: Path) -> Demonstrations | None:
    """What a checkpoint of ours was trained on, from the experiment folder it lies in; None elsewhere."""
    folder = checkpoint.absolute().parent.parent
    if not (folder / "state.json").is_file():
        return None
    output = ExperimentState(folder).output("demos")
    return Demonstrations(**output) if output else None


def _collected(run: Experiment) -> Demonstrations:
    from foundry_bench.envs.experts import EXPERT_VERSION
    from foundry_bench.evaluation.protocol import simulator_versions

    config = sections.demos_config(run.config)
    made_by = [EXPERT_VERSION, simulator_versions()]
    inputs = fingerprint([[task.key for task in run.tasks], asdict(config), made_by])
    size = f"{len(run.tasks)}tasks-{config.per_task}x{config.image_size}px"
    root = Path(run.config.paths.data).expanduser() / f"{run.config.suite}-{size}-{inputs[:6]}"
    finished = run.state.finished("demos", inputs)
    if finished is not None and (root / "meta" / "info.json").is_file():
        run.say_finished("demos")
        return Demonstrations(**finished)
    from foundry_bench.data.demos import collect
    from foundry_bench.doctor import require_rendering

    require_rendering()
    workers = runtime.worker_count(run.config.demos.workers)
    with only_one(root.with_name(f"{root.name}.lock")), run.state.running("demos", inputs) as output:
        report = collect(run.tasks, config, root, workers=workers)
        tasks = [entry for entry in report.per_task if entry["kept"]]
        skipped = [_skipped(entry, _why(entry)) for entry in report.per_task if not entry["kept"]]
        output.update(asdict(Demonstrations(str(root), "scripted", tasks, skipped)))
    _say_yield(run, tasks)
    if tasks:
        _show(run, root, report.per_task)
    return Demonstrations(**output)


def _given(run: Experiment, root: Path) -> Demonstrations:
    """Look at a dataset the user named, and find the selected tasks in it."""
    from foundry_bench.data.lerobot import RobotDataset

    dataset = RobotDataset(root, cameras_of(run.config))
    counts = dataset.episodes.groupby(["suite", "task_index"]).size().to_dict()
    # A dataset made elsewhere says of an episode only what the robot was told.
    told = dataset.episodes[dataset.episodes["suite"] == ""]
    by_instruction = told.groupby("instruction").size().to_dict() if len(told) else {}
    tasks, skipped = [], []
    with run.state.running("demos", dataset.fingerprint) as output:
        for task in run.tasks:
            entry = {"suite": task.suite, "task": task.index, "instruction": task.instruction}
            kept = counts.get((task.suite, task.index), 0) or by_instruction.get(task.instruction, 0)
            if kept:
                tasks.append({**entry, "kept": int(kept)})
            else:
                skipped.append(_skipped(entry, f"no demonstrations in {root}"))
        found = Demonstrations(str(root), str(root), tasks, skipped)
        output.update(asdict(found))
    return found


def cameras_of(config: DictConfig) -> dict[str, str]:
    """The protocol's cameras -> what the demonstrations call them, ``data.cameras`` where they differ."""
    named = camera_names(config) or {}
    known = list(config.protocol.cameras)
    for name in named:
        if name not in known:
            raise FoundryError(f"data.cameras: '{name}' is no camera of the protocol, which has {known}")
    return {name: named.get(name, name) for name in known}


def _skipped(entry: dict[str, Any], reason: str) -> dict[str, Any]:
    return {**{key: entry[key] for key in ("suite", "task", "instruction")}, "reason": reason}


def _why(entry: dict[str, Any]) -> str:
    return str(entry["skipped"] or f"the expert succeeded in none of {entry['attempts']} attempts")


def _show(run: Experiment, root: Path, report: list[dict[str, Any]]) -> None:
    """Write the table of yields and lengths, and a sheet of frames and a video of each task."""
    from foundry_bench.data.lerobot import RobotDataset
    from foundry_bench.data.overview import write_overview

    dataset = RobotDataset(root, {name: name for name in run.config.protocol.cameras}, cache_bytes=0)
    table = write_overview(dataset, report, run.folder / "demos")
    run.say(f"a sheet of frames and a video of each task beside {table}")


def _say_yield(run: Experiment, tasks: list[dict[str, Any]]) -> None:
    """Say how many attempts became demonstrations, and which tasks got fewer than were asked for."""
    kept = sum(entry["kept"] for entry in tasks)
    attempts = sum(entry["attempts"] for entry in tasks)
    if attempts:
        run.say(f"{kept} of {attempts} attempts became demonstrations ({kept / attempts:.0%})")
    for entry in tasks:
        if entry["kept"] < run.config.demos.per_task:
            wanted = f"{entry['kept']} of {run.config.demos.per_task} demonstrations"
            task = f'{entry["suite"]} task {entry["task"]}, "{entry["instruction"]}"'
            run.say(f"only {wanted}: {task} ({entry['attempts']} attempts)", style="yellow")
