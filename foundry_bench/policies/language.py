"""A decoder-only language model: RMSNorm, SwiGLU, rotary positions, tied embeddings, key/value prefix.

Shapes: B batch, S new tokens, P tokens in the prefix, D width, H heads, N size of a head, V vocabulary.

The VLA runs its whole prefix through this one stack: first the instruction (causal, as when the model is
trained on text alone), then the image and state tokens as a block that reads the instruction's keys and
values and attends to itself in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.norm import RMSNorm

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer, each (B, H, tokens, N)


def rotary_table(positions: Tensor, size: int, base: float = 10_000.0) -> Tensor:
    """Cosines and sines (2, S, size) that turn a head of ``size`` by the given positions (S,)."""
    frequencies = base ** (-torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size)
    angles = positions.float()[:, None] * frequencies[None]
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x_BHSN: Tensor, table: Tensor) -> Tensor:
    """Turn each pair (i, i + N/2) of a head by its token's angle."""
    left, right = x_BHSN.chunk(2, dim=-1)
    return x_BHSN * table[0] + torch.cat([-right, left], dim=-1) * table[1]


class SwiGLU(nn.Module):
    """Gated feed-forward; gate and value come from one fused matrix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class DecoderBlock(nn.Module):
    """Pre-norm attention and SwiGLU, the attention with an optional prefix of keys and values."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)

    def keys_values(self, x_BSD: Tensor, prefix: KeyValue) -> KeyValue:
        """Only the keys and values (prefix included) of unrotated tokens: all that an action expert reads."""
        width = x_BSD.shape[-1]
        kv = F.linear(self.attention_norm(x_BSD), self.qkv.weight[width:])
        k_BHSN, v_BHSN = kv.unflatten(-1, (2, self.heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
        return torch.cat([prefix[0], k_BHSN], dim=2), torch.cat([prefix[1], v_BHSN], dim=2)

    def forward(
        self, x_BSD: Tensor, *, table: Tensor | None, prefix: KeyValue | None, causal: bool
    ) -> tuple[Tensor, KeyValue]:
        """New hidden states (B, S, D), and keys and values of all tokens so far, prefix included."""
        qkv = self.qkv(self.attention_norm(x_BSD))
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        if prefix is not None:
            k, v = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        y_BHSN = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x_BSD = x_BSD + self.out(y_BHSN.transpose(1, 2).flatten(2))
        return x_BSD + self.feed(self.feed_norm(x_BSD)), (k, v)


class LanguageModel(nn.Module):
    """Token embedding, decoder blocks, final norm; logits come from the tied embedding."""

    def __init__(self, vocab_size: int, width: int, heads: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.head_size = width // heads
        self.apply(init_linear)
        nn.init.normal_(self.embedding.weight, std=0.5)
        for block in self.stack:  # residual branches start small, whatever the depth
            for matrix in (block.out, block.feed.down):
                nn.init.normal_(matrix.weight, std=0.45 / math.sqrt(width * 2 * layers))

    @property
    def stack(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return cast("list[DecoderBlock]", list(self.blocks))

    def read_text(self, tokens_BS: Tensor, first_position: int = 0) -> tuple[Tensor, list[KeyValue]]:
        """Causal pass over text.

        Args:
            tokens_BS: token ids (B, S).
            first_position: rotary position of the first token; negative where other tokens at position 0
                are going to follow.

        Returns:
            the normalised hidden states (B, S, D), and every layer's rotated keys and values.
        """
        return self.read_embeddings(self.embedding(tokens_BS), first_position)

    def read_embeddings(self, x_BSD: Tensor, first_position: int = 0) -> tuple[Tensor, list[KeyValue]]:
        """As `read_text`, of what stands for tokens already: (B, S, D)."""
        positions = torch.arange(first_position, first_position + x_BSD.shape[1], device=x_BSD.device)
        table = rotary_table(positions, self.head_size)
        cache: list[KeyValue] = []
        for block in self.stack:
            x_BSD, kv = block(x_BSD, table=table, prefix=None, causal=True)
            cache.append(kv)
        return self.norm(x_BSD), cache

    def read_block(self, x_BSD: Tensor, prefix: Sequence[KeyValue]) -> list[KeyValue]:
        """Run continuous tokens, all at rotary position 0, after a prefix.

        The tokens attend to the prefix and, in both directions, to each other. Returns the
        keys and values of every layer, prefix included. The hidden states of the last layer are never
        computed: nothing would read them.
        """
        cache: list[KeyValue] = []
        *blocks, last = self.stack
        for block, before in zip(blocks, prefix[:-1], strict=True):
            x_BSD, kv = block(x_BSD, table=None, prefix=before, causal=False)
            cache.append(kv)
        cache.append(last.keys_values(x_BSD, prefix[-1]))
        return cache

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """Next-token logits (B, S, V) from normalised hidden states."""
        return F.linear(hidden_BSD, self.embedding.weight)


def init_linear(module: nn.Module) -> None:
    """Truncation-free normal initialisation with variance 1 / inputs, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
