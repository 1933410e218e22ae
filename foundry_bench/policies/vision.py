"""Convolutional stem: one camera image to a grid of tokens, modulated by the instruction (FiLM).

Shapes: B batch, C channels, Y and X rows and columns of the grid, D width of a token, S pixels.
Everything runs channels-last: an image batch (B, S, S, 3) is already in that order and is never transposed.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_GRID = 9  # a grid finer than this gets another stride-2 stage


def stage_channels(image_size: int, channels: tuple[int, ...]) -> list[int]:
    """Output channels of each stride-2 stage; more stages for more pixels, so that tokens stay few."""
    stages = list(channels[1:])
    grid = halve(halve((image_size - 4) // 4 + 1))
    while grid > MAX_GRID:
        stages.append(channels[-1])
        grid = halve(grid)
    return stages


def halve(grid: int) -> int:
    """Side of a grid after a 3x3 convolution of stride 2."""
    return (grid + 1) // 2


def token_grid(image_size: int, channels: tuple[int, ...]) -> int:
    """Side of the token grid: 6 for 96 pixels (36 tokens), 8 for 128."""
    grid = (image_size - 4) // 4 + 1
    for _ in stage_channels(image_size, channels):
        grid = halve(grid)
    return grid


class FiLMBlock(nn.Module):
    """Residual block: strided convolution, norm, FiLM, SiLU, convolution, norm; then SiLU of the sum."""

    def __init__(self, inputs: int, outputs: int, groups: int = 8, stride: int = 2) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs, affine=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x_BCYX: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x_BCYX))
        h = F.silu(torch.addcmul(shift_BC[:, :, None, None], h, scale_BC[:, :, None, None]))
        h = self.norm2(self.conv2(h))
        return F.silu(h + self.skip(x_BCYX))


class Stem(nn.Module):
    """Images to tokens. One stem may serve several cameras; each has its own FiLM and embedding."""

    def __init__(
        self, image_size: int, channels: tuple[int, ...], width: int, condition: int, cameras: int
    ) -> None:
        super().__init__()
        self.cameras, self.grid = cameras, token_grid(image_size, channels)
        stages = stage_channels(image_size, channels)
        self.patch = nn.Conv2d(3, channels[0], 6, stride=4, padding=1, bias=False)
        self.patch_norm = nn.GroupNorm(8, channels[0])
        self.blocks = nn.ModuleList(
            FiLMBlock(inputs, outputs)
            for inputs, outputs in zip([channels[0], *stages], stages, strict=False)
        )
        self.film = nn.Linear(condition, cameras * 2 * sum(stages))
        self.project = nn.Linear(stages[-1], width)
        self.position = nn.Parameter(0.02 * torch.randn(cameras, self.grid**2, width))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # kernels in the order of the images
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        nn.init.zeros_(self.film.bias)
        nn.init.normal_(self.film.weight, std=0.3 * condition**-0.5)

    def modulation(self, condition_UD: Tensor) -> Tensor:
        """FiLM parameters (U, cameras, 2 * channels of all stages) of each distinct instruction."""
        return self.film(condition_UD).unflatten(-1, (self.cameras, -1))

    def forward(self, images: Tensor, film: Tensor) -> Tensor:
        """Tokens (B, cameras * grid * grid, width).

        Args:
            images: uint8 (B, cameras, S, S, 3).
            film: ``modulation`` of each row's instruction, (B, cameras, 2 * channels).
        """
        tokens = self._tokens(images.flatten(0, 1), film.flatten(0, 1))
        return (tokens.unflatten(0, (-1, self.cameras)) + self.position).flatten(1, 2)

    def one_camera(self, images: Tensor, film_BC: Tensor, camera_B: Tensor) -> Tensor:
        """Tokens (B, grid * grid, width) of pictures by one camera each.

        Args:
            images: uint8 (B, S, S, 3).
            film_BC: ``modulation`` of each row's text for its camera, (B, 2 * channels).
            camera_B: number of the camera that took each picture.
        """
        return self._tokens(images, film_BC) + self.position[camera_B]

    def _tokens(self, images: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (N, grid * grid, width) without positions, of images (N, S, S, 3)."""
        x = images.permute(0, 3, 1, 2).to(modulation.dtype).sub_(127.5).mul_(1 / 64)
        x = F.silu(self.patch_norm(self.patch(x)))
        start = 0
        for block in cast("list[FiLMBlock]", list(self.blocks)):
            count = block.outputs
            scale, shift = (
                modulation[:, start : start + count],
                modulation[:, start + count : start + 2 * count],
            )
            x = block(x, 1.0 + scale, shift)
            start += 2 * count
        return self.project(x.permute(0, 2, 3, 1).flatten(1, 2))
