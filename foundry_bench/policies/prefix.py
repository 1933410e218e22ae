"""A prefix of which some tokens are padding that nobody may read.

Shapes: B batch, P prefix tokens, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from foundry_bench.policies.language import KeyValue


class Prefix(list[KeyValue]):
    """Keys and values per layer, and which of their tokens are real.

    Our own stack needs no mask (it learns its padding); a pretrained backbone never saw any, so what it
    makes of padding is hidden from the action expert too.
    """

    def __init__(self, layers: Iterable[KeyValue], mask_BP: Tensor) -> None:
        super().__init__(layers)
        self.mask_BP = mask_BP


def expert_mask(own_QK: Tensor | None, prefix: Sequence[KeyValue], queries: int) -> Tensor | None:
    """The attention mask of action tokens over [prefix, action tokens].

    Args:
        own_QK: a mask (Q, P + Q) that is the same for all rows, None where all is allowed.
        prefix: a `Prefix` hides its padding, any other sequence hides nothing.

    Returns:
        ``own_QK`` where the prefix hides nothing; otherwise (B, 1, Q, P + Q).
    """
    mask_BP = getattr(prefix, "mask_BP", None)
    if mask_BP is None:
        return own_QK
    seen = torch.cat([mask_BP, mask_BP.new_ones(len(mask_BP), queries)], dim=1)[:, None, None]
    return seen.expand(-1, -1, queries, -1) if own_QK is None else seen & own_QK
