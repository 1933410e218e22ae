"""Muon: momentum whose matrix is orthogonalised before it is applied.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the update is scaled to the
size of Adam's as in Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, so that both share one
learning rate and one weight decay. A kernel (out, in, height, width) is a matrix of ``out`` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.training.shards import empty_as, gather, local, part_of

MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration; takes singular values to about 0.7-1.2
_ITERATIONS = 5
_ADAM_SIZE = 0.2  # root mean square of an update of Adam


class Muon(torch.optim.Optimizer):
    """For weight matrices and kernels between the first layer and the last.

    Non-obvious behaviours: matrices of the same shape are orthogonalised in one batched product, which on a
    CPU takes half the time of one after the other. Of sharded parameters the update is gathered, since only
    a whole matrix can be orthogonalised: every process computes all of it and takes its part.

    Args:
        params: parameters of two or more dimensions, or groups of such.
        lr: learning rate, as for AdamW.
        weight_decay: decoupled, as for AdamW.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "closures are not used here"
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows = parameter.shape[0]
                    alike.setdefault((rows, parameter.numel() // rows), []).append(parameter)
            for shape, parameters in alike.items():
                looked_ahead = torch.stack(
                    [gather(self._momentum(each), each).flatten(1) for each in parameters]
                )
                updates = orthogonalise(looked_ahead)
                size = _ADAM_SIZE * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    update = part_of(update.reshape(parameter.shape), parameter)
                    local(parameter).mul_(1 - group["lr"] * group["weight_decay"])
                    local(parameter).add_(update, alpha=-group["lr"] * size)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's look-ahead of the running mean, which takes in the gradient; of this process' part."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = empty_as(parameter)
        gradient = local(parameter.grad)
        mean = local(state["momentum"]).lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(mean, MOMENTUM)


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Matrices (N, R, C) with the same singular vectors and singular values near 1 (Newton-Schulz)."""
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.transpose(1, 2) if tall else matrices_NRC
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
