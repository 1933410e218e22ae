"""What makes demonstrations of one task differ: how fast, grasped where, by which way."""

from __future__ import annotations

import numpy as np

_FAR = 0.15  # metres of a way that is worth a detour
_ASIDE, _UP = (0.03, 0.09), (0.0, 0.06)  # metres that a detour leads off the straight way


class Variety:
    """Draws an expert's free choices; without arguments there are none and nothing is drawn.

    Args:
        generator: decides everything.
        slowest: the speed of an episode is drawn from [slowest, 1].
        grasps: spread of the costs by which grasps are chosen, in units of that cost (about 0.3 between
            grasps that are as good as each other); 0 always takes the best.
        detours: probability that a way of more than 15 cm leads over a point beside it.
    """

    def __init__(
        self,
        generator: np.random.Generator | None = None,
        slowest: float = 1.0,
        grasps: float = 0.0,
        detours: float = 0.0,
    ) -> None:
        self._generator = generator or np.random.default_rng(0)
        self._grasps, self._detours = grasps, detours
        self.speed = float(self._generator.uniform(slowest, 1.0)) if slowest < 1.0 else 1.0

    def chosen(self, costs: list[float]) -> int:
        """Index of the grasp to take: the cheaper the likelier (Gumbel's trick for a softmax of -costs)."""
        noise = self._generator.gumbel(size=len(costs)) if self._grasps else np.zeros(len(costs))
        return int(np.argmin(np.asarray(costs) - self._grasps * noise))

    def detour(self, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
        """A point beside the way from one position to another, (3,), or None for the straight way."""
        way = (end - start)[:2]
        length = float(np.linalg.norm(way))
        if not self._detours or length < _FAR or self._generator.random() >= self._detours:
            return None
        share, side = self._generator.uniform(0.3, 0.7), self._generator.choice((-1.0, 1.0))
        aside = side * self._generator.uniform(*_ASIDE) * np.array([-way[1], way[0]]) / length
        up = self._generator.uniform(*_UP)
        return start + share * (end - start) + np.array([*aside, up])
