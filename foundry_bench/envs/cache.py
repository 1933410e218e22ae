"""The room that compiled scenes take: what is kept, how much of it, and what goes first.

Below ``cache_root()``, the folder ``scenes`` holds ``KEY.mjb`` and beside it ``KEY.json``, which says what it
is; ``assets`` holds lighter meshes (``.npz``) and textures (``.png``). Several processes write, read and
delete here at once: a file that vanishes is no error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry_bench.envs.files import atomic_write, cache_root
from foundry_bench.errors import FoundryError

log = logging.getLogger(__name__)
LIMIT_VARIABLE = "FOUNDRY_BENCH_CACHE_GB"
DEFAULT_LIMIT_GIB = 20.0
_STALE_S = 3600.0  # a write takes seconds; what is older was left by a writer that was killed
_MAX_LABEL_BYTES = 65536
# Names are matched whole: the folder may be one that holds a person's own pictures.
_OURS = re.compile(r"[0-9a-f]{24}\.(mjb|json|npz|png)", re.ASCII)
_TEMPORARY = re.compile(r"\.[0-9a-f]{24}\.(mjb|json|npz|png)\.\w+\.tmp", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One compiled scene: its file, its bytes (label included), and when it was last used (epoch, s)."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Cleared:
    """What clearing did: files and bytes deleted, and ``PATH (why)`` for each thing it left alone."""

    files: int
    size: int
    left: tuple[str, ...]


def scenes_folder() -> Path:
    """Where compiled scenes lie."""
    return cache_root() / "scenes"


def assets_folder() -> Path:
    """Where the lighter meshes and textures of the `fast` profile lie."""
    return cache_root() / "assets"


def limit_bytes() -> int:
    """How large the folder of scenes may grow: ``$FOUNDRY_BENCH_CACHE_GB`` in GiB, else 20 GiB.

    Raises:
        FoundryError: the variable holds anything but a positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        size = (float(text) if text else DEFAULT_LIMIT_GIB) * 2**30
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise FoundryError(
            f"{LIMIT_VARIABLE}={text}: the scene cache's limit is a positive number of GiB, such as 20 or 0.5"
        )
    return int(size)


def entries() -> list[Entry]:
    """The compiled scenes, least recently used first."""
    files = dict(_files(scenes_folder()))
    found = []
    for path, status in files.items():
        if path.suffix == ".mjb" and _is_ours(path, status):
            label = files.get(path.with_suffix(".json"))
            size = status.st_size + (label.st_size if label else 0)
            found.append(Entry(path, size, status.st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def asset_bytes() -> int:
    """Bytes of the lighter meshes and textures."""
    return sum(status.st_size for path, status in _files(assets_folder()) if _is_ours(path, status))


def write_label(scene: Path, label: Mapping[str, Any]) -> None:
    """Write down what a scene's file is, beside it."""
    text = json.dumps(label, indent=1) + "\n"
    atomic_write(scene.with_suffix(".json"), lambda handle: handle.write(text.encode()))


def read_label(scene: Path) -> dict[str, str]:
    """The words of a scene's label, such as `what` and `profile`; none where it is missing or damaged."""
    try:
        with scene.with_suffix(".json").open("rb") as handle:
            label = json.loads(handle.read(_MAX_LABEL_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(label, dict):
        return {}
    return {name: value for name, value in label.items() if isinstance(value, str)}


def evict(keep: Path) -> None:
    """Delete the least recently used scenes until the rest fits the limit, and what killed writers left.

    The scene ``keep``, which was just written, stays even where it alone is over the limit. Raises as
    `limit_bytes` does, and OSError where a folder cannot be read.
    """
    limit = limit_bytes()
    _remove_leftovers()
    found = entries()
    excess = sum(entry.size for entry in found) - limit
    for entry in found:
        if excess <= 0:
            break
        if entry.path.name != keep.name and _remove_scene(entry.path):
            log.info("%s was deleted to keep the scene cache below %g GiB", entry.path, limit / 2**30)
            excess -= entry.size


def clear() -> Cleared:
    """Delete every scene and asset of ours; whatever else lies there stays, and links are not followed."""
    count, size, left = 0, 0, []
    for folder in (scenes_folder(), assets_folder()):
        if folder.is_symlink():
            left.append(f"{folder} (a link)")
            continue
        for path, status in _files(folder):
            if _is_temporary(path, status) and not _is_stale(status):
                left.append(f"{path} (being written)")
            elif not (_is_ours(path, status) or _is_temporary(path, status)):
                left.append(f"{path} ({'a link' if stat.S_ISLNK(status.st_mode) else 'not ours'})")
            elif _remove(path):
                count, size = count + 1, size + status.st_size
            else:
                left.append(f"{path} (cannot be deleted)")
    return Cleared(count, size, tuple(left))


def _remove_leftovers() -> None:
    """Delete half-written files and labels without a scene, once no writer can be at work on them."""
    for folder in (scenes_folder(), assets_folder()):
        files = dict(_files(folder))
        for path, status in files.items():
            lonely = path.suffix == ".json" and path.with_suffix(".mjb") not in files
            if _is_stale(status) and (_is_temporary(path, status) or (lonely and _is_ours(path, status))):
                _remove(path)


def _remove_scene(path: Path) -> bool:
    return _remove(path) and _remove(path.with_suffix(".json"))


def _remove(path: Path) -> bool:
    """Delete a file; whether it is gone, by whomever."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be deleted: %s", path, error)
        return False
    return True


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What lies in a folder, in order of names, with links described and not followed."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # deleted since
            yield path, path.lstat()


def _is_ours(path: Path, status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and _OURS.fullmatch(path.name) is not None


def _is_temporary(path: Path, status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and _TEMPORARY.fullmatch(path.name) is not None


def _is_stale(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime > _STALE_S
