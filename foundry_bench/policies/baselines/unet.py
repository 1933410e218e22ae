"""A one-dimensional convolutional U-Net over the actions of a chunk, modulated by a condition (FiLM).

Shapes: N chunks, K horizon, A action dimension, W width of the condition, F channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.language import init_linear


class ConditionedBlock(nn.Module):
    """Two convolutions with GroupNorm and SiLU; scale and shift by the condition between them; a skip."""

    def __init__(self, inputs: int, outputs: int, kernel: int, condition: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.film = nn.Linear(condition, 2 * outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.film.bias)
        nn.init.normal_(self.film.weight, std=0.3 * condition**-0.5)

    def forward(self, x_NFK: Tensor, condition_NW: Tensor) -> Tensor:
        scale, shift = self.film(condition_NW)[:, :, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.conv1(x_NFK)))
        h = torch.addcmul(shift, h, 1 + scale)
        h = F.silu(self.norm2(self.conv2(h)))
        return h + self.skip(x_NFK)


class ChunkUNet(nn.Module):
    """Noisy chunks to what the diffusion predicts, at full, half, ... length and back.

    Args:
        action_dim: A. channels: of each level, the finest first; K is a multiple of two to the power of one
        less than levels. kernel: length of the convolutions, odd. condition: W.
    """

    def __init__(self, action_dim: int, channels: tuple[int, ...], kernel: int, condition: int) -> None:
        super().__init__()
        self.input = nn.Conv1d(action_dim, channels[0], 1)
        ins = (channels[0], *channels[:-1])
        self.down = nn.ModuleList(
            ConditionedBlock(a, b, kernel, condition) for a, b in zip(ins, channels, strict=True)
        )
        self.shorten = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in channels[:-1])
        self.middle = nn.ModuleList(
            ConditionedBlock(channels[-1], channels[-1], kernel, condition) for _ in range(2)
        )
        self.lengthen = nn.ModuleList(nn.Conv1d(b, a, 3, padding=1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(ConditionedBlock(2 * c, c, kernel, condition) for c in channels[:-1])
        self.output = nn.Conv1d(channels[0], action_dim, 1)

    def forward(self, chunks_NKA: Tensor, condition_NW: Tensor) -> Tensor:
        """(N, K, A), from noisy chunks of that shape and a condition (N, W)."""
        condition_NW = F.silu(condition_NW)
        x = self.input(chunks_NKA.transpose(1, 2))
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x, condition_NW)
            if level < len(self.shorten):
                kept.append(x)
                x = self.shorten[level](x)
        for block in self.middle:
            x = block(x, condition_NW)
        for level in reversed(range(len(self.up))):
            x = self.lengthen[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = self.up[level](torch.cat([x, kept[level]], dim=1), condition_NW)
        return self.output(x).transpose(1, 2)


class TimeEncoder(nn.Module):
    """A time's sines and cosines (N, 64) to a condition (N, W)."""

    def __init__(self, condition: int) -> None:
        super().__init__()
        self.input = nn.Linear(64, condition)
        self.second = nn.Linear(condition, condition)
        for module in (self.input, self.second):
            init_linear(module)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(F.silu(self.input(features)))
