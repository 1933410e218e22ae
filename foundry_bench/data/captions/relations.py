"""Questions on two things: beside, nearer, in and on.

"Left" and "right" are those of the saved picture, not of the robot and not of LIBERO's instructions: the
picture is mirrored, as in every published use of LIBERO, so that its right is the left of those instructions.
"""

from __future__ import annotations

from itertools import permutations

from foundry_bench.data.captions.facts import Facts, Holding, Thing
from foundry_bench.data.captions.names import with_article
from foundry_bench.data.captions.pairs import Writer

_SIDE = 0.12  # of the picture's side: the least distance at which left and right are asked about
_DEPTH = 0.1  # metres: the least difference at which nearer and farther are asked about
_FACTS = 4  # questions of each sort in a picture

_CHECK = {
    "left": ("Is {one} to the left of {other}?", "In the picture, is {one} left of {other}?",
             "Does {one} lie to the left of {other}?"),
    "right": ("Is {one} to the right of {other}?", "In the picture, is {one} right of {other}?",
              "Does {one} lie to the right of {other}?"),
    "nearer": ("Is {one} nearer to the camera than {other}?", "Is {one} in front of {other}?"),
    "farther": ("Is {one} farther from the camera than {other}?", "Is {one} behind {other}?"),
}  # fmt: skip
_WHICH = {
    word: (f"Which is {less}, {{one}} or {{other}}?", f"What is {more}: {{one}} or {{other}}?")
    for word, less, more in (
        ("left", "further to the left", "more to the left"),
        ("right", "further to the right", "more to the right"),
        ("nearer", "nearer to the camera", "closer to the camera"),
        ("farther", "farther from the camera", "farther away from the camera"),
    )
}
_HOLDING = {
    "on": ("Is {one} on {other}?", "Does {one} stand on {other}?", "Is {one} lying on {other}?"),
    "in": ("Is {one} in {other}?", "Is {one} inside {other}?", "Does {one} lie in {other}?"),
}
_WHERE = ("Where is {one}?", "Where does {one} lie?", "What is {one} in or on?", "Tell me where {one} is.")


def side(one: Thing, other: Thing, size: int) -> str:
    """ "left" or "right" where one is clearly beside the other in the picture; else empty."""
    if one.point[0] > other.point[0]:
        return "right" if side(other, one, size) else ""
    apart = _SIDE * size
    middles = (other.box[0] + other.box[2] - one.box[0] - one.box[2]) / 2
    widths = min(one.box[2] - one.box[0], other.box[2] - other.box[0])
    overlap = one.box[2] - other.box[0]
    clear = other.point[0] - one.point[0] >= apart and middles >= apart and overlap <= 0.25 * widths
    return "left" if clear else ""


def depth(one: Thing, other: Thing) -> str:
    """ "nearer" or "farther" where one is clearly nearer to the camera or farther from it; else empty."""
    if abs(one.depth - other.depth) < _DEPTH:
        return ""
    return "nearer" if one.depth < other.depth else "farther"


def sides(facts: Facts, writer: Writer) -> None:
    """Is the mug to the left of the plate?"""
    found = [(a, b, side(a, b, facts.size)) for a, b in permutations(facts.named(), 2)]
    _ask(found, ("left", "right"), facts, writer)


def depths(facts: Facts, writer: Writer) -> None:
    """Is the mug in front of the plate? Of objects that stand on the same table, seen by the agent view."""
    if facts.camera != "agentview":
        return
    on_table = {holding.thing for holding in facts.holdings if not holding.place}
    things = [thing for thing in facts.named() if thing.name in on_table]
    found = [(a, b, depth(a, b)) for a, b in permutations(things, 2)]
    _ask(found, ("nearer", "farther"), facts, writer)


