"""Transformer blocks over sets of tokens: pre-norm, RMSNorm, SwiGLU, no dropout.

Shapes: B batch, S tokens, M tokens of a memory, D width, H heads, N size of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.language import SwiGLU, init_linear
from foundry_bench.policies.norm import RMSNorm


class Attention(nn.Module):
    """Multi-head attention of tokens to a memory, which may be themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BSD: Tensor, memory_BMD: Tensor, mask_BM: Tensor | None = None) -> Tensor:
        """(B, S, D); ``mask_BM`` is True where a token of the memory counts, None where all do."""
        q = self.query(x_BSD).unflatten(-1, (-1, self.size)).transpose(1, 2)
        k, v = self.key_value(memory_BMD).unflatten(-1, (-1, self.size)).transpose(1, 2).chunk(2, dim=1)
        mask = None if mask_BM is None else mask_BM[:, None, None, :]
        y_BHSN = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y_BHSN.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention of the tokens to each other, and a gated feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        normed = self.norm(x_BSD)
        x_BSD = x_BSD + self.attention(normed, normed, mask_BS)
        return x_BSD + self.feed(self.feed_norm(x_BSD))


class DecoderBlock(nn.Module):
    """Attention of the queries to each other, then to a memory, and a gated feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.attention = Attention(width, heads)
        self.cross_norm = RMSNorm(width)
        self.cross = Attention(width, heads)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)

    def forward(self, x_BSD: Tensor, memory_BMD: Tensor) -> Tensor:
        normed = self.norm(x_BSD)
        x_BSD = x_BSD + self.attention(normed, normed)
        x_BSD = x_BSD + self.cross(self.cross_norm(x_BSD), memory_BMD)
        return x_BSD + self.feed(self.feed_norm(x_BSD))


class Encoder(nn.Module):
    """Blocks, and a norm at the end."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.apply(init_linear)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """(B, S, D); ``mask_BS`` is True where a token counts, None where all do."""
        for block in self.blocks:
            x_BSD = block(x_BSD, mask_BS)
        return self.norm(x_BSD)


class Decoder(nn.Module):
    """Blocks, and a norm at the end."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.apply(init_linear)

    def forward(self, x_BSD: Tensor, memory_BMD: Tensor) -> Tensor:
        """(B, S, D)."""
        for block in self.blocks:
            x_BSD = block(x_BSD, memory_BMD)
        return self.norm(x_BSD)
