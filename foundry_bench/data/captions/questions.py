"""Questions on single things: is it there, what colour, how many, open or closed, where in the picture."""

from __future__ import annotations

from foundry_bench.data.captions.colours import COLOURS, PAINTS
from foundry_bench.data.captions.facts import Facts, SeenPart, Thing
from foundry_bench.data.captions.names import Name, name_of, number_word, plural
from foundry_bench.data.captions.pairs import Writer, spell

#: Categories of LIBERO's suites: what may be asked for where it is not.
VOCABULARY = (
    "akita_black_bowl", "alphabet_soup", "basket", "bbq_sauce", "black_book", "butter",
    "chefmate_8_frypan", "chocolate_pudding", "cookies", "cream_cheese", "desk_caddy", "flat_stove",
    "glazed_rim_porcelain_ramekin", "ketchup", "microwave", "milk", "moka_pot", "orange_juice",
    "plate", "porcelain_mug", "red_coffee_mug", "salad_dressing", "tomato_sauce", "white_bowl",
    "white_cabinet", "white_yellow_mug", "wine_bottle", "wine_rack", "wooden_cabinet",
    "wooden_tray", "wooden_two_layer_shelf", "yellow_book",
)  # fmt: skip
_STRANGERS = 4  # things of other scenes that are asked for in each picture
_PART_AREA = 0.0012  # share of the picture that a drawer, door or knob must cover

_PRESENCE = (
    "Is there {a} in the picture?",
    "Can you see {a}?",
    "Is {a} visible here?",
    "Does the picture show {a}?",
    "Do you see {a} in this image?",
)
_COLOUR = ("What colour is {the}?", "What is the colour of {the}?", "Which colour does {the} have?")
_COLOUR_AT = (
    "What colour is the object at {where}?",
    "Which colour does the thing at pixel {where} have?",
    "Name the colour of the object at {where}.",
)
_COLOUR_CHECK = ("Is {the} {colour}?", "Does {the} look {colour}?", "Would you call {the} {colour}?")
_COUNT = (
    "How many {plural} are there?",
    "How many {plural} can you see?",
    "Count the {plural} in the picture.",
    "What is the number of {plural} in this image?",
)
_AT_POINT = (
    "What is at {where}?",
    "Which object is at pixel {where}?",
    "Name the object at {where}.",
    "What do you see at position {where}?",
)
_POINT = (
    "Where in the picture is {the}? Give a pixel.",
    "Point to {the}.",
    "At which pixel is {the}?",
    "Give the coordinates of {the}.",
)
_OPEN_OR_CLOSED = (
    "Is {the} open or closed?", "Open or closed: what is {the}?", "Does {the} stand open, or is it closed?",
)  # fmt: skip
_STATE = {
    "drawer": _OPEN_OR_CLOSED,
    "door": _OPEN_OR_CLOSED,
    "knob": ("Is {the} on or off?", "On or off: what is {the}?", "Is {the} switched on or off?"),
}
_HOW = (
    "How far is {the} open?",
    "Is {the} open, partly open or closed?",
    "What is the state of {the}: open, partly open or closed?",
)
_CHECK = {
    "open": ("Is {the} open?", "Does {the} stand open?", "Has {the} been opened?"),
    "closed": ("Is {the} closed?", "Is {the} shut?"),
    "on": ("Is {the} on?", "Is {the} switched on?", "Has {the} been turned on?"),
    "off": ("Is {the} off?", "Is {the} switched off?"),
}
_OPPOSITE = {"open": "closed", "closed": "open", "on": "off", "off": "on"}
_GRIPPER = ("Is the gripper open or closed?", "Are the robot's fingers open or closed?")


def presence(facts: Facts, writer: Writer) -> None:
    """Is there a mug? Yes only for what is clear, no only for what no pixel shows."""
    seen = {thing.spoken.phrase for thing in facts.things if thing.pixels > 0}
    clear = {thing.spoken.phrase: thing.spoken for thing in facts.clear_things()}
    for phrase, name in clear.items():
        writer.ask("presence", _PRESENCE, "yes", phrase, phrase, a=name.a)
    own = {thing.spoken.phrase: thing.spoken for thing in facts.things}
    for thing in facts.things:
        # Also what it is called without paint, and in another colour: what is there decides, not the noun.
        usual = name_of(thing.category)
        own.setdefault(usual.phrase, usual)
        if thing.painted:
            other = Name(f"{writer.pick(list(PAINTS))} {usual.noun}", usual.noun)
            own.setdefault(other.phrase, other)
    strange = {name.phrase: name for name in map(name_of, VOCABULARY) if name.phrase not in own}
    asked = [*own.values(), *writer.some(list(strange.values()), _STRANGERS)]
    for name in asked:
        if name.phrase not in seen and not _might_be(name, facts):
            writer.ask("presence", _PRESENCE, "no", name.phrase, name.phrase, a=name.a)


def _might_be(name: Name, facts: Facts) -> bool:
    """Whether something seen could be taken for it."""
    words = set(name.phrase.split())
    said = words - set(name.noun.split())
    for thing in facts.things:
        if not thing.pixels:
            continue
        if words <= set(thing.spoken.phrase.split()):
            return True  # a yellow tomato sauce is a tomato sauce
        if thing.spoken.noun == name.noun:
            # A grey and white "black bowl" may be called a white bowl; a "shelf" may be a wooden one.
            plain = thing.spoken.phrase == name.noun
            if said & set(thing.colours) or (plain and not said <= set(COLOURS)):
                return True
    return False


