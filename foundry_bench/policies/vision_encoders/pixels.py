"""Camera images to what a pretrained tower was trained on, in torch and on the images' device.

Shapes: N images, S their pixels, C colours.

transformers has two kinds of image processor: one needs torchvision, the other computes image by image with
PIL. This one is batched and needs neither. At equal sizes it agrees with theirs to 1e-6. Where sizes differ
it interpolates bicubically with anti-aliasing and rounds to whole levels, as PIL does; and it never crops:
the border of a robot's camera image shows what the arm is about to reach.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry_bench.errors import FoundryError


@dataclass(frozen=True)
class Pixels:
    """Mean and deviation of each colour after multiplication with ``rescale``; ``size`` as stored."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float
    size: dict[str, Any]

    @classmethod
    def from_json(cls, text: str, where: str) -> Pixels:
        """Read a ``preprocessor_config.json``, or the part of a ``processor_config.json`` about images.

        Raises:
            FoundryError: naming ``where``, when an entry is missing or cannot be used.
        """
        try:
            entries = json.loads(text)
            entries = entries.get("image_processor", entries)
            mean, std = (tuple(float(v) for v in entries[name]) for name in ("image_mean", "image_std"))
            rescale = float(entries.get("rescale_factor", 1 / 255))
            size = dict(entries.get("size") or {})
            for ours, theirs in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
                size |= {ours: entries[theirs]} if entries.get(theirs) else {}  # as Qwen once wrote it
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FoundryError(
                f"{where} does not say how to scale pixels ({error!r}): it needs image_mean and image_std; "
                "take the file that was published with the weights"
            ) from error
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or rescale <= 0:
            raise FoundryError(
                f"{where}: image_mean={list(mean)}, image_std={list(std)}, rescale_factor={rescale} are not "
                "three means, three deviations above 0 and a factor above 0; restore the file"
            )
        return cls(mean, std, rescale, size)

    def __call__(self, images_NSSC: Tensor, side: int) -> Tensor:
        """Normalised float32 images (N, 3, side, side) from uint8 (N, S, S, 3)."""
        x_NCSS = resize(images_NSSC.permute(0, 3, 1, 2).float(), side)
        scale = torch.tensor([self.rescale / std for std in self.std], device=x_NCSS.device)
        offset = torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], device=x_NCSS.device
        )
        return torch.addcmul(offset[:, None, None], x_NCSS, scale[:, None, None])


def resize(x_NCSS: Tensor, side: int) -> Tensor:
    """Images of 0 to 255 at another size, in whole levels; the same tensor where the size is right."""
    if x_NCSS.shape[-1] == side:
        return x_NCSS
    for size in ((x_NCSS.shape[-2], side), (side, side)):  # along rows first, in whole levels between, as PIL
        x_NCSS = F.interpolate(x_NCSS, size=size, mode="bicubic", antialias=True, align_corners=False)
        x_NCSS = x_NCSS.round().clamp(0, 255)
    return x_NCSS
