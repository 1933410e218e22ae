"""Parameter groups, learning rate and moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.training.config import TrainConfig
from foundry_bench.training.muon import Muon

# Tables of vectors: pulling them to zero would only cost what each row has learned.
UNDECAYED = ("embedding", "position", "step")
# Matrices next to the data (pixels, states, actions) or that make scales out of text stay with Adam.
OUTERMOST = ("patch", "state", "input", "output", "film")


class Optimizer:
    """One or more of torch's optimisers over disjoint parameters of a model, as one.

    Args:
        model: whose parameters that require gradients are optimised.
        config: ``optimizer`` is ``adamw``, or ``muon`` for Muon on the inner matrices and AdamW on the rest.

    Pretrained parts (``model.pretrained``, beginnings of names) stay with AdamW, do not decay, and are
    trained at ``model.config.pretrained_rate`` times the learning rate.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        inner: list[nn.Parameter] = []
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        pretrained: list[nn.Parameter] = []
        known: tuple[str, ...] = getattr(model, "pretrained", ())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parts = name.split(".")
                if name.startswith(known):
                    pretrained.append(parameter)
                elif parameter.ndim < 2 or any(part in UNDECAYED for part in parts):
                    others.append(parameter)
                elif config.optimizer == "muon" and not any(part in OUTERMOST for part in parts):
                    inner.append(parameter)
                else:
                    decayed.append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        if pretrained:
            factor = model.config.pretrained_rate  # type: ignore[union-attr]
            groups.append({"params": pretrained, "weight_decay": 0.0, "factor": factor})
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
        ]
        if inner:
            self.parts.append(Muon(inner, lr=config.learning_rate, weight_decay=config.weight_decay))
        self._names = {parameter: name for name, parameter in model.named_parameters()}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """Update every parameter at a learning rate."""
        for group in self.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Every moment under the names of moment and parameter; zeros before the first step."""
        return {
            f"{prefix}.{name}": part.state[parameter].get(key, parameter.detach().new_zeros(parameter.shape))
            for part, name, parameter in self._walk()
            for key, prefix in _MOMENTS[type(part)].items()
        }

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Put back what ``tensors`` gave after ``step`` updates."""
        for part, name, parameter in self._walk():
            state: dict[str, Any] = part.state[parameter]
            if isinstance(part, torch.optim.AdamW):
                state["step"] = torch.tensor(float(step), device=parameter.device)
            for key, prefix in _MOMENTS[type(part)].items():
                state[key] = _like(tensors[f"{prefix}.{name}"], parameter)

    def _walk(self) -> Iterator[tuple[torch.optim.Optimizer, str, nn.Parameter]]:
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield part, self._names[parameter], parameter


#: What each of torch's optimisers keeps for a parameter, and what that is called on disk.
_MOMENTS: dict[type, dict[str, str]] = {
    torch.optim.AdamW: {"exp_avg": "adam_mean", "exp_avg_sq": "adam_square"},
    Muon: {"momentum": "muon_momentum"},
}


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """A copy with the parameter's memory layout: fused updates walk both in storage order."""
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(values)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then a cosine."""
    warmup = config.warmup // config.batch_size
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


class MovingAverage:
    """Exponential moving average of a model's parameters, held in a model of its own.

    The decay rises from 0.1 to ``decay``, so that a short run is not an average with its initial weights.

    Attributes:
        shared: names of the parameters that are not trained: both models have the same tensors there.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self.shared = frozenset(fixed)
        self.model = copy.deepcopy(model, {id(p): p for p in fixed.values()}).requires_grad_(False)
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] = (
            [parameter for name, parameter in self.model.named_parameters() if name not in fixed],
            [parameter.detach() for parameter in model.parameters() if parameter.requires_grad],
        )

    def update(self, step: int) -> None:
        """Take in the parameters after the update of ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._pairs, 1 - decay)
