"""MuJoCo's C library, for what its Python bindings leave out."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import mujoco


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The library that the bindings have loaded.

    Raises:
        OSError: it is not where the bindings' package has it.
    """
    found = sorted(Path(mujoco.__file__).parent.glob("libmujoco*"))
    if not found:
        raise OSError(f"no libmujoco beside {mujoco.__file__}")
    return ctypes.CDLL(str(found[0]))
