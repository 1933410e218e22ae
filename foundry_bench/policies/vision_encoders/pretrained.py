"""SigLIP, DINOv2 and CLIP as vision encoders, from a folder or a hub id, through transformers.

Shapes: N images, P tokens of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.backbones.loading import (
    Source,
    build_untrained,
    load_pretrained,
    open_source,
    read_config,
)
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vision_encoders.base import VisionEncoder
from foundry_bench.policies.vision_encoders.pixels import Pixels

CONFIG, PIXELS = "vision_config.json", "vision_preprocessor.json"
# Model types that have a text tower beside the vision tower, and the vision tower's own.
_PAIRED = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
MODEL_TYPES = (*_PAIRED, *_PAIRED.values(), "dinov2", "dinov2_with_registers")


class PretrainedVision(VisionEncoder):
    """Patch tokens of the last layer; the class token and register tokens are left out.

    The tower is always in evaluation mode: a dropout that its config asks for would draw from torch's global
    chance, which no resumed run could repeat. Where ``model.vision_pixels`` differs from what the tower was
    trained with, its position embeddings are interpolated, as transformers does it.
    """

    def __init__(self, config: VLAConfig, tower: Any, pixels: Pixels, assets: Mapping[str, str]) -> None:
        super().__init__()
        self.tower, self.pixels, self.assets = tower, pixels, dict(assets)
        shape = tower.config
        self.width, patch = int(shape.hidden_size), int(shape.patch_size)
        own = int(shape.image_size)
        self.side = config.vision_pixels or own
        if self.side % patch:
            raise FoundryError(
                f"model.vision_pixels={self.side} is no multiple of the tower's patches of {patch} pixels; "
                f"use 0 for its own {own}, or a multiple of {patch}"
            )
        self.grid = self.side // patch
        self.interpolates = self.side != own and shape.model_type in _PAIRED.values()
        self.skipped = 0 if shape.model_type == "siglip_vision_model" else 1
        self.skipped += int(getattr(shape, "num_register_tokens", 0))

    @classmethod
    def build(cls, config: VLAConfig, assets: Mapping[str, str] | None) -> PretrainedVision:
        """From ``config.vision_path``, or untrained from the assets of a checkpoint."""
        if assets is None:
            source = open_source(config.vision_path, "model.vision_path")
            texts = {CONFIG: source.read("config.json"), PIXELS: source.preprocessor()}
        else:
            source, texts = None, {name: assets[name] for name in (CONFIG, PIXELS)}
        where = source.where("config.json") if source else CONFIG
        shape = vision_part(read_config(texts[CONFIG], where, MODEL_TYPES))
        pixels = Pixels.from_json(texts[PIXELS], source.where("preprocessor") if source else PIXELS)
        tower = load_tower(shape, source)
        return cls(config, tower, pixels, texts)

    def train(self, mode: bool = True) -> PretrainedVision:
        """As of any module, but for the tower."""
        super().train(mode)
        self.tower.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """See VisionEncoder."""
        x = self.pixels(images, self.side)
        more = {"interpolate_pos_encoding": True} if self.interpolates else {}
        x_NPD = self.tower(pixel_values=x, **more).last_hidden_state
        return x_NPD[:, self.skipped :]


def vision_part(config: Any) -> Any:
    """The configuration of the vision tower alone."""
    shape = config.vision_config if config.model_type in _PAIRED else config
    if shape.model_type == "siglip_vision_model":
        shape.vision_use_head = False  # it would pool the tokens to one
    return shape


def load_tower(shape: Any, source: Source | None) -> Any:
    """The tower with its weights, or untrained where there is no source."""
    from transformers import AutoModel

    if source is None:
        return build_untrained(AutoModel, shape)
    return load_pretrained(AutoModel, shape, source, whole=False)
