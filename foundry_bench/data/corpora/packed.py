"""Tokens of a corpus in one long array, and blocks of it as a pure function of a number.

Shapes: B blocks, L tokens of a block.

Documents follow each other with an end token between them; a block may hold parts of several, and attention
does not stop at their borders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from foundry_bench.errors import FoundryError

Encode = Callable[[list[str]], list[list[int]]]  # texts to token ids
Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
_AT_ONCE = 256  # documents that are encoded together


class PackedTokens:
    """A corpus in memory.

    Blocks overlap by one token, so that every token but the first is predicted once in an epoch.

    Args:
        tokens: of all documents, each followed by the end token.
        length: L, tokens of a block.
        text_bytes: size of the text in UTF-8, for measures that do not depend on the tokenizer.
        name: for messages.

    Raises:
        FoundryError: there are not enough tokens for one block.
    """

    def __init__(self, tokens: Tokens, length: int, text_bytes: int, name: str) -> None:
        if len(tokens) < length:
            raise FoundryError(
                f"corpus '{name}' has {len(tokens)} tokens, less than one block of {length}; use more text "
                "or a smaller model.context"
            )
        self.tokens, self.length, self.text_bytes = tokens, length, text_bytes
        self._order: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Number of blocks."""
        return (len(self.tokens) - 1) // (self.length - 1)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the tokens."""
        return hashlib.sha256(self.tokens.tobytes()).hexdigest()[:16]

    def blocks(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Blocks (B, L) by their numbers, each from 0 to ``len(self) - 1``."""
        starts = numbers * (self.length - 1)
        return self.tokens[starts[:, None] + np.arange(self.length)].astype(np.int64)

    def shuffled(self, places: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """Blocks (B, L) at places of an endless stream whose every epoch is another permutation of all."""
        epochs, within = np.divmod(places, len(self))
        needed = {int(epoch): self._permutation(int(epoch), seed) for epoch in np.unique(epochs)}
        self._order = {(epoch, seed): order for epoch, order in needed.items()}  # the others are over
        picked = [needed[int(epoch)][place] for epoch, place in zip(epochs, within, strict=True)]
        return self.blocks(np.array(picked, dtype=np.int64))

    def _permutation(self, epoch: int, seed: int) -> npt.NDArray[np.int64]:
        if (epoch, seed) in self._order:
            return self._order[epoch, seed]
        return np.random.default_rng([seed, 0xB10C, epoch]).permutation(len(self))


def pack(texts: Iterable[str], encode: Encode, end: int) -> tuple[Tokens, int]:
    """All documents as one array, each followed by the end token, and their size in bytes."""
    parts: list[npt.NDArray[np.uint32]] = []
    size = 0
    for some in _batches(texts, _AT_ONCE):
        size += sum(len(text.encode()) for text in some)
        parts += [np.array([*ids, end], dtype=np.uint32) for ids in encode(some)]
    tokens = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)
    small = not len(tokens) or int(tokens.max()) <= np.iinfo(np.uint16).max
    return (tokens.astype(np.uint16) if small else tokens), size


def _batches(texts: Iterable[str], count: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while some := list(islice(iterator, count)):
        yield some
