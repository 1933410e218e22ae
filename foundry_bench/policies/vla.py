"""The vision-language-action model: instruction, images and state to chunks of normalised actions.

Shapes: B batch, U distinct instructions of the batch, T text tokens, C cameras, V views (cameras times
observation steps), S pixels, K horizon, A action dimension, R draws, H heads, N size of a head, P prefix
tokens (T + image tokens + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.heads import make_head
from foundry_bench.policies.language import KeyValue, LanguageModel, init_linear
from foundry_bench.policies.vision import Stem

__all__ = ["VLA", "TextFeatures", "VLAConfig"]


class TextFeatures(NamedTuple):
    """What the model needs of U distinct instructions: FiLM parameters and keys and values per layer."""

    film: Tensor  # (U, V, 2 * channels of all stages); (U, 0) where no stem is modulated
    cache: list[KeyValue]  # per layer (U, H, T, N); empty where the backbone reads the images first
    tokens: Tensor | None = None  # (U, T) for such a backbone, -1 where there is padding

    def rows(self, inverse_B: Tensor) -> TextFeatures:
        """The features of each row of a batch, given the index of its instruction."""
        cache = [(k.index_select(0, inverse_B), v.index_select(0, inverse_B)) for k, v in self.cache]
        tokens = None if self.tokens is None else self.tokens.index_select(0, inverse_B)
        return TextFeatures(self.film.index_select(0, inverse_B), cache, tokens)

    @staticmethod
    def joined(features: Sequence[TextFeatures]) -> TextFeatures:
        """The features of several instructions, in their order."""
        tokens = [each.tokens for each in features if each.tokens is not None]
        return TextFeatures(
            torch.cat([each.film for each in features]),
            [
                (torch.cat([kv[0] for kv in layer]), torch.cat([kv[1] for kv in layer]))
                for layer in zip(*(each.cache for each in features), strict=True)
            ],
            torch.cat(tokens) if tokens else None,
        )


class VLA(nn.Module):
    """Stems, language model, state token and action expert; the loss and the sampler come from the head.

    Models with other encoders or backbones are subclasses (see build.make_model): they build and run the
    prefix in their own way, and share everything from the expert on.

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

    state: nn.Module

    def __init__(self, config: VLAConfig, assets: Mapping[str, str] | None = None) -> None:
        """``assets`` of a checkpoint: build untrained, for its weights; None: with pretrained weights."""
        super().__init__()
        self.config = config
        self.assets: dict[str, str] = {}
        self.pretrained: tuple[str, ...] = ()
        self._build_prefix(config, assets)
        self.expert = self._build_expert(config)
        self.head = make_head(config)

    def _build_prefix(self, config: VLAConfig, assets: Mapping[str, str] | None) -> None:
        """Everything that makes the prefix."""
        del assets
        self.language = LanguageModel(
            config.vocab_size, config.width, config.heads, config.layers, config.hidden
        )
        self.stems = make_stems(config)
        self.state = nn.Linear(config.state_dim, config.width)
        init_linear(self.state)

    def _build_expert(self, config: VLAConfig) -> ActionExpert:
        return ActionExpert(
            action_dim=config.action_dim,
            horizon=config.horizon,
            width=config.expert_width,
            hidden=config.expert_hidden,
            heads=config.heads,
            head_size=config.width // config.heads,
            layers=config.layers,
            timed=config.head == "flow",
        )

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
        """FiLM parameters of all stems from a summary of each instruction."""
        stems = cast("list[Stem]", list(self.stems))
        return torch.cat([stem.modulation(summary_UD) for stem in stems], dim=1)

    def encode(self, images: Tensor, state: Tensor, text: TextFeatures) -> Sequence[KeyValue]:
        """The prefix that the action expert reads: per layer keys and values (B, H, P, N).

        Args:
            images: uint8 (B, V, S, S, 3), cameras in the order of ``config.cameras``; of each camera all
                observation steps, the oldest first.
            state: normalised (B, state_dim).
            text: features of each row's instruction (``TextFeatures.rows``).
        """
        x_BSD = torch.cat([*self._image_tokens(images, text), self.state(state)[:, None]], dim=1)
        return self.language.read_block(x_BSD, text.cache)

    def _image_tokens(self, images: Tensor, text: TextFeatures) -> list[Tensor]:
        """Tokens of all views (B, tokens, D), in one or several parts."""
        each = images.shape[1] // len(self.stems)
        return [
            stem(images[:, i * each : (i + 1) * each], text.film[:, i * each : (i + 1) * each])
            for i, stem in enumerate(self.stems)
        ]

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean loss of a training batch (see training.vla_stage for its keys)."""
        text = self.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        prefix = self.encode(batch["images"], batch["state"], text)
        return self.head.loss(self.expert, prefix, batch["actions"], batch["action_mask"], generator)

    def sample(self, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """Normalised chunks (B, K, A) from an encoded prefix."""
        return self.head.sample(self.expert, prefix, noise_BKA)


def make_stems(config: VLAConfig) -> nn.ModuleList:
    """One stem for all views, or one for each camera."""
    cameras, steps = len(config.cameras), config.observation_steps
    stems, each = (1, cameras * steps) if config.share_stem else (cameras, steps)
    return nn.ModuleList(
        Stem(config.image_size, config.stem_channels, config.width, config.width, each) for _ in range(stems)
    )
