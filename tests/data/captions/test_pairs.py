"""Questions and answers on made-up facts: truth recomputed in another way, grammar, no contradictions."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.data.captions.facts import Facts, Holding, SeenPart
from foundry_bench.data.captions.pairs import KINDS, YES_NO, Pair, write_pairs
from foundry_bench.errors import FoundryError
from tests.data.captions.conftest import SIZE, any_facts, build_facts, build_thing


def asked(facts: Facts, seeds: int = 12) -> list[Pair]:
    """Pairs of several draws."""
    return [pair for seed in range(seeds) for pair in write_pairs(facts, np.random.default_rng(seed))]


def answers(facts: Facts, kind: str) -> dict[str, set[str]]:
    """Answers by what is asked about."""
    found: dict[str, set[str]] = {}
    for pair in asked(facts):
        if pair.kind == kind:
            found.setdefault(pair.about, set()).add(pair.answer)
    return found


@given(any_facts(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_every_pair_is_well_formed(facts: Facts, seed: int) -> None:
    pairs = write_pairs(facts, np.random.default_rng(seed))
    for pair in pairs:
        assert pair.kind in KINDS
        for text in (pair.question, pair.answer):
            assert text == text.strip()
            assert not re.search(r"[{}]|  | ,|\bNone\b|_|\ba [aeiou]|\bthe (the|a|some)\b", text), text
        assert pair.question[0].isupper()
        assert pair.question.endswith(("?", "."))
        assert Pair.from_json(json.loads(json.dumps(pair.to_json()))) == pair
        if pair.kind in YES_NO:
            assert pair.answer in ("yes", "no")
        if pair.kind == "caption":
            assert re.fullmatch(r"([A-Z][^.]*\. ?)+", pair.answer), pair.answer


@given(any_facts(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_no_question_has_two_answers(facts: Facts, seed: int) -> None:
    """Of questions with one true answer, however they were drawn."""
    found: dict[str, str] = {}
    for pair in [
        *write_pairs(facts, np.random.default_rng(seed)),
        *write_pairs(facts, np.random.default_rng(1)),
    ]:
        if pair.kind != "caption":
            assert found.setdefault(pair.question, pair.answer) == pair.answer, pair.question


@given(any_facts(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_nobody_is_asked_about_what_is_not_seen(facts: Facts, seed: int) -> None:
    seen = {(thing.point[0], thing.point[1]) for thing in facts.things if thing.pixels == 200}
    clear = {thing.spoken.phrase for thing in facts.things if thing.pixels == 200 and thing.share > 0.5}
    visible = {thing.spoken.phrase for thing in facts.things if thing.pixels}
    for pair in write_pairs(facts, np.random.default_rng(seed)):
        if pair.point is not None:
            assert pair.point in seen
        if pair.kind == "presence":
            assert pair.about in clear if pair.answer == "yes" else pair.about not in visible
        if pair.kind in ("relation_check", "relation_which"):
            assert set(pair.about.split("|")[1:]) <= clear


@given(st.integers(0, SIZE - 21), st.integers(0, SIZE - 21), st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_sides_and_depths_agree_with_coordinates(left: int, other: int, top: int, below: int) -> None:
    mug, plate = build_thing("m", "porcelain_mug", left, top), build_thing("p", "plate", other, below)
    on_table = (Holding("m", "on", ""), Holding("p", "on", ""))
    facts = build_facts(mug, plate, holdings=on_table)
    for about, given_answers in answers(facts, "relation_check").items():
        said = about.split("|")[0]  # always of the plate, which comes first in the alphabet
        assert about.split("|")[1:] == ["plate", "white mug"]
        true = {
            "left": other < left, "right": other > left, "nearer": below > top, "farther": below < top,
        }[said]  # fmt: skip
        assert given_answers == {"yes" if true else "no"}
        apart = abs(left - other) if said in ("left", "right") else abs(top - below)
        assert apart >= 0.1 * (SIZE if said in ("left", "right") else 100) - 1e-9
    if abs(left - other) >= 25:
        assert any(about.startswith(("left", "right")) for about in answers(facts, "relation_check"))


def test_two_of_one_name_are_counted_and_never_called_the() -> None:
    bowls = [build_thing(f"b{n}", "akita_black_bowl", 25 * n, 20) for n in range(2)]
    facts = build_facts(*bowls, build_thing("p", "plate", 60, 50))
    assert answers(facts, "count")["bowl"] == {"two"}
    assert not any("the black bowl" in pair.question + pair.answer for pair in asked(facts))
    assert any("two black bowls" in pair.answer for pair in asked(facts) if pair.kind == "caption")


def test_a_sliver_at_the_edge_stops_counting_but_is_no_absence() -> None:
    sliver = build_thing("b1", "akita_black_bowl", 0, 0, pixels=3, share=0.05)
    facts = build_facts(build_thing("b0", "akita_black_bowl", 40, 20), sliver)
    assert "bowl" not in answers(facts, "count")
    alone = build_facts(sliver, build_thing("p", "plate", 60, 50))
    assert "black bowl" not in answers(alone, "presence")


def test_a_white_bowl_is_not_denied_where_a_bowl_looks_white() -> None:
    """LIBERO's black bowl is grey and white: nobody may say that there is no white bowl."""
    bowl = build_thing("b", "akita_black_bowl", 10, 10, colours=("grey", "white", "black"))
    pairs = asked(build_facts(bowl), 300)
    denied = {pair.about for pair in pairs if pair.kind == "presence" and pair.answer == "no"}
    assert "white bowl" not in denied
    assert "plate" in denied


