"""The text corpus: instructions, paraphrases of them, and plans: skills that lead to the goals of BDDL files.

Paraphrases change the wording of an instruction and keep its objects and places word for word. Plans follow
from the goal's predicates and the initial facts alone, without a word about any single task.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundry_bench.data.captions.names import (
    HOLLOW,
    is_surface,
    name_of,
    part_name,
    sentence,
    surface_of,
)
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError

_FLAT = ("plate", "tray")  # too flat and wide for a grasp from above
_HELD_OUT = {0: "val", 1: "test"}  # of each twenty texts

_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"pick up (?P<a>.+?) and (?:place|put) (?:it|them) (?P<b>.+)", (
        "take {a} and put {it} {b}", "grasp {a}, then set {it} down {b}", "lift {a} and place {it} {b}",
        "place {a} {b}", "put {a} {b}", "move {a} so that {is} {b}",
    )),
    (r"put both (?P<a>.+) and (?P<c>.+?) (?P<b>(?:in|on) .+)", (
        "place both {a} and {c} {b}", "put {a} {b}, and {c} as well", "place {a} {b} and add {c}",
    )),
    # Greedy: in "put the bowl at the back on the plate" the place is the last one.
    (r"(?:put|place) (?P<a>.+) (?P<b>(?:in|on|(?<!next )to|under|inside|next to) .+)", (
        "place {a} {b}", "set {a} {b}", "move {a} so that {is} {b}", "take {a} and place {it} {b}",
    )),
    (r"turn on (?P<a>.+)", ("switch on {a}", "switch {a} on", "turn {a} on")),
    (r"turn off (?P<a>.+)", ("switch off {a}", "switch {a} off", "turn {a} off")),
    (r"open (?P<a>.+)", ("pull {a} open", "make sure that {a} is open", "get {a} open")),
    (r"close (?P<a>.+)", ("shut {a}", "make sure that {a} is closed", "push {a} shut")),
    (r"push (?P<a>.+?) (?P<b>(?:to|into|onto) .+)", (
        "slide {a} {b}", "shove {a} {b}", "move {a} {b} by pushing {it}",
    )),
    (r"stack (?P<a>.+?) (?P<b>(?:on|onto) .+)", ("put {a} {b}", "place {a} {b}")),
)  # fmt: skip
_FRAMES = (
    "please {x}", "{x}, please", "could you {x}?", "your task: {x}", "i would like you to {x}", "robot, {x}",
    "next, {x}", "now {x}",
)  # fmt: skip
_PLANS = (
    "Instruction: {told} Plan: {numbered}",
    "To {x}: {flowing}",
    "Task: {x}. Steps: {numbered}",
    "How does the robot {x}? {flowing}",
)


@dataclass(frozen=True)
class Text:
    """One text of the corpus.

    Attributes:
        text: the text.
        kind: `instruction`, `paraphrase`, `plan` or `scene`.
        suite: of the task it belongs to.
        task: the task's index.
        split: `train`, `val` or `test`.
    """

    text: str
    kind: str
    suite: str
    task: int
    split: str


def texts_of_tasks(tasks: Sequence[Task], seed: int) -> list[Text]:
    """Instructions, paraphrases and plans of tasks, each text once; splits are by the text itself.

    Raises:
        FoundryError: a BDDL file cannot be read.
    """
    found: dict[str, Text] = {}
    for task in tasks:
        generator = np.random.default_rng([seed, 0x7E, *task.key.encode()])
        texts = [("instruction", task.instruction)]
        texts += [("paraphrase", text) for text in paraphrases(task.instruction)]
        texts += [("plan", text) for text in plan_texts(task.instruction, plan(task), generator)]
        for kind, text in texts:
            found.setdefault(text, Text(text, kind, task.suite, task.index, _split(text, kind, seed)))
    return list(found.values())


def _split(text: str, kind: str, seed: int) -> str:
    """Instructions are in training always, since policies are given them."""
    number = int(hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()[:8], 16) % 20
    return "train" if kind == "instruction" else _HELD_OUT.get(number, "train")


def training_paraphrases(instruction: str, seed: int) -> list[str]:
    """Those of `paraphrases` that the corpus of this seed has in its `train` split."""
    return [text for text in paraphrases(instruction) if _split(text, "paraphrase", seed) == "train"]


def paraphrases(instruction: str) -> list[str]:
    """Other ways to say an instruction, without repetition and without the instruction itself."""
    # Where one part of the instruction speaks of "it", another "it" would be one too many.
    parts = re.split(
        r" and (?=(?:put|place|open|close|turn|push|pick|stack)\b(?! (?:it|them) ))", instruction
    )
    reworded = [instruction]
    if len(parts) == 1:
        reworded += _reword(instruction)
    else:
        options = [_reword(part, without_it=True) or [part] for part in parts]
        for number in range(max(map(len, options))):
            chosen = [some[number % len(some)] for some in options]
            reworded += [" and ".join(chosen), ", then ".join(chosen)]
    framed = [
        frame.format(x=text) for text, frame in zip(_cycle(reworded, len(_FRAMES)), _FRAMES, strict=True)
    ]
    return [text for text in dict.fromkeys([*reworded, *framed]) if text != instruction]


def _reword(instruction: str, without_it: bool = False) -> list[str]:
    for pattern, templates in _RULES:
        match = re.fullmatch(pattern, instruction)
        if match:
            words = match.groupdict()
            several = words["a"].startswith("both ")
            words |= {"it": "them", "is": "they are"} if several else {"it": "it", "is": "it is"}
            chosen = [t for t in templates if not (without_it and ("{it}" in t or "{is}" in t))]
            return [template.format(**words) for template in chosen]
    return []


def _cycle(items: list[str], count: int) -> list[str]:
    return [items[number % len(items)] for number in range(count)]


def plan(task: Task) -> list[str]:
    """The skills that lead to a task's goal, such as "grasp the black bowl", "place it on the plate".

    Raises:
        FoundryError: the task has no BDDL file, or it cannot be read.
    """
    problem = _parse(task)
    kinds = {
        name: kind
        for group in ("fixtures", "objects")
        for kind, names in problem[group].items()
        for name in names
    }
    facts = {tuple(fact) for fact in problem["initial_state"]}
    goal = [tuple(conjunct) for conjunct in problem["goal_state"]]
    called = _called([name for _, *names in goal for name in names if name in kinds], kinds)
    steps: list[str] = []
    for predicate, *names in sorted(goal, key=lambda conjunct: conjunct[0] == "close"):
        if predicate in ("on", "in"):
            shut = _shut(names[1], kinds) if predicate == "in" else ""
            is_open = {("open", names[1]), ("open", _owner(names[1], kinds)[0])} & facts
            if shut and not is_open and f"open {shut}" not in steps:
                steps.append(f"open {shut}")
            thing = called.get(names[0], "the object")
            place = _place(predicate, names[1], kinds, called)
            if name_of(kinds.get(names[0], "")).noun in _FLAT and _on_surface(names[1], kinds):
                steps.append(f"push {thing} {place}")
            else:
                steps += [f"grasp {thing}", "lift it", f"place it {place}", "let go of it"]
        elif (predicate, *names) not in facts or predicate == "close":
            words = {"open": "open", "close": "close", "turnon": "turn on", "turnoff": "turn off"}
            verb = words.get(predicate, predicate)
            steps.append(f"{verb} {_shut(names[0], kinds) or _thing(names[0], kinds)}")
    return [*steps, "move back"]


def _called(names: list[str], kinds: dict[str, str]) -> dict[str, str]:
    """What the things of a goal are called: two of one name are "one moka pot" and "the other moka pot"."""
    called: dict[str, str] = {}
    distinct = list(dict.fromkeys(names))
    for name in distinct:
        spoken = name_of(kinds[name])
        alike = [other for other in distinct if kinds[other] == kinds[name]]
        words = ["one", "the other"] if len(alike) == 2 else ["one", *["another"] * len(alike)]
        called[name] = spoken.the if len(alike) == 1 else f"{words[alike.index(name)]} {spoken.phrase}"
    return called


def _parse(task: Task) -> dict[str, Any]:
    if task.bddl is None:
        raise FoundryError(f"{task.key}: there is no BDDL file to plan from; choose another suite=")
    from libero.libero.envs import bddl_utils

    try:
        problem = bddl_utils.robosuite_parse_problem(str(task.bddl))
        if not problem["goal_state"]:
            raise ValueError("it has no goal")
        return {key: problem[key] for key in ("goal_state", "initial_state", "fixtures", "objects")}
    except Exception as error:  # LIBERO's parser raises whatever a malformed file leads to
        raise FoundryError(
            f"{task.bddl}: not a BDDL file that LIBERO reads ({type(error).__name__}: {error})"
        ) from None


def _owner(region: str, kinds: dict[str, str]) -> tuple[str, str]:
    """The thing a region belongs to and the rest of the region's name; ("", region) without one."""
    owners = [name for name in kinds if region == name or region.startswith(f"{name}_")]
    owner = max(owners, key=len, default="")
    return owner, region[len(owner) :].strip("_")


