"""What differs between families of vision-language models: the size of images, and the form pixels take.

Shapes: B batch, V views, N = B * V images, S pixels, P prefix tokens, G patches along a side, M patches along
the side of what becomes one token, C colours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.vision_encoders.pixels import Pixels


class Family:
    """Sizes and inputs of one family; `inputs` is the subclass's.

    Attributes:
        side: pixels of an image as the vision tower takes it.
        image_tokens: tokens of one image in the language model.
    """

    def __init__(self, config: Any, pixels: Pixels, wanted: int, image_size: int) -> None:
        """
        Args:
            config: the model's transformers configuration.
            wanted: ``model.vision_pixels``, 0 for the model's own size.
            image_size: pixels of the camera images.
        """
        self.config, self.pixels = config, pixels
        step = self.step()
        self.side = wanted or self.own_side(image_size)
        if self.side % step:
            raise FoundryError(
                f"model.vision_pixels={self.side} is not a multiple of {step}, the pixels along one token of "
                f"{config.model_type}; use {math.ceil(self.side / step) * step}, or 0 for its own size"
            )
        self.image_tokens = (self.side // step) ** 2

    def step(self) -> int:
        """Pixels along the side of what becomes one token."""
        raise NotImplementedError

    def own_side(self, image_size: int) -> int:
        """The side that the model's own processor would give a square image of ``image_size`` pixels."""
        del image_size
        return int(self.config.vision_config.image_size)

    def inputs(self, images: Tensor, mask_BP: Tensor) -> dict[str, Tensor]:
        """Arguments of the model beside token ids and attention mask.

        Args:
            images: uint8 (B, V, S, S, 3).
            mask_BP: true where a token is no padding.
        """
        raise NotImplementedError

    def positions(self, is_image: list[bool]) -> Tensor | None:
        """Position ids that the model would compute itself row by row; None where it needs no help."""
        del is_image
        return None


class Qwen3VL(Family):
    """Patches in a row, four to a token, each repeated in time; rotary positions of three axes."""

    def step(self) -> int:
        """See Family."""
        vision = self.config.vision_config
        return int(vision.patch_size) * int(vision.spatial_merge_size)

    def own_side(self, image_size: int) -> int:
        """The nearest multiple of a token's pixels, within the processor's bounds on the area."""
        step = self.step()
        least, most = (int(self.pixels.size.get(key, 0)) for key in ("shortest_edge", "longest_edge"))
        side = round(image_size / step) * step
        # In the processor's own arithmetic: whole multiples of a step must round as they do there.
        if most and side**2 > most:
            return max(step, math.floor(image_size / math.sqrt(image_size**2 / most) / step) * step)
        if side**2 < least:
            return math.ceil(image_size * math.sqrt(least / image_size**2) / step) * step
        return max(side, step)

    def inputs(self, images: Tensor, mask_BP: Tensor) -> dict[str, Tensor]:
        """See Family."""
        del mask_BP
        vision = self.config.vision_config
        x_NCSS = self.pixels(images.flatten(0, 1), self.side)
        grid = self.side // int(vision.patch_size)
        patches = patchify(
            x_NCSS, int(vision.patch_size), int(vision.spatial_merge_size), int(vision.temporal_patch_size)
        )
        sizes = torch.tensor([[1, grid, grid]], device=images.device).expand(len(x_NCSS), 3)
        return {"pixel_values": patches, "image_grid_thw": sizes}

    def positions(self, is_image: list[bool]) -> Tensor:
        """Position ids (3, 1, P): time, row and column of every token; the three agree for text."""
        side = self.side // self.step()
        columns: list[tuple[int, int, int]] = []
        start = at = 0
        while at < len(is_image):
            if not is_image[at]:
                columns.append((start, start, start))
                start, at = start + 1, at + 1
                continue
            columns.extend(
                (start, start + row, start + column) for row in range(side) for column in range(side)
            )
            start, at = start + side, at + side**2
        return torch.tensor(columns).T[:, None]


class SmolVLM(Family):
    """One whole image each; tokens of ``scale_factor``² patches. Images are not split into tiles."""

    def step(self) -> int:
        """See Family."""
        return int(self.config.vision_config.patch_size) * int(self.config.scale_factor)

    def inputs(self, images: Tensor, mask_BP: Tensor) -> dict[str, Tensor]:
        """See Family."""
        del mask_BP
        x_NCSS = self.pixels(images.flatten(0, 1), self.side)
        return {"pixel_values": x_NCSS.unflatten(0, images.shape[:2])}


class PaliGemma(Family):
    """One token per patch at the trained size only; the whole prompt is read in both directions."""

    def __init__(self, config: Any, pixels: Pixels, wanted: int, image_size: int) -> None:
        own = int(config.vision_config.image_size)
        if wanted not in (0, own):
            raise FoundryError(
                f"model.vision_pixels={wanted}: this PaliGemma takes images of {own} pixels only; use 0"
            )
        super().__init__(config, pixels, wanted, image_size)

    def step(self) -> int:
        """See Family."""
        return int(self.config.vision_config.patch_size)

    def inputs(self, images: Tensor, mask_BP: Tensor) -> dict[str, Tensor]:
        """See Family; token type 0 is what is read in both directions."""
        return {
            "pixel_values": self.pixels(images.flatten(0, 1), self.side),
            "token_type_ids": torch.zeros_like(mask_BP, dtype=torch.long),
        }


FAMILIES: dict[str, type[Family]] = {"qwen3_vl": Qwen3VL, "smolvlm": SmolVLM, "paligemma": PaliGemma}


def patchify(x_NCSS: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Images as rows of patches (N * G * G, C * frames * patch * patch), those of one token together."""
    count, colours, side, _ = x_NCSS.shape
    coarse = side // patch // merge
    x = x_NCSS.reshape(count, colours, coarse, merge, patch, coarse, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
    x = x.expand(*x.shape[:6], frames, patch, patch)
    return x.reshape(count * (coarse * merge) ** 2, colours * frames * patch * patch)
