"""What is true in one picture, as plain values: what questions are written from, without simulator."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from foundry_bench.data.captions.names import Name, name_of
from foundry_bench.errors import FoundryError

#: Share of the picture that a thing must cover, and of its own outline that must be seen, to be asked about.
CLEAR_AREA, CLEAR_SHARE = 0.0025, 0.35


@dataclass(frozen=True)
class Thing:
    """An object or fixture of the scene, seen or not.

    Attributes:
        name: the simulator's name.
        category: LIBERO's.
        fixture: whether it cannot be moved.
        pixels: how many pixels show it.
        share: of its outline's area that is seen, about 0 to 1; the outline may reach beyond the picture.
        point: a pixel (x, y) that shows it, next to the middle of what is seen; (-1, -1) where none does.
        box: the smallest box around what is seen: left, top, right, bottom in pixels, inclusive.
        colour: its one colour as seen here, or empty.
        colours: every colour that can be seen on it.
        painted: the colour it was given for this scene, or empty: then it is called by it.
        position: in the world, metres.
        depth: distance from the camera along the view, metres.
    """

    name: str
    category: str
    fixture: bool
    pixels: int
    share: float
    point: tuple[int, int]
    box: tuple[int, int, int, int]
    colour: str
    colours: tuple[str, ...]
    painted: str
    position: tuple[float, float, float]
    depth: float

    @property
    def spoken(self) -> Name:
        """What it is called."""
        name = name_of(self.category)
        return Name(f"{self.painted} {name.noun}", name.noun) if self.painted else name

    def clear(self, size: int) -> bool:
        """Whether enough of it is seen, in a picture of that side, that one may be asked about it."""
        return self.pixels >= CLEAR_AREA * size * size and self.share >= CLEAR_SHARE


@dataclass(frozen=True)
class SeenPart:
    """A drawer, door or knob.

    Attributes:
        name: such as "top drawer".
        kind: `drawer`, `door` or `knob`.
        owner: the fixture's name in the simulator.
        openness: 0 (closed, off) to 1.
        state: "closed", "partly open", "open", "off", "on", or empty between two of them.
        pixels: how many pixels show it.
        point: as of a `Thing`.
    """

    name: str
    kind: str
    owner: str
    openness: float
    state: str
    pixels: int
    point: tuple[int, int]


@dataclass(frozen=True)
class Holding:
    """That one thing lies in or on another: ``thing`` is ``preposition`` ``place``.

    Attributes:
        thing: the simulator's name.
        preposition: "in" or "on".
        place: the simulator's name of what holds it; empty for table or floor.
        part: name of the drawer it lies in, or empty.
    """

    thing: str
    preposition: str
    place: str
    part: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything that is asked about in one picture.

    Attributes:
        camera: `agentview` or `wrist`.
        size: side of the picture in pixels.
        room: such as "kitchen".
        surface: "table" or "floor".
        things: all objects and fixtures of the scene, also those that are not seen.
        parts: all drawers, doors and knobs.
        holdings: what lies in or on what, certainly.
        unclear: pairs (thing, place) that nobody is asked about.
        gripper: "open", "closed", or empty.
        gripper_pixels: how many pixels show the fingers.
        instruction: the task's, where it fits the scene; else empty.
        target: what the instruction has the robot move: the name of a thing, or "owner/part".
    """

    camera: str
    size: int
    room: str
    surface: str
    things: tuple[Thing, ...]
    parts: tuple[SeenPart, ...]
    holdings: tuple[Holding, ...]
    unclear: tuple[tuple[str, str], ...]
    gripper: str
    gripper_pixels: int
    instruction: str = ""
    target: str = ""

    def thing(self, name: str) -> Thing:
        """The thing of that simulator name."""
        return next(thing for thing in self.things if thing.name == name)

    def clear_things(self) -> list[Thing]:
        """Things that one may be asked about."""
        return [thing for thing in self.things if thing.clear(self.size)]

    def unique(self, thing: Thing) -> bool:
        """Whether "the PHRASE" can only mean this one in the picture."""
        phrase = thing.spoken.phrase
        return sum(other.pixels > 0 and other.spoken.phrase == phrase for other in self.things) == 1

    def unique_noun(self, thing: Thing) -> bool:
        """Whether "the NOUN" can only mean this one in the picture."""
        noun = thing.spoken.noun
        return sum(other.pixels > 0 and other.spoken.noun == noun for other in self.things) == 1

    def named(self) -> list[Thing]:
        """Things that are clear and can be called by their phrase."""
        return [thing for thing in self.clear_things() if self.unique(thing)]

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Any) -> Facts:
        """The facts that `to_json` made plain.

        Raises:
            FoundryError: something is missing, unknown or of another type.
        """
        try:
            values = dict(plain)
            values["things"] = tuple(_build(Thing, thing) for thing in values["things"])
            values["parts"] = tuple(_build(SeenPart, part) for part in values["parts"])
            values["holdings"] = tuple(_build(Holding, holding) for holding in values["holdings"])
            values["unclear"] = tuple((str(one), str(other)) for one, other in values["unclear"])
            return cls(**values)
        except (TypeError, ValueError, KeyError) as error:
            raise FoundryError(f"not the facts of a picture: {type(error).__name__} {error}") from error


def _build(cls: Any, plain: dict[str, Any]) -> Any:
    known = {field.name for field in fields(cls)}
    if set(plain) != known and not (cls is Holding and set(plain) <= known):
        raise ValueError(f"{cls.__name__} with {sorted(plain)}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})
