"""Questions about one picture: the loss on answers, and answering.

The vision-language stage asks the model in the shape in which the policy will use it: the question is read
first, as an instruction is; then the picture's tokens, modulated by the question, as a block that reads it;
then, where the policy has its actions, the answer, token by token.

Shapes: B batch, T text tokens, S pixels, G image tokens of a camera, D width, A answer
tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from foundry_bench.policies.language import KeyValue, LanguageModel
from foundry_bench.policies.losses import token_losses
from foundry_bench.policies.sight import TextFeatures

FIRST = 1  # rotary position of an answer's first token: text ends at -1, the picture is at 0
IGNORED = -100


class Seer(Protocol):
    """The parts of a model that questions are put to: a VLM, or a VLA while it is trained on both."""

    language: LanguageModel

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> TextFeatures:
        """See sight.Sight."""
        ...

    def picture_tokens(self, images: Tensor, camera_B: Tensor, text: TextFeatures) -> Tensor:
        """See sight.Sight."""
        ...


def look(model: Seer, images: Tensor, camera_B: Tensor, text: TextFeatures) -> list[KeyValue]:
    """Keys and values per layer, (B, H, T + G, N), of a question and one picture.

    Args:
        images: uint8 (B, S, S, 3).
        camera_B: which of the model's cameras took each picture.
        text: features of each row's question.
    """
    return model.language.read_block(model.picture_tokens(images, camera_B, text), text.cache)


def answer_loss(model: Seer, batch: dict[str, Tensor], z_loss: float = 0.0) -> Tensor:
    """Mean cross-entropy of the answers' tokens: the mean over each answer's tokens, then over the answers.

    So a "yes" weighs as much as a caption of forty words. ``z_loss``: see losses.token_losses.

    Args:
        batch: images (B, S, S, 3), camera (B,), tokens and token_mask (B, T), answer_in (B, A),
            answer_out (B, A) with ``IGNORED`` past an answer's end.
    """
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    prefix = look(model, batch["images"], batch["camera"], text)
    hidden_BAD, _ = model.language.read_text(batch["answer_in"], FIRST, prefix)
    logits_BAV = model.language.logits(hidden_BAD).float()
    target_BA = batch["answer_out"]
    real_BA = (target_BA != IGNORED).to(logits_BAV.dtype)
    loss_BA = token_losses(logits_BAV, target_BA, z_loss) * real_BA
    return (loss_BA.sum(1) / real_BA.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def answer(
    model: Seer, images: Tensor, camera_B: Tensor, text: TextFeatures, start: int, end: int, longest: int
) -> list[list[int]]:
    """The most likely tokens one by one, up to ``end`` (left out) or ``longest`` tokens, for each row.

    Args:
        start: token that begins every answer.
        end: token that ends one.
    """
    prefix = look(model, images, camera_B, text)
    token_B = torch.full((len(images),), start, dtype=torch.int64, device=images.device)
    answers: list[list[int]] = [[] for _ in range(len(images))]
    done = [False] * len(images)
    for place in range(longest):
        hidden_B1D, prefix = model.language.read_text(token_B[:, None], FIRST + place, prefix)
        token_B = model.language.logits(hidden_B1D[:, 0]).argmax(-1)
        for row, token in enumerate(token_B.tolist()):
            done[row] = done[row] or token == end
            if not done[row]:
                answers[row].append(token)
        if all(done):
            break
    return answers
