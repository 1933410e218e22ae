"""What an action expert reads: keys and values of every layer, and which of their tokens are padding.

Shapes: B batch, G heads of keys and values, P prefix tokens, N size of a head, Q query tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from foundry_bench.policies.language import KeyValue


class Prefix(list[KeyValue]):
    """Keys and values per layer, (B, G, P, N) each, with an optional mask of the tokens that count.

    A plain list is a prefix without padding, so a backbone whose prompts all have one length needs not know
    this class.
    """

    def __init__(self, layers: Iterable[KeyValue] = (), mask_BP: Tensor | None = None) -> None:
        """``mask_BP``: boolean, True where a token is real; every row has at least one."""
        super().__init__(layers)
        self.mask_BP = mask_BP


def padding_of(prefix: Sequence[KeyValue]) -> Tensor | None:
    """The (B, P) mask of the real tokens, or None where nothing is padded."""
    return prefix.mask_BP if isinstance(prefix, Prefix) else None


def attention_mask(own_QQ: Tensor | None, prefix: Sequence[KeyValue], queries: int) -> Tensor | None:
    """Mask for queries that read [prefix, themselves]; None where everything sees everything.

    Args:
        own_QQ: boolean, which queries see which; None: all.
        prefix: gives the number of prefix tokens and the padding among them.
        queries: how many.

    Returns:
        boolean, (Q, P + Q), or (B, 1, Q, P + Q) where the prefix has padding.
    """
    padding_BP = padding_of(prefix)
    if own_QQ is None and padding_BP is None:
        return None
    device, tokens = prefix[0][0].device, prefix[0][0].shape[2]
    if own_QQ is None:
        own_QQ = torch.ones(queries, queries, dtype=torch.bool, device=device)
    if padding_BP is None:
        return torch.cat([torch.ones(queries, tokens, dtype=torch.bool, device=device), own_QQ], dim=1)
    batch = len(padding_BP)
    real = padding_BP.to(torch.bool)[:, None, None].expand(batch, 1, queries, tokens)
    return torch.cat([real, own_QQ.expand(batch, 1, queries, queries)], dim=3)
