"""The command `captions`: which tasks, where to, and the table of what was written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from foundry_bench import runtime
from foundry_bench.envs.suites import Task
from foundry_bench.sweeps import sections
from foundry_bench.sweeps.coverage import selected_tasks
from foundry_bench.sweeps.state import only_one

if TYPE_CHECKING:
    from foundry_bench.data.captions.config import CaptionsConfig


def run(config: DictConfig) -> Path:
    """Write image-text pairs on scenes of the selected tasks; returns the dataset's folder.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    runtime.prepare_rendering()
    return captions(config, selected_tasks(config), Console(highlight=False))


def captions(config: DictConfig, tasks: Sequence[Task], console: Console) -> Path:
    """Image-text pairs on scenes of tasks, made where they are missing, and the table of them.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    from foundry_bench.data.captions.make import make_captions
    from foundry_bench.doctor import require_rendering

    settings, root = captions_config(config), captions_folder(config, tasks)
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


def captions_config(config: DictConfig) -> CaptionsConfig:
    """How scenes are randomised and drawn."""
    from foundry_bench.data.captions.config import CaptionsConfig

    return sections.build(CaptionsConfig, "captions", sections.values(config, "captions"))


def captions_folder(config: DictConfig, tasks: Sequence[Task]) -> Path:
    """Where the pairs of a configuration are, or will be."""
    from foundry_bench.data.captions.write import fingerprint

    if config.captions.root is not None:
        return Path(config.captions.root).expanduser()
    settings = captions_config(config)
    name = f"captions-{config.suite}-{len(tasks)}tasks-{settings.image_size}px"
    return Path(config.paths.data).expanduser() / f"{name}-{fingerprint(tasks, settings)[:6]}"


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
