"""Blocks of tokens from a corpus that is read while training, with a cursor from which reading goes on.

Shapes: B blocks, L tokens of a block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from foundry_bench.data.corpora.documents import Documents, Position
from foundry_bench.data.corpora.packed import Encode
from foundry_bench.data.corpora.splits import is_held_out
from foundry_bench.errors import FoundryError


class TokenStream:
    """An endless stream of blocks: documents in their stored order, again from the start at the end.

    Non-obvious behaviour: held-out documents are passed over; of the others, number n belongs to the rank
    n modulo ``world``. The cursor names the document that the next block starts in and the tokens of it that
    are used up, so it stays small whatever the length of the documents.

    Args:
        documents: of the corpus.
        encode: texts to token ids.
        end: the token that follows each document.
        length: L, tokens of a block. Blocks overlap by one token.
        held_out: share of the documents that is never given.
        rank, world: which of how many readers this is.

    Raises:
        FoundryError: the rank is not one of them; while reading, the corpus is empty or damaged.
    """

    def __init__(
        self,
        documents: Documents,
        encode: Encode,
        end: int,
        length: int,
        held_out: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_ranks(rank, world)
        self._documents, self._encode, self._end, self._length = documents, encode, end, length
        self._held_out, self._rank, self._world = held_out, rank, world
        self.seek(None)

    def seek(self, cursor: dict[str, Any] | None) -> None:
        """Go on where ``cursor`` was taken; None: at the start."""
        self._sought = cursor
        place = cursor or {"epoch": 0, "number": 0, "offset": 0, "position": None}
        self._epoch, self._number, self._offset = place["epoch"], place["number"], place["offset"]
        self._queue: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._incoming = self._texts(place["position"])

    @property
    def cursor(self) -> dict[str, Any] | None:
        """Plain values, from which the next block is made again; None at the start."""
        if not self._queue:
            return self._sought
        return {**self._queue[0][0], "offset": self._offset}

    def take(self, count: int) -> npt.NDArray[np.int64]:
        """The next blocks (count, L)."""
        return np.array([self._block() for _ in range(count)], dtype=np.int64).reshape(count, self._length)

    def _block(self) -> list[int]:
        while sum(len(tokens) for _, tokens in self._queue) - self._offset < self._length:
            self._queue.append(next(self._incoming))
        block: list[int] = []
        offset = self._offset
        for _, tokens in self._queue:
            block += tokens[offset : offset + self._length - len(block)]
            offset = 0
            if len(block) == self._length:
                break
        self._offset += self._length - 1
        while self._offset >= len(self._queue[0][1]):
            self._offset -= len(self._queue.popleft()[1])
        return block

    def _texts(self, position: Position) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """This rank's documents as tokens, each with the cursor of its start."""
        while True:
            found = self._number > 0
            for text, place in self._documents.read(position):
                if is_held_out(text, self._held_out):
                    continue
                found = True
                number = self._number
                self._number += 1
                if number % self._world == self._rank:
                    start = {"epoch": self._epoch, "number": number, "position": place}
                    yield start, [*self._encode([text])[0], self._end]
            if not found:
                raise FoundryError(
                    f"corpus '{self._documents.name}' has no documents to train on; give one that has, or "
                    "hold out less (held_out)"
                )
            position, self._epoch = None, self._epoch + 1


def check_ranks(rank: int, world: int) -> None:
    """FoundryError where there is no such rank."""
    if world < 1 or not 0 <= rank < world:
        raise FoundryError(
            f"rank={rank} of world={world}: ranks go from 0 to world - 1; check what starts the processes"
        )
