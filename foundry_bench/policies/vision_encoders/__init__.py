"""Vision encoders: camera images to grids of tokens, for our small stack and for pretrained language models.

Each is a `base.VisionEncoder`; `make_vision_encoder` picks one by ``model.vision``. (The convolutional FiLM
stem of the default model is not among them: it reads the instruction too, see ``policies/vision.py``.)
"""

from __future__ import annotations

from collections.abc import Mapping

from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vision_encoders.base import VisionEncoder

__all__ = ["VisionEncoder", "make_vision_encoder"]


def make_vision_encoder(config: VLAConfig, assets: Mapping[str, str] | None = None) -> VisionEncoder:
    """The encoder that ``config.vision`` names, with its pretrained weights where it has such.

    Args:
        assets: the small files of a checkpoint. Where given, nothing is read from packages, folders or a
            hub: the encoder has the shape they say, and weights that the caller is about to replace.

    Raises:
        FoundryError: weights are missing, damaged, or of an architecture that is not supported.
    """
    from foundry_bench.policies.vision_encoders.efficientnet import EfficientNetLite0
    from foundry_bench.policies.vision_encoders.pretrained import PretrainedVision
    from foundry_bench.policies.vision_encoders.vit import ViT

    encoder: VisionEncoder
    if config.vision == "vit":
        encoder = ViT(config)
    elif config.vision == "efficientnet_lite0":
        encoder = EfficientNetLite0(config, pretrained=assets is None)
    else:
        encoder = PretrainedVision.build(config, assets)
    if config.vision_tuning == "frozen":
        encoder.freeze()
    return encoder
