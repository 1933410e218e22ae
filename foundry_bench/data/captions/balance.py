"""Which pairs are kept, so that an answer cannot be guessed from its frequency; what still can.

Balancing is over a whole split at once and a function of the pairs alone: it does not matter which worker
made which scene.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from foundry_bench.data.captions.pairs import CHOICE, KINDS, YES_NO, Pair

_LISTED = 12  # answers that the report lists


@dataclass(frozen=True)
class Placed:
    """A pair and where it belongs: the number of its image and its number there."""

    split: str
    image: int
    number: int
    pair: Pair


def label(pair: Pair) -> str:
    """What is balanced: the answer; of "which is ..., a or b?" whether it is the first that was named."""
    if pair.kind == "relation_which":
        return "first" if pair.answer == f"the {pair.about.split('|')[1]}" else "second"
    return pair.answer


def keep(pairs: Sequence[Placed], seed: int) -> set[tuple[int, int]]:
    """The pairs that are kept, as (image, number).

    Of yes-or-no kinds as many of each answer for every key of every split; of kinds with few answers, none is
    kept more often than all others of its key together; all pairs of the other kinds.
    """
    groups: dict[tuple[str, str, str], list[Placed]] = defaultdict(list)
    for placed in pairs:
        groups[placed.split, placed.pair.kind, placed.pair.key].append(placed)
    kept: set[tuple[int, int]] = set()
    for (_, kind, _), members in groups.items():
        kept |= {(m.image, m.number) for m in _balanced(kind, members, seed)}
    return kept


def _balanced(kind: str, members: list[Placed], seed: int) -> Iterable[Placed]:
    if kind not in YES_NO and kind not in CHOICE:
        return members
    by_label: dict[str, list[Placed]] = defaultdict(list)
    for member in members:
        by_label[label(member.pair)].append(member)
    sizes = sorted((len(some) for some in by_label.values()), reverse=True)
    if kind in YES_NO or kind == "relation_which":
        most = sizes[1] if len(sizes) == 2 else 0
    else:
        most = sum(sizes[1:])
    chosen: list[Placed] = []
    for some in by_label.values():
        chosen += sorted(some, key=lambda placed: _order(placed, seed))[:most]
    return chosen


def _order(placed: Placed, seed: int) -> str:
    """A random order that depends on nothing but the pair."""
    return hashlib.sha256(
        f"{seed}/{placed.image}/{placed.number}/{placed.pair.question}".encode()
    ).hexdigest()


def report(pairs: Sequence[Placed]) -> dict[str, Any]:
    """For each split and kind: how many, which answers, and what guessing would score.

    ``most_common`` is the score of always giving the most common answer. ``blind`` is that of a reader who
    knows every question and answer of `train` but sees no picture: it gives the most common answer to what
    the question is about (for `train` itself it is left out).
    """
    known: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    overall: dict[str, Counter[str]] = defaultdict(Counter)
    for placed in pairs:
        if placed.split == "train":
            known[placed.pair.kind, _subject(placed.pair)][placed.pair.answer] += 1
            overall[placed.pair.kind][placed.pair.answer] += 1
    found: dict[str, Any] = {}
    for split in sorted({placed.split for placed in pairs}, key=("train", "val", "test").index):
        found[split] = {}
        for kind in KINDS:
            own = [placed.pair for placed in pairs if placed.split == split and placed.pair.kind == kind]
            if own:
                found[split][kind] = _of_kind(own, split, known, overall[kind])
    return found


def _of_kind(
    own: list[Pair], split: str, known: dict[tuple[str, str], Counter[str]], overall: Counter[str]
) -> dict[str, Any]:
    answers = Counter(label(pair) for pair in own)
    entry: dict[str, Any] = {
        "pairs": len(own),
        "most_common": round(answers.most_common(1)[0][1] / len(own), 4),
    }
    if len(answers) <= _LISTED:
        entry["answers"] = dict(sorted(answers.items()))
    else:
        entry["distinct_answers"] = len(answers)
    if split != "train" and overall:
        right = sum(_guess(pair, known, overall) == pair.answer for pair in own)
        entry["blind"] = round(right / len(own), 4)
    return entry


def _subject(pair: Pair) -> str:
    if pair.kind == "relation_which":
        said, *things = pair.about.split("|")
        return "|".join([said, *sorted(things)])
    return pair.about


def _guess(pair: Pair, known: dict[tuple[str, str], Counter[str]], overall: Counter[str]) -> str:
    """The most common answer in training; of equally common ones the first in the alphabet."""
    counts = known.get((pair.kind, _subject(pair))) or overall
    return min(counts, key=lambda answer: (-counts[answer], answer))