def _ask(found: list[tuple[Thing, Thing, str]], words: tuple[str, str], facts: Facts, writer: Writer) -> None:
    clear = [fact for fact in found if fact[2]]
    for one, other, true in writer.some(clear, _FACTS):
        said = str(writer.pick(words))
        answer = "yes" if said == true else "no"
        about = _about(said, one.spoken.phrase, other.spoken.phrase)
        writer.ask(
            "relation_check", _CHECK[said], answer, said, about, one=one.spoken.the, other=other.spoken.the
        )
    for one, other, true in writer.some(clear, _FACTS // 2):
        said = str(writer.pick(words))
        answer = one.spoken.the if said == true else other.spoken.the
        about = f"{said}|{one.spoken.phrase}|{other.spoken.phrase}"
        words_of = {"one": one.spoken.the, "other": other.spoken.the}
        writer.ask("relation_which", _WHICH[said], answer, said, about, **words_of)


def _about(said: str, one: str, other: str) -> str:
    """The same text for "a left of b" and "b right of a"."""
    opposite = {"left": "right", "right": "left", "nearer": "farther", "farther": "nearer"}
    return f"{said}|{one}|{other}" if one < other else f"{opposite[said]}|{other}|{one}"


def place_phrase(holding: Holding, facts: Facts) -> str:
    """ "the plate", "a plate" where there are several, "the top drawer of the cabinet", "the table"."""
    if not holding.place:
        return f"the {facts.surface}"
    place = facts.thing(holding.place)
    name = place.spoken
    phrase = name.the if facts.unique(place) else with_article(name.phrase)
    if holding.part:
        noun = f"the {name.noun}" if facts.unique_noun(place) else phrase
        return f"the {holding.part} of {noun}"
    return phrase


def holdings(facts: Facts, writer: Writer) -> None:
    """Is the bowl on the plate? No only of things that certainly have nothing to do with each other."""
    named = facts.named()
    names = {thing.name for thing in named}
    true = [
        holding
        for holding in facts.holdings
        if holding.thing in names and (holding.place in names) and not holding.part
    ]
    for holding in writer.some(true, _FACTS):
        _check(holding, "yes", facts, writer)
    tied = {(holding.thing, holding.place) for holding in facts.holdings} | set(facts.unclear)
    tied |= {(place, thing) for thing, place in tied}
    false = [
        Holding(one.name, preposition, other.name)
        for one, other in permutations(named, 2)
        for preposition in _prepositions(other)
        # A basket in a bowl is no question for anybody with a language, whatever the picture shows.
        if not one.fixture and (one.name, other.name) not in tied and not _prepositions(one)
    ]
    for holding in writer.some(false, max(len(true), 2)):
        _check(holding, "no", facts, writer)


def _prepositions(place: Thing) -> tuple[str, ...]:
    """How something may lie with respect to a place, if anything can."""
    noun = place.spoken.noun
    if noun in ("bowl", "basket", "tray", "ramekin", "caddy", "microwave"):
        return ("in",)
    return ("on",) if noun in ("plate", "stove", "cabinet", "shelf", "wine rack") else ()


def _check(holding: Holding, answer: str, facts: Facts, writer: Writer) -> None:
    one, place = facts.thing(holding.thing), facts.thing(holding.place)
    about = f"{holding.preposition}|{one.spoken.phrase}|{place.spoken.phrase}"
    writer.ask(
        "holding_check", _HOLDING[holding.preposition], answer,
        f"{holding.preposition} {place.spoken.noun}", about, one=one.spoken.the, other=place.spoken.the,
    )  # fmt: skip


def places(facts: Facts, writer: Writer) -> None:
    """Where is the bowl? Of things that lie in or on one thing only."""
    clear = {thing.name for thing in facts.clear_things()}
    doubtful = {thing for thing, place in facts.unclear if place}
    asked = []
    for thing in facts.named():
        own = [holding for holding in facts.holdings if holding.thing == thing.name]
        seen = all(not holding.place or holding.place in clear for holding in own)
        if len(own) == 1 and seen and thing.name not in doubtful:
            asked.append((thing, own[0]))
    beyond_table = [item for item in asked if item[1].place]
    for thing, holding in [
        *writer.some(beyond_table, 3),
        *writer.some([i for i in asked if not i[1].place], 1),
    ]:
        answer = f"{holding.preposition} {place_phrase(holding, facts)}"
        writer.ask("where", _WHERE, answer, thing.spoken.noun, thing.spoken.phrase, one=thing.spoken.the)
