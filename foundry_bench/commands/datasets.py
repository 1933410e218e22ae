"""``foundry-bench data inspect``, ``data convert`` and ``demos replay``."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from foundry_bench.sweeps import datasets
from foundry_bench.sweeps.datasets import Converted


def inspect(config: DictConfig) -> int:
    """Describe a dataset; 0 also where there are warnings, which are for people to weigh."""
    found, picture = datasets.inspect(config)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    shortest, median, longest = found.lengths
    console.print(
        f"{found.kind}: {_count(found.episodes, 'episode')}, {found.frames} frames, {found.fps} per second"
    )
    console.print(f"cameras: {', '.join(found.cameras)}, {found.image_size} px")
    console.print(f"lengths: {shortest} to {longest} frames, median {median:g}")
    console.print(
        "acted by: " + ", ".join(f"{name} ({count})" for name, count in sorted(found.experts.items()))
    )
    console.print(_tasks(found.tasks), soft_wrap=False)
    console.print(_ranges(found.ranges), soft_wrap=False)
    for warning in found.warnings:
        console.print(f"warning: {warning}")
    console.print(f"frames of some episodes: {picture}")
    return 0


def convert(config: DictConfig) -> int:
    """Change a dataset's form."""
    done = datasets.convert(config)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not isinstance(done, Converted):
        console.print(f"{_count(done.episodes, 'episode')} in {_count(len(done.files), 'file')}:")
        for file in done.files:
            console.print(f"  {file}")
        if done.without_states:
            console.print(
                f"{done.without_states} without simulator states: they did not come out the same again"
            )
        return 0
    again = "" if done.new == done.episodes else f", {done.episodes - done.new} of them were there already"
    console.print(f"{_count(done.episodes, 'episode')} in {done.root}{again}")
    if done.failed:
        console.print(f"{done.failed} are marked as failures")
    if done.unknown:
        console.print(f"{done.unknown} are of no task that is known here, so that they cannot be replayed")
    return 0


def replay(config: DictConfig) -> int:
    """Simulate a dataset again; 1 where an episode could not be simulated at all."""
    results, log = datasets.replay(config)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(_replayed(results), soft_wrap=False)
    errors = [result for result in results if result["error"]]
    judged = [result for result in results if not result["error"]]
    kept = sum(result["success"] for result in judged)
    if judged:
        console.print(f"{kept} of {len(judged)} episodes succeed again; {_differences(judged)}")
    for result in errors[:5]:
        console.print(f"not simulated: {result['key']}: {result['error']}")
    if len(errors) > 5:
        console.print(f"not simulated: {len(errors) - 5} more")
    console.print(f"a line for each episode: {log}")
    return 1 if errors else 0


def _replayed(results: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("suite", no_wrap=True)
    for name in ("task", "episodes", "succeed again", "robot differs by", "states differ by", "errors"):
        table.add_column(name, justify="right")
    for suite, task in sorted({(result["suite"], result["task"]) for result in results}):
        of = [result for result in results if (result["suite"], result["task"]) == (suite, task)]
        judged = [result for result in of if not result["error"]]
        kept = sum(result["success"] for result in judged)
        robot, states = _largest(judged, "robot_difference"), _largest(judged, "state_difference")
        errors = len(of) - len(judged)
        table.add_row(suite or "?", str(task), str(len(of)), str(kept), robot, states, str(errors))
    return table


def _differences(judged: list[dict[str, Any]]) -> str:
    robot, states = _largest(judged, "robot_difference"), _largest(judged, "state_difference")
    whole = f", the simulator's by {states}" if states != "-" else ""
    return f"the robot's state differs by at most {robot} (m, rad){whole}"


def _largest(results: list[dict[str, Any]], name: str) -> str:
    values = [result[name] for result in results if result[name] is not None]
    return f"{max(values):.2g}" if values else "-"


def _tasks(tasks: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("suite")
    table.add_column("task", justify="right")
    table.add_column("instruction", overflow="fold")
    table.add_column("episodes", justify="right")
    table.add_column("mean length", justify="right")
    for task in tasks:
        known = (task["suite"], str(task["task"])) if task["suite"] else ("?", "?")
        table.add_row(*known, task["instruction"], str(task["episodes"]), f"{task['length']:.1f}")
    return table


def _ranges(ranges: list[tuple[str, list[float]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("number")
    for name in ("min", "1 %", "median", "99 %", "max"):
        table.add_column(name, justify="right")
    for name, quantiles in ranges:
        table.add_row(name, *(f"{value:.3f}" for value in quantiles))
    return table


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
