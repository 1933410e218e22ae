"""Activation checkpointing: blocks keep their inputs alone and are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks a model is a stack of: members of a ModuleList that hold no other ModuleList."""
    return [
        block
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for block in module
        if not any(isinstance(inner, nn.ModuleList) for inner in block.modules())
    ]


def recompute_blocks(model: nn.Module) -> int:
    """Let every block be computed again in the backward pass; how many there are.

    The gradients are the same bit for bit. Names of parameters stay as they are, since no module is wrapped.
    """
    blocks = repeated_blocks(model)
    for block in blocks:
        block.forward = _Recomputed(block.forward)
    return len(blocks)


class _Recomputed:
    """A forward method whose activations are not kept."""

    active = True

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _Recomputed.active:
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)


@contextmanager
def kept_activations() -> Iterator[None]:
    """Compute nothing twice for a while: for counting what one pass takes."""
    before, _Recomputed.active = _Recomputed.active, False
    try:
        yield
    finally:
        _Recomputed.active = before
