"""Captions: a sentence or some on what is in a picture, nothing in them that is not certain."""

from __future__ import annotations

from itertools import permutations

from foundry_bench.data.captions.facts import Facts
from foundry_bench.data.captions.names import join, number_word, plural, sentence, with_article
from foundry_bench.data.captions.pairs import Writer
from foundry_bench.data.captions.questions import part_clear, part_phrase
from foundry_bench.data.captions.relations import place_phrase, side

_ASK_SHORT = ("What is in the picture?", "Name what you see.", "Describe the picture in one sentence.",
              "Give a short caption.", "List the things in this image.")  # fmt: skip
_ASK_LONG = ("Describe the picture.", "Describe the scene in detail.", "What do you see? Be precise.",
             "Give a detailed caption.")  # fmt: skip
_LIST = {
    "agentview": (
        "a robot arm in {room} with {things}", "{things} in front of a robot arm",
        "a {surface} with {things}",
        "there {be} {things} in the picture", "the picture shows {things}",
    ),
    "wrist": (
        "{things} seen from the robot's hand", "the camera at the gripper sees {things}",
        "a view from above of {things}", "below the gripper there {be} {things}",
    ),
}  # fmt: skip


def captions(facts: Facts, writer: Writer) -> None:
    """A short caption, and a long one that adds what lies where and what stands open."""
    writer.ask("caption", _ASK_SHORT, short(facts, writer))
    writer.ask("caption", _ASK_LONG, long(facts, writer))


def short(facts: Facts, writer: Writer) -> str:
    """One sentence that names what is clear."""
    things, several = _listed(facts, writer)
    template = writer.pick(_LIST[facts.camera])
    room = with_article(facts.room)
    be = "are" if several else "is"
    return sentence(template.format(things=things, room=room, surface=facts.surface, be=be))


def long(facts: Facts, writer: Writer) -> str:
    """The short caption, then what is certain about places, sides and states."""
    named = facts.named()
    names = {thing.name for thing in named}
    told = [short(facts, writer)]
    for holding in facts.holdings:
        if holding.thing in names and holding.place in names:
            one = facts.thing(holding.thing).spoken.the
            told.append(sentence(f"{one} is {holding.preposition} {place_phrase(holding, facts)}"))
    beside = [(a, b) for a, b in permutations(named, 2) if side(a, b, facts.size) == "left"]
    for one, other in writer.some(beside, 2):
        if writer.pick((True, False)):
            told.append(sentence(f"{one.spoken.the} is to the left of {other.spoken.the}"))
        else:
            told.append(sentence(f"{other.spoken.the} is to the right of {one.spoken.the}"))
    for part in facts.parts:
        if part.state and part_clear(part, facts):
            told.append(sentence(f"{part_phrase(part, facts)} is {part.state}"))
    return " ".join(told)


def _listed(facts: Facts, writer: Writer) -> tuple[str, bool]:
    """What is clear, as "two plates, a mug and some butter"; and whether the verb before it is "are"."""
    clear = facts.clear_things()
    names = {thing.spoken.phrase: thing.spoken for thing in writer.some(clear, len(clear))}
    items, several = [], False
    for phrase, name in names.items():
        alike = [thing for thing in facts.things if thing.pixels > 0 and thing.spoken.phrase == phrase]
        if len(alike) > 1 and name.countable and all(thing.clear(facts.size) for thing in alike):
            items.append(f"{number_word(len(alike))} {plural(phrase)}")
            several = several or len(items) == 1
        else:
            items.append(name.a)
    return join(items), several
