"""Spawned worker processes with a heartbeat: what simulates runs here, apart from what trains and predicts.

Non-obvious behaviours:

- Workers are fresh interpreters, never forks: EGL contexts do not survive a fork. They import nothing of the
  parent's main module, and environment variables are in place before the first import.
- A worker that exits, or that has a request under way and sends nothing for ``timeout_s``, is killed and
  replaced. Whatever was queued on it comes back as ``died``: a service may keep state between requests
  (episodes in flight), and that state is gone. Callers with such services compare
  :meth:`WorkerPool.generation`.
- Requests queued on a worker that has not started yet survive a failed start. A start that fails twice in a
  row (or once with a :class:`FoundryError`, or five times because something killed the process) is not tried
  again: :meth:`WorkerPool.wait` raises.
- What a worker prints is kept apart, and its end is in ``Event.detail`` when the worker died.
- A pool belongs to the thread that made it.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_any
from typing import Any, Literal

from foundry_bench.envs._worker_handle import (
    CLOSE_GRACE_S,
    Handle,
    Request,
    Start,
    exit_reason,
    spawn,
    worker_environment,
)
from foundry_bench.envs._worker_process import beat
from foundry_bench.errors import FoundryError

__all__ = ["Event", "WorkerPool", "beat", "worker_environment"]

_MAX_IN_FLIGHT = 4  # enough that a worker never waits for the parent, too few to fill the pipe
_MAX_FAILED_STARTS = 2
_MAX_KILLED_STARTS = 5  # a kill comes from outside (memory ran short), so the next start may well succeed
_POLL_S = 1.0


@dataclass(frozen=True)
class Event:
    """What became of one request.

    Attributes:
        worker: index of the worker it was queued on.
        request: what :meth:`WorkerPool.submit` returned.
        kind: ``result``, ``error`` (the method raised; the worker lives on) or ``died``.
        value: what the method returned; None unless ``kind`` is ``result``.
        error: one line. ``Type: message`` for an error (``FoundryError: ...`` for ours), the reason for a
            death: ``killed by signal 9``, ``exited with code 1``, ``no progress for 120 s``.
        detail: traceback, or the last output of a worker that died.
    """

    worker: int
    request: int
    kind: Literal["result", "error", "died"]
    value: Any = None
    error: str = ""
    detail: str = ""


class WorkerPool:
    """A fixed number of processes, each hosting one service built by ``factory``.

    Args:
        workers: how many processes.
        factory: ``"package.module:callable"``, called in each process with ``factory_args``. If what it
            returns has a ``close()``, that is called when a worker is stopped in good order.
        factory_args: keyword arguments; must be picklable.
        timeout_s: longest silence of a worker with a request under way. Results and :func:`beat` break it.
        start_timeout_s: longest time from the start of a process until its service is built.
        recycle_after: replace a worker by a fresh one each time it has answered this many requests, between
            two requests (memory that native libraries leak goes with it). Only for services that keep
            nothing between requests; others call :meth:`recycle` when they hold no state there.
        env: environment variables on top of :func:`worker_environment`.
        show_output: let workers print to this process's terminal instead of keeping it for ``detail``.

    Raises:
        FoundryError: ``workers`` is less than one.
    """

    def __init__(
        self,
        workers: int,
        factory: str,
        factory_args: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = 120.0,
        start_timeout_s: float = 300.0,
        recycle_after: int | None = None,
        env: Mapping[str, str] | None = None,
        show_output: bool = False,
    ) -> None:
        if workers < 1:
            raise FoundryError(f"workers={workers}: at least one worker process is needed")
        self._start = Start(factory, dict(factory_args or {}), dict(env or {}), show_output)
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._recycle_after = recycle_after
        self._ids = itertools.count()
        self._queues: list[deque[Request]] = [deque() for _ in range(workers)]
        self._generations = [0] * workers
        self._failed_starts = [0] * workers
        self._closed = False
        self._handles: list[Handle] = []
        try:
            for _ in range(workers):
                self._handles.append(spawn(self._start))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._handles)

    def submit(self, worker: int, method: str, **kwargs: Any) -> int:
        """Queue ``service.method(**kwargs)`` on a worker, which answers in order. Returns an id."""
        self._require_open()
        request = Request(next(self._ids), method, kwargs)
        self._queues[worker].append(request)
        self._feed(worker)
        return request.id

    def pending(self, worker: int) -> int:
        """How many requests on this worker have no event yet."""
        return len(self._queues[worker]) + len(self._handles[worker].in_flight)

    def generation(self, worker: int) -> int:
        """How often this worker was replaced; a service's state is gone when it changes."""
        return self._generations[worker]

    def completed(self, worker: int) -> int:
        """How many requests the current process of this worker has answered."""
        return self._handles[worker].completed

    def pid(self, worker: int) -> int:
        """Process id of a worker's current process."""
        return self._handles[worker].process.pid

    def recycle(self, worker: int) -> None:
        """Replace an idle worker by a fresh one.

        Raises:
            ValueError: it has requests pending.
        """
        self._require_open()
        if self.pending(worker):
            raise ValueError(f"worker {worker} has {self.pending(worker)} requests pending")
        self._restart(worker)

    def wait(self, timeout_s: float | None = None) -> list[Event]:
        """Block until something happened to at least one request.

        Returns:
            The events in the order they came; empty after ``timeout_s``, or at once if nothing is pending.

        Raises:
            FoundryError: a worker cannot be started; the message carries the cause.
        """
        self._require_open()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        events: list[Event] = []
        while True:
            # Messages first, clocks second: a busy parent must not mistake its own absence for a hang.
            self._receive(0.0, events)
            self._check_clocks(events)
            if events or not any(self.pending(worker) for worker in range(len(self))):
                return events
            left = _POLL_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return events
            self._receive(min(left, _POLL_S, self._next_clock()), events)

    def close(self) -> None:
        """Stop all workers: idle ones in good order, busy ones at once. Harmless when called twice."""
        if self._closed:
            return
        self._closed = True
        for handle in self._handles:
            handle.ask_to_stop()
        deadline = time.monotonic() + CLOSE_GRACE_S
        for handle in self._handles:
            handle.await_stop(deadline)

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError("the worker pool is closed")

    def _feed(self, worker: int) -> None:
        """Send queued requests, a few at a time, so that neither side can block the other."""
        waiting, handle = self._queues[worker], self._handles[worker]
        while waiting and handle.ready and len(handle.in_flight) < _MAX_IN_FLIGHT:
            if self._worn_out(handle):
                return
            handle.call(waiting.popleft())

    def _worn_out(self, handle: Handle) -> bool:
        return (
            self._recycle_after is not None
            and handle.completed + len(handle.in_flight) >= self._recycle_after
        )

    def _receive(self, timeout_s: float, events: list[Event]) -> None:
        by_connection: dict[object, int] = {handle.connection: i for i, handle in enumerate(self._handles)}
        for connection in wait_for_any([handle.connection for handle in self._handles], timeout_s):
            worker = by_connection[connection]
            handle = self._handles[worker]
            try:
                while handle.connection.poll():
                    self._handle_message(worker, handle.connection.recv(), events)
            except (EOFError, OSError):
                self._bury(worker, None, events)
                continue
            handle.trim_log()
            if self._worn_out(handle) and not handle.in_flight:
                self._restart(worker)
            self._feed(worker)

    def _handle_message(self, worker: int, message: tuple[Any, ...], events: list[Event]) -> None:
        handle = self._handles[worker]
        handle.last_progress = time.monotonic()
        kind = message[0]
        if kind == "ready":
            handle.ready = True
            self._failed_starts[worker] = 0
        elif kind == "failed":
            handle.failure = (message[1], message[2])
        elif kind in ("result", "error"):
            request = handle.in_flight.pop(message[1])
            handle.completed += 1
            if kind == "result":
                events.append(Event(worker, request.id, "result", value=message[2]))
            else:
                events.append(Event(worker, request.id, "error", error=message[2], detail=message[3]))

    def _limit(self, handle: Handle) -> float | None:
        if not handle.ready:
            return self._start_timeout_s
        return self._timeout_s if handle.in_flight else None

    def _next_clock(self) -> float:
        """Seconds until the first worker runs out of time."""
        now = time.monotonic()
        limits = [(handle, self._limit(handle)) for handle in self._handles]
        left = [handle.last_progress + limit - now for handle, limit in limits if limit is not None]
        return max(0.0, min(left, default=_POLL_S))

    def _check_clocks(self, events: list[Event]) -> None:
        now = time.monotonic()
        for worker, handle in enumerate(list(self._handles)):
            limit = self._limit(handle)
            if limit is not None and now - handle.last_progress >= limit:
                self._bury(worker, f"no progress for {limit:g} s", events)
            elif handle.process.poll() is not None and not handle.connection.poll():
                self._bury(worker, None, events)  # its pipe lives on in a process that it started

    def _bury(self, worker: int, reason: str | None, events: list[Event]) -> None:
        """Report what was queued on a dead or hung worker and put a new one in its place."""
        handle = self._handles[worker]
        reason, output = handle.end(reason)
        if handle.ready:
            lost = [*handle.in_flight.values(), *self._queues[worker]]
            self._queues[worker].clear()
            events.extend(Event(worker, each.id, "died", error=reason, detail=output) for each in lost)
        else:
            limit = _MAX_KILLED_STARTS if reason == exit_reason(-signal.SIGKILL) else _MAX_FAILED_STARTS
            self._note_failed_start(worker, limit, *(handle.failure or (reason, output)))
        self._generations[worker] += 1
        self._handles[worker] = spawn(self._start)

    def _note_failed_start(self, worker: int, limit: int, cause: str, detail: str) -> None:
        self._failed_starts[worker] += 1
        if cause.startswith("FoundryError: "):
            raise FoundryError(cause.removeprefix("FoundryError: "))
        if self._failed_starts[worker] < limit:
            return
        last_line = detail.splitlines()[-1].strip() if detail else ""
        text = cause if not last_line or last_line.startswith(cause[:40]) else f"{cause} ({last_line[:200]})"
        error = FoundryError(
            f"a worker process cannot start {self._start.factory}: {text}; "
            "`foundry-bench doctor` checks the installation"
        )
        error.add_note(detail)
        raise error

    def _restart(self, worker: int) -> None:
        handle = self._handles[worker]
        handle.ask_to_stop()
        handle.await_stop(time.monotonic() + CLOSE_GRACE_S)
        self._generations[worker] += 1
        self._handles[worker] = spawn(self._start)
