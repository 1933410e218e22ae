"""Collecting demonstrations: scripted experts on freshly sampled scenes, spread over worker processes.

A task's demonstrations are its first successful attempts, in the order of their numbers, however many workers
made them. They never start from the official init states, which are for evaluation only.
"""

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

from foundry_bench.data.attempts import AttemptLog, TaskProgress, episode_key
from foundry_bench.data.episode import DatasetSpec
from foundry_bench.data.store import EpisodeStore
from foundry_bench.data.video import VIDEO_FORMATS
from foundry_bench.envs.suites import Task
from foundry_bench.envs.workers import Event, WorkerPool
from foundry_bench.errors import FoundryError

CAMERAS = ("agentview", "wrist")
_RETRIES = 2  # of an attempt whose worker died


@dataclass(frozen=True)
class DemosConfig:
    """How demonstrations are collected.

    Attributes:
        per_task: demonstrations wanted for each task.
        seed: decides scenes and noise.
        image_size: side of the images in pixels.
        noise: standard deviation of the noise on executed actions, in units of the action.
        mistakes: share of the attempts in which the hand is made to miss the object once, and recovers.
        style: name of the set of values that the next ones, noise and mistakes were taken from.
        slowest: the speed of an attempt is drawn from [slowest, 1].
        grasps: spread of the costs by which grasps are chosen, 0 always takes the best.
        detours: share of the ways of more than 15 cm that lead over a point beside the straight way.
        paraphrases: share of the demonstrations that are told their task in other words.
        format: `image`, every frame an image, or `video`, frames of an episode as video of each camera.
        image_format: `png` or `jpeg`; what is made into video passes through it.
        video_codec: `h264` or `av1`.
        max_attempts_factor: a task is given up after this many attempts per demonstration wanted.
        render_profile: `fast` or `exact`.
    """

    per_task: int = 20
    seed: int = 0
    image_size: int = 96
    noise: float = 0.25
    mistakes: float = 0.5
    style: str = "usual"
    slowest: float = 1.0
    grasps: float = 0.0
    detours: float = 0.0
    paraphrases: float = 0.0
    format: str = "image"
    image_format: str = "png"
    video_codec: str = "h264"
    max_attempts_factor: int = 3
    render_profile: str = "fast"

    def __post_init__(self) -> None:
        for name in ("per_task", "image_size", "max_attempts_factor"):
            if getattr(self, name) < 1:
                raise FoundryError(f"demos.{name}={getattr(self, name)}: must be at least 1")
        for name, known in (("format", ("image", "video")), ("video_codec", VIDEO_FORMATS)):
            if getattr(self, name) not in known:
                raise FoundryError(f"demos.{name}={getattr(self, name)}: known: {', '.join(known)}")
        if self.noise < 0:
            raise FoundryError(f"demos.noise={self.noise}: must not be negative")
        if self.grasps < 0:
            raise FoundryError(f"demos.grasps={self.grasps}: must not be negative")
        for name in ("mistakes", "detours", "paraphrases"):
            if not 0 <= getattr(self, name) <= 1:
                raise FoundryError(f"demos.{name}={getattr(self, name)}: must be between 0 and 1")
        if not 0 < self.slowest <= 1:
            raise FoundryError(f"demos.slowest={self.slowest}: must be above 0 and at most 1")


@dataclass(frozen=True)
class CollectReport:
    """What came of a collection.

    Attributes:
        root: the dataset.
        per_task: for each task: ``suite``, ``task``, ``instruction``, ``kept``, ``attempts``, ``yield_``,
            ``mean_length`` in steps, ``seconds`` of simulation, and ``skipped``, why there is no expert.
    """

    root: Path
    per_task: list[dict[str, Any]]


def dataset_spec(config: DemosConfig) -> DatasetSpec:
    """What the dataset looks like that `config` leads to."""
    stored = config.video_codec if config.format == "video" else config.image_format
    return DatasetSpec(fps=20, cameras=CAMERAS, image_size=config.image_size, image_format=stored)


