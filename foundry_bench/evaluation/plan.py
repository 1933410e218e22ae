"""Which episodes an evaluation consists of, and which worker runs which."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from foundry_bench.errors import FoundryError
from foundry_bench.evaluation.protocol import Protocol
from foundry_bench.evaluation.records import Key


class TaskLike(Interface):
    """What an evaluation needs to know of a task."""

    @property
    def suite(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def instruction(self) -> str: ...


def sizes(tasks: Sequence[TaskLike], protocol: Protocol) -> tuple[int, int]:
    """Sizes of a state and of an action, the same for all tasks; a task that says nothing has LIBERO's.

    Raises:
        FoundryError: the tasks differ, so that no policy could solve them all.
    """
    joints = protocol.action_convention != "osc_pose_delta"
    found = {
        (
            int(getattr(task, "state_dim", 8)),
            int(getattr(task, "joint_action_dim", 8) if joints else getattr(task, "action_dim", 7)),
        )
        for task in tasks
    }
    if len(found) > 1:
        raise FoundryError(f"tasks of different (state, action) sizes in one evaluation: {sorted(found)}")
    return found.pop() if found else (8, 7)


@dataclass(frozen=True)
class Episode:
    """One episode to run. The names are those of the record."""

    suite: str
    task_index: int
    instruction: str
    init_state: int
    seed: int

    @property
    def task(self) -> tuple[str, int]:
        """The task it belongs to."""
        return (self.suite, self.task_index)

    @property
    def key(self) -> Key:
        """The same as the key of its record."""
        return (self.suite, self.task_index, self.init_state, self.seed)

    def noise_seed(self, chunk: int) -> int:
        """Seed (63 bits) of the policy's noise for the ``chunk``-th prediction, a function of names alone."""
        text = f"{self.suite}/{self.task_index}/{self.init_state}/{self.seed}/{chunk}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def plan(tasks: Sequence[TaskLike], protocol: Protocol, episodes: int) -> list[Episode]:
    """The first ``episodes`` init states of each task, in order of task and init state.

    Raises:
        FoundryError: there is nothing to run, a suite has no step budget, or a task is listed twice.
    """
    if episodes < 1:
        raise FoundryError(f"eval.episodes={episodes}: must be at least 1")
    if not tasks:
        raise FoundryError("there are no tasks to evaluate; check suite= and tasks=")
    for task in tasks:
        protocol.steps_for(task.suite)  # raises here rather than in the middle of the run
    planned = [
        Episode(task.suite, task.index, task.instruction, init_state, protocol.seed)
        for task in tasks
        for init_state in range(episodes)
    ]
    if len({episode.key for episode in planned}) < len(planned):
        raise FoundryError("a task is listed twice; check suite= and tasks=")
    return planned


class EpisodeQueue:
    """Hands episodes to workers: one task at a time to each, because a loaded scene is worth keeping.

    A worker goes on with its task while it has episodes left, then takes a task nobody works on, and at the
    end helps with the task that has most left. Which worker runs an episode never changes its outcome.
    """

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._waiting: dict[tuple[str, int], deque[Episode]] = {}
        self._task_of: dict[int, tuple[str, int]] = {}
        for episode in episodes:
            self._waiting.setdefault(episode.task, deque()).append(episode)

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    def take(self, worker: int) -> Episode | None:
        """The next episode for a worker, or None when none is waiting."""
        task = self._task_of.get(worker)
        if task is None or not self._waiting.get(task):
            task = self._choose()
            if task is None:
                return None
            self._task_of[worker] = task
        return self._waiting[task].popleft()

    def give_back(self, episode: Episode) -> None:
        """Put an episode that has to be run again at the front of its task."""
        self._waiting.setdefault(episode.task, deque()).appendleft(episode)

    def _choose(self) -> tuple[str, int] | None:
        open_tasks = [task for task, waiting in self._waiting.items() if waiting]
        if not open_tasks:
            return None
        taken = set(self._task_of.values())
        free = [task for task in open_tasks if task not in taken]
        return free[0] if free else max(open_tasks, key=lambda task: len(self._waiting[task]))
