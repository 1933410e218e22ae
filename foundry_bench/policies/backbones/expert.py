"""The action expert of a pretrained backbone: its keys and values are shared by groups of query heads.

Shapes: B batch, S action tokens, E expert width, H query heads, G heads of keys and values, N size of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.language import KeyValue, SwiGLU, init_linear
from foundry_bench.policies.norm import RMSNorm


class GroupedExpertBlock(nn.Module):
    """As action_expert.ExpertBlock, with H query heads over G heads of keys and values."""

    def __init__(self, width: int, heads: int, shared: int, size: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, size
        self.attention_norm = RMSNorm(width)
        self.query = nn.Linear(width, heads * size, bias=False)
        self.key_value = nn.Linear(width, 2 * shared * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)

    def forward(self, x_BSE: Tensor, prefix: KeyValue, mask: Tensor | None) -> Tensor:
        h = self.attention_norm(x_BSE)
        q_BHSN = self.query(h).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        k, v = self.key_value(h).unflatten(-1, (2, self.shared, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
        k, v = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        y = F.scaled_dot_product_attention(q_BHSN, k, v, attn_mask=mask, enable_gqa=True)
        x_BSE = x_BSE + self.out(y.transpose(1, 2).flatten(2))
        return x_BSE + self.feed(self.feed_norm(x_BSE))


class GroupedExpert(ActionExpert):
    """An action expert whose head size, heads of keys and values, and query heads are the backbone's.

    Its queries are not rotated: the backbone's keys carry rotary positions, but every prefix has the same
    length, so a fixed rotation of the queries would only be another basis of what they learn.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        width: int,
        hidden: int,
        heads: int,
        shared_heads: int,
        head_size: int,
        layers: int,
        timed: bool,
    ) -> None:
        super().__init__(
            action_dim=action_dim, horizon=horizon, width=width, hidden=hidden, heads=heads,
            head_size=head_size, layers=0, timed=timed,
        )  # fmt: skip
        self.blocks = nn.ModuleList(
            GroupedExpertBlock(width, heads, shared_heads, head_size, hidden) for _ in range(layers)
        )
        self.blocks.apply(init_linear)
