"""What simulated things are called in plain words.

A phrase comes from the category in the task's BDDL file, which is also the name of LIBERO's asset:
underscores become spaces, and the table below replaces names that nobody would say ("akita black bowl") by
those that LIBERO's instructions use. A category without an entry, of a user's suite for instance, goes by the
rule.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Category -> (phrase, noun), where the rule does not do.
_SPOKEN = {
    "akita_black_bowl": ("black bowl", "bowl"),
    "white_bowl": ("white bowl", "bowl"),
    "black_book": ("black book", "book"),
    "yellow_book": ("yellow book", "book"),
    "chefmate_8_frypan": ("frying pan", "frying pan"),
    "glazed_rim_porcelain_ramekin": ("ramekin", "ramekin"),
    "porcelain_mug": ("white mug", "mug"),
    "red_coffee_mug": ("red mug", "mug"),
    "white_yellow_mug": ("yellow and white mug", "mug"),
    "new_salad_dressing": ("salad dressing", "salad dressing"),
    "cookies": ("cookie box", "cookie box"),
    "wooden_tray": ("wooden tray", "tray"),
    "wooden_cabinet": ("wooden cabinet", "cabinet"),
    "white_cabinet": ("white cabinet", "cabinet"),
    "yellow_cabinet": ("yellow cabinet", "cabinet"),
    "short_cabinet": ("short cabinet", "cabinet"),
    "wooden_two_layer_shelf": ("wooden shelf", "shelf"),
    "wooden_shelf": ("wooden shelf", "shelf"),
    "flat_stove": ("stove", "stove"),
    "yellow_stove": ("yellow stove", "stove"),
    "desk_caddy": ("caddy", "caddy"),
    "bbq_sauce": ("BBQ sauce", "BBQ sauce"),
    "moka_pot": ("moka pot", "moka pot"),
    "wine_bottle": ("wine bottle", "wine bottle"),
    "wine_rack": ("wine rack", "wine rack"),
}
#: Kept whole as a noun: "chocolate pudding" is not a kind of pudding that could be white.
_WHOLE = ("sauce", "pudding", "dressing", "soup", "cheese", "juice", "pot", "bottle", "rack", "box", "pan")
#: Stuff rather than things: no article "a", no plural, never counted.
_MASS = (
    "soup", "sauce", "cheese", "butter", "ketchup", "milk", "juice", "dressing", "pudding", "popcorn",
)  # fmt: skip
#: Things that others lie in rather than on.
HOLLOW = ("bowl", "basket", "mug", "ramekin", "tray", "caddy", "frying pan", "microwave")
_SURFACES = ("table", "floor", "kitchen_table", "living_room_table", "study_table", "coffee_table")
_ROOMS = {
    "kitchen_table": "kitchen",
    "living_room_table": "living room",
    "study_table": "study",
    "coffee_table": "living room",
}
#: Words in a phrase that name a colour.
COLOUR_WORDS = ("black", "white", "red", "yellow", "green", "blue", "brown", "grey", "orange")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PARTS = {"top_level": "top drawer", "middle_level": "middle drawer", "bottom_level": "bottom drawer"}


@dataclass(frozen=True)
class Name:
    """What a category is called.

    Attributes:
        phrase: without an article, such as "black bowl".
        noun: without its colour or material, such as "bowl".
    """

    phrase: str
    noun: str

    @property
    def the(self) -> str:
        """With the definite article."""
        return f"the {self.phrase}"

    @property
    def a(self) -> str:
        """With an indefinite article where there can be one: "a black bowl", "some ketchup"."""
        return with_article(self.phrase)

    @property
    def countable(self) -> bool:
        """Whether there can be two of it."""
        return not is_mass(self.noun)


def name_of(category: str) -> Name:
    """The name of a category; any text is accepted."""
    if category in _SPOKEN:
        return Name(*_SPOKEN[category])
    phrase = " ".join(category.lower().replace("-", " ").replace("_", " ").split()) or "object"
    parts = phrase.split()
    noun = phrase if parts[-1] in _WHOLE or len(parts) == 1 or is_mass(phrase) else parts[-1]
    return Name(phrase, noun)


def is_mass(phrase: str) -> bool:
    """Whether a phrase names stuff ("ketchup") rather than a thing ("mug")."""
    return phrase.split()[-1] in _MASS


def with_article(phrase: str) -> str:
    """ "a mug", "an orange mug", "some ketchup"."""
    if is_mass(phrase):
        return f"some {phrase}"
    # "a one-armed robot", "a user": English goes by the sound; none of the words here begin that way.
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """ "bowls", "cookie boxes", "shelves"."""
    if noun.endswith("shelf"):
        return noun[:-1] + "ves"
    if noun.endswith(("x", "s", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def number_word(count: int) -> str:
    """ "no", "one", ... "ten", then digits."""
    return _NUMBERS[count] if 0 <= count < len(_NUMBERS) else str(count)


def surface_of(workspace: str) -> str:
    """ "table" or "floor": what the things of a LIBERO scene stand on."""
    return "floor" if workspace == "floor" else "table"


def is_surface(category: str) -> bool:
    """Whether a BDDL fixture is the table or the floor itself."""
    return category in _SURFACES or category == "main_table"


def room_of(workspace: str) -> str:
    """The room of a LIBERO scene; "room" where the scene does not say."""
    return _ROOMS.get(workspace, "room")


def part_name(joint: str, owner: str) -> tuple[str, str]:
    """What hangs on a joint of a fixture, and its kind.

    Args:
        joint: the joint's name without the owner's prefix.
        owner: the owner's noun.

    Returns:
        For instance ("top drawer", "drawer"), ("door", "door") or ("knob", "knob").
    """
    for word, name in _PARTS.items():
        if word in joint:
            return name, "drawer"
    if "knob" in joint or owner == "stove":
        return "knob", "knob"
    if "drawer" in joint or "level" in joint:
        return "drawer", "drawer"
    return "door", "door"


def join(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(text: str) -> str:
    """The text with a capital letter at its beginning and one full stop at its end."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."
