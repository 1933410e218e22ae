"""What the baselines read an observation with: instructions, and cameras as keypoints.

Shapes: B batch, U distinct instructions, T text tokens, C cameras, S pixels, F feature channels, Y and X
rows and columns of a feature map, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.baselines.config import BaselineConfig
from foundry_bench.policies.language import LanguageModel, init_linear
from foundry_bench.policies.vision import FiLMBlock, halve

FINEST = 16  # side of the feature map, at most: enough to place a keypoint between its cells


class Instructions(NamedTuple):
    """Features of U distinct instructions: a summary, and FiLM parameters for every camera."""

    summary: Tensor  # (U, D)
    film: Tensor  # (U, C, 2 * channels of all stages)

    def rows(self, inverse_B: Tensor) -> Instructions:
        """See action_model.InstructionFeatures."""
        return Instructions(self.summary.index_select(0, inverse_B), self.film.index_select(0, inverse_B))

    @staticmethod
    def joined(parts: Sequence[Instructions]) -> Instructions:
        """See action_model.InstructionFeatures."""
        return Instructions(
            torch.cat([part.summary for part in parts]), torch.cat([part.film for part in parts])
        )


class TextEncoder(nn.Module):
    """Token ids to the mean of the tokens' features: a small causal transformer, trained from scratch."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.language = LanguageModel(
            config.vocab_size, config.width, config.heads, config.text_layers, config.hidden
        )

    def forward(self, tokens_UT: Tensor, mask_UT: Tensor) -> Tensor:
        """(U, D), from ids (U, T) and which of them are not padding."""
        hidden_UTD, _ = self.language.read_text(tokens_UT)
        weight_UT1 = (mask_UT / mask_UT.sum(dim=1, keepdim=True)).to(hidden_UTD.dtype)[:, :, None]
        return (hidden_UTD * weight_UT1).sum(dim=1)


class KeypointEncoder(nn.Module):
    """Camera images to a vector each: a small residual network with FiLM, and a spatial softmax.

    The network is a stride-4 convolution, stages of stride 2 until the map is no finer than ``FINEST``, and
    one of stride 1. Each channel of the last map then says where it is, as the expected position under the
    softmax of its values. GroupNorm throughout, so no image sees another. One network serves all cameras;
    each has its own FiLM, from the instruction.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.cameras = len(config.cameras)
        first, middle, last = config.stem_channels
        grid, stages = halve((config.image_size - 4) // 4 + 1), [middle]
        while grid > FINEST:
            stages.append(middle)
            grid = halve(grid)
        self.patch = nn.Conv2d(3, first, 6, stride=4, padding=1, bias=False)
        self.patch_norm = nn.GroupNorm(8, first)
        inputs = [first, *stages]
        self.blocks = nn.ModuleList(
            [FiLMBlock(a, b) for a, b in zip(inputs, stages, strict=False)]
            + [FiLMBlock(stages[-1], last, stride=1)]
        )
        self.film = nn.Linear(config.width, self.cameras * 2 * (sum(stages) + last))
        self.log_sharpness = nn.Parameter(torch.ones(()))
        self.project = nn.Linear(2 * last, config.width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # kernels in the order of the images
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        init_linear(self.project)
        nn.init.zeros_(self.film.bias)
        nn.init.normal_(self.film.weight, std=0.3 * config.width**-0.5)

    def modulation(self, summary_UD: Tensor) -> Tensor:
        """FiLM parameters (U, C, 2 * channels of all stages) of each distinct instruction."""
        return self.film(summary_UD).unflatten(-1, (self.cameras, -1))

    def forward(self, images: Tensor, film: Tensor) -> Tensor:
        """(B, C, D), from uint8 images (B, C, S, S, 3) and each row's ``modulation``."""
        x = images.flatten(0, 1).permute(0, 3, 1, 2).to(film.dtype).sub_(127.5).mul_(1 / 64)
        x = F.silu(self.patch_norm(self.patch(x)))
        blocks = cast("list[FiLMBlock]", list(self.blocks))
        parts = film.flatten(0, 1).split([count for block in blocks for count in 2 * [block.outputs]], dim=1)
        for block, scale, shift in zip(blocks, parts[0::2], parts[1::2], strict=True):
            x = block(x, 1.0 + scale, shift)
        return self.project(spatial_softmax(x, self.log_sharpness.exp())).unflatten(0, (-1, self.cameras))


def spatial_softmax(map_NFYX: Tensor, sharpness: Tensor) -> Tensor:
    """(N, 2 * F): where each channel is, the expected row and column in [-1, 1] under its softmax."""
    rows, columns = map_NFYX.shape[2:]
    share_NFYX = (map_NFYX.flatten(2) * sharpness).softmax(dim=-1).unflatten(-1, (rows, columns))
    place_y = torch.linspace(-1, 1, rows, device=map_NFYX.device)
    place_x = torch.linspace(-1, 1, columns, device=map_NFYX.device)
    row = (share_NFYX.sum(dim=3) * place_y).sum(dim=-1)
    column = (share_NFYX.sum(dim=2) * place_x).sum(dim=-1)
    return torch.cat([row, column], dim=1)


class ObservationEncoder(nn.Module):
    """Instruction, cameras and state to one vector each."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.text = TextEncoder(config)
        self.vision = KeypointEncoder(config)
        self.state = nn.Linear(config.state_dim, config.width)
        init_linear(self.state)

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> Instructions:
        """See ActionModel."""
        summary_UD = self.text(tokens_UT, mask_UT)
        return Instructions(summary_UD, self.vision.modulation(summary_UD))

    def forward(self, images: Tensor, state: Tensor, text: Instructions) -> Tensor:
        """Tokens (B, C + 2, D): the cameras, the state, the instruction."""
        cameras_BCD = self.vision(images, text.film)
        return torch.cat([cameras_BCD, self.state(state)[:, None], text.summary[:, None]], dim=1)
