"""What a baseline is: the fields of its ``model`` config. Torch-free, as the VLA's are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.base import PolicySpec
from foundry_bench.policies.config import (
    NORMALIZATIONS,
    PREDICTIONS,
    check_diffusion,
    checked_fields,
    plain,
)


@dataclass(frozen=True)
class BaselineConfig:
    """What all baselines have: the seeing and doing of a policy, a small text encoder, camera encoders.

    Sizes are in tokens, channels or pixels; ``width`` must be a multiple of twice ``heads``.
    """

    name: str = "baseline"
    architecture: str = "baseline"
    head: str = ""
    # What the policy sees and does.
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size: int = 96
    state_dim: int = 8
    action_dim: int = 7
    horizon: int = 8
    state_convention: str = "eef_pos+axis_angle+gripper_qpos"
    action_convention: str = "osc_pose_delta"
    # Text encoder; ``width`` and ``heads`` are also those of the transformers.
    vocab_size: int = 512
    text_tokens: int = 24
    text_layers: int = 1
    width: int = 128
    heads: int = 4
    hidden: int = 256
    # Cameras: channels after the first convolution and after each stage.
    stem_channels: tuple[int, ...] = (32, 48, 96)
    # Scaling of state and actions.
    state_normalization: str = "quantile"
    action_normalization: str = "quantile"

    def __post_init__(self) -> None:
        for key, known in (
            ("architecture", (type(self).architecture,)),
            ("head", self.known_heads()),
            ("state_normalization", NORMALIZATIONS),
            ("action_normalization", NORMALIZATIONS),
        ):
            value = getattr(self, key)
            if value not in known:
                raise FoundryError(f"model.{key}={value!r} is unknown: {nearest(str(value), known)}")
        for key, value in asdict(self).items():
            if type(value) is int and value < 1:
                raise FoundryError(f"model.{key}={value} must be at least 1")
        if self.image_size < 16:
            raise FoundryError(f"model.image_size={self.image_size} is too small; use at least 16")
        if self.width % (2 * self.heads):
            raise FoundryError(
                f"model.width={self.width} cannot be split into model.heads={self.heads} heads of even size; "
                "choose a width that is a multiple of twice the heads"
            )
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise FoundryError(f"model.cameras={list(self.cameras)} must name at least one camera, each once")
        if len(self.stem_channels) != 3 or any(count < 8 or count % 8 for count in self.stem_channels):
            raise FoundryError(f"model.stem_channels={list(self.stem_channels)} must be three multiples of 8")

    @classmethod
    def known_heads(cls) -> tuple[str, ...]:
        """What ``head`` may be."""
        return (cls.head,)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "model") -> Self:
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


@dataclass(frozen=True)
class DiffusionPolicyConfig(BaselineConfig):
    """Diffusion Policy (Chi et al., arXiv 2303.04137) with the convolutional U-Net."""

    name: str = "diffusion-policy"
    architecture: str = "diffusion_policy"
    head: str = "diffusion"
    unet_channels: tuple[int, ...] = (64, 128)  # of each level; the horizon is halved between two of them
    unet_kernel: int = 5
    condition_width: int = 192  # of what modulates the U-Net: observation and time
    diffusion_steps: int = 100
    denoising_steps: int = 10
    prediction: str = "epsilon"
    draws: int = 4  # of noise and step, per sample in training

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction not in PREDICTIONS:
            raise FoundryError(
                f"model.prediction={self.prediction!r} is unknown: {nearest(self.prediction, PREDICTIONS)}"
            )
        check_diffusion(self.diffusion_steps, self.denoising_steps)
        if not self.unet_channels or any(channels < 8 or channels % 8 for channels in self.unet_channels):
            raise FoundryError(f"model.unet_channels={list(self.unet_channels)} must be multiples of 8")
        if self.unet_kernel % 2 == 0:
            raise FoundryError(f"model.unet_kernel={self.unet_kernel} must be odd")
        factor = 2 ** (len(self.unet_channels) - 1)
        if self.horizon % factor:
            raise FoundryError(
                f"model.horizon={self.horizon} cannot be halved {len(self.unet_channels) - 1} times; choose "
                f"a multiple of {factor}, or fewer model.unet_channels"
            )


@dataclass(frozen=True)
class ACTConfig(BaselineConfig):
    """ACT (Zhao et al., arXiv 2304.13705): a conditional variational autoencoder of chunks, told the task."""

    name: str = "act"
    architecture: str = "act"
    head: str = "regression"
    latent: int = 16  # numbers in the style variable
    style_layers: int = 1  # of the encoder of actions, which only training uses
    encoder_layers: int = 3
    decoder_layers: int = 1
    kl_weight: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl_weight >= 0:
            raise FoundryError(f"model.kl_weight={self.kl_weight} must not be negative")


@dataclass(frozen=True)
class BCTransformerConfig(BaselineConfig):
    """LIBERO's BC-Transformer (Liu et al., arXiv 2306.03310), on one observation, for chunks."""

    name: str = "bc-transformer"
    architecture: str = "bc_transformer"
    head: str = "gmm"
    layers: int = 4
    modes: int = 5  # of the mixture (gmm)

    @classmethod
    def known_heads(cls) -> tuple[str, ...]:
        """A mixture of Gaussians, or L1."""
        return ("gmm", "regression")
