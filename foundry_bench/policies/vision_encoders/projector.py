"""From a vision encoder's tokens to the language model's width, with fewer and wider tokens in between."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.language import init_linear

PROJECTED = 0.6  # standard deviation of what an untrained projector gives: unit variance through a GELU


class Projector(nn.Module):
    """Pixel shuffle by ``factor``, LayerNorm, two linear maps with a GELU between them.

    Pixel shuffle makes one token of each square of ``factor`` x ``factor`` tokens: nothing is thrown away,
    and the language model has factor² fewer to read.
    """

    def __init__(self, grid: int, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        if grid % factor:
            divisors = [str(f) for f in range(1, grid + 1) if grid % f == 0]
            raise FoundryError(
                f"model.vision_shuffle={factor} does not divide the encoder's grid of {grid} x {grid}; "
                f"use one of {', '.join(divisors)}, or other pixels"
            )
        self.factor, self.grid = factor, grid
        self.count = (grid // factor) ** 2
        self.norm = nn.LayerNorm(inputs * factor**2)
        self.up = nn.Linear(inputs * factor**2, outputs)
        self.down = nn.Linear(outputs, outputs)
        self.apply(init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., grid * grid, inputs) to (..., count, outputs)."""
        x = self.norm(pixel_shuffle(x, self.grid, self.factor))
        return self.down(F.gelu(self.up(x)))


def pixel_shuffle(x: Tensor, grid: int, factor: int) -> Tensor:
    """(..., grid * grid, D) to (..., (grid / factor)², factor² * D), both in reading order."""
    if factor == 1:
        return x
    coarse = grid // factor
    x = x.unflatten(-2, (coarse, factor, coarse, factor))  # rows, rows within, columns, columns within
    return x.transpose(-4, -3).flatten(-3).flatten(-3, -2)
