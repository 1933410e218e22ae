"""What every trainable policy is to the rest: the policy that predicts with it, the stage that trains it.

Shapes: B batch, U distinct instructions, T text tokens, C cameras, S pixels, K horizon, A action dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn


class InstructionFeatures(Protocol):
    """What a model keeps of instructions: computed once for each distinct one."""

    def rows(self, inverse_B: Tensor) -> Self:
        """The features of each row of a batch, given the index of its instruction."""
        ...

    @staticmethod
    def joined(parts: Sequence[Any]) -> Any:
        """The features of several instructions, in their order."""
        ...


class InstructionTokenizer(Protocol):
    """Instructions to token ids of a fixed length."""

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids."""
        ...

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, length) int64, and a mask of the same shape that is True where there is no padding."""
        ...

    def to_json(self) -> str:
        """The tokenizer in the tokenizers library's own JSON."""
        ...


class ActionModel(Protocol):
    """A module that maps instruction, images and state to chunks of normalised actions.

    Chance comes from the generator of ``loss`` and the noise of ``sample`` and from nowhere else (so there
    is no dropout), and no row of a batch sees another (so there is no batch normalisation).
    """

    config: Any  # an architectures.ModelConfig; every model has its own
    head: Any  # what has the loss and the sampler, where that is not the model itself
    assets: dict[str, str]  # small text files by name that a checkpoint keeps beside the weights

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> Any:
        """InstructionFeatures of token ids (U, T), given which of them are not padding."""
        ...

    def encode(self, images: Tensor, state: Tensor, text: Any) -> Any:
        """All that ``sample`` needs of the observations; computed once per chunk.

        Args:
            images: uint8 (B, C, S, S, 3), cameras in the order of ``config.cameras``.
            state: normalised (B, state_dim).
            text: features of each row's instruction (``InstructionFeatures.rows``).
        """
        ...

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean loss of a training batch (see training.vla_stage for its keys)."""
        ...

    def sample(self, encoded: Any, noise_BKA: Tensor) -> Tensor:
        """Normalised chunks (B, K, A)."""
        ...

    # What is used of torch.nn.Module.
    def to(self, device: torch.device) -> Self:
        """See torch."""
        ...

    def eval(self) -> Self:
        """See torch."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """See torch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """See torch."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """See torch."""
        ...
