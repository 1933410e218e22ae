"""A small vision transformer, trained from scratch.

Shapes: N images, S pixels, P tokens of the grid, D width, H heads, M size of a head.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language import DecoderBlock, init_linear, rotary_table
from foundry_bench.policies.norm import RMSNorm
from foundry_bench.policies.vision_encoders.base import VisionEncoder
from foundry_bench.policies.vision_encoders.pixels import resize

BASE = 100.0  # rotary base: the slowest of the frequencies turns by about one radian over a grid of 100


class ViT(VisionEncoder):
    """Patches, pre-norm blocks (RMSNorm, SwiGLU, attention in both directions), a final norm.

    Position is two-dimensional and relative: half of each head is turned by the token's row, half by its
    column, so that the same weights read any number of pixels.
    """

    def __init__(self, config: VLAConfig) -> None:
        super().__init__()
        self.width = config.vit_width
        self.side = config.vision_pixels or config.image_size
        self.grid = self.side // config.vit_patch
        self.patch = nn.Conv2d(3, self.width, config.vit_patch, stride=config.vit_patch, bias=False)
        self.blocks = nn.ModuleList(
            DecoderBlock(self.width, config.vit_heads, 8 * self.width // 3 // 8 * 8)
            for _ in range(config.vit_layers)
        )
        self.norm = RMSNorm(self.width)
        self.blocks.apply(init_linear)
        for block in self.stack:  # residual branches start small, whatever the depth
            for matrix in (block.out, block.feed.down):
                nn.init.normal_(matrix.weight, std=0.45 / math.sqrt(self.width * 2 * config.vit_layers))
        self.head_size = self.width // config.vit_heads

    @property
    def stack(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return cast("list[DecoderBlock]", list(self.blocks))

    def forward(self, images: Tensor) -> Tensor:
        """See VisionEncoder."""
        x = resize(images.permute(0, 3, 1, 2).to(self.patch.weight.dtype), self.side)
        x_NPD = self.patch((x - 127.5) / 64).flatten(2).transpose(1, 2)
        table = grid_table(self.grid, self.head_size, x_NPD.device)
        for block in self.stack:
            x_NPD, _ = block(x_NPD, table=table, prefix=None, causal=False)
        return self.norm(x_NPD)


def grid_table(grid: int, size: int, device: torch.device) -> Tensor:
    """Cosines and sines (2, grid * grid, size) that turn half of a head by the row, half by the column.

    ``language.rotate`` pairs channel i with channel i + size / 2, so the two halves of a one-dimensional
    table of half the size are put side by side within each half of the head.
    """
    cells = torch.arange(grid, device=device)
    row = rotary_table(cells.repeat_interleave(grid), size // 2, BASE)[..., : size // 4]
    column = rotary_table(cells.repeat(grid), size // 2, BASE)[..., : size // 4]
    return torch.cat([row, column, row, column], dim=-1)
