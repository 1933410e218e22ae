"""``foundry-bench doctor``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from foundry_bench.doctor import diagnose

_MARKS = {True: "[green]ok[/]", None: "[yellow]warning[/]", False: "[red]mend[/]"}


def run(config: DictConfig) -> int:
    """Print the checks as a table; 1 where something must be mended."""
    console = Console()
    with console.status("checking (a first import of torch takes some seconds)"):
        checks = diagnose(Path(config.paths.results))
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("check", "", "found"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check.name, _MARKS[check.ok], check.found)
    console.print(table)
    for check in checks:
        if check.mend:
            console.print(f"{check.name}: {check.mend}", soft_wrap=True, markup=False)
    broken = [check.name for check in checks if check.ok is False]
    console.print(
        "to be mended: " + ", ".join(broken) if broken else "ready: foundry-bench train-and-eval suite=libero"
    )
    return 1 if broken else 0
