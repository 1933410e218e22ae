"""Losses over text that more than one stage takes."""

from __future__ import annotations

from torch import Tensor


def next_token_loss(logits_BSV: Tensor, targets_BS: Tensor, mask_BS: Tensor, z_loss: float = 0.0) -> Tensor:
    """Mean cross-entropy of the marked tokens, and the z-loss that keeps logits from drifting.

    Args:
        logits_BSV: what is predicted for each place.
        targets_BS: the token that comes there.
        mask_BS: which of them count.
        z_loss: factor on the mean square of log Z, the softmax's normaliser (Chowdhery et al., "PaLM",
            arXiv 2204.02311, use 1e-4).
    """
    logits = logits_BSV.float()
    log_normaliser_BS = logits.logsumexp(dim=-1)
    chosen_BS = logits.gather(-1, targets_BS[..., None])[..., 0]
    loss_BS = log_normaliser_BS - chosen_BS
    if z_loss:
        loss_BS = loss_BS + z_loss * log_normaliser_BS.square()
    weight_BS = mask_BS.to(loss_BS.dtype)
    return (loss_BS * weight_BS).sum() / weight_BS.sum().clamp(min=1)