def test_a_kind_is_not_denied_where_one_of_it_is_seen() -> None:
    """LIBERO-PRO's "yellow_tomato_sauce" is tomato sauce."""
    facts = build_facts(build_thing("s", "yellow_tomato_sauce", 10, 10))
    assert "tomato sauce" not in {pair.about for pair in asked(facts, 300) if pair.kind == "presence"}


def test_another_colour_is_denied_where_a_plain_thing_is_seen() -> None:
    plate = build_thing("p", "plate", 10, 10, colours=("white", "red"))
    painted = build_thing("q", "plate", 60, 10, pixels=0, share=0.0, painted="blue")
    told = answers(build_facts(plate, painted), "presence")
    assert told["blue plate"] == {"no"}
    assert told.get("yellow plate", {"no"}) == {"no"}
    assert "red plate" not in told  # its rim is red


def test_painted_things_are_called_by_their_paint() -> None:
    plate = build_thing("p", "plate", 10, 10, painted="blue", colour="blue", colours=("blue",))
    facts = build_facts(plate)
    assert answers(facts, "colour")["plate"] == {"blue"}
    presence = answers(facts, "presence")
    assert presence["blue plate"] == {"yes"}
    assert all(
        value == {"no"}
        for about, value in presence.items()
        if about.endswith("plate") and about != "blue plate"
    )
    assert "plate" not in presence  # is a blue plate a plate? yes, so "no" would be wrong


def test_states_of_parts() -> None:
    cabinet = build_thing("c", "wooden_cabinet", 30, 30, fixture=True)
    stove = build_thing("s", "flat_stove", 60, 5, fixture=True)
    parts = (
        SeenPart("top drawer", "drawer", "c", 1.0, "open", 60, (35, 35)),
        SeenPart("middle drawer", "drawer", "c", 0.5, "partly open", 60, (35, 38)),
        SeenPart("bottom drawer", "drawer", "c", 0.0, "closed", 2, (35, 40)),
        SeenPart("knob", "knob", "s", 0.0, "off", 10, (65, 10)),
    )
    facts = build_facts(cabinet, stove, parts=parts)
    told = {(pair.question, pair.answer) for pair in asked(facts) if pair.kind.startswith("state")}
    assert ("Is the top drawer of the cabinet open?", "yes") in told
    assert ("Is the top drawer of the cabinet closed?", "no") in told
    assert ("How far is the middle drawer of the cabinet open?", "partly open") in told
    assert ("Is the stove on?", "no") in told
    assert not any("bottom" in question for question, _ in told)  # too little of it is seen
    assert not any("Is the middle" in q and a in ("yes", "no") for q, a in told)  # neither open nor closed


def test_places_and_what_they_hold() -> None:
    mug = build_thing("m", "porcelain_mug", 10, 10)
    plate, bowl = build_thing("p", "plate", 12, 12), build_thing("b", "akita_black_bowl", 60, 40)
    facts = build_facts(mug, plate, bowl, holdings=(Holding("m", "on", "p"), Holding("b", "on", "")))
    where = answers(facts, "where")
    assert where == {"white mug": {"on the plate"}, "black bowl": {"on the table"}}
    checks = answers(facts, "holding_check")
    assert checks["on|white mug|plate"] == {"yes"}
    assert checks["in|white mug|black bowl"] == {"no"}
    assert answers(facts, "meant_name")["the object on the plate"] == {"white mug"}
    doubtful = build_facts(mug, plate, bowl, unclear=(("m", "p"), ("m", "")))
    assert "on|white mug|plate" not in answers(doubtful, "holding_check")
    assert "white mug" not in answers(doubtful, "where")


def test_the_nearest_object_must_be_nearest_by_far() -> None:
    things = [
        build_thing("p", "plate", 0, 0, position=(0, 0, 0)),
        build_thing("m", "porcelain_mug", 30, 0, position=(0.1, 0, 0)),
        build_thing("k", "moka_pot", 60, 0, position=(0.3, 0, 0)),
    ]
    assert answers(build_facts(*things), "meant_name")["the object nearest to the plate"] == {"white mug"}
    hidden = build_thing("b", "black_book", 0, 0, pixels=0, share=0.0, position=(0.09, 0, 0))
    assert "the object nearest to the plate" not in answers(build_facts(*things, hidden), "meant_name")


def test_the_instruction_points_at_its_object_and_not_at_its_twin() -> None:
    twins = [build_thing("b0", "akita_black_bowl", 5, 5), build_thing("b1", "akita_black_bowl", 60, 60)]
    facts = build_facts(*twins, instruction="pick up the black bowl on the stove", target="b1")
    pairs = [pair for pair in asked(facts, 1) if pair.kind.startswith("meant_")]
    points = {pair.point for pair in pairs if pair.kind == "meant_point"}
    assert points == {twins[1].point}
    checked = {pair.point: pair.answer for pair in pairs if pair.kind == "meant_check"}
    assert checked == {twins[1].point: "yes", twins[0].point: "no"}


def test_nothing_clear_gives_no_pairs() -> None:
    assert write_pairs(build_facts(build_thing("p", "plate", 1, 1, pixels=3)), np.random.default_rng(0)) == []


@given(any_facts())
@settings(max_examples=50, deadline=None)
def test_facts_survive_json(facts: Facts) -> None:
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_other_json_is_refused(plain: object) -> None:
    for cls in (Facts, Pair):
        with pytest.raises(FoundryError):
            cls.from_json(plain)
