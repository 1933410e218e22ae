"""The vision-language-action model: instruction, images and state to chunks of normalised actions.

Shapes: B batch, U distinct instructions of the batch, T text tokens, C cameras, S pixels, K horizon,
A action dimension, R draws, H heads of keys and values, N size of a head, P prefix tokens (T + image tokens
+ 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from foundry_bench.policies.action_expert import ActionExpert, token_keys_values
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.heads import make_expert, make_head
from foundry_bench.policies.language import KeyValue, LanguageModel, init_linear
from foundry_bench.policies.token_expert import TokenExpert
from foundry_bench.policies.vision import Stem

__all__ = ["VLA", "TextFeatures", "VLAConfig"]


class TextFeatures(NamedTuple):
    """What the model needs of U distinct instructions: FiLM parameters and keys and values per layer."""

    film: Tensor  # (U, C, 2 * channels of all stages)
    cache: list[KeyValue]  # per layer (U, H, T, N)

    def rows(self, inverse_B: Tensor) -> TextFeatures:
        """The features of each row of a batch, given the index of its instruction."""
        cache = [(k.index_select(0, inverse_B), v.index_select(0, inverse_B)) for k, v in self.cache]
        return TextFeatures(self.film.index_select(0, inverse_B), cache)

    @staticmethod
    def joined(parts: Sequence[TextFeatures]) -> TextFeatures:
        """The features of several instructions, in their order."""
        layers = zip(*(part.cache for part in parts), strict=True)
        cache = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
        return TextFeatures(torch.cat([part.film for part in parts]), cache)


class VLA(nn.Module):
    """Stems, language model, state token and action expert; the loss and the sampler come from the head.

    Non-obvious behaviours: text is always padded to ``config.text_tokens`` and the padding is attended to
    (the model learns it as part of the instruction), so no shape and no mask depends on the data. Text
    comes first and is causal, so its keys and values depend on nothing else and are computed once per
    distinct instruction. With ``config.conditioning == "pooled"`` the expert reads one token instead, the
    mean of the last layer's image and state tokens (which have read the text), projected to the expert's
    width; the expert itself is of the same size.
    """

    def __init__(self, config: VLAConfig) -> None:
        super().__init__()
        self.config = config
        self.assets: dict[str, str] = {}  # see action_model.ActionModel
        self.language = LanguageModel(
            config.vocab_size, config.width, config.heads, config.layers, config.hidden,
            kv_heads=config.kv_heads or None, head_size=config.head_size or None, rope_base=config.rope_base,
            norm_eps=config.norm_eps, qk_norm=config.qk_norm,
        )  # fmt: skip
        cameras = len(config.cameras)
        stems, each = (1, cameras) if config.share_stem else (cameras, 1)
        self.stems = nn.ModuleList(
            Stem(config.image_size, config.stem_channels, config.width, config.width, each)
            for _ in range(stems)
        )
        self.state = nn.Linear(config.state_dim, config.width)
        init_linear(self.state)
        self.expert = self._build_expert(config)
        if config.conditioning == "pooled":
            self.pooled = nn.Linear(config.width, config.expert_width)
            init_linear(self.pooled)
        self.head = make_head(config)

    def _build_expert(self, config: VLAConfig) -> ActionExpert | TokenExpert:
        language = self.language
        return make_expert(
            config,
            heads=config.heads,
            head_size=language.head_size,
            layers=config.layers,
            kv_heads=language.kv_heads,
        )

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> TextFeatures:
        """Features of distinct instructions from token ids (U, T) and which of them are not padding."""
        hidden_UTD, cache = self.language.read_text(tokens_UT, first_position=-self.config.text_tokens)
        weight_UT1 = (mask_UT / mask_UT.sum(dim=1, keepdim=True)).to(hidden_UTD.dtype)[:, :, None]
        summary_UD = (hidden_UTD * weight_UT1).sum(dim=1)
        stems = cast("list[Stem]", list(self.stems))
        film = torch.cat([stem.modulation(summary_UD) for stem in stems], dim=1)
        return TextFeatures(film, cache)

    def encode(self, images: Tensor, state: Tensor, text: TextFeatures) -> list[KeyValue]:
        """The prefix that the action expert reads: per layer keys and values (B, H, P, N); pooled, P is 1.

        Args:
            images: uint8 (B, C, S, S, 3), cameras in the order of ``config.cameras``.
            state: normalised (B, state_dim).
            text: features of each row's instruction (``TextFeatures.rows``).
        """
        if len(self.stems) == 1:
            tokens = [self.stems[0](images, text.film)]
        else:
            tokens = [
                stem(images[:, i : i + 1], text.film[:, i : i + 1]) for i, stem in enumerate(self.stems)
            ]
        x_BSD = torch.cat([*tokens, self.state(state)[:, None]], dim=1)
        if self.config.conditioning == "pooled":
            mean_BD = self.language.read_block_to_the_end(x_BSD, text.cache).mean(dim=1)
            return token_keys_values(self.expert.blocks, self.pooled(mean_BD)[:, None])
        return self.language.read_block(x_BSD, text.cache)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean loss of a training batch (see training.vla_stage for its keys)."""
        text = self.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        prefix = self.encode(batch["images"], batch["state"], text)
        return self.head.loss(self.expert, prefix, batch["actions"], batch["action_mask"], generator)

    def sample(self, prefix: list[KeyValue], noise_BKA: Tensor) -> Tensor:
        """Normalised chunks (B, K, A) from an encoded prefix."""
        return self.head.sample(self.expert, prefix, noise_BKA)
