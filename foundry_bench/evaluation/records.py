"""Episode records: one JSON line for each episode, written when it ends, never rewritten."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from foundry_bench.errors import FoundryError

OUTCOMES = ("success", "failure", "error")

#: Fields in which two runs of the same evaluation may differ: times, places, and how often it was tried.
VOLATILE = frozenset({"attempts", "simulator_seconds", "wall_seconds", "ended_at", "host"})

Key = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """What one episode was and how it ended.

    Attributes:
        run: name of the run that judged the policy.
        policy, checkpoint_hash: what was judged.
        protocol, protocol_hash: how.
        suite, task_index, instruction, init_state, seed: which episode.
        outcome: ``success``, ``failure``, or ``error``: the machinery broke, the policy was not judged.
        steps: policy steps taken.
        chunks: how often the policy was asked.
        simulated_seconds: how long the episode would have taken a real robot.
        simulator_seconds: how long the simulator computed for it.
        wall_seconds: from start to end of the last attempt, waiting for its turn included.
        attempts: how often the episode was started.
        error: cause of an error, else empty.
        video: path relative to the folder of the records, or None.
        versions: of mujoco, robosuite, libero, numpy, torch.
        host: the machine.
        ended_at: UTC time, ISO 8601.
    """

    run: str
    policy: str
    checkpoint_hash: str
    protocol: str
    protocol_hash: str
    suite: str
    task_index: int
    instruction: str
    init_state: int
    seed: int
    outcome: str
    steps: int
    chunks: int
    simulated_seconds: float
    wall_seconds: float
    simulator_seconds: float = 0.0
    attempts: int = 1
    error: str = ""
    video: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    host: str = ""
    ended_at: str = ""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}")
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome is {self.outcome!r}, must be one of {', '.join(OUTCOMES)}")
        if not all(isinstance(text, str) for pair in self.versions.items() for text in pair):
            raise ValueError(f"versions is {self.versions!r}")
        if not all(map(math.isfinite, (self.simulated_seconds, self.simulator_seconds, self.wall_seconds))):
            raise ValueError("seconds must be finite")

    @property
    def key(self) -> Key:
        """What names the episode within one policy and protocol: suite, task, init state, seed."""
        return (self.suite, self.task_index, self.init_state, self.seed)

    @property
    def finished(self) -> bool:
        """Whether the policy was judged; an error is neither success nor failure."""
        return self.outcome != "error"

    def stable(self) -> dict[str, Any]:
        """The fields that do not depend on when, where and with how many workers the episode ran."""
        return {name: value for name, value in asdict(self).items() if name not in VOLATILE}

    def to_line(self) -> str:
        """The record as one line of JSON, without the newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> EpisodeRecord:
        """The inverse of :meth:`to_line`.

        Raises:
            ValueError: not JSON, or not a record.
        """
        try:
            values = json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        try:
            return cls(**values)
        except TypeError as error:  # a field is missing or unknown
            raise ValueError(str(error).removeprefix("EpisodeRecord.__init__() ")) from None


def _kinds() -> dict[str, tuple[type, ...]]:
    by_annotation: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "str | None": (str, type(None)),
        "dict[str, str]": (dict,),
    }
    return {entry.name: by_annotation[str(entry.type)] for entry in fields(EpisodeRecord)}


_KINDS = _kinds()


def read_records(path: str | Path) -> list[EpisodeRecord]:
    """All records of a file, in the order they were written.

    A last line without its newline was cut off by a crash; it is left out with a warning (the episode is run
    again on resume).

    Raises:
        FoundryError: the file is missing, or a line other than a torn last one is no record.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror}); run the evaluation first") from None
    torn = lines.pop()
    if torn:
        warnings.warn(f"{path}:{len(lines) + 1}: last record is torn and left out", stacklevel=2)
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(EpisodeRecord.from_line(line.decode()))
        except ValueError as error:
            raise FoundryError(
                f"{path}:{number}: not an episode record ({error}); remove that line to go on without it"
            ) from None
    return records


def latest(records: Iterable[EpisodeRecord]) -> dict[Key, EpisodeRecord]:
    """The record that counts for each episode: the first one that finished, else the last error."""
    chosen: dict[Key, EpisodeRecord] = {}
    for record in records:
        known = chosen.get(record.key)
        if known is None or not known.finished:
            chosen[record.key] = record
    return chosen


class RecordWriter:
    """Appends records to a file, each flushed to the disk before :meth:`write` returns.

    Opening cuts off what a crash left of a torn last line and locks the file, so that two runs cannot
    write into each other's.

    Raises:
        FoundryError: the folder cannot be written to, or another process holds the file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        except OSError as error:
            raise FoundryError(f"{self._path}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise FoundryError(
                f"{self._path}: another evaluation is writing to it; wait or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._cut_torn_line()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, record: EpisodeRecord) -> None:
        """Append one record.

        Raises:
            FoundryError: the disk is full or gone; what was written before is intact.
        """
        size = self._file.tell()
        try:
            self._file.write(record.to_line().encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._undo(size)
            raise FoundryError(
                f"{self._path}: cannot be written ({error.strerror}); "
                "make room and run the same command again, finished episodes are kept"
            ) from error

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _undo(self, size: int) -> None:
        """Leave no half of a record behind; closing first drops what is still in Python's buffer."""
        with contextlib.suppress(OSError):  # it is the same full disk that brought us here
            self._file.close()
        os.truncate(self._path, size)

    def _cut_torn_line(self) -> None:
        content = self._path.read_bytes()
        keep = content.rfind(b"\n") + 1
        if keep < len(content):
            warnings.warn(f"{self._path}: removed a torn last record; its episode is run again", stacklevel=3)
            self._file.truncate(keep)
        self._file.seek(keep)
