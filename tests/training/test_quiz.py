from __future__ import annotations

import numpy as np
import pytest

from foundry_bench.data.captions.reader import CaptionSample
from foundry_bench.training.quiz import right_answer


def _sample(kind: str, answer: str, point: tuple[int, int] | None = None) -> CaptionSample:
    return CaptionSample(
        np.zeros((4, 4, 3), np.uint8), "?", answer, kind, "a-1-agentview", "agentview", point
    )


@pytest.mark.parametrize(
    ("told", "right"),
    [("yes", True), ("Yes.", True), ("  yes ", True), ("no", False), ("", False), ("yes yes", False)],
)
def test_words_must_agree(told: str, right: bool) -> None:
    assert right_answer(_sample("presence", "Yes"), told, 96) is right


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ("(31, 70)", True), ("( 31,70 )", True), ("(37, 77)", True), ("(31, 80)", False),
        ("31, 70", False), ("(31)", False), ("the plate", False),
    ],
)  # fmt: skip
def test_a_pixel_must_be_near(told: str, right: bool) -> None:
    assert right_answer(_sample("point", "(31, 70)", (31, 70)), told, 96) is right
