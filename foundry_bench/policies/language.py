"""A decoder-only language model: RMSNorm, SwiGLU, rotary positions, grouped queries, key/value prefix.

Shapes: B batch, S new tokens, P tokens in the prefix, D width, H query heads, G key and value heads (a
divisor of H), N size of a head, F outputs of a fused matrix, V vocabulary.

The VLA runs its whole prefix through this one stack: first the instruction (causal, as when the model is
trained on text alone), then the image and state tokens as a block that reads the instruction's keys and
values and attends to itself in both directions. Text that follows a prefix (an answer about an image, the
next token while generating) is read causally after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.lm_config import LMConfig
from foundry_bench.policies.norm import RMSNorm

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer, each (B, G, tokens, N)


def rotary_table(positions: Tensor, size: int, base: float = 10_000.0) -> Tensor:
    """Cosines and sines (2, ..., size) that turn a head of ``size`` by the given positions (...)."""
    frequencies = base ** (-torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size)
    angles = positions.float()[..., None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x_BHSN: Tensor, table: Tensor) -> Tensor:
    """Turn each pair (i, i + N/2) of a head by its token's angle; computed in fp32, given back as it came."""
    left, right = x_BHSN.chunk(2, dim=-1)
    return (x_BHSN * table[0] + torch.cat([-right, left], dim=-1) * table[1]).to(x_BHSN.dtype)


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
    """Pre-norm attention and SwiGLU, the attention with an optional prefix of keys and values.

    The rows of the fused matrix ``qkv`` are all queries, then all keys, then all values, head by head.
    """

    other_forwards: ClassVar[tuple[str, ...]] = ("keys_values",)  # methods that compute with the weights

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        kv_heads: int | None = None,
        head_size: int | None = None,
        norm_eps: float = 1e-6,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.size = head_size or width // heads
        self.attention_norm = RMSNorm(width, norm_eps)
        self.qkv = nn.Linear(width, (heads + 2 * self.kv_heads) * self.size, bias=False)
        if qk_norm:
            self.q_norm = RMSNorm(self.size, norm_eps)
            self.k_norm = RMSNorm(self.size, norm_eps)
        self.qk_norm = qk_norm
        self.out = nn.Linear(heads * self.size, width, bias=False)
        self.feed_norm = RMSNorm(width, norm_eps)
        self.feed = SwiGLU(width, hidden)

    def keys_values(self, x_BSD: Tensor, prefix: KeyValue) -> KeyValue:
        """Only the keys and values (prefix included) of unrotated tokens: all that an action expert reads."""
        kv = F.linear(self.attention_norm(x_BSD), self.qkv.weight[self.heads * self.size :])
        k_BGSN, v_BGSN = kv.unflatten(-1, (2, self.kv_heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.qk_norm:
            k_BGSN = self.k_norm(k_BGSN)
        return torch.cat([prefix[0], k_BGSN], dim=2), torch.cat([prefix[1], v_BGSN], dim=2)

    def forward(
        self,
        x_BSD: Tensor,
        *,
        table: Tensor | None,
        prefix: KeyValue | None,
        causal: bool,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """New hidden states (B, S, D), and keys and values of all tokens so far, prefix included.

        Args:
            table: of `rotary_table` for the new tokens; None leaves them unrotated.
            prefix: keys and values of the tokens before.
            causal: new tokens do not see later ones; only without ``mask``, and without ``prefix``.
            mask: boolean, broadcast to (B, H, S, P + S): true where a token is seen.
        """
        q, k, v = self._split(self.qkv(self.attention_norm(x_BSD)))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        if prefix is not None:
            k, v = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        y_BHSN = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.kv_heads != self.heads
        )
        x_BSD = x_BSD + self.out(y_BHSN.transpose(1, 2).flatten(2))
        return x_BSD + self.feed(self.feed_norm(x_BSD)), (k, v)

    def _split(self, qkv_BSF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, S, N), keys and values (B, G, S, N)."""
        if self.kv_heads == self.heads:  # one view for all three: nothing is copied
            q, k, v = qkv_BSF.unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        counts = (self.heads, self.kv_heads, self.kv_heads)
        parts = qkv_BSF.unflatten(-1, (-1, self.size)).split(counts, dim=2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        return q, k, v


class LanguageModel(nn.Module):
    """Token embedding, decoder blocks, final norm; logits come from the embedding or a matrix of their own.

    Args:
        vocab_size, width, heads, layers, hidden: see `LMConfig`.
        kv_heads, head_size: None: as many as ``heads``, width / heads.
        rope_base, norm_eps, qk_norm, tied: see `LMConfig`.
        embedding_std: standard deviation of the initial embedding.

    Attributes:
        kv_heads, head_size: of the keys and values that ``read_text`` and ``read_block`` return.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        heads: int,
        layers: int,
        hidden: int,
        *,
        kv_heads: int | None = None,
        head_size: int | None = None,
        rope_base: float = 10_000.0,
        norm_eps: float = 1e-6,
        qk_norm: bool = False,
        tied: bool = True,
        embedding_std: float = 0.5,
    ) -> None:
        super().__init__()
        self.vocab_size, self.width, self.heads = vocab_size, width, heads
        self.kv_heads, self.head_size = kv_heads or heads, head_size or width // heads
        self.rope_base, self.tied = rope_base, tied
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                width,
                heads,
                hidden,
                kv_heads=self.kv_heads,
                head_size=self.head_size,
                norm_eps=norm_eps,
                qk_norm=qk_norm,
            )
            for _ in range(layers)
        )
        self.norm = RMSNorm(width, norm_eps)
        if not tied:
            self.output = nn.Linear(width, vocab_size, bias=False)
        self.apply(init_linear)
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        for block in self.stack:  # residual branches start small, whatever the depth
            for matrix in (block.out, block.feed.down):
                nn.init.normal_(matrix.weight, std=0.45 / math.sqrt(width * 2 * layers))

    @classmethod
    def from_config(cls, config: LMConfig) -> LanguageModel:
        """The model that a config describes, with fresh weights."""
        return cls(
            config.vocab_size,
            config.width,
            config.heads,
            config.layers,
            config.hidden,
            kv_heads=config.key_heads,
            head_size=config.size_of_head,
            rope_base=config.rope_base,
            norm_eps=config.norm_eps,
            qk_norm=config.qk_norm,
            tied=config.tied,
            embedding_std=config.initial_embedding_std,
        )

    @property
    def stack(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return cast("list[DecoderBlock]", list(self.blocks))

    def read_text(
        self,
        tokens_BS: Tensor,
        first_position: int | Tensor = 0,
        prefix: Sequence[KeyValue] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Causal pass over text, after a prefix where one is given.

        Args:
            tokens_BS: token ids (B, S).
            first_position: rotary position of the first token; negative where other tokens at position 0
                are going to follow. A tensor (B,) where it differs from row to row.
            prefix: every layer's keys and values (B, G, P, N) of the tokens before; every new token sees all
                of them. Positions are the caller's: what ``read_text`` cached for P tokens goes on at
                ``first_position + P``, what ``read_block`` cached goes on at 1.
            mask: boolean (B, P + S), false for padding that no token may see. A token always sees itself.

        Returns:
            the normalised hidden states (B, S, D), and every layer's rotated keys and values, those of the
            prefix included.
        """
        return self.read_embeddings(self.embedding(tokens_BS), first_position, prefix, mask)

    def read_embeddings(
        self,
        x_BSD: Tensor,
        first_position: int | Tensor = 0,
        prefix: Sequence[KeyValue] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """As `read_text`, of what stands for tokens already: (B, S, D)."""
        new, device = x_BSD.shape[1], x_BSD.device
        if isinstance(first_position, Tensor):
            positions = first_position[:, None, None] + torch.arange(new, device=device)
        else:
            positions = torch.arange(first_position, first_position + new, device=device)
        table = rotary_table(positions, self.head_size, self.rope_base)
        before: Sequence[KeyValue | None] = [None] * len(self.blocks) if prefix is None else prefix
        length = 0 if prefix is None else prefix[0][0].shape[2]
        seen, causal = _visible(new, length, mask, device)
        cache: list[KeyValue] = []
        for block, kv in zip(self.stack, before, strict=True):
            x_BSD, kv = block(x_BSD, table=table, prefix=kv, causal=causal, mask=seen)
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

    def read_block_to_the_end(self, x_BSD: Tensor, prefix: Sequence[KeyValue]) -> Tensor:
        """As ``read_block``, but the normalised hidden states (B, S, D) of the last layer."""
        for block, before in zip(self.stack, prefix, strict=True):
            x_BSD, _ = block(x_BSD, table=None, prefix=before, causal=False)
        return self.norm(x_BSD)

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """Next-token logits (B, S, V) from normalised hidden states."""
        return F.linear(hidden_BSD, self.embedding.weight if self.tied else self.output.weight)


def _visible(new: int, before: int, mask: Tensor | None, device: torch.device) -> tuple[Tensor | None, bool]:
    """Attention mask, broadcast to (B, 1, S, P + S), and whether plain causal attention does without one."""
    if mask is None and (before == 0 or new == 1):
        return None, before == 0
    seen = torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
    if mask is None:
        return seen, False
    itself = torch.ones_like(seen).triu(before) & seen
    return ((seen & mask[:, None, :]) | itself)[:, None], False


def init_linear(module: nn.Module) -> None:
    """Truncation-free normal initialisation with variance 1 / inputs, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
