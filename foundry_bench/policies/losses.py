"""Losses over text: of single tokens, and their mean.

Shapes: B batch, S tokens, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def token_losses(logits_BSV: Tensor, targets_BS: Tensor, z_loss: float = 0.0) -> Tensor:
    """Cross-entropy of each token, in nats, and the z-loss that keeps logits from drifting.

    Args:
        logits_BSV: what is predicted for each place.
        targets_BS: the token that comes there; where it is negative the loss means nothing.
        z_loss: factor on the square of log Z, the softmax's normaliser (Chowdhery et al., "PaLM",
            arXiv 2204.02311, use 1e-4).
    """
    logits = logits_BSV.float()
    if not z_loss:
        flat = F.cross_entropy(logits.flatten(0, 1), targets_BS.clamp(min=0).flatten(), reduction="none")
        return flat.view_as(targets_BS)
    log_normaliser_BS = logits.logsumexp(dim=-1)
    chosen_BS = logits.gather(-1, targets_BS.clamp(min=0)[..., None])[..., 0]
    return log_normaliser_BS - chosen_BS + z_loss * log_normaliser_BS.square()


def next_token_loss(
    logits_BSV: Tensor, targets_BS: Tensor, mask_BS: Tensor | None = None, z_loss: float = 0.0
) -> Tensor:
    """Mean of `token_losses` over the marked tokens; ``mask_BS`` None: over all."""
    loss_BS = token_losses(logits_BSV, targets_BS, z_loss)
    if mask_BS is None:
        return loss_BS.mean()
    weight_BS = mask_BS.to(loss_BS.dtype)
    return (loss_BS * weight_BS).sum() / weight_BS.sum().clamp(min=1)