def colours(facts: Facts, writer: Writer) -> None:
    """What colour is the plate? Of things that have one colour; the question does not name it."""
    plain = [thing for thing in facts.clear_things() if thing.colour]
    for thing in writer.some([thing for thing in plain if facts.unique_noun(thing)], 4):
        the = f"the {_colourless(thing)}"
        writer.ask("colour", _COLOUR, thing.colour, thing.spoken.noun, thing.spoken.noun, the=the)
        others = [
            name
            for name in (*PAINTS, "white")
            if name not in thing.colours and not _close(name, thing.colour)
        ]
        for colour, answer in ((thing.colour, "yes"), (str(writer.pick(others)), "no")):
            key = f"{thing.spoken.noun} {colour}"
            writer.ask("colour_check", _COLOUR_CHECK, answer, key, key, the=the, colour=colour)
    for thing in writer.some(plain, 2):
        writer.ask("colour_at", _COLOUR_AT, thing.colour, "", "", thing.point, where=spell(thing.point))


def _colourless(thing: Thing) -> str:
    """The phrase without its colour: "bowl" for a black bowl, "wine bottle" as it is."""
    words = [word for word in thing.spoken.phrase.split() if word not in COLOURS]
    return " ".join(words) if words else thing.spoken.noun


def _close(one: str, other: str) -> bool:
    """Whether people may call one colour by the other's name."""
    pairs = (
        {"grey", "black"}, {"grey", "white"}, {"orange", "brown"}, {"orange", "red"}, {"orange", "yellow"},
        {"red", "pink"}, {"red", "brown"}, {"blue", "purple"}, {"pink", "purple"}, {"brown", "black"},
        {"brown", "yellow"}, {"blue", "grey"}, {"beige", "brown"}, {"beige", "white"}, {"beige", "yellow"},
        {"beige", "orange"}, {"beige", "grey"}, {"beige", "pink"},
    )  # fmt: skip
    return one == other or {one, other} in pairs


def counts(facts: Facts, writer: Writer) -> None:
    """How many mugs? Only of nouns of which every one that is seen is seen clearly."""
    by_noun: dict[str, list[Thing]] = {}
    for thing in facts.things:
        if thing.pixels > 0:
            by_noun.setdefault(thing.spoken.noun, []).append(thing)
    nouns = {noun for noun, things in by_noun.items() if all(thing.clear(facts.size) for thing in things)}
    absent = {name.noun for name in map(name_of, VOCABULARY) if name.countable} - set(by_noun)
    absent_here = {thing.spoken.noun for thing in facts.things if thing.pixels == 0} - set(by_noun)
    countable = sorted(noun for noun in nouns if by_noun[noun][0].spoken.countable)
    missing = sorted(noun for noun in absent_here if noun in absent) or []
    for noun in [*countable, *missing, *writer.some(sorted(absent - set(missing)), 1)]:
        number = len(by_noun.get(noun, []))
        answer = "none" if number == 0 else number_word(number)
        writer.ask("count", _COUNT, answer, noun, noun, plural=plural(noun))


def states(facts: Facts, writer: Writer) -> None:
    """Open or closed, on or off: of parts that are seen on a fixture that is seen."""
    for part in facts.parts:
        if not part_clear(part, facts) or not part.state:
            continue
        the, about = part_phrase(part, facts), f"{part.name}|{facts.thing(part.owner).category}"
        if part.kind != "knob":
            writer.ask("state_how", _HOW, part.state, part.kind, about, the=the)
        if part.state in _OPPOSITE:
            writer.ask("state", _STATE[part.kind], part.state, part.kind, about, the=the)
            said = str(writer.pick([part.state, _OPPOSITE[part.state]]))
            answer = "yes" if said == part.state else "no"
            writer.ask("state_check", _CHECK[said], answer, f"{part.kind} {said}", f"{about}|{said}", the=the)


def part_clear(part: SeenPart, facts: Facts) -> bool:
    """Whether one may be asked about a part: it and its fixture are seen, and no other is called so."""
    owner = facts.thing(part.owner)
    if not owner.clear(facts.size) or not facts.unique(owner):
        return False
    return part.pixels >= _PART_AREA * facts.size**2 or (part.kind == "knob" and owner.share > 0.5)


def part_phrase(part: SeenPart, facts: Facts) -> str:
    """ "the top drawer of the cabinet", "the microwave" for its door, "the stove" for its knob."""
    owner = facts.thing(part.owner)
    the = f"the {owner.spoken.noun}" if facts.unique_noun(owner) else owner.spoken.the
    return f"the {part.name} of {the}" if part.kind == "drawer" else the


def gripper(facts: Facts, writer: Writer) -> None:
    """Are the fingers open? Asked of the camera at the hand, which sees them from near."""
    if facts.camera == "wrist" and facts.gripper and facts.gripper_pixels >= 0.01 * facts.size**2:
        writer.ask("gripper", _GRIPPER, facts.gripper, "gripper", "gripper")


def points(facts: Facts, writer: Writer) -> None:
    """Where is it, and what is there."""
    for thing in writer.some(facts.named(), 3):
        where = spell(thing.point)
        writer.ask("point", _POINT, where, "", thing.spoken.phrase, thing.point, the=thing.spoken.the)
    for thing in writer.some(facts.clear_things(), 3):
        writer.ask("at_point", _AT_POINT, thing.spoken.phrase, "", "", thing.point, where=spell(thing.point))
