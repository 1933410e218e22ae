"""Reading HDF5 files that strangers made: nothing in them leads elsewhere, and what is damaged is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from foundry_bench.errors import FoundryError

REDO = "get the file again, or leave it out"
MAX_STEPS = 100_000
_MAX_WIDTH = 10_000
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError, OverflowError)


class SafeFile:
    """An HDF5 file open for reading.

    Args:
        path: the file.

    Raises:
        FoundryError: the file is missing, truncated or not HDF5.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise FoundryError(f"{path}: there is no such file")
        try:
            self.root = h5py.File(path, "r", locking=False)
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise FoundryError(f"{path}: truncated, damaged or not HDF5 ({text}); {REDO}") from error

    def close(self) -> None:
        """Close the file."""
        self.root.close()

    def group(self, path: str) -> h5py.Group:
        """The group at ``path``, such as ``data/demo_0/obs``.

        Raises:
            FoundryError: there is none, or it lies in another file.
        """
        group: h5py.Group = self.root
        with self.errors(path):
            for part in path.split("/"):
                found = self._own(group, part)
                if not isinstance(found, h5py.Group):
                    where = group.name.strip("/") or "the file"
                    raise FoundryError(
                        f"{self.path}: {where} has no group '{part}', so this is no LIBERO or robomimic "
                        "dataset; expected data/demo_0/obs"
                    )
                group = found
        return group

    def dataset(self, path: str) -> h5py.Dataset:
        """The dataset at ``path``.

        Raises:
            FoundryError: there is none, or its content lies in another file.
        """
        folder, _, leaf = path.rpartition("/")
        group = self.group(folder)
        with self.errors(path):
            if leaf not in group:
                known = ", ".join(sorted(map(text, group))[:20])
                raise FoundryError(f"{self.path}: {path} is missing, there is {known}; {REDO}")
            found = self._own(group, leaf)
            if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
                raise FoundryError(f"{self.path}: {path} is no dataset of this file; {REDO}")
        return found

    def has(self, path: str) -> bool:
        """Whether there is anything at ``path``."""
        with self.errors(path):
            return path in self.root

    def array(self, path: str, rank: int, rows: int | None = None) -> npt.NDArray[np.float64]:
        """The finite numbers at ``path``, of that many dimensions and, where given, rows.

        Raises:
            FoundryError: they are of another shape or kind, not finite, or damaged.
        """
        dataset = self.dataset(path)
        with self.errors(path):
            shape, kind = tuple(dataset.shape or ()), dataset.dtype
            rows_good = len(shape) == rank and 0 < shape[0] <= MAX_STEPS and rows in (None, shape[0])
            good = rows_good and kind.kind in "fiu" and all(0 < n <= _MAX_WIDTH for n in shape[1:])
            values = np.asarray(dataset[()], np.float64) if good else None
        if values is None:
            wanted = f"{rows} rows of numbers" if rows is not None else "rows of numbers"
            raise FoundryError(f"{self.path}: {path} is {kind} of shape {shape}, expected {wanted}; {REDO}")
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, rank))))
        if len(wrong):
            raise FoundryError(
                f"{self.path}: {path} is NaN or infinite in row {wrong[0]}, {len(wrong)} such rows; "
                "leave this episode out or get the file again"
            )
        return values

    @contextmanager
    def errors(self, where: str) -> Iterator[None]:
        """Turn what h5py raises on a damaged file into a FoundryError."""
        try:
            yield
        except _HDF5_ERRORS as error:
            place = f"{where} " if where else ""
            text = " ".join(str(error).split())[:200]
            raise FoundryError(f"{self.path}: {place}cannot be read ({text}); {REDO}") from error

    @staticmethod
    def _own(group: h5py.Group, name: str) -> Any:
        """What is called ``name`` in a group of this very file; None for nothing and for links elsewhere."""
        link = group.get(name, getlink=True) if name in group else None
        return group[name] if isinstance(link, h5py.HardLink) else None


def text(value: Any) -> str:
    """An attribute as text; bytes that are no UTF-8 become question marks."""
    plain = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return plain.encode("utf-8", "replace").decode("utf-8")
