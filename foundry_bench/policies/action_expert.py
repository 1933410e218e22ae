"""The action expert: a small transformer whose tokens are the actions of a chunk.

Shapes: B batch, R draws (independent chunks denoised against one prefix), K horizon, A action dimension,
E expert width, H heads, N size of a head, P prefix tokens.

At every layer the action tokens attend to [the backbone's keys and values of that layer, their own]. Queries,
keys and values of the expert have the backbone's head size, so the prefix is read as it is, without a
projection; all R draws of a row are folded into one sequence, so the prefix is never copied, and a constant
mask keeps the draws apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.language import KeyValue, SwiGLU, init_linear
from foundry_bench.policies.norm import RMSNorm
from foundry_bench.policies.prefix import expert_mask


class ExpertBlock(nn.Module):
    """Pre-norm attention over [prefix, own tokens] and SwiGLU."""

    def __init__(self, width: int, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)

    def forward(self, x_BSE: Tensor, prefix: KeyValue, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(self.attention_norm(x_BSE))
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
        k, v = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x_BSE = x_BSE + self.out(y.transpose(1, 2).flatten(2))
        return x_BSE + self.feed(self.feed_norm(x_BSE))


class ActionExpert(nn.Module):
    """Maps (noisy) action chunks and a time to one output per action, reading the prefix at every layer.

    With ``timed=False`` (regression) the tokens are learned queries alone and there is one draw.
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
    ) -> None:
        super().__init__()
        self.horizon, self.timed, self.width = horizon, timed, width
        self.step = nn.Parameter(torch.randn(horizon, width) * 0.5)
        self.blocks = nn.ModuleList(ExpertBlock(width, heads, head_size, hidden) for _ in range(layers))
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
            prefix: keys and values of each layer, (B, H, P, N).
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
