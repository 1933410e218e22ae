"""An answer cannot be guessed from its frequency."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.data.captions.balance import Placed, keep, label, report
from foundry_bench.data.captions.config import SPLITS
from foundry_bench.data.captions.pairs import CHOICE, OPEN, YES_NO, Pair

_YES_NO = st.builds(
    Pair, st.sampled_from(YES_NO), st.text(max_size=3), st.sampled_from(["yes", "no"]), st.sampled_from("ab")
)
_FEW = st.builds(
    Pair, st.sampled_from([kind for kind in CHOICE if kind != "relation_which"]), st.text(max_size=3),
    st.sampled_from(["one", "two", "three"]), st.sampled_from("ab"),
)  # fmt: skip
_WHICH = st.builds(
    lambda question, first: Pair(
        "relation_which", question, "the mug" if first else "the plate", "left", "left|mug|plate"
    ),
    st.text(max_size=3),
    st.booleans(),
)
_OPEN = st.builds(Pair, st.sampled_from(OPEN), st.text(max_size=3), st.text(max_size=3))


def placed(pairs: list[tuple[str, Pair]]) -> list[Placed]:
    return [Placed(split, n // 3, n % 3, pair) for n, (split, pair) in enumerate(pairs)]


_PAIRS = st.lists(st.tuples(st.sampled_from(SPLITS), _YES_NO | _FEW | _WHICH | _OPEN), max_size=60).map(
    placed
)


@given(_PAIRS, st.integers(0, 5))
def test_kept_pairs_are_balanced(pairs: list[Placed], seed: int) -> None:
    kept = keep(pairs, seed)
    groups: dict[tuple[str, str, str], Counter[str]] = {}
    for one in pairs:
        if (one.image, one.number) in kept:
            group = groups.setdefault((one.split, one.pair.kind, one.pair.key), Counter())
            group[label(one.pair)] += 1
        else:
            assert one.pair.kind not in OPEN
    for (_, kind, _), counts in groups.items():
        if kind in YES_NO or kind == "relation_which":
            assert len(counts) == 2
            assert len(set(counts.values())) == 1
        elif kind in CHOICE:
            assert 2 * max(counts.values()) <= sum(counts.values())


@given(_PAIRS, st.integers(0, 5), st.randoms())
def test_the_order_of_arrival_does_not_matter(pairs: list[Placed], seed: int, random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert keep(shuffled, seed) == keep(pairs, seed)


def test_as_many_as_possible_are_kept() -> None:
    pairs = placed([("train", Pair("presence", str(n), "yes" if n < 3 else "no", "mug")) for n in range(10)])
    assert len(keep(pairs, 0)) == 6


def test_report_says_what_a_reader_without_eyes_scores() -> None:
    """Cabinets are black in training, mugs red as often as white."""
    train = [("cabinet", "black")] * 3 + [("mug", "red"), ("mug", "white")]
    held_out = [("cabinet", "black"), ("mug", "red"), ("mug", "white"), ("plate", "black")]
    pairs = [Placed("train", n, 0, Pair("colour", "?", a, "", about)) for n, (about, a) in enumerate(train)]
    pairs += [Placed("val", n, 0, Pair("colour", "?", a, "", about)) for n, (about, a) in enumerate(held_out)]
    found = report(pairs)
    assert found["train"]["colour"]["most_common"] == 0.6
    assert found["train"]["colour"]["answers"] == {"black": 3, "red": 1, "white": 1}
    # cabinet right; of the mugs one; of the plate, never seen, the most common answer of all: black, right.
    assert found["val"]["colour"]["blind"] == 0.75
