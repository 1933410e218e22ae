"""Making image-text pairs: scenes spread over worker processes, then balanced and written in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.scenes import SceneStore, Which, scenes_of
from foundry_bench.data.captions.write import is_finished, write_dataset
from foundry_bench.envs.suites import Task
from foundry_bench.envs.workers import Event, WorkerPool
from foundry_bench.errors import FoundryError

_CHUNK = 8  # scenes a worker makes at a time
_RETRIES = 2  # of a chunk whose worker died


@dataclass(frozen=True)
class CaptionsReport:
    """What came of it.

    Attributes:
        root: the dataset.
        manifest: the content of its manifest.json.
        made: scenes that this call made; the others were there.
    """

    root: Path
    manifest: dict[str, Any]
    made: int


def make_captions(
    tasks: Sequence[Task], config: CaptionsConfig, root: Path, workers: int, progress: bool = True
) -> CaptionsReport:
    """Write image-text pairs on scenes of ``tasks`` to ``root``; goes on where it was stopped.

    Scenes that were made stay in ``<root>.scenes``, which may be deleted: a later call for more scenes then
    makes them again. The bytes of the dataset depend on tasks and config only.

    Raises:
        FoundryError: a task without a BDDL file, a folder with other content, a full disk, no OpenGL, or a
            worker that keeps dying.
    """
    for task in tasks:
        if task.bddl is None:
            raise FoundryError(
                f"{task.key}: captions are written for tasks with a BDDL file; choose another suite="
            )
    if not tasks:
        raise FoundryError("captions: no tasks are selected")
    store = SceneStore(root, config)
    wanted = scenes_of(list(tasks), config.scenes)
    finished = is_finished(root, tasks, config)
    if finished is not None:
        return CaptionsReport(root, finished, 0)
    missing = _missing(store, wanted)
    if missing:
        service = "foundry_bench.data.captions.service:CaptionService"
        settings = {"config": asdict(config), "root": str(root)}
        chunks = _chunks(missing)
        with WorkerPool(min(workers, len(chunks)), service, settings) as pool:
            _Maker(pool, chunks, len(wanted), progress).run()
    return CaptionsReport(root, write_dataset(root, tasks, config, store, wanted), len(missing))


def _missing(store: SceneStore, wanted: list[Which]) -> list[Which]:
    """Scenes that are not there, or not whole."""
    keys, missing = store.keys(), []
    for which in wanted:
        if which.key in keys:
            try:
                store.load(which.key)
                continue
            except FoundryError:
                store.discard(which.key)
        missing.append(which)
    return missing


def _chunks(missing: list[Which]) -> list[list[Which]]:
    """Scenes of one task each, a few at a time, task after task."""
    by_task: dict[str, list[Which]] = {}
    for which in missing:
        by_task.setdefault(which.task.key, []).append(which)
    return [some[i : i + _CHUNK] for some in by_task.values() for i in range(0, len(some), _CHUNK)]


class _Maker:
    """Hands chunks to workers; a worker stays with its task while there is something left of it."""

    def __init__(self, pool: WorkerPool, chunks: list[list[Which]], total: int, show: bool) -> None:
        self._pool, self._waiting, self._show = pool, chunks, show
        self._total = total
        self._busy: dict[int, list[Which]] = {}
        self._last: dict[int, str] = {}
        self._deaths: dict[str, int] = {}

    def run(self) -> None:
        columns = (
            TextColumn("scenes"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
        )
        left = sum(map(len, self._waiting))
        with Progress(*columns, TimeRemainingColumn(), disable=not self._show) as bar:
            line = bar.add_task("", total=self._total, completed=self._total - left)
            while self._waiting or self._busy:
                self._hand_out()
                for event in self._pool.wait():
                    bar.advance(line, self._take_in(event))

    def _hand_out(self) -> None:
        for worker in range(len(self._pool)):
            if worker in self._busy or not self._waiting:
                continue
            chunk = self._waiting.pop(self._choose(worker))
            task = chunk[0].task
            numbers = [which.number for which in chunk]
            self._pool.submit(worker, "make", suite=task.suite, task=task.index, numbers=numbers)
            self._busy[worker], self._last[worker] = chunk, task.key

    def _choose(self, worker: int) -> int:
        """The position of the worker's own task, else of one that nobody works on, else the first."""
        keys = [chunk[0].task.key for chunk in self._waiting]
        if self._last.get(worker) in keys:
            return keys.index(self._last[worker])
        taken = set(self._last.values())
        return next((number for number, key in enumerate(keys) if key not in taken), 0)

    def _take_in(self, event: Event) -> int:
        chunk = self._busy.pop(event.worker)
        if event.kind == "result":
            return len(chunk)
        key = chunk[0].key
        if event.kind == "error":
            error = FoundryError(f"scene {key}: {event.error.removeprefix('FoundryError: ')}")
            error.add_note(event.detail)
            raise error
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] > _RETRIES:
            raise FoundryError(
                f"scene {key}: its worker died {self._deaths[key]} times ({event.error}); run the command "
                "again to go on, or `foundry-bench doctor` to check the installation"
            )
        self._waiting.insert(0, chunk)
        return 0
