"""``foundry-bench list``."""

from __future__ import annotations

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from foundry_bench.envs.suites import Suite, resolve_suites, suite_names


def run(config: DictConfig) -> int:
    """Print the tasks of the chosen suites, and which other suites there are."""
    console = Console()
    suites = resolve_suites(config.suite)
    for suite in suites:
        console.print(_table(suite))
    shown = {suite.name for suite in suites}
    others = [name for name in ("libero", *suite_names()) if name not in shown and name != config.suite]
    if others:
        console.print(f"other suites: {', '.join(others)}   (foundry-bench list suite=NAME)", soft_wrap=True)
    return 0


def _table(suite: Suite) -> Table:
    count = "1 task" if len(suite.tasks) == 1 else f"{len(suite.tasks)} tasks"
    table = Table(title=f"{suite.name} ({count})", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("task", justify="right")
    table.add_column("instruction", overflow="fold")
    for task in suite.tasks:
        table.add_row(str(task.index), task.instruction)
    return table
