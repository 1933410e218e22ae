"""Parameter groups and moving average."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.training.config import TrainConfig
from foundry_bench.training.muon import Muon
from foundry_bench.training.parts import check_parts, rate_factor
from foundry_bench.training.shards import empty_as, is_sharded

# Tables of vectors: pulling them to zero would only cost what each row has learned.
UNDECAYED = ("embedding", "position", "step")
# Matrices next to the data (pixels, states, actions) or that make scales out of text stay with Adam.
OUTERMOST = ("patch", "state", "input", "output", "film")


class Optimizer:
    """One or more of torch's optimisers over disjoint parameters of a model, as one.

    Args:
        model: whose parameters that require gradients are optimised.
        config: ``optimizer`` is ``adamw``, or ``muon`` for Muon on the inner matrices and AdamW on the rest;
            ``rates`` gives parts of the model another learning rate.

    Pretrained parts (``model.pretrained``, beginnings of names) stay with AdamW, do not decay, and are
    trained at ``model.config.pretrained_rate`` times the learning rate (times that of ``rates``).
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        check_parts(model, [part for part, _ in config.rates], "train.rates")
        adam: list[dict[str, Any]] = []
        muon: list[dict[str, Any]] = []
        for factor, (decayed, others, inner) in _sorted_by_kind(model, config).items():
            for decay, parameters in ((config.weight_decay, decayed), (0.0, others)):
                if parameters or factor == 1.0:  # these are there even where everything is Muon's
                    adam.append({"params": parameters, "weight_decay": decay, "factor": factor})
            if inner:
                muon.append({"params": inner, "factor": factor})
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(adam, lr=config.learning_rate, betas=config.betas, fused=True)
        ]
        if muon:
            self.parts.append(Muon(muon, lr=config.learning_rate, weight_decay=config.weight_decay))
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
        """Update every parameter that has a gradient, at a learning rate (times its group's factor)."""
        for group in self.param_groups:
            group["lr"] = rate * group["factor"]
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Every moment under the names of moment and parameter; zeros before the first step."""
        return {
            f"{prefix}.{name}": part.state[parameter][key]
            if key in part.state[parameter]
            else empty_as(parameter)
            for part, name, parameter in self._walk()
            for key, prefix in _MOMENTS[type(part)].items()
        }

    def counts(self, step: int) -> dict[str, int]:
        """How many updates Adam has counted, for the parameters where that is not ``step``.

        A parameter is not counted in steps in which it has no gradient: while it is frozen, or where a
        mixture drew a source that does not use it.
        """
        counted: dict[str, int] = {}
        for part, name, parameter in self._walk():
            if isinstance(part, torch.optim.AdamW):
                done = int(part.state[parameter].get("step", 0))
                if done != step:
                    counted[name] = done
        return counted

    def restore(
        self, tensors: Mapping[str, Tensor], step: int, counts: Mapping[str, int] | None = None
    ) -> None:
        """Put back what ``tensors`` and ``counts`` gave after ``step`` updates."""
        counts = counts or {}
        for part, name, parameter in self._walk():
            state: dict[str, Any] = part.state[parameter]
            if isinstance(part, torch.optim.AdamW):
                state["step"] = torch.tensor(float(counts.get(name, step)), device=parameter.device)
            for key, prefix in _MOMENTS[type(part)].items():
                state[key] = _like(tensors[f"{prefix}.{name}"], parameter)

    def _walk(self) -> Iterator[tuple[torch.optim.Optimizer, str, nn.Parameter]]:
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield part, self._names[parameter], parameter


_Kinds = tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]


def _sorted_by_kind(model: nn.Module, config: TrainConfig) -> dict[float, _Kinds]:
    """For each factor on the learning rate, 1 first: decayed, undecayed and Muon's parameters."""
    pretrained: tuple[str, ...] = getattr(model, "pretrained", ())
    slow: float = getattr(getattr(model, "config", None), "pretrained_rate", 1.0)
    kinds: dict[float, _Kinds] = {1.0: ([], [], [])}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        known = name.startswith(pretrained)
        factor = rate_factor(name, config) * (slow if known else 1.0)
        decayed, others, inner = kinds.setdefault(factor, ([], [], []))
        parts = name.split(".")
        if known or parameter.ndim < 2 or any(part in UNDECAYED for part in parts):
            others.append(parameter)
        elif config.optimizer == "muon" and not any(part in OUTERMOST for part in parts):
            inner.append(parameter)
        else:
            decayed.append(parameter)
    return kinds


#: What each of torch's optimisers keeps for a parameter, and what that is called on disk.
_MOMENTS: dict[type, dict[str, str]] = {
    torch.optim.AdamW: {"exp_avg": "adam_mean", "exp_avg_sq": "adam_square"},
    Muon: {"momentum": "muon_momentum"},
}


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """A copy with the parameter's memory layout: fused updates walk both in storage order."""
    if is_sharded(values):  # loaded in place, each process its part
        return values
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(values)


class MovingAverage:
    """Exponential moving average of a model's parameters, held in a model of its own; buffers are copied.

    The decay rises from 0.1 to ``decay``, so that a short run is not an average with its initial weights.

    Attributes:
        shared: names of the parameters that are not trained: both models have the same tensors there.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        fixed = {name: each for name, each in model.named_parameters() if not each.requires_grad}
        self.shared = frozenset(fixed)
        self.model = copy.deepcopy(model, {id(each): each for each in fixed.values()}).requires_grad_(False)
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] = (
            [each for name, each in self.model.named_parameters() if name not in fixed],
            [each.detach() for each in model.parameters() if each.requires_grad],
        )
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    def update(self, step: int) -> None:
        """Take in the parameters after the update of ``step`` (counted from 0)."""
        torch._foreach_lerp_(*self._pairs, 1 - average_decay(self.decay, step))
        for mine, theirs in self._buffers:
            mine.copy_(theirs)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights and the buffers, by name; what is shared is not among them."""
        return {name: each for name, each in self.model.state_dict().items() if name not in self.shared}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` gave, after the model has been put back itself."""
        own = self.model.state_dict()
        self.model.load_state_dict({**{name: own[name] for name in self.shared}, **tensors})


def average_decay(decay: float, step: int) -> float:
    """How much of the average is kept at a step: rises from 0.1 to ``decay``."""
    return min(decay, (1 + step) / (10 + step))
