"""Intervals for success rates."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a binomial proportion (Wilson 1927), without continuity correction.

    Unlike the textbook interval it neither leaves [0, 1] nor collapses when all episodes end alike.

    Args:
        successes: out of ``episodes``.
        episodes: trials; none at all gives (0, 1): nothing is known.
        confidence: nominal two-sided coverage, between 0 and 1.

    Returns:
        Lower and upper bound, ``0 <= low <= successes / episodes <= high <= 1``.

    Raises:
        ValueError: counts that cannot be, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes in {episodes} episodes cannot be")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if episodes == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2.0) ** 2
    rate = successes / episodes
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = math.sqrt(z2 * (rate * (1 - rate) / episodes + z2 / (4 * episodes**2))) / (1 + z2 / episodes)
    # The bounds touch 0 and 1 exactly there; rounding must not put them past the rate itself.
    low = 0.0 if successes == 0 else min(rate, max(0.0, centre - half))
    high = 1.0 if successes == episodes else max(rate, min(1.0, centre + half))
    return low, high
