"""Writing files so that a kill, a crash or a full disk leaves either the old content or the new one."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry_bench.errors import FoundryError

#: Part of the name of a file that is being written; a file so named is never read.
PARTIAL = ".partial-"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or a read-only disk under ``path`` into a FoundryError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise FoundryError(
                f"{path}: no space left on the disk ({_free_megabytes(path)} MB free); "
                "free some space and run the same command again, what was stored before is intact"
            ) from error
        if error.errno in _FORBIDDEN:
            raise FoundryError(
                f"{path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: flushed to the disk under another name, then renamed.

    Raises:
        OSError: the disk is full or not writable; the partial file is removed, ``path`` is untouched.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}{uuid.uuid4().hex[:12]}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """Flush every file and folder under ``root``."""
    for folder, _, names in os.walk(root):
        for name in names:
            with Path(folder, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def swap_in(new: Path, target: Path) -> None:
    """Put the folder ``new`` in the place of ``target``.

    POSIX cannot exchange two folders portably, so an existing target steps aside under the name that
    `recover_swap` knows; a kill between the two renames loses nothing.
    """
    aside = _aside(target)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    new.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_swap(target: Path) -> None:
    """Finish or undo a `swap_in` that was killed."""
    aside = _aside(target)
    if not aside.exists():
        return
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.rename(target)


def _aside(target: Path) -> Path:
    return target.with_name(target.name + ".replaced")


def _free_megabytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free // 1_000_000
