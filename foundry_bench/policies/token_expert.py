"""The action expert of discrete tokens: a small decoder that writes a chunk one token after the other.

Shapes: B batch, L tokens of a sequence, V action vocabulary, E width, G heads of keys and values, N size of a
head, P prefix tokens.

As with the other expert, each token attends at every layer to [the backbone's keys and values, its own],
its own here being those of the tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from foundry_bench.policies.action_expert import ExpertBlock
from foundry_bench.policies.language import KeyValue, init_linear
from foundry_bench.policies.norm import RMSNorm
from foundry_bench.policies.prefix import Prefix, expert_mask


class Written(NamedTuple):
    """Keys and values of the prefix and of the tokens written so far, with room for the rest."""

    layers: list[KeyValue]  # per layer (B, G, P + L, N), filled up to the last token
    prefix: int  # P
    padding: Tensor | None  # (B, P + L), True where a token is real


class TokenExpert(nn.Module):
    """Next-token logits of a sequence of action tokens, given the prefix.

    A sequence is begun by a token that stands for nothing else (the last row of the embedding).
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        width: int,
        hidden: int,
        heads: int,
        head_size: int,
        layers: int,
        kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.embedding = nn.Embedding(vocabulary + 1, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.5)
        self.blocks = nn.ModuleList(
            ExpertBlock(width, heads, head_size, hidden, kv_heads) for _ in range(layers)
        )
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, vocabulary)
        self.apply(init_linear)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.output.weight, std=0.2 * width**-0.5)

    def forward(self, prefix: Sequence[KeyValue], tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of each token of a sequence (B, L), from those before it."""
        start = torch.full_like(tokens_BL[:, :1], self.vocabulary)
        before = torch.cat([start, tokens_BL[:, :-1]], dim=1)
        count = before.shape[1]
        x = self.embedding(before) + self.position[:count]
        before_it = prefix[0][0].shape[2]
        causal = torch.ones(count, before_it + count, dtype=torch.bool, device=x.device).tril(before_it)
        mask = expert_mask(causal, prefix, count)
        for block, kv in zip(self._stack, prefix, strict=True):
            x = block(x, kv, mask)
        return self.output(self.norm(x))

    def begin(self, prefix: Sequence[KeyValue]) -> Written:
        """Room for a whole sequence behind the prefix, which is copied once."""
        layers: list[KeyValue] = []
        for kv in prefix:
            room = [
                torch.cat([tensor, tensor.new_zeros(*tensor.shape[:2], self.length, tensor.shape[3])], dim=2)
                for tensor in kv
            ]
            layers.append((room[0], room[1]))
        padding = None
        if isinstance(prefix, Prefix):
            mask_BP = prefix.mask_BP
            padding = torch.cat([mask_BP, mask_BP.new_ones(len(mask_BP), self.length)], dim=1)
        return Written(layers, prefix[0][0].shape[2], padding)

    def write(self, written: Written, position: int, token_B: Tensor | None) -> Tensor:
        """Take in the token before ``position`` (None: the start); logits (B, V) of the one there."""
        batch = len(written.layers[0][0])
        if token_B is None:
            token_B = torch.full((batch,), self.vocabulary, device=self.position.device)
        x = self.embedding(token_B)[:, None] + self.position[position]
        place, stop = written.prefix + position, written.prefix + position + 1
        mask = None if written.padding is None else written.padding[:, None, None, :stop]
        for block, (keys, values) in zip(self._stack, written.layers, strict=True):
            q, k, v = block.project(x)
            keys[:, :, place:stop], values[:, :, place:stop] = k, v
            x = block.finish(x, q, (keys[:, :, :stop], values[:, :, :stop]), mask)
        return self.output(self.norm(x))[:, 0]

    @property
    def _stack(self) -> list[ExpertBlock]:
        return cast("list[ExpertBlock]", list(self.blocks))
