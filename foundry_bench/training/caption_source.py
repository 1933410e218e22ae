"""Image-text pairs as a source of batches: questions, one camera's picture each, and the answers.

A batch: images uint8 (B, S, S, 3), camera (B,) among the model's, tokens and token_mask (B, text_tokens) of
the questions, answer_in and answer_out (B, A): an answer's tokens after the end mark and before it,
``IGNORED`` past its end; A is the longest answer of the batch in eights, so that few shapes occur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundry_bench.data.captions.reader import CaptionDataset, CaptionSample
from foundry_bench.errors import FoundryError
from foundry_bench.policies.answers import IGNORED, answer_loss
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.training.order import SampleOrder
from foundry_bench.training.quiz import Quiz
from foundry_bench.training.stage import Batch

_ROUND = 8
_ORDER = 0x0CA9  # sets the order of the pairs apart from that of other sources
VALIDATION_PAIRS = 768


class CaptionSource:
    """See mixture.Source.

    Args:
        root: a dataset that ``foundry-bench captions`` wrote.
        cameras: the model's; pictures by others are left out.
        image_size: the model's, in pixels.
        tokenizer: the model's; it decides the length of a question.
        answer_tokens: longer answers lose their end.
        batch_size: pairs in a batch.
        seed: decides the order.
        z_loss: see answers.answer_loss.

    Raises:
        FoundryError: no such dataset, other pixels, or none of the cameras.
    """

    name = "captions"

    def __init__(
        self,
        root: Path | str,
        cameras: Sequence[str],
        image_size: int,
        tokenizer: TextTokenizer,
        *,
        answer_tokens: int,
        batch_size: int,
        seed: int,
        z_loss: float = 0.0,
    ) -> None:
        self.tokenizer, self.answer_tokens, self.z_loss = tokenizer, answer_tokens, z_loss
        self._camera = {name: number for number, name in enumerate(cameras)}
        self.pairs = CaptionDataset(root)
        if self.pairs.image_size != image_size:
            raise FoundryError(
                f"{root}: pictures of {self.pairs.image_size} pixels, the model wants model.image_size="
                f"{image_size}; make captions of that size, or change protocol.image_size"
            )
        shown = _taken_by(self.pairs, self._camera)
        if not len(shown):
            raise FoundryError(f"{root}: no picture by any of the model's cameras {list(cameras)}")
        self._order = SampleOrder(shown, batch_size, seed ^ _ORDER)
        self._quiz = Quiz(self.pairs.root, "val", cameras, VALIDATION_PAIRS, self.pairs)

    def identity(self) -> Mapping[str, Any]:
        """What the batches depend on."""
        manifest = self.pairs.manifest
        return {
            "fingerprint": manifest["fingerprint"],
            "scenes": manifest["config"]["scenes"],
            "pairs": len(self.pairs),
            "answer_tokens": self.answer_tokens,
        }

    def batch(self, number: int) -> Batch:
        """The batch of a step of this source."""
        samples = [self.pairs[int(index)] for index in self._order.batch(number)]
        tokens, mask = self.tokenizer.encode([sample.question for sample in samples])
        arrays = {
            "images": np.stack([sample.image for sample in samples]),
            "camera": self.cameras(samples),
            "tokens": tokens,
            "token_mask": mask,
            **self._answers([sample.answer for sample in samples]),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """See answers.answer_loss; there is no chance in it."""
        del generator
        return answer_loss(model, batch, self.z_loss)  # type: ignore[arg-type]

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Accuracy on questions about scenes that training has not seen, and what a blind reader scores."""
        return self._quiz.score(model, self.tokenizer, self.answer_tokens)

    def cameras(self, samples: Sequence[CaptionSample]) -> np.ndarray:
        """Numbers of the cameras that took the samples' pictures, (B,) int64."""
        return np.array([self._camera[sample.camera] for sample in samples], dtype=np.int64)

    def _answers(self, answers: Sequence[str]) -> dict[str, np.ndarray]:
        end = self.tokenizer.end
        ids = [self.tokenizer.encode_text(text)[: self.answer_tokens - 1] for text in answers]
        width = -(-(max(map(len, ids)) + 1) // _ROUND) * _ROUND
        given = np.full((len(ids), width), end, dtype=np.int64)
        wanted = np.full((len(ids), width), IGNORED, dtype=np.int64)
        for row, tokens in enumerate(ids):
            given[row, 1 : len(tokens) + 1] = tokens
            wanted[row, : len(tokens) + 1] = [*tokens, end]
        return {"answer_in": given, "answer_out": wanted}


def _taken_by(pairs: CaptionDataset, cameras: Mapping[str, int]) -> np.ndarray:
    """Numbers of the pairs whose picture one of the cameras took."""
    taken = pairs.cameras
    return np.array([index for index, camera in enumerate(taken) if camera in cameras], dtype=np.int64)
