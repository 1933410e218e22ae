"""Which documents are held out, and which corpus each block of a mixture comes from; nothing has a state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_PERIOD = 1000  # blocks in which every corpus gets its share


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is for validation: by its content, so alike in every run, order and shard."""
    if fraction <= 0:
        return False
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


class Schedule:
    """Which corpus each block of an endless stream comes from.

    In every thousand blocks each corpus has exactly its share (rounded to whole blocks, at least one), in an
    order drawn from the seed; so the number of blocks that a corpus has given before any point is known
    without counting from the start.

    Args:
        weights: relative shares of the corpora.
        seed: of the order.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._seed = seed
        self._shares = _shares(weights)
        self._labels = np.repeat(np.arange(len(weights)), self._shares)
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def rows(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of blocks ``first``, ``first + 1``, ...: the corpus, and how many it has given before."""
        numbers = np.arange(first, first + count)
        periods, within = np.divmod(numbers, _PERIOD)
        orders = {int(period): self._order(int(period)) for period in np.unique(periods)}
        self._orders = orders  # the others are over
        corpora = np.empty(count, dtype=np.int64)
        before = np.empty(count, dtype=np.int64)
        for row, (period, place) in enumerate(zip(periods, within, strict=True)):
            order = orders[int(period)]
            corpus = order[place]
            corpora[row] = corpus
            before[row] = period * self._shares[corpus] + np.count_nonzero(order[:place] == corpus)
        return corpora, before

    def _order(self, period: int) -> npt.NDArray[np.int64]:
        if period in self._orders:
            return self._orders[period]
        return np.random.default_rng([self._seed, 0x5C4ED, period]).permutation(self._labels)


def _shares(weights: Sequence[float]) -> npt.NDArray[np.int64]:
    """Whole numbers that sum to the period, in proportion (largest remainders get what is left over)."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * _PERIOD
    shares = np.maximum(1, np.floor(exact).astype(np.int64))
    for index in np.argsort(shares - exact, kind="stable")[: max(0, _PERIOD - int(shares.sum()))]:
        shares[index] += 1
    while shares.sum() > _PERIOD:  # very small weights were rounded up to one block
        shares[int(np.argmax(shares))] -= 1
    return shares
