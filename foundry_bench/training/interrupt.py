"""SIGTERM, as schedulers send it before they kill: the step at hand is finished, saved, and the run stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from foundry_bench.errors import FoundryError


class TerminatedError(FoundryError):
    """Training was asked to stop, and stands on disk as it stood."""

    exit_code = 128 + signal.SIGTERM


class StopRequest:
    """Within the block, SIGTERM is noted in ``asked``; a second one ends the process at once.

    Signals reach the main thread only: elsewhere the block changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._installed = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._installed = False
