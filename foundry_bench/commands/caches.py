"""``foundry-bench cache``."""

from __future__ import annotations

import time
from collections.abc import Collection

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from foundry_bench.envs import cache
from foundry_bench.errors import FoundryError

_SHOWN = 10


def run(config: DictConfig, flags: Collection[str]) -> int:
    """List the compiled scenes, or delete them.

    Raises:
        FoundryError: both are asked for, or the limit is not a positive number.
    """
    if len(flags) > 1:
        raise FoundryError(f"{' '.join(sorted(flags))}: one of them at a time")
    # Folders and names of files are shown as they are, in one line that can be copied.
    console = Console(markup=False, highlight=False, soft_wrap=True)
    return _clear(console) if "--clear" in flags else _list(console)


def _list(console: Console) -> int:
    limit = cache.limit_bytes()
    entries = cache.entries()
    if entries:
        console.print(_table(entries), soft_wrap=False)
    total = sum(entry.size for entry in entries)
    scenes = f"{len(entries)} scene{'' if len(entries) == 1 else 's'}"
    console.print(f"{scenes}, {_size(total)} of {_size(limit)} in {cache.scenes_folder()}")
    console.print(f"lighter meshes and textures: {_size(cache.asset_bytes())} in {cache.assets_folder()}")
    return 0


def _table(entries: list[cache.Entry]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("what", overflow="fold")
    table.add_column("profile")
    table.add_column("size", justify="right")
    table.add_column("last used")
    for entry in reversed(entries):
        label = cache.read_label(entry.path)
        what = Text(label.get("what") or entry.path.stem)
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        table.add_row(what, Text(label.get("profile", "?")), _size(entry.size), used)
    return table


def _clear(console: Console) -> int:
    done = cache.clear()
    console.print(f"deleted {done.files} file{'' if done.files == 1 else 's'}, {_size(done.size)} freed")
    for path in done.left[:_SHOWN]:
        console.print(f"left alone: {path}")
    if len(done.left) > _SHOWN:
        console.print(f"left alone: {len(done.left) - _SHOWN} more")
    return 0


def _size(size: int) -> str:
    """Bytes in the unit a person would choose."""
    if size < 2**10:
        return f"{size} bytes"
    for unit, one in (("KiB", 2**10), ("MiB", 2**20)):
        if size < 1024 * one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 2**30:.1f} GiB"
