"""Which answers are right, and what the shares of right ones say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundry_bench.data.captions.reader import CaptionSample
from foundry_bench.training.quiz import Quiz, right_answer
from tests.training.pairs import COLOURS, write_pairs


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


class Reader:
    """Answers by looking, or without."""

    def __init__(self, looks: bool) -> None:
        self.looks = looks

    def answers(self, quiz: Quiz, pictures: list[np.ndarray]) -> list[str]:
        names = {value: name for name, value in COLOURS.items()}
        return [names[tuple(picture[0, 0].tolist())] if self.looks else "red" for picture in pictures]


def score(quiz: Quiz, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    def answers(self: Quiz, model: Any, tokenizer: Any, longest: int, pictures: Any) -> list[str]:
        return reader.answers(self, pictures)

    monkeypatch.setattr(Quiz, "_answers", answers)
    return quiz.score(None, None, 8)  # type: ignore[arg-type]


def test_who_looks_is_told_from_who_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiz = Quiz(write_pairs(tmp_path / "pairs"), "val", ("agentview",), 100)
    assert len(quiz.samples) == 6  # one question of each scene: captions have no single right answer
    seeing, blind = (score(quiz, Reader(looks), monkeypatch) for looks in (True, False))
    assert seeing["qa_accuracy"] == seeing["qa_colour"] == 1
    assert seeing["qa_other_picture"] == 0  # the next scene has another colour
    assert blind["qa_accuracy"] == blind["qa_other_picture"] == pytest.approx(1 / 3)
    assert seeing["qa_blind"] == pytest.approx(1 / 3)
    assert seeing["qa_questions"] == 6


def test_without_another_scene_nothing_is_said_of_other_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiz = Quiz(write_pairs(tmp_path / "pairs"), "val", ("agentview",), 1)
    assert "qa_other_picture" not in score(quiz, Reader(True), monkeypatch)


def test_the_same_camera_took_the_other_picture(tmp_path: Path) -> None:
    quiz = Quiz(write_pairs(tmp_path / "pairs"), "val", ("agentview", "wrist"), 100)
    by_bytes = {(s.image.tobytes(), s.camera) for s in quiz.samples}
    for sample, other in zip(quiz.samples, quiz._other_pictures(), strict=True):
        assert other is not None
        assert (other.tobytes(), sample.camera) in by_bytes
