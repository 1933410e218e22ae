"""What a VLA is: the fields of a ``model`` config. Torch-free, so that a command line can check keys fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.base import PolicySpec
from foundry_bench.policies.encoder_checks import check_encoders

HEADS = ("flow", "diffusion", "regression", "tokens")
CONDITIONINGS = ("layers", "pooled")
PREDICTIONS = ("v", "epsilon")
ACTION_TOKENIZERS = ("bins", "dct")
_POSITIVE = (
    "image_size", "state_dim", "action_dim", "horizon", "vocab_size", "text_tokens", "width", "heads",
    "layers", "hidden", "expert_width", "expert_hidden", "euler_steps", "flow_draws",
    "denoising_steps", "diffusion_steps",
    "vision_shuffle", "vit_patch", "vit_width", "vit_layers", "vit_heads", "observation_steps",
    "lora_rank", "lora_alpha",
)  # fmt: skip
NORMALIZATIONS = ("quantile", "minmax", "meanstd")


@dataclass(frozen=True)
class VLAConfig:
    """Shape of the vision-language-action model and what it expects of its inputs and outputs.

    Sizes are in tokens, channels or pixels; ``width`` must be divisible by ``heads``.
    """

    name: str = "vla-flow"
    architecture: str = "vla"  # which class reads these fields: see architectures.py
    head: str = "flow"
    # What the policy sees and does.
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size: int = 96
    state_dim: int = 8
    action_dim: int = 7
    horizon: int = 8
    state_convention: str = "eef_pos+axis_angle+gripper_qpos"
    action_convention: str = "osc_pose_delta"
    # Language model (it also carries the image and state tokens).
    vocab_size: int = 512
    text_tokens: int = 24
    width: int = 128
    heads: int = 4
    layers: int = 3
    hidden: int = 256
    kv_heads: int = 0  # key and value heads; 0: as many as heads
    head_size: int = 0  # 0: width / heads
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False
    # Vision.
    stem_channels: tuple[int, ...] = (32, 48, 96)
    share_stem: bool = True
    # Which encoders read images and text, and what they are built on; see docs/backbones.md.
    vision: str = "stem"
    vision_path: str = ""
    vision_tuning: str = "full"
    vision_pixels: int = 0
    vision_shuffle: int = 1
    vit_patch: int = 16
    vit_width: int = 192
    vit_layers: int = 4
    vit_heads: int = 4
    observation_steps: int = 1
    text: str = "own"
    backbone: str = "own"
    backbone_path: str = ""
    backbone_dtype: str = "float32"
    tuning: str = "full"
    lora_rank: int = 16
    lora_alpha: int = 32
    expert_layers: int = 0
    pretrained_rate: float = 0.03
    # Action expert.
    expert_width: int = 96
    expert_hidden: int = 192
    euler_steps: int = 5
    flow_draws: int = 4
    # What it is conditioned on, and the settings of the other heads.
    conditioning: str = "layers"
    diffusion_steps: int = 100
    denoising_steps: int = 10
    prediction: str = "v"
    action_tokenizer: str = "bins"
    action_vocab: int = 256
    dct_scale: float = 10.0
    # Scaling of state and actions.
    state_normalization: str = "quantile"
    action_normalization: str = "quantile"

    def __post_init__(self) -> None:
        for key, known in (
            ("architecture", ("vla",)),
            ("head", HEADS),
            ("conditioning", CONDITIONINGS),
            ("prediction", PREDICTIONS),
            ("action_tokenizer", ACTION_TOKENIZERS),
            ("state_normalization", NORMALIZATIONS),
            ("action_normalization", NORMALIZATIONS),
        ):
            value = getattr(self, key)
            if value not in known:
                raise FoundryError(f"model.{key}={value!r} is unknown: {nearest(str(value), known)}")
        for key in _POSITIVE:
            if getattr(self, key) < 1:
                raise FoundryError(f"model.{key}={getattr(self, key)} must be at least 1")
        _check_head(self)
        if self.image_size < 16:
            raise FoundryError(
                f"model.image_size={self.image_size} is too small for the stem; use at least 16"
            )
        check_heads(self.width, self.heads, self.kv_heads, self.head_size)
        for key in ("rope_base", "norm_eps"):
            if not getattr(self, key) > 0:
                raise FoundryError(f"model.{key}={getattr(self, key)} must be above 0")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise FoundryError(f"model.cameras={list(self.cameras)} must name at least one camera, each once")
        if len(self.stem_channels) != 3 or any(each < 8 or each % 8 for each in self.stem_channels):
            raise FoundryError(f"model.stem_channels={list(self.stem_channels)} must be three multiples of 8")
        check_encoders(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "model") -> VLAConfig:
        """Build from plain values (YAML, OmegaConf containers); an unknown key raises FoundryError."""
        return cls(**checked_fields(cls, values, where))

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists) that ``from_dict`` reads back."""
        return plain(asdict(self))

    def spec(self) -> PolicySpec:
        """What this policy sees and does, as the evaluation compares it with the environment."""
        return PolicySpec(
            cameras=self.cameras,
            image_size=self.image_size,
            horizon=self.horizon,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            state_convention=self.state_convention,
            action_convention=self.action_convention,
        )


