"""Where caches live, and writes that are whole or not there."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

#: What reading a damaged or hostile ``.npz`` raises, depending on where the damage is.
NPZ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    NotImplementedError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)


def cache_root() -> Path:
    """The folder for what can be made again: ``$FOUNDRY_BENCH_CACHE``, else ``~/.cache/foundry-bench``."""
    override = os.environ.get("FOUNDRY_BENCH_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "foundry-bench"


def atomic_write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that readers see all of it or none, whatever is killed and whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
