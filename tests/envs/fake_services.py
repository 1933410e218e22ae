"""Services for the tests of the worker pool: they run in spawned processes, so they live in a module."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from foundry_bench.envs.workers import beat
from foundry_bench.errors import FoundryError


class Echo:
    """Answers, raises, dies, hangs or beats, as asked."""

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.calls = 0

    def echo(self, value: Any) -> Any:
        self.calls += 1
        return value

    def count(self) -> int:
        return self.calls

    def environment(self, keys: list[str]) -> dict[str, str | None]:
        return {key: os.environ.get(key) for key in keys}

    def modules(self) -> list[str]:
        return sorted(sys.modules)

    def boom(self, message: str) -> None:
        raise RuntimeError(message)

    def user_error(self) -> None:
        raise FoundryError("suite=libro: unknown suite; did you mean 'libero_10'?")

    def unpicklable(self) -> Any:
        return lambda: None

    def leave(self, code: int) -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(code)

    def sleep(self, seconds: float, beating: bool = False, pid_file: str | None = None) -> str:
        if pid_file:
            Path(pid_file).write_text(str(os.getpid()))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)
            if beating:
                beat()
        return "slept"


def raises_at_start() -> None:
    raise OSError("no EGL device")


def user_error_at_start() -> None:
    raise FoundryError("MUJOCO_GL=egl: no EGL library; install libegl1")


def exits_at_start() -> None:
    print("libEGL warning: nothing here", file=sys.stderr, flush=True)
    os._exit(3)


def hangs_at_start() -> None:
    time.sleep(60)


def fails_once(marker: str) -> Echo:
    """Dies at the first start only."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        os._exit(1)
    return Echo()
