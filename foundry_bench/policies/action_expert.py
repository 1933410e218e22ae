"""The action expert: a small transformer whose tokens are the actions of a chunk.

Shapes: B batch, R draws (independent chunks denoised against one prefix), K horizon, A action dimension, E
expert width, H heads, G heads of keys and values, N size of a head, P prefix tokens, S tokens of the
expert.

At every layer the action tokens attend to [the backbone's keys and values of that layer, their own].
Queries, keys and values of the expert have the backbone's head size, so the prefix is read as it is,
without a projection (a backbone with grouped queries has fewer heads of keys and values, and so has its
expert). All R draws of a row are folded into one sequence, so the prefix is never copied, and a constant
mask keeps the draws apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.language import KeyValue, SwiGLU, init_linear
from foundry_bench.policies.norm import RMSNorm
from foundry_bench.policies.prefix import expert_mask


class ExpertBlock(nn.Module):
    """Pre-norm attention over [prefix, own tokens] and SwiGLU.

    Args:
        width: of a token.
        heads, size: of the queries.
        hidden: width of the gated feed-forward.
        kv_heads: heads of keys and values, those of the prefix; ``heads`` must be a multiple. None: as many.
    """

    sharded_with_the_rest: ClassVar[bool] = True  # ``project`` is called from outside too

    def __init__(self, width: int, heads: int, size: int, hidden: int, kv_heads: int | None = None) -> None:
        super().__init__()
        self.heads, self.size, self.kv_heads = heads, size, kv_heads or heads
        if heads % self.kv_heads:
            raise FoundryError(
                f"an action expert of {heads} heads cannot read {self.kv_heads} heads of keys and values; "
                "choose a multiple of them"
            )
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, (heads + 2 * self.kv_heads) * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)

    def project(self, x_BSE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, S, N), keys and values (B, G, S, N) of tokens."""
        qkv = self.qkv(self.attention_norm(x_BSE)).unflatten(-1, (-1, self.size)).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return q, k, v

    def finish(self, x_BSE: Tensor, q: Tensor, keys_values: KeyValue, mask: Tensor | None) -> Tensor:
        """The block's output, once it is known what the queries read."""
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(
            q, keys_values[0], keys_values[1], attn_mask=mask, enable_gqa=grouped
        )
        x_BSE = x_BSE + self.out(y.transpose(1, 2).flatten(2))
        return x_BSE + self.feed(self.feed_norm(x_BSE))

    def forward(self, x_BSE: Tensor, prefix: KeyValue, mask: Tensor | None) -> Tensor:
        q, k, v = self.project(x_BSE)
        read = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        return self.finish(x_BSE, q, read, mask)


class ActionExpert(nn.Module):
    """Maps (noisy) action chunks and a time to one output per action, reading the prefix at every layer.

    With ``timed=False`` (regression) the tokens are learned queries alone and there is one draw.
    ``kv_heads`` is what the prefix has, ``heads`` where it is not given.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        width: int,
        hidden: int,
        heads: int,
        head_size: int,
        layers: int,
        timed: bool,
        kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.horizon, self.timed, self.width = horizon, timed, width
        self.step = nn.Parameter(torch.randn(horizon, width) * 0.5)
        self.blocks = nn.ModuleList(
            ExpertBlock(width, heads, head_size, hidden, kv_heads) for _ in range(layers)
        )
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, action_dim)
        if timed:
            self.input = nn.Linear(action_dim, width)
            self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.apply(init_linear)
        nn.init.normal_(self.output.weight, std=0.2 * width**-0.5)

    def forward(self, prefix: Sequence[KeyValue], actions: Tensor | None, time: Tensor | None) -> Tensor:
        """One vector per action.

        Args:
            prefix: keys and values of each layer, (B, G, P, N); a ``Prefix`` may mask padding among them.
            actions: noisy chunks (B, R, K, A), or None for regression.
            time: flow times in [0, 1], (B, R), or None for regression.

        Returns:
            (B, R, K, A); R is 1 for regression.
        """
        batch = prefix[0][0].shape[0]
        if actions is None or time is None:
            draws = 1
            x = self.step.expand(batch, self.horizon, self.width)
        else:
            draws = actions.shape[1]
            x = self.input(actions) + self.step + self.time(time_features(time))[:, :, None]
            x = x.flatten(1, 2)
        mask = draw_mask(draws, self.horizon, prefix[0][0].shape[2], x.device) if draws > 1 else None
        mask = expert_mask(mask, prefix, x.shape[1])
        for block, kv in zip(self.blocks, prefix, strict=True):
            x = block(x, kv, mask)
        return self.output(self.norm(x)).unflatten(1, (draws, self.horizon))


def token_keys_values(blocks: Iterable[nn.Module], token_BSE: Tensor) -> list[KeyValue]:
    """Keys and values per layer that the blocks make of tokens of their own width: a prefix for them."""
    return [cast("ExpertBlock", block).project(token_BSE)[1:] for block in blocks]


def time_features(time: Tensor, count: int = 64) -> Tensor:
    """Sines and cosines (..., count) of a time in [0, 1], periods from 4 down to 0.04."""
    periods = torch.logspace(math.log10(4.0), math.log10(0.04), count // 2, device=time.device)
    angles = time[..., None] * (2 * math.pi / periods)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def draw_mask(draws: int, horizon: int, prefix: int, device: torch.device) -> Tensor:
    """Boolean mask (R * K, P + R * K): every draw sees the prefix and itself, never another draw."""
    draw = torch.arange(draws, device=device).repeat_interleave(horizon)
    own = draw[:, None] == draw[None, :]
    return torch.cat([torch.ones(draws * horizon, prefix, dtype=torch.bool, device=device), own], dim=1)
