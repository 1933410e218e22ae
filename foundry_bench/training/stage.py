"""What a stage decides: which model is trained, how a batch is made, which loss is taken, what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Stage(Protocol):
    """The seam between the one training loop and what it trains."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """Sections of plain values that must be the same for a run to be resumed."""
        ...

    def files(self) -> Mapping[str, str]:
        """Small text files that were computed from the data and must not be computed again on resume."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, on the CPU; called from another thread."""
        ...

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch; all its chance comes from the (CPU) generator."""
        ...

    def validate(self, averaged: nn.Module) -> Mapping[str, float]:
        """Measures on held-out data with the averaged weights; empty where nothing is held out."""
        ...

    def save(self, folder: Path, averaged: nn.Module) -> None:
        """Write the checkpoint folder, atomically."""
        ...
