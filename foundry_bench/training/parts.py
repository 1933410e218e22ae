"""Parts of a model, named by the beginning of their parameters' names: frozen ones, and rates by part."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.training.config import TrainConfig


def belongs(name: str, part: str) -> bool:
    """Whether a parameter is in a part: ``language`` has ``language.norm.weight`` but not ``languages.x``."""
    return name == part or name.startswith(part + ".")


def check_parts(model: nn.Module, parts: Sequence[str], key: str) -> None:
    """FoundryError naming the first part that holds no parameter of the model."""
    names = [name for name, _ in model.named_parameters()]
    known = {name[:end] for name in names for end in _dots(name)}
    for part in parts:
        if not any(belongs(name, part) for name in names):
            raise FoundryError(f"{key}: the model has no part '{part}': {nearest(part, known)}")


def _dots(name: str) -> list[int | None]:
    """Where a dotted name may be cut: the ends of its first two words."""
    words = name.split(".")
    return [len(".".join(words[:count])) for count in range(1, min(3, len(words)))] or [None]


def rate_factor(name: str, config: TrainConfig) -> float:
    """The factor on the learning rate of a parameter: that of the longest part it belongs to, or 1."""
    fitting = [(len(part), factor) for part, factor in config.rates if belongs(name, part)]
    return float(max(fitting)[1]) if fitting else 1.0


class Freezing:
    """Keeps the parts in ``train.freeze`` as they are, for the whole run or up to ``train.freeze_until``.

    Parameters that are frozen for good require no gradients from the beginning. Those that thaw require none
    until then, or (``drop``, where a wrapper has fixed what requires one) have theirs thrown away.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, drop: bool = False) -> None:
        check_parts(model, config.freeze, "train.freeze")
        self.names = [  # what a model fixes itself, as a frozen encoder, never thaws
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and any(belongs(name, part) for part in config.freeze)
        ]
        self.thaws = config.in_steps(config.freeze_until) if config.freeze_until else None
        self._drop = drop
        if self.thaws is None:
            self._require(model, False)

    def begin(self, model: nn.Module, step: int) -> None:
        """Before the forward pass of a step (counted from 0)."""
        if self.thaws is not None and self.names and not self._drop:
            self._require(model, step >= self.thaws)

    def end(self, model: nn.Module, step: int) -> None:
        """After the backward pass of a step, before its gradients are looked at."""
        if self.thaws is not None and self._drop and step < self.thaws:
            for parameter in self._parameters(model):
                parameter.grad = None

    def _require(self, model: nn.Module, wanted: bool) -> None:
        for parameter in self._parameters(model):
            parameter.requires_grad_(wanted)

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        frozen = set(self.names)
        return [parameter for name, parameter in model.named_parameters() if name in frozen]
