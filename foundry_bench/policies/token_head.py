"""The head of discrete action tokens: cross-entropy in training, greedy decoding in prediction.

Shapes: B batch, K horizon, A action dimension, L tokens of the longest sequence, V action vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_tokens import ActionTokenizer
from foundry_bench.policies.language import KeyValue
from foundry_bench.policies.token_expert import TokenExpert


class TokenHead:
    """Action tokens, decoded one after the other (see action_tokens for what they are).

    Non-obvious behaviours: decoding is autoregressive with both tokenizers. Predicting all tokens in
    parallel would take one pass, but it takes each token from its own marginal, so where demonstrations
    part ways it mixes them, which is what tokens are meant to avoid; and sequences of unequal length cannot
    be predicted that way. The prefix is read from a cache of keys and values, as are the tokens written so
    far. Decoding is greedy and looks at no noise.

    Attributes:
        tokenizer: fitted on the training actions; whoever builds the model sets it (``build.make_model``).
    """

    def __init__(self) -> None:
        self.tokenizer: ActionTokenizer | None = None

    def fitted(self) -> ActionTokenizer:
        """The tokenizer, or FoundryError where none was given."""
        if self.tokenizer is None:
            raise FoundryError(
                "model.head=tokens has no action tokenizer; load the model from a checkpoint, or train it"
            )
        return self.tokenizer

    def loss(
        self,
        expert: TokenExpert,
        prefix: Sequence[KeyValue],
        actions_BKA: Tensor,
        mask_BK: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean cross-entropy of the next token, in nats."""
        del generator
        # Every length is a graph of its own where the loss is compiled: few lengths then, in whole eights.
        tokens_BL, real_BL = self._encoded(actions_BKA, mask_BK, 8 if torch.compiler.is_compiling() else 1)
        logits_BLV = expert(prefix, tokens_BL)
        error_BL = F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
        weight_BL = real_BL.to(error_BL.dtype)
        return (error_BL * weight_BL).sum() / weight_BL.sum().clamp(min=1)

    def weight(self, actions_BKA: Tensor, mask_BK: Tensor) -> float:
        """What the mean in ``loss`` divides by: tokens, of which rows may have more and fewer."""
        return float(self._encoded(actions_BKA, mask_BK, 1)[1].sum())

    @torch.compiler.disable  # numpy and tokenizers: compiled, bins would be other ones at their edges
    def _encoded(self, actions_BKA: Tensor, mask_BK: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        """Token ids (B, L), and which are to be learned; L is the longest of the batch in whole units."""
        tokens, real = self.fitted().encode(actions_BKA.float().cpu().numpy(), mask_BK.cpu().numpy())
        longest = int(np.flatnonzero(real.any(axis=0)).max(initial=0)) + 1
        stop = -(-longest // unit) * unit  # the rest is padding in every row
        tokens_BL, real_BL = (torch.from_numpy(each[:, :stop]) for each in (tokens, real))
        return tokens_BL.to(actions_BKA.device), real_BL.to(actions_BKA.device)

    def sample(self, expert: TokenExpert, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """The chunk (B, K, A) of the likeliest token at every place; the noise is not looked at."""
        tokens_BL = self.decode(expert, prefix)
        chunks = self.fitted().decode(tokens_BL.cpu().numpy())
        return torch.from_numpy(chunks).to(noise_BKA.device)

    def decode(self, expert: TokenExpert, prefix: Sequence[KeyValue]) -> Tensor:
        """Token ids (B, L), up to the longest of the batch; what follows an end mark means nothing."""
        tokenizer = self.fitted()
        written = expert.begin(prefix)
        ended_B = torch.zeros(len(prefix[0][0]), dtype=torch.bool, device=prefix[0][0].device)
        tokens: list[Tensor] = []
        for position in range(tokenizer.max_tokens):
            logits_BV = expert.write(written, position, tokens[-1] if tokens else None)
            # The tokenizer may have found fewer tokens than the model has room for.
            tokens.append(logits_BV[:, : tokenizer.vocab_size].argmax(dim=1))
            if tokenizer.end is not None:
                ended_B |= tokens[-1] == tokenizer.end
                if bool(ended_B.all()):
                    break
        return torch.stack(tokens, dim=1)
