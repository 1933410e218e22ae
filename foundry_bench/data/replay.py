"""Simulating a whole dataset again, spread over worker processes; one JSON line an episode as it ends."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foundry_bench.data.resimulate import MODES, check, replay
from foundry_bench.data.sources import Source, open_source
from foundry_bench.envs.service import simulator_versions
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.simulation_pool import SimulationPool
from foundry_bench.envs.suites import task as find_task
from foundry_bench.envs.workers import Event, WorkerPool, beat
from foundry_bench.errors import FoundryError, nearest

_RETRIES = 2  # of an episode whose worker died


@dataclass(frozen=True)
class ReplayConfig:
    """How a dataset is simulated again.

    Attributes:
        mode: ``actions``: from each init state by its actions; ``states``: through its simulator states.
        engine: ``native`` or ``robosuite``.
        episodes: only so many, evenly spread over the dataset; None for all.
        pairing: of HDF5 files, see `DemoFile`.
    """

    mode: str = "actions"
    engine: str = "native"
    episodes: int | None = None
    pairing: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise FoundryError(f"replay.mode={self.mode}: no such mode, {nearest(self.mode, MODES)}")
        if self.episodes is not None and self.episodes < 1:
            raise FoundryError(f"replay.episodes={self.episodes}: must be at least 1")


class ReplayService:
    """Simulates single episodes of one dataset; hosted by a worker process."""

    def __init__(self, path: str, config: dict[str, Any]) -> None:
        self._config = ReplayConfig(**config)
        self._source = open_source(Path(path), pairing=self._config.pairing)
        self._pool = SimulationPool(
            limit=2, cameras=(), image_size=64, engine=self._config.engine, profile="fast"
        )

    def episode(self, index: int) -> dict[str, Any]:
        """Simulate one episode; an error that belongs to it is in ``error``."""
        started = time.perf_counter()
        suite, number = self._source.task(index)
        found: dict[str, Any] = {
            "index": index,
            "key": self._source.key(index),
            "suite": suite,
            "task": number,
            "error": "",
        }
        try:
            found.update(self._replayed(index))
        except FoundryError as error:
            found["error"] = str(error)
        return {**found, "seconds": round(time.perf_counter() - started, 3)}

    def _replayed(self, index: int) -> dict[str, Any]:
        recording = self._source.recording(index)
        check(recording, self._config.mode)
        simulation = self._pool.acquire(find_task(recording.suite, recording.task_index))
        try:
            if not isinstance(simulation, Simulation):
                raise FoundryError(
                    f"{simulation.task.key}: a user's Gymnasium environment cannot be set to a state"
                )
            result = replay(simulation, recording, self._config.mode, on_step=beat)
        finally:
            self._pool.release(simulation)
        return {
            "recorded_success": recording.success,
            "success": result.success,
            "success_step": result.success_step,
            "steps": result.steps,
            "robot_difference": result.robot_difference,
            "state_difference": result.state_difference,
        }


class ReplayLog:
    """Results of a replay, one JSON line each after a line with the settings.

    Args:
        path: the log; a torn last line is ignored, and cut off before the next is written.
        settings: what the results depend on.

    Raises:
        FoundryError: the log belongs to other settings or cannot be read.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.results: dict[int, dict[str, Any]] = {}
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise FoundryError(
                f"{path}: cannot be read ({error.strerror}); give another replay.out"
            ) from None
        torn = lines.pop() if lines else b""
        if torn:
            os.truncate(path, path.stat().st_size - len(torn))
        for number, line in enumerate(lines):
            try:
                entry = dict(json.loads(line))
                index = -1 if number == 0 else int(entry["index"])
            except (KeyError, TypeError, ValueError, RecursionError):
                raise FoundryError(
                    f"{path}:{number + 1}: not a result of a replay; delete the file"
                ) from None
            if number == 0 and entry.get("settings") != settings:
                raise FoundryError(
                    f"{path}: holds the replay of another dataset or with other settings; "
                    "give another replay.out or delete the file"
                )
            if number:
                self.results[index] = entry
        if not lines:
            self._append({"settings": settings})

    def add(self, result: dict[str, Any]) -> None:
        """Append a result; on the disk when this returns."""
        self.results[int(result["index"])] = result
        self._append(result)

    def _append(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def replay_dataset(
    path: Path, config: ReplayConfig, out: Path, workers: int, progress: bool = True
) -> tuple[list[dict[str, Any]], Path]:
    """Simulate a dataset again; goes on where it was stopped, and tries errors again.

    Args:
        path: see `open_source`.
        config: how.
        out: folder of the log, which is named after dataset, mode and content; or the log, a `.jsonl`.
        workers: simulator processes.
        progress: show a bar.

    Returns:
        For each episode ``index``, ``key``, ``suite``, ``task``, ``recorded_success``, ``success``,
        ``success_step``, ``steps``, ``robot_difference``, ``state_difference``, ``seconds`` and ``error``;
        and the log's path.

    Raises:
        FoundryError: the dataset cannot be read, or a worker keeps dying.
    """
    source = open_source(path, pairing=config.pairing)
    chosen = _chosen(len(source), config.episodes)
    content = _content(path)
    same = {name: value for name, value in asdict(config).items() if name != "episodes"}
    settings = {**same, "content": content, "versions": simulator_versions()}
    if out.suffix != ".jsonl":
        out = out / f"{path.stem}-{config.mode}-{content[:6]}.jsonl"
    log = ReplayLog(out, settings)
    left = [index for index in chosen if log.results.get(index, {"error": "none yet"})["error"]]
    if left:
        service, arguments = (
            "foundry_bench.data.replay:ReplayService",
            {"path": str(path), "config": asdict(config)},
        )
        with WorkerPool(min(workers, len(left)), service, arguments) as pool:
            _Replayer(pool, source, left, log, len(chosen), progress).run()
    return [log.results[index] for index in chosen], out


class _Replayer:
    """Hands episodes to workers; a worker stays with a task while there are some of it."""

    def __init__(
        self, pool: WorkerPool, source: Source, left: Sequence[int], log: ReplayLog, total: int, show: bool
    ) -> None:
        self._pool, self._log, self._total, self._show = pool, log, total, show
        self._queues: dict[tuple[str, int], deque[int]] = {}
        for index in left:
            self._queues.setdefault(source.task(index), deque()).append(index)
        self._task_of: dict[int, tuple[str, int]] = {}
        self._busy: dict[int, int] = {}
        self._deaths: dict[int, int] = {}
        self._left = len(left)

    def run(self) -> None:
        bar = Progress(
            TextColumn("replaying"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._show,
        )
        with bar:
            line = bar.add_task("", total=self._total, completed=self._total - self._left)
            while self._left:
                self._hand_out()
                for event in self._pool.wait():
                    self._take_in(event)
                bar.update(line, completed=self._total - self._left)

    def _hand_out(self) -> None:
        for worker in range(len(self._pool)):
            if worker in self._busy:
                continue
            task = self._task_of.get(worker)
            if task is None or not self._queues[task]:
                task = max(self._queues, key=lambda name: len(self._queues[name]))
            if self._queues[task]:
                self._task_of[worker] = task
                self._busy[worker] = self._queues[task].popleft()
                self._pool.submit(worker, "episode", index=self._busy[worker])

    def _take_in(self, event: Event) -> None:
        index = self._busy.pop(event.worker)
        if event.kind == "died":
            self._deaths[index] = self._deaths.get(index, 0) + 1
            if self._deaths[index] <= _RETRIES:
                self._queues[self._task_of[event.worker]].appendleft(index)
                return
            raise FoundryError(
                f"episode {index}: its worker died {self._deaths[index]} times ({event.error}); "
                "run the command again to go on, or `foundry-bench doctor` to check the installation"
            )
        if event.kind == "error":
            error = FoundryError(f"episode {index}: {event.error.removeprefix('FoundryError: ')}")
            error.add_note(event.detail)
            raise error
        self._log.add(event.value)
        self._left -= 1


def _chosen(count: int, wanted: int | None) -> list[int]:
    """Indices of ``wanted`` episodes, evenly spread."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [number * count // wanted for number in range(wanted)]


def _content(path: Path) -> str:
    """Something that changes when the dataset does: names, sizes and times of its files."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    told = [
        [file.relative_to(path.parent).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
