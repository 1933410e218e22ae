"""Preparing the next batches in a thread while the current one is learned from."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Prefetcher:
    """Calls ``make(step)`` for step = first, first + 1, ... ahead of time; ``next`` gives the results.

    An exception in ``make`` comes out of ``next`` in its turn. Use as a context manager: leaving it ends
    the thread.
    """

    def __init__(self, make: Callable[[int], Any], first: int, stop: int, depth: int) -> None:
        self._make, self._steps = make, range(first, stop)
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def next(self) -> Any:
        """The batch of the next step."""
        result, error = self._ready.get()
        if error is not None:
            raise error
        return result

    def _work(self) -> None:
        for step in self._steps:
            try:
                item: tuple[Any, BaseException | None] = (self._make(step), None)
            except Exception as error:  # handed on: the training loop raises it
                item = (None, error)
            while not self._closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or item[1] is not None:
                return
