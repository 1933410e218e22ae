"""The command `captions`: which tasks, where to, and the table of what was written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from foundry_bench import runtime
from foundry_bench.sweeps import sections
from foundry_bench.sweeps.coverage import selected_tasks
from foundry_bench.sweeps.state import only_one


def run(config: DictConfig) -> Path:
    """Write image-text pairs on scenes of the selected tasks; returns the dataset's folder.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    from foundry_bench.data.captions.config import CaptionsConfig

    tasks = selected_tasks(config)
    settings: CaptionsConfig = sections.build(CaptionsConfig, "captions", sections.values(config, "captions"))
    runtime.prepare_rendering()
    from foundry_bench.data.captions.make import make_captions
    from foundry_bench.data.captions.write import fingerprint
    from foundry_bench.doctor import require_rendering

    name = f"captions-{config.suite}-{len(tasks)}tasks-{settings.image_size}px"
    given = config.captions.root
    root = (
        Path(given).expanduser()
        if given is not None
        else Path(config.paths.data).expanduser() / f"{name}-{fingerprint(tasks, settings)[:6]}"
    )
    console = Console(highlight=False)
    require_rendering()
    started = time.perf_counter()
    with only_one(root.with_name(f"{root.name}.lock")):
        report = make_captions(tasks, settings, root, runtime.worker_count(config.captions.workers))
    minutes = (time.perf_counter() - started) / 60
    pairs = sum(entry["pairs"] for entry in report.manifest["counts"].values())
    console.print(_table(report.manifest))
    made = f"{report.made} scenes made in {minutes:.1f} minutes" if report.made else "finished earlier"
    said = f"{pairs} pairs on {settings.scenes} scenes of {len(tasks)} tasks ({made})"
    console.print(said, style="bold", markup=False, soft_wrap=True)
    console.print(f"files: {root}", markup=False, soft_wrap=True)
    return root


def _table(manifest: dict[str, Any]) -> Table:
    """Pairs of each kind, and what guessing would score."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("kind", "train", "val", "test", "most common %", "blind % (val + test)"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    balance = manifest["balance"]
    for kind in dict.fromkeys(kind for split in balance.values() for kind in split):
        entries = {split: balance.get(split, {}).get(kind) for split in ("train", "val", "test")}
        counts = [str(entry["pairs"]) if entry else "0" for entry in entries.values()]
        train = entries["train"] or {}
        held_out = [entry for split in ("val", "test") if (entry := entries[split]) and "blind" in entry]
        most = f"{100 * train['most_common']:.0f}" if train else "-"
        total = sum(entry["pairs"] for entry in held_out)
        right = sum(entry["blind"] * entry["pairs"] for entry in held_out)
        table.add_row(kind, *counts, most, f"{100 * right / total:.0f}" if total else "-")
    return table
