"""In which precision a step is computed.

``auto``: on a GPU bfloat16 by autocast, the weights staying fp32; on a CPU fp32, which is faster there (see
benchmarks/training.py). ``fp32``: nothing else anywhere. ``bf16``: the weights themselves are bfloat16, half
the memory of a forward pass, and the optimiser works on an fp32 master copy of them.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of a forward pass."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def matmul_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What most products of a step are computed in."""
    low = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if low else torch.float32


class MasterWeights:
    """An fp32 copy of a model, which is itself turned to bfloat16 (its buffers are not).

    ``model`` is the copy: what an optimiser, a moving average and a checkpoint should look at.
    """

    def __init__(self, working: nn.Module) -> None:
        self.model = copy.deepcopy(working)
        self._working = working
        for parameter in working.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)

    def take_gradients(self) -> None:
        """Move the gradients of the bfloat16 weights to the masters."""
        for master, working in self._pairs():
            gradient = working.grad
            # In the master's own memory layout: what walks both does so in storage order.
            master.grad = None if gradient is None else torch.empty_like(master).copy_(gradient)
            working.grad = None

    def put_weights(self) -> None:
        """Round the masters into the bfloat16 weights; buffers, filled by forward passes, come back."""
        with torch.no_grad():
            for master, working in self._pairs():
                working.copy_(master)
            for mine, theirs in zip(self.model.buffers(), self._working.buffers(), strict=True):
                mine.copy_(theirs)

    def spread(self) -> None:
        """After the masters have been loaded: weights and buffers of the working model are theirs."""
        with torch.no_grad():
            for mine, theirs in zip(self.model.buffers(), self._working.buffers(), strict=True):
                theirs.copy_(mine)
        self.put_weights()

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return list(zip(self.model.parameters(), self._working.parameters(), strict=True))
