"""Facts made up for tests of words, and one small real dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.facts import Facts, Holding, SeenPart, Thing
from foundry_bench.data.captions.make import make_captions
from foundry_bench.envs.suites import task

SIZE = 96
CONFIG = CaptionsConfig(scenes=10, image_size=64, seed=3)
TASKS = (("libero_goal", 0), ("libero_10", 5))
_CATEGORIES = (
    "akita_black_bowl", "plate", "porcelain_mug", "ketchup", "cookies", "basket",
    "wooden_cabinet", "flat_stove", "moka_pot", "black_book", "big_unknown_gadget", "wine_rack",
)  # fmt: skip


def build_thing(name: str, category: str, left: int, top: int, **changes: Any) -> Thing:
    """A thing that is seen in a box of 20 x 16 pixels."""
    values: dict[str, Any] = {
        "name": name,
        "category": category,
        "fixture": False,
        "pixels": 200,
        "share": 0.9,
        "point": (left + 10, top + 8),
        "box": (left, top, left + 19, top + 15),
        "colour": "",
        "colours": (),
        "painted": "",
        "position": (0.01 * top, -0.01 * left, 0.9),
        "depth": 1.5 - 0.01 * top,
    }
    return Thing(**{**values, **changes})


def build_facts(*things: Thing, **changes: Any) -> Facts:
    """Facts of a kitchen with these things."""
    values: dict[str, Any] = {
        "camera": "agentview",
        "size": SIZE,
        "room": "kitchen",
        "surface": "table",
        "things": things,
        "parts": (),
        "holdings": (),
        "unclear": (),
        "gripper": "",
        "gripper_pixels": 0,
    }
    return Facts(**{**values, **changes})


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    """Facts of any scene: things of any size, seen or not, some of the same name, some in others."""
    count = draw(st.integers(1, 7))
    things, parts = [], []
    for number in range(count):
        category = draw(st.sampled_from(_CATEGORIES))
        fixture = category in ("wooden_cabinet", "flat_stove", "wine_rack")
        left, top = draw(st.integers(0, SIZE - 21)), draw(st.integers(0, SIZE - 17))
        seen = draw(st.sampled_from([0, 3, 200]))
        colour = draw(st.sampled_from(["", "red", "grey", "white"]))
        hidden = {"point": (-1, -1), "box": (-1, -1, -1, -1)} if not seen else {}
        things.append(
            build_thing(
                f"{category}_{number}", category, left, top, fixture=fixture, pixels=seen,
                share=draw(st.sampled_from([0.0, 0.2, 0.9])) if seen else 0.0,
                colour=colour, colours=(colour,) if colour else (),
                painted=draw(st.sampled_from(["", "", "blue"])) if category == "plate" else "", **hidden,
            )
        )  # fmt: skip
        if category in ("wooden_cabinet", "flat_stove"):
            knob = category == "flat_stove"
            states = ["on", "off", ""] if knob else ["open", "partly open", "closed", ""]
            parts.append(
                SeenPart(
                    "knob" if knob else "top drawer", "knob" if knob else "drawer", things[-1].name,
                    draw(st.floats(0, 1)), draw(st.sampled_from(states)), seen, things[-1].point,
                )
            )  # fmt: skip
    names = [thing.name for thing in things]
    holdings, unclear = [], []
    for thing in things:
        if thing.fixture:
            continue
        place = draw(st.sampled_from([*names, "", None]))
        if place is None or place == thing.name:
            unclear.append((thing.name, draw(st.sampled_from(["", *names]))))
        else:
            holdings.append(Holding(thing.name, draw(st.sampled_from(["in", "on"])), place))
    target = draw(st.sampled_from(names))
    return build_facts(
        *things,
        camera=draw(st.sampled_from(["agentview", "wrist"])),
        parts=tuple(parts),
        holdings=tuple(holdings),
        unclear=tuple(unclear),
        gripper=draw(st.sampled_from(["", "open", "closed"])),
        gripper_pixels=draw(st.sampled_from([0, 500])),
        instruction=draw(st.sampled_from(["", "put the bowl on the plate"])),
        target=target,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of ten scenes of two tasks that no test may change."""
    root = tmp_path_factory.mktemp("captions") / "dataset"
    make_captions([task(*which) for which in TASKS], CONFIG, root, workers=1, progress=False)
    return root