def _shut(region: str, kinds: dict[str, str]) -> str:
    """The drawer or door in front of a region, as "the top drawer of the cabinet"; empty without one."""
    owner, rest = _owner(region, kinds)
    name = name_of(kinds.get(owner, ""))
    if name.noun == "cabinet" and rest in ("top_region", "middle_region", "bottom_region"):
        drawer, _ = part_name(rest.replace("region", "level"), name.noun)
        return f"the {drawer} of the {name.noun}"
    return name.the if name.noun in ("microwave", "fridge") else ""


def _thing(name: str, kinds: dict[str, str]) -> str:
    owner, _ = _owner(name, kinds)
    return name_of(kinds.get(owner, name)).the


def _on_surface(region: str, kinds: dict[str, str]) -> bool:
    """Whether a region is one of the table or the floor."""
    owner, _ = _owner(region, kinds)
    return not owner or is_surface(kinds[owner])


def _place(predicate: str, region: str, kinds: dict[str, str], called: dict[str, str]) -> str:
    owner, rest = _owner(region, kinds)
    if _on_surface(region, kinds):
        beside = re.fullmatch(r"(.+)_(left|right|front|back)_region", rest)
        words = {
            "left": "to the left of",
            "right": "to the right of",
            "front": "in front of",
            "back": "behind",
        }
        others = [kind for kind in kinds.values() if beside and kind.endswith(beside[1])]
        if beside and others:
            return f"{words[beside[2]]} {name_of(others[0]).the}"
        return f"at its place on the {surface_of(kinds.get(owner, 'table'))}"
    name, shut = name_of(kinds[owner]), _shut(region, kinds)
    if predicate == "in" and shut:
        return f"in {shut}"
    compartment = re.fullmatch(r"(left|right|front|back)_contain_region", rest)
    if compartment:
        return f"in the {compartment[1]} compartment of {name.the}"
    if rest == "top_side":
        return f"on top of the {name.noun}"
    return f"{'in' if name.noun in HOLLOW else predicate} {called.get(region, name.the)}"


def plan_texts(instruction: str, steps: list[str], generator: np.random.Generator) -> list[str]:
    """A plan in words, twice in different words."""
    numbered = " ".join(f"{number}. {sentence(step)}" for number, step in enumerate(steps, 1))
    flowing = sentence(", then ".join(steps)) if len(steps) < 6 else " ".join(map(sentence, steps))
    chosen = generator.permutation(len(_PLANS))[:2]
    words = {"told": sentence(instruction), "x": instruction, "numbered": numbered, "flowing": flowing}
    return [_PLANS[index].format(**words) for index in sorted(chosen)]
