"""How many questions on unseen scenes are answered right, and how many would be without looking.

Two blind scores stand beside the model's: that of a reader who knows every question and answer of the
training split but sees no picture (the most common answer to the same question), and that of the model itself
when it is shown a picture of another scene. A model has learned to look where it beats both.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from foundry_bench.data.captions.reader import CaptionDataset, CaptionSample
from foundry_bench.policies.answers import Seer, answer
from foundry_bench.policies.tokenizer import TextTokenizer

NEAR = 0.1  # of the picture's side: a pixel that is pointed to is right within this distance
_ROWS = 64
_POINTED = ("point", "meant_point")
_OPEN = ("caption",)  # no single right answer


class Quiz:
    """A fixed set of questions of one split, spread evenly over its pairs.

    Args:
        root: a dataset that ``foundry-bench captions`` wrote.
        split: `val` or `test`.
        cameras: the model's, in its order.
        limit: at most this many questions.
        train: the training split, where it is in memory already.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        cameras: Sequence[str],
        limit: int,
        train: CaptionDataset | None = None,
    ) -> None:
        self._camera = {name: number for number, name in enumerate(cameras)}
        pairs = CaptionDataset(root, split)
        fit = [
            index
            for index, (kind, camera) in enumerate(zip(pairs.kinds, pairs.cameras, strict=True))
            if kind not in _OPEN and camera in self._camera
        ]
        chosen: Iterable[int] = np.linspace(0, len(fit) - 1, min(limit, len(fit))).astype(int) if fit else []
        self.samples = [pairs[fit[index]] for index in chosen]
        self.image_size = pairs.image_size
        self._guesses = _blind(train if train is not None else CaptionDataset(root), self.samples)

    def score(self, model: nn.Module, tokenizer: TextTokenizer, longest: int) -> dict[str, float]:
        """Shares of right answers: ``qa_accuracy``, ``qa_blind``, ``qa_other_picture``, and ``qa_KIND``.

        ``qa_other_picture`` is of the questions for which there is a picture of another scene.
        """
        if not self.samples:
            return {}
        told = self._answers(model, tokenizer, longest, [sample.image for sample in self.samples])
        right = [
            right_answer(sample, text, self.image_size)
            for sample, text in zip(self.samples, told, strict=True)
        ]
        others = self._other_pictures()
        shown = [
            sample.image if other is None else other
            for sample, other in zip(self.samples, others, strict=True)
        ]
        elsewhere = self._answers(model, tokenizer, longest, shown)
        fooled = [
            right_answer(sample, text, self.image_size)
            for sample, text, other in zip(self.samples, elsewhere, others, strict=True)
            if other is not None
        ]
        by_kind: dict[str, list[bool]] = defaultdict(list)
        for sample, good in zip(self.samples, right, strict=True):
            by_kind[sample.kind].append(good)
        return {
            "qa_accuracy": _share(right),
            "qa_blind": _share(self._guesses),
            **({"qa_other_picture": _share(fooled)} if fooled else {}),
            "qa_questions": float(len(self.samples)),
            **{f"qa_{kind}": _share(some) for kind, some in sorted(by_kind.items())},
        }

    def _other_pictures(self) -> list[np.ndarray | None]:
        """For each question a picture by the same camera of another scene; None where there is none."""
        swapped: list[np.ndarray | None] = []
        for place, sample in enumerate(self.samples):
            others = (
                self.samples[(place + step) % len(self.samples)] for step in range(1, len(self.samples) + 1)
            )
            scene = sample.key.rsplit("-", 1)[0]
            fits = (o.image for o in others if o.camera == sample.camera and o.key.rsplit("-", 1)[0] != scene)
            swapped.append(next(fits, None))
        return swapped

    def _answers(
        self, model: nn.Module, tokenizer: TextTokenizer, longest: int, pictures: list[np.ndarray]
    ) -> list[str]:
        seer: Seer = model  # type: ignore[assignment]
        device = next(model.parameters()).device
        texts: list[str] = []
        for start in range(0, len(self.samples), _ROWS):
            samples = self.samples[start : start + _ROWS]
            tokens, mask = (
                torch.from_numpy(each).to(device) for each in tokenizer.encode([s.question for s in samples])
            )
            images = torch.from_numpy(np.stack(pictures[start : start + _ROWS])).to(device)
            cameras = torch.tensor([self._camera[s.camera] for s in samples], device=device)
            with torch.no_grad():
                read = seer.read_instructions(tokens, mask)
                ids = answer(seer, images, cameras, read, tokenizer.end, tokenizer.end, longest)
            texts += [tokenizer.decode(row) for row in ids]
        return texts


def right_answer(sample: CaptionSample, told: str, image_size: int) -> bool:
    """Whether an answer is right: word for word, or near enough where a pixel is asked for."""
    if sample.kind in _POINTED and sample.point is not None:
        found = re.fullmatch(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)", told.strip())
        if not found:
            return False
        away = np.hypot(int(found[1]) - sample.point[0], int(found[2]) - sample.point[1])
        return bool(away <= NEAR * image_size)
    return _plain(told) == _plain(sample.answer)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _share(right: Sequence[bool]) -> float:
    return float(np.mean(right))


def _blind(train: CaptionDataset, asked: Sequence[CaptionSample]) -> list[bool]:
    """Whether the most common answer in training to the same question, or else of its kind, is right.

    A question that speaks of a pixel is never the same; there the most common answer of its kind is given.
    """
    same: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    of_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, question, told in train.texts():
        same[kind, question][told] += 1
        of_kind[kind][told] += 1

    def guess(sample: CaptionSample) -> str:
        counts: Mapping[str, int] = same.get((sample.kind, sample.question)) or of_kind[sample.kind]
        return min(counts, key=lambda text: (-counts[text], text), default="")

    return [right_answer(sample, guess(sample), train.image_size) for sample in asked]
