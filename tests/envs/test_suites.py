from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.envs.suites import (
    LIBERO_PRO_SUITES,
    LIBERO_SUITES,
    init_states,
    resolve_suites,
    suite,
    suite_names,
    task,
)
from foundry_bench.errors import FoundryError


def test_libero_is_the_four_standard_suites() -> None:
    suites = resolve_suites("libero")
    assert [item.name for item in suites] == list(LIBERO_SUITES)
    assert [len(item.tasks) for item in suites] == [10, 10, 10, 10]


def test_every_task_has_its_files_and_an_instruction() -> None:
    for name in suite_names():
        for item in suite(name).tasks:
            assert item.instruction == item.instruction.lower().strip()
            assert item.instruction.isascii()
            if not name.startswith("robosuite"):
                assert item.bddl is not None
                assert item.bddl.is_file(), item
                assert item.init_states is not None
                assert item.init_states.is_file(), item


def test_instructions_are_those_of_the_published_harnesses() -> None:
    from libero.libero.benchmark import grab_language_from_filename

    for name in (*LIBERO_SUITES, "libero_90"):
        for item in suite(name).tasks:
            assert item.instruction == grab_language_from_filename(f"{item.name}.bddl")


def test_pro_suites_are_in_the_order_of_the_package() -> None:
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):
        theirs = benchmark.get_benchmark_dict()
    for name in LIBERO_PRO_SUITES:
        with contextlib.redirect_stdout(io.StringIO()):
            names = [item.name for item in theirs[name]().tasks]
        assert [item.name for item in suite(name).tasks] == names


def test_pro_suites_say_what_is_asked_for() -> None:
    """The package reads instructions off file names, which language and task perturbations keep."""
    plain, words = suite("libero_goal").tasks[0], suite("libero_goal_lan").tasks[0]
    assert plain.instruction == suite("libero_goal_swap").tasks[0].instruction
    assert words.instruction == "open the cabinet's middle drawer"
    assert suite("libero_goal_task").tasks[0].instruction == "open the bottom drawer of the cabinet"


def test_there_are_fifty_official_init_states() -> None:
    assert init_states(task("libero_object", 0)).shape[0] == 50


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: suite("libero_gaol"), "libero_goal"),
        (lambda: resolve_suites("libro"), "libero"),
        (lambda: task("libero_goal", 10), "0 to 9"),
        (lambda: task("libero_goal", -1), "0 to 9"),
    ],
)
def test_unknown_names_point_to_known_ones(call: object, hint: str) -> None:
    with pytest.raises(FoundryError, match=hint):
        call()  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000))
def test_damaged_init_states_are_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    original = task("libero_object", 0)
    data = bytearray(original.init_states.read_bytes())
    data[flip % len(data)] ^= 0xFF
    path = tmp_path_factory.mktemp("states") / "states.npz"
    path.write_bytes(bytes(data[: cut % len(data)]))
    with pytest.raises(FoundryError, match=r"states\.npz"):
        init_states(dataclasses.replace(original, init_states=path))


def test_missing_init_states_are_named(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="no init states"):
        init_states(dataclasses.replace(task("libero_object", 0), init_states=tmp_path / "none.npz"))


def test_init_states_with_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "hostile.npz"
    np.savez(path, states=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FoundryError, match="hostile"):
        init_states(dataclasses.replace(task("libero_object", 0), init_states=path))
