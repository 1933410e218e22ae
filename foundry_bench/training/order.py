"""Which samples make up a batch, and all other chance in training: pure functions of (seed, step).

Nothing here has a state, so a run that is killed and resumed sees what it would have seen.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

# One stream of random numbers for each use, so that none moves when another is added.
ORDER, AUGMENT, NOISE, HOLD_OUT, SOURCE, FEATURES = range(6)


def generator(seed: int, use: int, number: int) -> np.random.Generator:
    """Random numbers of one use (ORDER, AUGMENT, ...) at one step or epoch."""
    return np.random.default_rng([seed, use, number])


def torch_seed(seed: int, use: int, number: int) -> int:
    """A 63-bit seed for a ``torch.Generator`` of one use at one step."""
    return int(np.random.SeedSequence([seed, use, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SampleOrder:
    """An endless stream of frames: every epoch is another permutation of all of them."""

    def __init__(self, frames: npt.NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.frames, self.batch_size, self.seed = frames, batch_size, seed
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Frames of the batch of one step; a batch may reach over the end of an epoch."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, len(self.frames))
        needed = {int(epoch): self._permutation(int(epoch)) for epoch in np.unique(epochs)}
        self._epochs = needed  # the others are over
        picked = [needed[int(epoch)][place] for epoch, place in zip(epochs, places, strict=True)]
        return self.frames[np.array(picked, dtype=np.int64)]

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        known = self._epochs.get(epoch)  # asked once: another thread may forget it in between
        if known is not None:
            return known
        return generator(self.seed, ORDER, epoch).permutation(len(self.frames))


def hold_out(episodes: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of ``count`` episodes, spread evenly over the dataset (so over its tasks), for validation."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    edges = np.linspace(0, episodes, count + 1).astype(np.int64)
    chance = generator(seed, HOLD_OUT, 0)
    return np.array([chance.integers(low, high) for low, high in pairwise(edges)])
