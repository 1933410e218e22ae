"""Random numbers of a loss that do not depend on how a batch is divided.

A batch may be computed in parts, one after the other or on several machines. A loss that draws with the
functions here gives every row the numbers it would have had in the whole batch, whichever part it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_MASK = 0x7FFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15


class RowGenerator(torch.Generator):
    """Chance for rows ``first`` to ``stop`` of a batch of ``total`` rows.

    Non-obvious behaviour: handed to torch's own functions it is a plain generator, with a seed that is
    different for each part; only the functions of this module draw the whole batch's numbers.
    """

    whole: torch.Generator
    first: int
    stop: int
    total: int

    def __new__(cls, *_: Any) -> RowGenerator:
        return super().__new__(cls)  # torch's takes a device and nothing else

    def __init__(self, seed: int, first: int, stop: int, total: int) -> None:
        self.first, self.stop, self.total = first, stop, total
        self.whole = torch.Generator().manual_seed(seed)
        self.manual_seed((seed + (first + 1) * _GOLDEN) & _MASK)


def randn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Normal numbers on the CPU, ``shape[0]`` being the rows at hand."""
    return _draw(torch.randn, shape, generator)


def rand(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) on the CPU, ``shape[0]`` being the rows at hand."""
    return _draw(torch.rand, shape, generator)


def randint(low: int, high: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Whole numbers in [low, high) on the CPU, ``shape[0]`` being the rows at hand."""

    def draw(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    return _draw(draw, shape, generator)


def _draw(draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    if not isinstance(generator, RowGenerator):
        return draw(tuple(shape), generator=generator)
    rows = generator.stop - generator.first
    assert shape[0] == rows, f"{shape[0]} rows are drawn for, the batch has {rows}"
    drawn = draw((generator.total, *shape[1:]), generator=generator.whole)
    return drawn[generator.first : generator.stop]
