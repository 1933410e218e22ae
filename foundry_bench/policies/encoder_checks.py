"""Do the choices of vision encoder, text encoder and backbone go together? Torch-free, like the config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_bench.errors import FoundryError, nearest

if TYPE_CHECKING:
    from foundry_bench.policies.config import VLAConfig

VISIONS = ("stem", "vit", "efficientnet_lite0", "pretrained")
TEXTS = ("own", "minilm")
BACKBONES = ("own", "vlm", "lm")  # our small stack; a vision-language model; a language model with our vision
_CHOICES = {
    "vision": VISIONS,
    "vision_tuning": ("full", "frozen"),
    "text": TEXTS,
    "backbone": BACKBONES,
    "backbone_dtype": ("float32", "bfloat16"),
    "tuning": ("full", "frozen", "lora"),
}


def check_encoders(config: VLAConfig) -> None:
    """Raise FoundryError naming the first key that is unknown, or does not go with another."""
    for key, known in _CHOICES.items():
        value = getattr(config, key)
        if value not in known:
            raise FoundryError(f"model.{key}={value!r} is unknown: {nearest(str(value), known)}")
    for key in ("vision_pixels", "expert_layers"):
        if getattr(config, key) < 0:
            raise FoundryError(f"model.{key}={getattr(config, key)} must not be negative")
    if not 0 < config.pretrained_rate <= 1:
        raise FoundryError(f"model.pretrained_rate={config.pretrained_rate} must be above 0 and at most 1")
    _check_vision(config)
    _check_backbone(config)


def _check_vision(config: VLAConfig) -> None:
    if config.vision == "pretrained" and not config.vision_path:
        raise FoundryError(
            "model.vision=pretrained needs model.vision_path: a folder or hub id of SigLIP, DINOv2 or CLIP"
        )
    if config.vision_path and config.vision != "pretrained":
        raise FoundryError(
            f"model.vision_path={config.vision_path} is read by model.vision=pretrained only, "
            f"not by {config.vision}; set that, or leave the path empty"
        )
    if config.vision_tuning == "frozen" and config.vision in ("stem", "vit"):
        raise FoundryError(
            f"model.vision_tuning=frozen would keep the untrained weights of model.vision={config.vision}; "
            "use full, or a pretrained encoder"
        )
    if config.vision == "stem":
        _check_no_encoder(config)
    if config.vision != "vit":
        return
    if config.vit_width % (4 * config.vit_heads):
        raise FoundryError(
            f"model.vit_width={config.vit_width} cannot be split into model.vit_heads={config.vit_heads} "
            "heads of a size that is a multiple of 4; choose a multiple of four times the heads"
        )
    pixels = config.vision_pixels or config.image_size
    if pixels % config.vit_patch:
        raise FoundryError(
            f"model.vit_patch={config.vit_patch} does not divide the image's {pixels} pixels; "
            "choose a divisor, or set model.vision_pixels to a multiple"
        )


def _check_no_encoder(config: VLAConfig) -> None:
    """FoundryError on settings of an encoder where there is none: the stem, or a backbone with its own."""
    if config.vision_shuffle != 1:
        raise FoundryError(
            f"model.vision_shuffle={config.vision_shuffle} is of the encoders of model.vision=vit, "
            "efficientnet_lite0 and pretrained; use one of them, or leave it at 1"
        )
    if config.vision_pixels and config.backbone == "own":
        raise FoundryError(
            f"model.vision_pixels={config.vision_pixels} is not read by model.vision=stem, which takes the "
            "camera's pixels as they are; set model.image_size, or leave it at 0"
        )


def _check_backbone(config: VLAConfig) -> None:
    own = config.backbone == "own"
    if not own and not config.backbone_path:
        raise FoundryError(
            f"model.backbone={config.backbone} needs model.backbone_path: a folder or hub id, "
            "such as Qwen/Qwen3-VL-2B-Instruct"
        )
    if own and config.backbone_path:
        raise FoundryError(
            f"model.backbone_path={config.backbone_path} is not read by model.backbone=own; "
            "use vlm for a vision-language model, lm for a language model"
        )
    if own and (config.tuning != "full" or config.expert_layers):
        key = "expert_layers" if config.expert_layers else "tuning"
        raise FoundryError(
            f"model.{key}={getattr(config, key)} is for pretrained backbones; model.backbone=own is "
            "trained in full and read at every layer"
        )
    if config.backbone_dtype != "float32" and (own or config.tuning == "full"):
        why = "is for pretrained backbones" if own else "would lose most updates of model.tuning=full"
        raise FoundryError(
            f"model.backbone_dtype={config.backbone_dtype} {why}; use float32 (train.precision=bf16 computes "
            "in bfloat16 and keeps fp32 weights), or model.tuning=frozen or lora of a pretrained backbone"
        )
    if not own and config.text != "own":
        raise FoundryError(
            f"model.text={config.text} goes with model.backbone=own; {config.backbone} reads text by itself"
        )
    if config.backbone == "vlm" and config.vision != "stem":
        raise FoundryError(
            f"model.vision={config.vision} is not used by model.backbone=vlm, which has a vision tower of "
            "its own; leave model.vision=stem, or use backbone=lm"
        )
    if config.backbone == "lm" and config.vision == "stem":
        raise FoundryError(
            "model.backbone=lm needs a vision encoder: model.vision=vit, efficientnet_lite0 or pretrained"
        )
    if not own and config.conditioning == "pooled":
        raise FoundryError(
            f"model.conditioning=pooled goes with model.backbone=own; of {config.backbone} the expert reads "
            "keys and values of layers, model.expert_layers of them"
        )


def check_speaks(config: VLAConfig, wanted: str) -> None:
    """FoundryError unless the model has a language model of ours that can write words.

    Args:
        config: of the whole VLA.
        wanted: what would be made of it, for the message.
    """
    if config.backbone != "own":
        raise FoundryError(
            f"{wanted} answers with our own language model, model.backbone={config.backbone} has another; "
            "use model.backbone=own, or leave this out"
        )
    if config.text != "own":
        raise FoundryError(
            f"{wanted} writes words, model.text={config.text} only reads them; use model.text=own, or leave "
            "this out"
        )
    if config.observation_steps > 1:
        raise FoundryError(
            f"{wanted} sees one picture, model.observation_steps={config.observation_steps} wants several; "
            "use 1, or leave this out"
        )
