"""Compiled models from memory, without a copy.

The bindings read a model from a file or from bytes; both ways MuJoCo first gathers the whole file in a buffer
of its own, which for the 213 MB of a scene with all its textures takes longer than reading it out. MuJoCo's C
interface lets a program provide what a name stands for, and takes that as it lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.mujoco_library import library

_PREFIX = b"foundry-bench"


class _Resource(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("timestamp", ctypes.c_char * 512),
        ("provider", ctypes.c_void_p),
    )


_Open = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Resource))
_Read = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Resource), ctypes.POINTER(ctypes.c_void_p))
_Close = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Resource))


class _Provider(ctypes.Structure):
    _fields_ = (
        ("prefix", ctypes.c_char_p),
        ("open", _Open),
        ("read", _Read),
        ("close", _Close),
        ("getdir", ctypes.c_void_p),
        ("modified", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
    )


_provided: dict[bytes, np.ndarray] = {}
_numbers = count()


def load_model(data: Any) -> mujoco.MjModel:
    """A model from the bytes of an ``.mjb`` file, such as a memory map.

    Raises:
        ValueError: they are not a model of this MuJoCo.
    """
    if not _registered():
        return mujoco.MjModel.from_binary_path("model.mjb", {"model.mjb": bytes(data)})
    with _named(np.frombuffer(data, dtype=np.uint8)) as name:
        return mujoco.MjModel.from_binary_path(name)


@contextmanager
def _named(data: np.ndarray) -> Iterator[str]:
    name = _PREFIX + b":%d.mjb" % next(_numbers)
    _provided[name] = data
    try:
        yield name.decode()
    finally:
        del _provided[name]


@_Open
def _open(resource: Any) -> int:
    return int(resource.contents.name in _provided)


@_Read
def _read(resource: Any, buffer: Any) -> int:
    data = _provided[resource.contents.name]
    buffer[0] = data.ctypes.data
    return len(data)


@_Close
def _close(resource: Any) -> None:
    """The bytes belong to whoever provided them."""


_PROVIDER = _Provider(_PREFIX, _open, _read, _close, None, None, None)  # MuJoCo keeps pointers into it


@lru_cache(maxsize=1)
def _registered() -> bool:
    """Whether MuJoCo asks here; else models are read the slower way."""
    try:
        return bool(library().mjp_registerResourceProvider(ctypes.byref(_PROVIDER)) > 0)
    except (OSError, AttributeError):
        return False