def check_heads(width: int, heads: int, kv_heads: int, head_size: int) -> None:
    """FoundryError where attention cannot have these heads (``kv_heads``, ``head_size`` 0: the default)."""
    for key, value in (("kv_heads", kv_heads), ("head_size", head_size)):
        if value < 0:
            raise FoundryError(f"model.{key}={value} must not be negative (0: the default)")
    if not head_size and width % (2 * heads):
        raise FoundryError(
            f"model.width={width} cannot be split into model.heads={heads} heads of even size; "
            "choose a width that is a multiple of twice the heads, or set model.head_size"
        )
    if head_size % 2:
        raise FoundryError(f"model.head_size={head_size} must be even: rotary positions turn pairs")
    if kv_heads and heads % kv_heads:
        raise FoundryError(
            f"model.kv_heads={kv_heads} does not divide model.heads={heads}; "
            "choose one that does: each key head serves the same number of query heads"
        )


def check_diffusion(diffusion_steps: int, denoising_steps: int) -> None:
    """FoundryError unless the steps of a prediction divide those of the noise schedule."""
    if diffusion_steps % denoising_steps:
        raise FoundryError(
            f"model.denoising_steps={denoising_steps} does not divide model.diffusion_steps={diffusion_steps}"
            ", the steps of the noise schedule; choose one that does"
        )


def _check_head(config: VLAConfig) -> None:
    """FoundryError when the numbers of a head do not go together."""
    check_diffusion(config.diffusion_steps, config.denoising_steps)
    if not 4 <= config.action_vocab <= 65_536:
        raise FoundryError(f"model.action_vocab={config.action_vocab} must be from 4 to 65536")
    if not 0 < config.dct_scale <= 1_000:
        raise FoundryError(f"model.dct_scale={config.dct_scale} must be above 0 and at most 1000")


def checked_fields(cls: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values for the dataclass ``cls``, sequences as tuples.

    Raises:
        FoundryError: a key that the dataclass does not have, or a value of another type than its default.
    """
    known: dict[str, Any] = {field.name: field.default for field in fields(cls)}
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise FoundryError(f"{where}.{key} is not a known key: {nearest(str(key), known)}")
        kind = type(known[key])
        if kind is tuple and not isinstance(value, str) and hasattr(value, "__iter__"):
            value = _checked_elements(tuple(value), known[key], f"{where}.{key}")
        elif kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise FoundryError(
                f"{where}.{key}={value!r} must be of type {kind.__name__}, as {known[key]!r} is"
            )
        result[key] = value
    return result


def _checked_elements(values: tuple[Any, ...], default: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    """The same values, each of the type of the default's first (any type, where the default is empty)."""
    kind = type(default[0]) if default else None
    if kind is float:
        values = tuple(float(value) if type(value) is int else value for value in values)
    for value in values:
        if kind is not None and type(value) is not kind:
            raise FoundryError(f"{where}: {value!r} must be of type {kind.__name__}, as in {list(default)}")
    return values


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values with tuples as lists, as YAML and JSON have them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
