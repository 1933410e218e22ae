"""SIGTERM, as schedulers send it before they kill: the step at hand is finished, saved, and the run stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from foundry_bench.errors import FoundryError

# Seconds in which another SIGTERM is the same request: Slurm sends it to every process of a job, and torchrun
# hands on to its processes the one that it got itself.
ONE_REQUEST = 10.0


class TerminatedError(FoundryError):
    """Training was asked to stop, and stands on disk as it stood."""

    exit_code = 128 + signal.SIGTERM


class StopRequest:
    """Within the block, SIGTERM is noted in ``asked``; one that comes ``ONE_REQUEST`` later ends the process.

    Signals reach the main thread only: elsewhere the block changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
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
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = True, now
        elif now - self._since > ONE_REQUEST:
            self._restore()
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._installed = False
