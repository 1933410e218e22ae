"""What an experiment folder remembers: the configuration it was made with, finished phases, seconds spent.

Everything is written whole or not at all, so that a process may be killed at any moment.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundry_bench.configs.compose import completed, describe, differences, flatten
from foundry_bench.envs.files import atomic_write
from foundry_bench.errors import FoundryError

_ENTRY = ("inputs", "finished", "seconds", "output")
_BEAT_S = 2.0  # seconds of work that a kill can leave uncounted


def fingerprint(inputs: Any) -> str:
    """Twelve hex digits for anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]


class ExperimentState:
    """The phases of one experiment, in ``state.json`` of its folder.

    Args:
        folder: the experiment's folder; made where it is missing.

    Raises:
        FoundryError: ``state.json`` is there but cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        self._phases: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            try:
                phases = dict(json.loads(self._path.read_text())["phases"])
                self._phases = {name: {key: phases[name][key] for key in _ENTRY} for name in phases}
            except (ValueError, KeyError, TypeError):
                raise FoundryError(f"{self._path}: not readable; remove it, nothing else is lost") from None

    def finished(self, phase: str, inputs: str) -> dict[str, Any] | None:
        """What the phase left, where it was finished with these inputs."""
        entry = self._phases.get(phase, {})
        if entry.get("finished") and entry.get("inputs") == inputs:
            return dict(entry["output"])
        return None

    def output(self, phase: str) -> dict[str, Any] | None:
        """What the phase left or has left so far, whatever its inputs were; None where it never began."""
        entry = self._phases.get(phase)
        return None if entry is None else dict(entry["output"])

    def seconds(self) -> dict[str, float]:
        """Wall seconds each phase took, over all its interrupted attempts."""
        return {name: round(entry["seconds"], 1) for name, entry in self._phases.items()}

    @contextmanager
    def running(self, phase: str, inputs: str) -> Iterator[dict[str, Any]]:
        """Count the seconds of a phase; leaving without an exception marks it finished.

        Yields the phase's output, to be filled with what can be written as JSON; with something true as
        ``again`` in it, the phase is run again next time. Seconds of an unfinished attempt with the same
        inputs are kept, those with other inputs are dropped.
        """
        before = self._phases.get(phase, {})
        spent = before["seconds"] if before.get("inputs") == inputs and not before.get("finished") else 0.0
        output: dict[str, Any] = {}
        entry = self._phases[phase] = {
            "inputs": inputs,
            "finished": False,
            "seconds": spent,
            "output": output,
        }
        start, stop = time.monotonic(), threading.Event()

        def count() -> None:
            entry["seconds"] = spent + time.monotonic() - start
            self._save()

        def beat() -> None:
            while not stop.wait(_BEAT_S):
                with suppress(OSError):  # a full disk is for the work itself to report
                    count()

        self._save()
        beater = threading.Thread(target=beat, name=f"clock-{phase}", daemon=True)
        beater.start()
        try:
            yield output
            entry["finished"] = not output.get("again")
        finally:
            stop.set()
            beater.join()
            with nullcontext() if entry["finished"] else suppress(OSError):  # no cover over the first error
                count()

    def _save(self) -> None:
        text = json.dumps({"format": 1, "phases": self._phases}, indent=1)
        atomic_write(self._path, lambda file: file.write(text.encode()))


def remember_config(folder: Path, config: DictConfig) -> None:
    """Save the configuration in a fresh folder, or see that the folder was made with the same one.

    A key that an older version did not know had what is now its default.

    Raises:
        FoundryError: the folder belongs to another configuration; names the first key that differs.
    """
    path = folder / "config.yaml"
    if not path.exists():
        text = OmegaConf.to_yaml(config)
        atomic_write(path, lambda file: file.write(text.encode()))
        return
    before = completed(load_config(path), config)
    changed = differences(before, flatten(config))
    for name, value in changed.items():
        then = describe(before.get(name))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise FoundryError(
            f"{folder} was made with {name}={then}, not {describe(value)}{more}: "
            "choose another experiment=NAME, or remove that folder"
        )


def load_config(path: Path) -> DictConfig:
    """An experiment's ``config.yaml``.

    Raises:
        FoundryError: missing or not readable.
    """
    try:
        config = OmegaConf.load(path)
        if isinstance(config, DictConfig) and "experiment" in config:
            return config
    except FileNotFoundError:
        raise FoundryError(f"{path}: no such experiment; `foundry-bench train-and-eval` makes one") from None
    except Exception as error:  # yaml and omegaconf each raise a family of their own
        raise FoundryError(f"{path}: not a readable configuration ({type(error).__name__})") from None
    raise FoundryError(f"{path}: not the configuration of an experiment")


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a lock file for this process; the lock ends with the process, however that ends.

    Raises:
        FoundryError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FoundryError(
                f"{lock}: another foundry-bench is at work there; wait for it, or stop it"
            ) from None
        yield
