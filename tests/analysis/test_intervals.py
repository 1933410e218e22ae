"""Wilson's interval: against statsmodels, at the edges, and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from foundry_bench.analysis.intervals import wilson

counts = st.integers(0, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("episodes", [1, 2, 10, 50, 500])
def test_agrees_with_statsmodels(episodes: int, confidence: float) -> None:
    for successes in range(0, episodes + 1, max(1, episodes // 10)):
        ours = wilson(successes, episodes, confidence)
        theirs = proportion_confint(successes, episodes, alpha=1 - confidence, method="wilson")
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_the_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert wilson(10, 10)[0] == pytest.approx(10 / (10 + 3.8414588206941236))
    assert wilson(1, 1)[0] > 0


@given(counts, st.floats(0.01, 0.999))
def test_contains_the_rate_and_stays_in_range(pair: tuple[int, int], confidence: float) -> None:
    successes, episodes = pair
    low, high = wilson(successes, episodes, confidence)
    assert 0.0 <= low <= high <= 1.0
    if episodes:
        assert low <= successes / episodes <= high


@given(counts)
def test_is_symmetric_and_grows_with_confidence(pair: tuple[int, int]) -> None:
    successes, episodes = pair
    low, high = wilson(successes, episodes)
    mirrored = wilson(episodes - successes, episodes)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
    wider = wilson(successes, episodes, 0.99)
    assert wider[0] <= low
    assert wider[1] >= high


@given(counts)
def test_more_successes_never_lower_it_and_more_episodes_narrow_it(pair: tuple[int, int]) -> None:
    successes, episodes = pair
    low, high = wilson(successes, episodes)
    if successes < episodes:
        better = wilson(successes + 1, episodes)
        assert better[0] >= low
        assert better[1] >= high
    if episodes:
        four = wilson(4 * successes, 4 * episodes)
        assert four[1] - four[0] < high - low


def test_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.05, 0.95, 20_000)
    successes = generator.binomial(50, rates)
    bounds = np.array([wilson(count, 50) for count in range(51)])[successes]
    covered = np.mean((bounds[:, 0] <= rates) & (rates <= bounds[:, 1]))
    assert 0.945 < covered < 0.96


@pytest.mark.parametrize(("successes", "episodes", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_refuses_what_cannot_be(successes: int, episodes: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"cannot be|not between"):
        wilson(successes, episodes, confidence)
