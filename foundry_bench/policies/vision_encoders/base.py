"""What every vision encoder is: uint8 images in, a square grid of tokens out."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


class VisionEncoder(nn.Module):
    """Images (N, S, S, 3) uint8 to tokens (N, grid * grid, width); `forward` is the subclass's.

    Attributes:
        width: of a token.
        grid: side of the token grid.
        frozen: whether its weights are fixed; then it also stays in evaluation mode (no dropout).
        assets: small text files by name that a checkpoint must keep, so that the encoder can be built
            again without the folder or hub it came from.
    """

    width: int
    grid: int

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False
        self.assets: dict[str, str] = {}

    def freeze(self) -> None:
        """Fix all weights."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> VisionEncoder:
        """As of any module; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens of a batch of views.

        Args:
            images: uint8 (B, V, S, S, 3); or what this gave before, floating (B, V, grid * grid, width),
                which is handed back: training may keep what a frozen encoder gives.

        Returns:
            (B, V, grid * grid, width).
        """
        if images.is_floating_point():
            return images.float()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x_NPD = self(images.flatten(0, 1))
        return x_NPD.unflatten(0, images.shape[:2])

    def fingerprint(self) -> str:
        """16 hex digits over all weights and running statistics."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(content.numpy().tobytes())
        return digest.hexdigest()[:16]
