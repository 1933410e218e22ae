"""Tensors that may be whole or sharded over processes (DTensor), without importing what only those need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory; a whole tensor is its own part."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes (all must call)."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def gather(part: Tensor, like: Tensor) -> Tensor:
    """The whole of what is sharded as ``like`` is and of which ``part`` is this process' (all must call)."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    placed: Any = like
    return DTensor.from_local(
        part, placed.device_mesh, placed.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def part_of(values: Tensor, like: Tensor) -> Tensor:
    """This process' part of whole ``values``, cut as ``like`` is; nothing is sent."""
    if not is_sharded(like):
        return values
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    cut = distribute_tensor(values, placed.device_mesh, placed.placements, src_data_rank=None)
    return cut.to_local()


def empty_as(tensor: Tensor) -> Tensor:
    """Zeros of the same shape, placement and memory layout."""
    return torch.zeros_like(tensor.detach(), memory_format=torch.preserve_format)
