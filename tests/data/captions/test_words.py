"""Names, colours and grammar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.data.captions import names
from foundry_bench.data.captions.colours import COLOURS, PAINTS, classify, colour_of
from foundry_bench.data.captions.questions import VOCABULARY


@pytest.mark.parametrize(
    ("category", "a", "noun"),
    [
        ("akita_black_bowl", "a black bowl", "bowl"),
        ("white_yellow_mug", "a yellow and white mug", "mug"),
        ("alphabet_soup", "some alphabet soup", "alphabet soup"),
        ("moka_pot", "a moka pot", "moka pot"),
        ("orange_juice", "some orange juice", "orange juice"),
        ("old_orange_crate", "an old orange crate", "crate"),  # the rule, where no table helps
        ("wooden_two_layer_shelf", "a wooden shelf", "shelf"),
    ],
)
def test_names(category: str, a: str, noun: str) -> None:
    assert (names.name_of(category).a, names.name_of(category).noun) == (a, noun)


@given(st.text(max_size=40))
def test_any_category_has_a_name(category: str) -> None:
    name = names.name_of(category)
    assert name.phrase
    assert name.phrase == name.phrase.strip()
    assert name.phrase.endswith(name.noun)


@pytest.mark.parametrize("category", VOCABULARY)
def test_the_vocabulary_has_plurals(category: str) -> None:
    noun = names.name_of(category).noun
    assert names.plural(noun) != noun
    assert not names.plural(noun).endswith(("xs", "dys", "fs"))


def test_lists_and_sentences() -> None:
    assert [names.join(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert names.sentence(" two plates ") == "Two plates."
    assert names.sentence("is it?") == "Is it?"
    assert [names.number_word(n) for n in (0, 1, 10, 11)] == ["no", "one", "ten", "11"]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 10), "black"), ((245, 245, 240), "white"), ((128, 128, 128), "grey"),
        ((200, 20, 20), "red"), ((240, 220, 30), "yellow"), ((20, 140, 40), "green"),
        ((30, 50, 200), "blue"), ((90, 50, 20), "brown"), ((250, 140, 20), "orange"),
        ((130, 30, 165), "purple"), ((225, 190, 150), "beige"),
    ],
)  # fmt: skip
def test_colours_of_pixels(rgb: tuple[int, int, int], name: str) -> None:
    pixels = np.array([rgb] * 5, dtype=np.uint8)
    assert COLOURS[classify(pixels)[0]] == name
    assert colour_of(pixels) == (name, [name])


@pytest.mark.parametrize("name", PAINTS)
def test_paint_on_light_material_looks_like_its_name(name: str) -> None:
    for material in (255, 225, 200):
        pixels = np.round(np.array([PAINTS[name]]) * material).astype(np.uint8)
        assert COLOURS[classify(pixels)[0]] == name


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=60))
def test_a_colour_is_a_clear_majority_or_none(pixels: list[tuple[int, int, int]]) -> None:
    array = np.array(pixels, dtype=np.uint8).reshape(-1, 3)
    colour, seen = colour_of(array)
    if colour is not None:
        share = np.mean(classify(array) == COLOURS.index(colour))
        assert share > 0.5
        assert seen[0] == colour


def test_two_colours_are_none() -> None:
    pixels = np.array([[200, 20, 20]] * 6 + [[30, 50, 200]] * 4, dtype=np.uint8)
    assert colour_of(pixels) == (None, ["red", "blue"])
