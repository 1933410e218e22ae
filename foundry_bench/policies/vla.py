"""The vision-language-action model: instruction, images and state to chunks of normalised actions.

Shapes: B batch, V views (cameras times observation steps), S pixels, K horizon, A action dimension, H heads
of keys and values, N size of a head, P prefix tokens (text tokens + image tokens + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from foundry_bench.policies.action_expert import ActionExpert, token_keys_values
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.heads import make_expert, make_head
from foundry_bench.policies.language import KeyValue, init_linear
from foundry_bench.policies.sight import Sight, TextFeatures
from foundry_bench.policies.token_expert import TokenExpert

__all__ = ["VLA", "TextFeatures", "VLAConfig"]


class VLA(Sight):
    """Stems, language model, state token and action expert; the loss and the sampler come from the head.

    Models with other encoders or backbones are subclasses (see build.make_model): they build and run the
    prefix in their own way, and share everything from the expert on.

    Non-obvious behaviours, beside those of `Sight`: with ``config.conditioning == "pooled"`` the expert reads
    one token instead of the prefix, the mean of the last layer's image and state tokens (which have read the
    text), projected to the expert's width; the expert itself is of the same size.
    """

    def __init__(self, config: VLAConfig, assets: Mapping[str, str] | None = None) -> None:
        """See `Sight`."""
        super().__init__(config, assets)
        self.state = self._build_state(config)
        self.expert = self._build_expert(config)
        if config.conditioning == "pooled":
            self.pooled = nn.Linear(config.width, config.expert_width)
            init_linear(self.pooled)
        self.head = make_head(config)

    def _build_state(self, config: VLAConfig) -> nn.Module:
        """What takes in the normalised state."""
        state = nn.Linear(config.state_dim, config.width)
        init_linear(state)
        return state

    def _build_expert(self, config: VLAConfig) -> ActionExpert | TokenExpert:
        language = self.language
        return make_expert(
            config,
            heads=config.heads,
            head_size=language.head_size,
            layers=config.layers,
            kv_heads=language.kv_heads,
        )

    def encode(self, images: Tensor, state: Tensor, text: TextFeatures) -> Sequence[KeyValue]:
        """The prefix that the action expert reads: per layer keys and values (B, H, P, N); pooled, P is 1.

        Args:
            images: uint8 (B, V, S, S, 3), see `Sight.image_tokens`.
            state: normalised (B, state_dim).
            text: features of each row's instruction (``TextFeatures.rows``).
        """
        x_BSD = torch.cat([*self.image_tokens(images, text), self.state(state)[:, None]], dim=1)
        if self.config.conditioning == "pooled":
            mean_BD = self.language.read_block_to_the_end(x_BSD, text.cache).mean(dim=1)
            return token_keys_values(self.expert.blocks, self.pooled(mean_BD)[:, None])
        return self.language.read_block(x_BSD, text.cache)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean loss of a training batch (see training.vla_stage for its keys)."""
        text = self.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        prefix = self.encode(batch["images"], batch["state"], text)
        return self.head.loss(self.expert, prefix, batch["actions"], batch["action_mask"], generator)

    def sample(self, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """Normalised chunks (B, K, A) from an encoded prefix."""
        return self.head.sample(self.expert, prefix, noise_BKA)
