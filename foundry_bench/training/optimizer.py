"""Parameter groups, learning rate and moving average."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.training.config import TrainConfig

# Tables of vectors: pulling them to zero would only cost what each row has learned.
UNDECAYED = ("embedding", "position", "step")


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays weight matrices and kernels only."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            table = any(part in UNDECAYED for part in name.split("."))
            (others if parameter.ndim < 2 or table else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then a cosine."""
    warmup = config.warmup // config.batch_size
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class MovingAverage:
    """Exponential moving average of a model's parameters, held in a model of its own.

    The decay rises from 0.1 to ``decay``, so that a short run is not an average with its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] = (
            list(self.model.parameters()),
            [parameter.detach() for parameter in model.parameters()],
        )

    def update(self, step: int) -> None:
        """Take in the parameters after the update of ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._pairs, 1 - decay)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments under the names of their parameters."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            tensors[f"adam_mean.{name}"] = state["exp_avg"]
            tensors[f"adam_square.{name}"] = state["exp_avg_sq"]
    return tensors


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], step: int
) -> None:
    """Put back what ``optimizer_tensors`` gave after ``step`` updates."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            device = parameter.device
            state: dict[str, Any] = optimizer.state[parameter]
            state["step"] = torch.tensor(float(step), device=device)
            state["exp_avg"] = _like(tensors[f"adam_mean.{name}"], parameter)
            state["exp_avg_sq"] = _like(tensors[f"adam_square.{name}"], parameter)


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """A copy with the parameter's memory layout: fused updates walk both in storage order."""
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(values)
