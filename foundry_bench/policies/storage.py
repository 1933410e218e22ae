"""Folders that are replaced as a whole: a reader sees the old contents or the new, never a mixture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from foundry_bench.errors import FoundryError


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace ``folder`` by one with exactly these files, on disk before the old one goes.

    When writing fails (a full disk, say) the old folder stays as it was and FoundryError names the cause.
    """
    with folder_replaced(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)


def _alone() -> None:
    """There is nobody to wait for."""


@contextmanager
def folder_replaced(folder: Path, writes: bool = True, wait: Callable[[], None] = _alone) -> Iterator[Path]:
    """A new folder to write files into, which takes the place of ``folder`` once the block has ended.

    Several processes may fill it: one ``writes`` (makes it, puts it in place), ``wait`` lets all catch up.

    Raises:
        FoundryError: writing failed; the old folder stays as it was.
    """
    new, old = _beside(folder, "new"), _beside(folder, "old")
    try:
        if writes:
            settle_folder(folder)
            new.mkdir(parents=True)
        wait()
        yield new
        wait()
        if writes:
            for file in sorted(new.iterdir()):
                _sync(file)
            _sync(new)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            _sync(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        wait()
    except OSError as error:
        if writes:
            shutil.rmtree(new, ignore_errors=True)
        kept = "the one saved before is kept" if folder.exists() or old.exists() else "nothing was saved yet"
        raise FoundryError(
            f"cannot save {folder}: {error.strerror or error}; {kept}; "
            "make room and run the same command again"
        ) from error


def settle_folder(folder: Path) -> None:
    """Undo what an interrupted ``write_folder`` left behind: the last complete folder is in place again."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    if new.exists():
        shutil.rmtree(new)


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes, the same for the same tensors."""
    return safetensors.torch.save(
        {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; FoundryError when it is missing, truncated or something else."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise FoundryError(
            f"cannot read {path}: {error.strerror}; restore the folder or train again"
        ) from error
    except SafetensorError as error:
        raise FoundryError(
            f"{path} is truncated or not a safetensors file ({error}); restore it or train again"
        ) from error


def read_text(path: Path) -> str:
    """Text of a small file; FoundryError when it is missing or not text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FoundryError(
            f"cannot read {path}: {error.strerror}; restore the folder or train again"
        ) from error
    except UnicodeDecodeError as error:
        raise FoundryError(f"{path} is not text; restore the folder or train again") from error


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """FoundryError naming the tensors that are missing, too many, or of another shape or type."""
    problems: list[str] = []
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    if missing:
        problems.append("missing " + few(missing))
    if extra:
        problems.append("not in the model: " + few(extra))
    for name in sorted(set(found) & set(expected)):
        have, want = found[name], expected[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            problems.append(
                f"{name} is {have.dtype} {list(have.shape)} where the config wants "
                f"{want.dtype} {list(want.shape)}"
            )
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise FoundryError(
            f"{where} does not fit its config: {'; '.join(problems[:3])}{more}; "
            "use the config.yaml that was saved with it"
        )


def few(names: list[str], between: str = ", ") -> str:
    """The first three of some names, and how many more there are."""
    shown = between.join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
