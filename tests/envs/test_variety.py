"""An expert's free choices: none unless asked for, and always the same from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.envs.experts.variety import Variety

_COSTS = st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=30)
_PLACES = st.tuples(*[st.floats(-1, 1, allow_nan=False)] * 3).map(np.array)


@given(_COSTS)
def test_without_variety_the_best_grasp_is_taken(costs: list[float]) -> None:
    assert Variety().chosen(costs) == int(np.argmin(costs))
    assert Variety().speed == 1.0


@given(_PLACES, _PLACES)
def test_without_variety_every_way_is_straight(start: np.ndarray, end: np.ndarray) -> None:
    assert Variety().detour(start, end) is None


@given(st.integers(0, 2**32 - 1), _COSTS, _PLACES, _PLACES)
def test_the_same_seed_makes_the_same_choices(
    seed: int, costs: list[float], start: np.ndarray, end: np.ndarray
) -> None:
    one, other = (Variety(np.random.default_rng(seed), 0.6, 0.3, 0.5) for _ in range(2))
    assert one.speed == other.speed
    assert 0.6 <= one.speed <= 1.0
    assert one.chosen(costs) == other.chosen(costs)
    np.testing.assert_equal(one.detour(start, end), other.detour(start, end))


@given(st.integers(0, 2**32 - 1), _PLACES, _PLACES)
def test_a_detour_stays_beside_a_way_that_is_worth_one(seed: int, start: np.ndarray, end: np.ndarray) -> None:
    point = Variety(np.random.default_rng(seed), detours=1.0).detour(start, end)
    way = end[:2] - start[:2]
    if np.linalg.norm(way) < 0.15:
        assert point is None
        return
    assert point is not None
    along = way / np.linalg.norm(way)
    aside = abs(float((point[:2] - start[:2]) @ [-along[1], along[0]]))
    assert 0.03 - 1e-9 <= aside <= 0.09 + 1e-9
    assert 0.3 - 1e-9 <= float((point[:2] - start[:2]) @ along) / np.linalg.norm(way) <= 0.7 + 1e-9
    assert min(start[2], end[2]) - 1e-9 <= point[2] <= max(start[2], end[2]) + 0.06 + 1e-9


def test_equal_grasps_are_all_taken_and_bad_ones_hardly_ever() -> None:
    variety = Variety(np.random.default_rng(0), grasps=0.3)
    taken = np.bincount([variety.chosen([0.2, 0.2, 0.2, 6.0]) for _ in range(3000)], minlength=4)
    assert taken[:3].min() > 900
    assert taken[3] == 0


@pytest.mark.parametrize("slowest", [0.3, 0.9])
def test_speeds_fill_the_range_that_is_asked_for(slowest: float) -> None:
    speeds = [Variety(np.random.default_rng(seed), slowest).speed for seed in range(500)]
    assert min(speeds) < slowest + 0.05
    assert max(speeds) > 0.95
