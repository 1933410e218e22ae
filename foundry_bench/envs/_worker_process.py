"""The child side of :mod:`foundry_bench.envs.workers`: one process that hosts one service.

Two threads. The main thread builds the service and answers requests one after another, always in the same
thread, because an EGL context belongs to one. A reader thread moves requests from the pipe into a queue;
since it always reads, the parent never blocks on a busy child, and since it sees the pipe close at once, a
child whose parent was killed exits in the middle of whatever it was computing.

Messages, parent to child: ``("call", request, method, kwargs)`` and ``("close",)``.
Child to parent: ``("ready",)``, ``("beat",)``, ``("result", request, value)``,
``("error", request, summary, traceback)`` and ``("failed", summary, traceback)`` for a factory that raised.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_BEAT_INTERVAL_S = 0.5
_PR_SET_PDEATHSIG = 1
_SUMMARY_LENGTH = 500

BOOTSTRAP = (
    "import sys; from multiprocessing.connection import Connection as C; c = C(int(sys.argv[1])); "
    "sys.path[:] = c.recv(); from foundry_bench.envs._worker_process import main; main(c)"
)
"""What the interpreter runs: takes over the parent's ``sys.path``, then imports this module and nothing of
the parent's ``__main__``, so that scripts and notebooks need no ``if __name__ == "__main__"`` guard."""


class _Channel:
    """The sending half of the pipe: one message at a time, whichever thread it comes from."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._last_sent = 0.0

    def send(self, *message: Any) -> None:
        with self._lock:
            self._connection.send(message)
            self._last_sent = time.monotonic()

    def beat(self) -> None:
        if time.monotonic() - self._last_sent >= _BEAT_INTERVAL_S:
            self.send("beat")


_channel: _Channel | None = None


def beat() -> None:
    """Tell the parent that this worker makes progress; call it as often as convenient.

    Outside of a worker process it does nothing. At most two messages a second are sent.
    """
    if _channel is not None:
        _channel.beat()


def describe(error: BaseException) -> str:
    """``Type: message`` of an exception on one line of bounded length."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= _SUMMARY_LENGTH else text[: _SUMMARY_LENGTH - 3] + "..."


def resolve(factory: str) -> Callable[..., Any]:
    """The object that ``"package.module:callable"`` names.

    Raises:
        ValueError: the text has no colon.
        ImportError, AttributeError: the module or the name is not there.
    """
    module, _, name = factory.partition(":")
    if not name:
        raise ValueError(f"factory '{factory}' must read 'package.module:callable'")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    built: Callable[..., Any] = found
    return built


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere do nothing.

    The closed pipe says the same thing, but only to a child whose interpreter still runs; this one also
    reaches a child that is stuck in native code.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request was in place
        os._exit(1)


def _read_forever(connection: Connection, requests: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            requests.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)  # the parent is gone: nobody is left to whom a tidy exit would matter
    except Exception as error:  # a request that cannot be unpickled here; let the main thread report it
        requests.put(error)


def _answer(channel: _Channel, service: Any, request: int, method: str, kwargs: dict[str, Any]) -> None:
    try:
        value = getattr(service, method)(**kwargs)
        channel.send("result", request, value)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except Exception as error:  # anything a service raises is reported; the worker lives on
        channel.send("error", request, describe(error), traceback.format_exc())


def _serve(channel: _Channel, service: Any, requests: queue.SimpleQueue[Any]) -> None:
    while True:
        message = requests.get()
        if isinstance(message, Exception):
            raise message
        if message[0] == "close":
            break
        _answer(channel, service, *message[1:])
    close = getattr(service, "close", None)
    if callable(close):
        close()


def main(connection: Connection) -> None:
    """Build the service named by the first message and answer requests until told to stop."""
    global _channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    channel = _channel = _Channel(connection)
    try:
        start = connection.recv()
        if start["die_with_parent"]:
            die_with_parent(start["parent"])
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_read_forever, args=(connection, requests), daemon=True).start()
        service = resolve(start["factory"])(**start["factory_args"])
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except Exception as error:  # any reason why the service cannot be built goes to the parent
        channel.send("failed", describe(error), traceback.format_exc())
        os._exit(1)
    channel.send("ready")
    _serve(channel, service, requests)
    sys.stdout.flush()
    sys.stderr.flush()
    # Native libraries (EGL, MuJoCo) have been seen to hang or abort in their exit handlers; all that
    # matters was closed above.
    os._exit(0)