def collect(
    tasks: Sequence[Task], config: DemosConfig, out: Path, workers: int, progress: bool = True
) -> CollectReport:
    """Collect demonstrations of ``tasks`` into a LeRobotDataset at ``out``; goes on where it was stopped.

    Raises:
        FoundryError: no task has an expert or none of its attempts succeeded, a full disk, no OpenGL, or a
            worker that keeps dying.
    """
    store = EpisodeStore(out, dataset_spec(config))
    log = AttemptLog(out.with_name(out.name + ".attempts.jsonl"), asdict(config))
    stored, limit = store.keys(), config.per_task * config.max_attempts_factor
    progresses = [TaskProgress(task, config.per_task, limit, log.of(task.key, stored)) for task in tasks]
    settings = {"config": asdict(config), "root": str(out)}
    if not all(item.finished for item in progresses):
        service = "foundry_bench.data.demonstrate:DemonstrationService"
        with WorkerPool(min(workers, 2 * len(tasks)), service, settings) as pool:
            _Collector(pool, progresses, log, progress).run()
    keys = [episode_key(item.task, number) for item in progresses for number in item.kept]
    if keys:
        store.finalize(keys)
    return CollectReport(out, [item.report() for item in progresses])


class _Collector:
    """Hands attempts to workers; a worker stays with a task while it has attempts to make."""

    def __init__(self, pool: WorkerPool, progresses: list[TaskProgress], log: AttemptLog, show: bool) -> None:
        self._pool = pool
        self._progresses = progresses
        self._log = log
        self._show = show
        # worker -> task and number of the attempt, -1 for finding out whether there is an expert
        self._busy: dict[int, tuple[TaskProgress, int]] = {}
        self._last: dict[int, TaskProgress] = {}
        self._deaths: dict[tuple[str, int], int] = {}

    def run(self) -> None:
        columns = (
            TextColumn("demonstrations"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
        )
        with Progress(*columns, TimeRemainingColumn(), disable=not self._show) as bar:
            line = bar.add_task("", total=self._total(), completed=self._kept())
            while not all(item.finished for item in self._progresses):
                self._hand_out()
                for event in self._pool.wait():
                    self._take_in(event)
                bar.update(line, completed=self._kept(), total=self._total())

    def _kept(self) -> int:
        return sum(len(item.kept) for item in self._progresses)

    def _total(self) -> int:
        return sum(item.wanted for item in self._progresses if item.skipped is None)

    def _hand_out(self) -> None:
        for worker in range(len(self._pool)):
            if worker in self._busy:
                continue
            choice = self._choose(worker)
            if choice is None:
                continue
            where = {"suite": choice.task.suite, "task": choice.task.index}
            if not choice.planned:
                self._pool.submit(worker, "plan", **where)
                number = -1
            else:
                number = choice.take()
                self._pool.submit(worker, "attempt", **where, number=number)
            self._busy[worker] = (choice, number)
            self._last[worker] = choice

    def _choose(self, worker: int) -> TaskProgress | None:
        """The worker's own task, else one nobody works on, else the one with most left to do."""
        planning = {id(item) for item, number in self._busy.values() if number < 0}
        open_ones = [
            item
            for item in self._progresses
            if item.next_attempt() is not None
            or (not item.planned and item.skipped is None and id(item) not in planning)
        ]
        if not open_ones:
            return None
        if self._last.get(worker) in open_ones:
            return self._last[worker]
        taken = {id(item) for item, _ in self._busy.values()}
        free = [item for item in open_ones if id(item) not in taken]
        return free[0] if free else max(open_ones, key=lambda item: item.wanted - len(item.successes))

    def _take_in(self, event: Event) -> None:
        item, number = self._busy.pop(event.worker)
        if event.kind == "error":
            message = event.error.removeprefix("FoundryError: ")
            error = FoundryError(f"demonstration {number} of {item.task.key}: {message}")
            error.add_note(event.detail)
            raise error
        if event.kind == "died":
            self._retry(item, number, event.error)
        elif number < 0:
            item.planned = True
            item.skipped = event.value or None
            self._log.reason(item.task.key, event.value)
        else:
            item.in_flight.discard(number)
            item.outcomes[number] = event.value
            self._log.add(item.task.key, number, event.value)

    def _retry(self, item: TaskProgress, number: int, reason: str) -> None:
        """Make an attempt again whose worker died; it is a function of its number, so nothing is lost."""
        key = (item.task.key, number)
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] > _RETRIES:
            raise FoundryError(
                f"demonstration {number} of {item.task.key}: its worker died {self._deaths[key]} times "
                f"({reason}); "
                "run the command again to go on, or `foundry-bench doctor` to check the installation"
            )
        if number >= 0:
            item.in_flight.discard(number)
            item.again.append(number)
