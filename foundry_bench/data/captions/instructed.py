"""Which object words mean: descriptions that fit one object only, and the task's own instruction."""

from __future__ import annotations

import numpy as np

from foundry_bench.data.captions.facts import Facts, SeenPart, Thing
from foundry_bench.data.captions.pairs import Writer, spell
from foundry_bench.data.captions.questions import part_phrase

_EDGE = 0.1  # of the picture's side: how far the outermost object must be from the next
_NEAREST = (1.4, 0.04)  # the second nearest must be so many times farther, and so many metres

_MEANT = (
    "Someone says: \"Pick up {which}.\" Which object is meant?",
    "The robot is asked to take {which}. What is that?",
    "What is {which}?",
    "Name {which}.",
)  # fmt: skip
_TASK_POINT = (
    'The robot is told: "{instruction}". Where is what it has to move? Give a pixel.',
    "Instruction: {instruction}. Point to the thing that has to be moved.",
    'What must the robot move if it is told "{instruction}"? Answer with a pixel.',
)
_TASK_CHECK = (
    'The robot is told: "{instruction}". Does it have to move the thing at {where}?',
    "Instruction: {instruction}. Is the thing at {where} the one to be moved?",
)


def references(facts: Facts, writer: Writer) -> None:
    """Which object is the leftmost, the one nearest to the plate, the one on the plate?"""
    found = [*_outermost(facts), *_nearest(facts), *_held(facts)]
    for which, thing in writer.some(found, 3):
        writer.ask("meant_name", _MEANT, thing.spoken.phrase, which, which, thing.point, which=which)


def _objects(facts: Facts) -> list[Thing]:
    return [thing for thing in facts.things if not thing.fixture and thing.pixels > 0]


def _outermost(facts: Facts) -> list[tuple[str, Thing]]:
    found: list[tuple[str, Thing]] = []
    objects = _objects(facts)
    if len(objects) < 2 or not all(thing.clear(facts.size) for thing in objects):
        return found  # a sliver at the edge might be the leftmost, and might not count
    for word, sign in (("leftmost", 1), ("rightmost", -1)):
        order = sorted(objects, key=lambda thing: sign * thing.point[0])
        if abs(order[0].point[0] - order[1].point[0]) >= _EDGE * facts.size:
            found.append((f"the {word} object", order[0]))
    return found


def _nearest(facts: Facts) -> list[tuple[str, Thing]]:
    """The object nearest to a thing, by the distance of their middles in space; also unseen ones compete."""
    found = []
    objects = [thing for thing in facts.things if not thing.fixture]
    for place in facts.named():
        others = [thing for thing in objects if thing.name != place.name]
        if place.fixture or len(others) < 2:
            continue
        away = {thing.name: _distance(thing, place) for thing in others}
        first, second = sorted(others, key=lambda thing: away[thing.name])[:2]
        factor, apart = _NEAREST
        alone = away[second.name] > max(factor * away[first.name], away[first.name] + apart)
        if alone and first.clear(facts.size):
            found.append((f"the object nearest to {place.spoken.the}", first))
    return found


def _distance(one: Thing, other: Thing) -> float:
    return float(np.linalg.norm(np.subtract(one.position, other.position)))


def _held(facts: Facts) -> list[tuple[str, Thing]]:
    found = []
    for place in facts.named():
        inside = [holding for holding in facts.holdings if holding.place == place.name]
        doubtful = any(holder == place.name for _, holder in facts.unclear)
        if len(inside) == 1 and not inside[0].part and not doubtful:
            thing = facts.thing(inside[0].thing)
            if thing.clear(facts.size):
                found.append((f"the object {inside[0].preposition} {place.spoken.the}", thing))
    return found


def instruction(facts: Facts, writer: Writer) -> None:
    """What the task's own instruction has the robot move, and what it does not."""
    if not facts.instruction:
        return
    target = _target(facts)
    if target is None:
        return
    where, told = target.point, facts.instruction
    writer.ask("meant_point", _TASK_POINT, spell(where), told, told, where, instruction=told)
    wrong = _distractor(facts, target, writer)
    if wrong is None:
        return
    for point, answer in ((where, "yes"), (wrong.point, "no")):
        writer.ask(
            "meant_check", _TASK_CHECK, answer, told, told, point, instruction=told, where=spell(point)
        )


def _target(facts: Facts) -> Thing | SeenPart | None:
    """What has to be moved, where it is clear."""
    owner, _, part_name = facts.target.partition("/")
    thing = facts.thing(owner)
    if not part_name:
        return thing if thing.clear(facts.size) else None
    part = next(part for part in facts.parts if part.owner == owner and part.name == part_name)
    big = part.pixels >= 0.0025 * facts.size**2
    return part if big and thing.clear(facts.size) and part_phrase(part, facts) else None


def _distractor(facts: Facts, target: Thing | SeenPart, writer: Writer) -> Thing | None:
    """Another thing, one of the same name if there is one."""
    if isinstance(target, SeenPart):
        others = [thing for thing in facts.clear_things() if thing.name != target.owner]
        return writer.pick(others) if others else None
    others = [thing for thing in facts.clear_things() if thing.name != target.name and not thing.fixture]
    alike = [thing for thing in others if thing.category == target.category]
    return writer.pick(alike or others) if others else None
