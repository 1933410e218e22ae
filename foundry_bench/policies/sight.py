"""What of a VLA reads instructions and images: its language model and its vision, without what acts.

A vision-language model is made of this alone, a VLA of this and a state, an action expert and a head.

Shapes: B batch, U distinct instructions of the batch, T text tokens, C cameras, V views (cameras times
observation steps), S pixels, G tokens of a view, D width, H heads of keys and values, N size of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language import KeyValue, LanguageModel
from foundry_bench.policies.vision import Stem


class TextFeatures(NamedTuple):
    """What the model needs of U distinct instructions: FiLM parameters and keys and values per layer."""

    film: Tensor  # (U, V, 2 * channels of all stages); (U, 0) where nothing is modulated
    cache: list[KeyValue]  # per layer (U, H, T, N); empty where the backbone reads the images first
    tokens: Tensor | None = None  # (U, T) for such a backbone, -1 where there is padding

    def rows(self, inverse_B: Tensor) -> TextFeatures:
        """The features of each row of a batch, given the index of its instruction."""
        cache = [(k.index_select(0, inverse_B), v.index_select(0, inverse_B)) for k, v in self.cache]
        tokens = None if self.tokens is None else self.tokens.index_select(0, inverse_B)
        return TextFeatures(self.film.index_select(0, inverse_B), cache, tokens)

    @staticmethod
    def joined(parts: Sequence[TextFeatures]) -> TextFeatures:
        """The features of several instructions, in their order."""
        layers = zip(*(part.cache for part in parts), strict=True)
        cache = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return TextFeatures(
            torch.cat([part.film for part in parts]), cache, torch.cat(tokens) if tokens else None
        )


class Sight(nn.Module):
    """Language model and stems. Other encoders and backbones are subclasses (see build.make_model).

    Non-obvious behaviours: text is always padded to ``config.text_tokens`` and the padding is attended to
    (the model learns it as part of the instruction), so no shape and no mask depends on the data. Text
    comes first and is causal, so its keys and values depend on nothing else and are computed once per
    distinct instruction.

    Attributes:
        assets: small text files by name that a checkpoint keeps, to build the model again without the
            folders and hubs that its pretrained parts came from.
        pretrained: beginnings of the names of parameters that were pretrained; they are trained at
            ``config.pretrained_rate`` times the learning rate.
    """

    language: LanguageModel

    def __init__(self, config: VLAConfig, assets: Mapping[str, str] | None = None) -> None:
        """``assets`` of a checkpoint: build untrained, for its weights; None: with pretrained weights."""
        super().__init__()
        self.config = config
        self.assets: dict[str, str] = {}
        self.pretrained: tuple[str, ...] = ()
        self._build_sight(config, assets)

    def _build_sight(self, config: VLAConfig, assets: Mapping[str, str] | None) -> None:
        """Everything that reads instructions and images."""
        del assets
        self.language = make_language(config)
        self.stems = make_stems(config)

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> TextFeatures:
        """Features of distinct instructions from token ids (U, T) and which of them are not padding."""
        hidden_UTD, cache = self._read_text(tokens_UT, mask_UT)
        weight_UT1 = (mask_UT / mask_UT.sum(dim=1, keepdim=True)).to(hidden_UTD.dtype)[:, :, None]
        return TextFeatures(self._film((hidden_UTD * weight_UT1).sum(dim=1)), cache)

    def _read_text(self, tokens_UT: Tensor, mask_UT: Tensor) -> tuple[Tensor, list[KeyValue]]:
        """Hidden states (U, T, D) of the instructions, and keys and values per layer."""
        del mask_UT
        return self.language.read_text(tokens_UT, first_position=-self.config.text_tokens)

    def _film(self, summary_UD: Tensor) -> Tensor:
        """FiLM parameters of all views from a summary of each instruction."""
        stems = cast("list[Stem]", list(self.stems))
        return torch.cat([stem.modulation(summary_UD) for stem in stems], dim=1)

    def image_tokens(self, images: Tensor, text: TextFeatures) -> list[Tensor]:
        """Tokens of all views (B, tokens, D), in one or several parts.

        Args:
            images: uint8 (B, V, S, S, 3), cameras in the order of ``config.cameras``; of each camera all
                observation steps, the oldest first.
            text: features of each row's instruction.
        """
        each = images.shape[1] // len(self.stems)
        return [
            stem(images[:, i * each : (i + 1) * each], text.film[:, i * each : (i + 1) * each])
            for i, stem in enumerate(self.stems)
        ]

    def picture_tokens(self, images: Tensor, camera_B: Tensor, text: TextFeatures) -> Tensor:
        """Tokens (B, G, D) of one picture a row, those that ``image_tokens`` has for its camera.

        Args:
            images: uint8 (B, S, S, 3).
            camera_B: which of the model's cameras took each picture.
            text: features of each row's text.
        """
        rows = torch.arange(len(images), device=images.device)
        stems = cast("list[Stem]", list(self.stems))
        if len(stems) == 1:
            return stems[0].one_camera(images, text.film[rows, camera_B], camera_B)
        parts = torch.stack(
            [
                stem.one_camera(images, text.film[:, i], torch.zeros_like(camera_B))
                for i, stem in enumerate(stems)
            ]
        )
        return parts[camera_B, rows]


def make_language(config: VLAConfig) -> LanguageModel:
    """Our own stack, with fresh weights."""
    return LanguageModel(
        config.vocab_size, config.width, config.heads, config.layers, config.hidden,
        kv_heads=config.kv_heads or None, head_size=config.head_size or None, rope_base=config.rope_base,
        norm_eps=config.norm_eps, qk_norm=config.qk_norm,
    )  # fmt: skip


def make_stems(config: VLAConfig) -> nn.ModuleList:
    """One stem for all views, or one for each camera."""
    cameras, steps = len(config.cameras), config.observation_steps
    stems, each = (1, cameras * steps) if config.share_stem else (cameras, steps)
    return nn.ModuleList(
        Stem(config.image_size, config.stem_channels, config.width, config.width, each) for _ in range(stems)
    )
