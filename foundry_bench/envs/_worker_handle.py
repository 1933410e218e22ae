"""The parent side of one worker process: starting it, talking to it, ending it and saying why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

from foundry_bench.envs._worker_process import BOOTSTRAP

CLOSE_GRACE_S = 5.0
_LOG_LIMIT_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4000


def worker_environment(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables of a worker: this process's, one thread each, headless rendering.

    A ``MUJOCO_GL`` or ``PYOPENGL_PLATFORM`` that is already set is respected; ``overrides`` win over all.
    """
    environment = dict(os.environ)
    # Workers share the cores with training: a thread pool in each of them only costs. LP is Mesa's llvmpipe.
    for name in ("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = "1"
    if sys.platform.startswith("linux"):
        backend = environment.setdefault("MUJOCO_GL", "egl")
        if backend in ("egl", "osmesa"):
            environment.setdefault("PYOPENGL_PLATFORM", backend)
    environment.update(overrides or {})
    return environment


@dataclass(frozen=True)
class Request:
    """A method call waiting for its answer."""

    id: int
    method: str
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Start:
    """What it takes to start a process of a pool, the first time and every time after."""

    factory: str
    factory_args: dict[str, Any]
    env: dict[str, str]
    show_output: bool


@dataclass
class Handle:
    """One process. ``last_progress`` is on the monotonic clock, in seconds."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes] | None
    last_progress: float
    ready: bool = False
    completed: int = 0
    failure: tuple[str, str] | None = None  # what the child said before it gave up starting
    in_flight: dict[int, Request] = field(default_factory=dict)

    def call(self, request: Request) -> None:
        """Send a request. A dead child is no error here: its closed pipe is noticed by whoever waits."""
        if not self.in_flight:
            self.last_progress = time.monotonic()
        self.in_flight[request.id] = request
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(("call", request.id, request.method, request.kwargs))

    def log_tail(self) -> str:
        """The last few thousand characters that the process printed."""
        if self.log is None:
            return ""
        end = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, end - _LOG_TAIL_BYTES))
        return self.log.read().decode(errors="replace").strip()

    def trim_log(self) -> None:
        """Forget old output, so that a talkative worker does not fill the disk."""
        if self.log is not None and os.fstat(self.log.fileno()).st_size > _LOG_LIMIT_BYTES:
            self.log.truncate(0)

    def ask_to_stop(self) -> None:
        """Begin to end the process: in good order when it is idle, at once when it is not."""
        if self.in_flight or not self.ready:
            self.process.kill()
            return
        with contextlib.suppress(OSError):
            self.connection.send(("close",))

    def await_stop(self, deadline: float) -> None:
        """Wait until ``deadline`` (monotonic, seconds), then kill."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.release()

    def end(self, reason: str | None) -> tuple[str, str]:
        """Kill the process if need be. Returns the reason (found out when None) and its last output."""
        if reason is None:
            try:
                self.process.wait(1.0)
            except subprocess.TimeoutExpired:
                reason = "closed its pipe"
        self.process.kill()
        self.process.wait()
        output = self.log_tail()
        self.release()
        return reason or exit_reason(self.process.returncode), output

    def release(self) -> None:
        """Close what the parent holds of it."""
        self.connection.close()
        if self.log is not None:
            self.log.close()


def spawn(start: Start) -> Handle:
    """Start a fresh interpreter that hosts the service; returns before the service is built."""
    ours, theirs = Pipe()
    log: IO[bytes] | None = None
    if not start.show_output:
        log = tempfile.TemporaryFile(mode="a+b", prefix="foundry-bench-worker-")  # noqa: SIM115 (outlives this)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, str(theirs.fileno()), "foundry-bench-worker"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log is not None else None,
            env=worker_environment(start.env),
            pass_fds=[theirs.fileno()],
        )
    finally:
        theirs.close()  # the child holds the only copy, so that its death closes the pipe
    message = {
        "factory": start.factory,
        "factory_args": start.factory_args,
        "parent": os.getpid(),
        # Linux ties this wish to the thread that started the child, not to the process.
        "die_with_parent": threading.current_thread() is threading.main_thread(),
    }
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ours.send(list(sys.path))
        ours.send(message)
    return Handle(process, ours, log, last_progress=time.monotonic())


def exit_reason(code: int) -> str:
    """``killed by signal 9`` or ``exited with code 1`` for a process's return code."""
    if code >= 0:
        return f"exited with code {code}"
    if -code != signal.SIGKILL:
        with contextlib.suppress(ValueError):
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"killed by signal {-code}"
