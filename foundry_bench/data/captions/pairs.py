"""One question with its answer, and every pair that one picture gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foundry_bench.data.captions.facts import Facts
from foundry_bench.errors import FoundryError

#: Kinds whose answer is yes or no, as often the one as the other for each `Pair.key`.
YES_NO = (
    "presence", "colour_check", "relation_check", "holding_check", "state_check", "meant_check",
)  # fmt: skip
#: Kinds with few answers, none of which is given to more than half of the questions of one key.
CHOICE = ("colour", "count", "state", "state_how", "gripper", "where", "relation_which")
#: Kinds whose answers are what they are.
OPEN = (
    "caption", "colour_at", "at_point", "point", "meant_name", "meant_point",
)  # fmt: skip
KINDS = (*YES_NO, *CHOICE, *OPEN)


@dataclass(frozen=True)
class Pair:
    """A question about one picture and its answer.

    Attributes:
        kind: one of `KINDS`.
        question: what is asked.
        answer: what is true.
        key: pairs of one kind and key are balanced against each other.
        about: what the question is about, without its wording: what a reader without eyes has to go by.
        point: a pixel (x, y) that question or answer speaks of, or None.
    """

    kind: str
    question: str
    answer: str
    key: str = ""
    about: str = ""
    point: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Any) -> Pair:
        """The pair that `to_json` made plain.

        Raises:
            FoundryError: something is missing, unknown or of another type.
        """
        try:
            values = dict(plain)
            point = values.pop("point")
            pair = cls(**values, point=None if point is None else (int(point[0]), int(point[1])))
            texts = (pair.kind, pair.question, pair.answer, pair.key, pair.about)
            if not all(isinstance(text, str) for text in texts) or pair.kind not in KINDS:
                raise ValueError(f"kind {pair.kind!r}")
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise FoundryError(f"not a question with its answer: {type(error).__name__} {error}") from error
        return pair


class Writer:
    """Words questions: draws templates and fills them in.

    Args:
        generator: decides which template is taken.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.pairs: list[Pair] = []

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them."""
        return options[int(self.generator.integers(len(options)))]

    def some(self, items: Sequence[Any], count: int) -> list[Any]:
        """At most ``count`` of them, in random order."""
        order = self.generator.permutation(len(items))[:count]
        return [items[index] for index in order]

    def ask(
        self,
        kind: str,
        templates: Sequence[str],
        answer: str,
        key: str = "",
        about: str = "",
        point: tuple[int, int] | None = None,
        **words: str,
    ) -> None:
        """Add a question in the words of one of the templates."""
        question = self.pick(templates).format(**words)
        question = question[:1].upper() + question[1:]
        self.pairs.append(Pair(kind, question, answer, key, about, point))


def spell(point: tuple[int, int]) -> str:
    """A pixel as text: "(x, y)", x to the right and y down from the top left corner, in the saved picture."""
    return f"({point[0]}, {point[1]})"


def write_pairs(facts: Facts, generator: np.random.Generator) -> list[Pair]:
    """Every pair that a picture gives, before balancing; empty where nothing is clear in it."""
    from foundry_bench.data.captions import describe, instructed, questions, relations

    if not facts.clear_things():
        return []
    writer = Writer(generator)
    for ask in (
        describe.captions,
        questions.presence,
        questions.colours,
        questions.counts,
        questions.states,
        questions.gripper,
        questions.points,
        relations.sides,
        relations.depths,
        relations.holdings,
        relations.places,
        instructed.references,
        instructed.instruction,
    ):
        ask(facts, writer)
    return writer.pairs
