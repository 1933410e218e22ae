"""Suites that users bring: a folder of BDDL files, or Gymnasium environments described in a YAML file.

A folder holds one ``NAME.bddl`` for each task, beside each the init states as ``NAME.npz`` (an array
``states`` of shape (count, state size), rows ``[time, qpos, qvel]``; ``NAME.pruned_init.npz`` is found too;
without any, an init state is sampled from its index), and if wanted a ``suite.yaml``::

    tasks: [pick_up_the_mug, open_the_drawer]   # order of the tasks; else sorted by name
    instructions: {open_the_drawer: open it}    # instead of what the BDDL file says
    max_steps: 300                              # step budget

A Gymnasium suite is a YAML file::

    environments:                               # one task each
      - {id: "my_package:MyEnv-v0", instruction: push the block, kwargs: {level: 1}}
    observation: {agentview: pixels, wrist: null, state: agent_pos}   # keys of the environment's observation
    success: is_success                         # key of the step's info
    state_dim: 4
    action_dim: 2
    max_steps: 100

Names are given meaning by the ``suites`` key of the configuration, ``suites={mine: /path}``, which puts them
into the environment variable ``FOUNDRY_BENCH_SUITES`` (JSON), so that worker processes know them as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foundry_bench.errors import FoundryError, nearest

VARIABLE = "FOUNDRY_BENCH_SUITES"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PARTS = ("agentview", "wrist", "state")
_FOLDER_KEYS = {"tasks": list, "instructions": dict, "max_steps": int}
_GYMNASIUM_KEYS = {
    "environments": list,
    "observation": dict,
    "success": str,
    "state_dim": int,
    "action_dim": int,
    "max_steps": int,
}


@dataclass(frozen=True)
class GymnasiumTask:
    """How to make and read a user's Gymnasium environment.

    Attributes:
        id: what ``gymnasium.make`` takes, ``module:Name-v0`` to import a module first.
        kwargs: its keyword arguments, as JSON, so that tasks can be compared and hashed.
        observation: pairs of our name (``agentview``, ``wrist``, ``state``) and the environment's key.
        success: key of the step's info that says whether the task is solved.
        state_dim: size of the state.
        action_dim: size of an action.
    """

    id: str
    kwargs: str
    observation: tuple[tuple[str, str], ...]
    success: str
    state_dim: int
    action_dim: int


@dataclass(frozen=True)
class UserTask:
    """One task of a user's suite, before it has a number."""

    name: str
    instruction: str
    bddl: Path | None = None
    init_states: Path | None = None
    gymnasium: GymnasiumTask | None = None


def register(suites: Mapping[str, str]) -> None:
    """Make names of suites known here and in processes started from now on.

    Raises:
        FoundryError: a name that is no plain word, or a path where there is nothing.
    """
    for name, path in suites.items():
        if not _NAME.fullmatch(str(name)):
            raise FoundryError(
                f"suites={{{name}: ...}}: a name is lower case, with digits and underscores, as in my_suite"
            )
        if not isinstance(path, str) or not Path(path).expanduser().exists():
            raise FoundryError(f"suites={{{name}: {path}}}: there is no such folder or YAML file")
    known = {**registered(), **{name: str(Path(path).expanduser()) for name, path in suites.items()}}
    os.environ[VARIABLE] = json.dumps({name: str(Path(path).resolve()) for name, path in known.items()})


def registered() -> dict[str, str]:
    """Folders and files by name of suite.

    Raises:
        FoundryError: the environment variable holds something else than a JSON object of texts.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(path, str) for path in found.values()):
        raise FoundryError(f'{VARIABLE}={text[:80]}: must be JSON such as {{"my_suite": "/path"}}')
    return found


def read(name: str) -> list[UserTask]:
    """The tasks of a registered suite.

    Raises:
        FoundryError: the folder or file is not as it should be; the message names it and the key.
    """
    path = Path(registered()[name])
    tasks = _read_folder(path) if path.is_dir() else _read_gymnasium(path)
    if not tasks:
        raise FoundryError(f"{path}: no tasks; a suite is a folder with a .bddl file for each task")
    return tasks


def max_steps(name: str) -> int | None:
    """The step budget that a registered suite asks for, None where it says nothing."""
    path = Path(registered()[name])
    file = path / "suite.yaml" if path.is_dir() else path
    if not file.exists():
        return None
    budget = _settings(file, _FOLDER_KEYS if path.is_dir() else _GYMNASIUM_KEYS).get("max_steps")
    return None if budget is None else int(budget)


def _read_folder(folder: Path) -> list[UserTask]:
    file = folder / "suite.yaml"
    settings = _settings(file, _FOLDER_KEYS) if file.exists() else {}
    there = sorted(path.stem for path in folder.glob("*.bddl"))
    names = [str(name) for name in settings.get("tasks", there)]
    instructions = settings.get("instructions", {})
    for name in [*names, *map(str, instructions)]:
        if name not in there:
            raise FoundryError(f"{file}: '{name}' has no file {name}.bddl, {nearest(name, there)}")
    tasks = []
    for name in names:
        bddl = folder / f"{name}.bddl"
        states = (folder / f"{name}.npz", folder / f"{name}.pruned_init.npz")
        text = str(instructions.get(name) or bddl_instruction(bddl))
        tasks.append(UserTask(name, text, bddl, next((file for file in states if file.exists()), None)))
    return tasks


def bddl_instruction(bddl: Path) -> str:
    """What the ``:language`` field of a BDDL file says, lower case.

    Raises:
        FoundryError: the file is not readable text or has no such field.
    """
    try:
        text = bddl.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FoundryError(f"{bddl}: not a readable BDDL file ({type(error).__name__})") from None
    match = re.search(r"\(:language\s+([^)]*)\)", text)
    if match is None or not match[1].strip():
        raise FoundryError(f"{bddl}: no instruction; it needs a line (:language what the robot is told)")
    return " ".join(match[1].replace("\u2019", "'").split()).lower()


def _read_gymnasium(file: Path) -> list[UserTask]:
    settings = _settings(file, _GYMNASIUM_KEYS)
    for key in ("environments", "observation", "success", "state_dim", "action_dim"):
        if key not in settings:
            raise FoundryError(f"{file}: the key '{key}' is missing")
    observation = settings["observation"]
    for key in observation:
        if key not in _PARTS:
            raise FoundryError(f"{file}: observation.{key}: no such part, {nearest(str(key), _PARTS)}")
    parts = tuple((str(ours), str(theirs)) for ours, theirs in observation.items() if theirs is not None)
    tasks = []
    for number, entry in enumerate(settings["environments"]):
        if not isinstance(entry, dict) or not {"id", "instruction"} <= set(entry) <= {
            "id",
            "instruction",
            "kwargs",
        }:
            raise FoundryError(
                f"{file}: environments[{number}] must have id and instruction, and may have kwargs"
            )
        kwargs = json.dumps(entry.get("kwargs") or {}, sort_keys=True)
        dims = int(settings["state_dim"]), int(settings["action_dim"])
        made = GymnasiumTask(str(entry["id"]), kwargs, parts, settings["success"], *dims)
        tasks.append(UserTask(str(entry["id"]), str(entry["instruction"]), gymnasium=made))
    return tasks


def _settings(file: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FoundryError(f"{file}: not a readable YAML file ({reason})") from None
    if not isinstance(found, dict):
        raise FoundryError(f"{file}: must be a mapping with keys such as {', '.join(kinds)}")
    for key, value in found.items():
        if key not in kinds:
            raise FoundryError(f"{file}: {key}: no such key, {nearest(str(key), kinds)}")
        if type(value) is not kinds[key] or (isinstance(value, int) and value < 1):
            wanted = {int: "a whole number above 0", list: "a list", dict: "a mapping", str: "a word"}
            raise FoundryError(f"{file}: {key}: {value!r} should be {wanted[kinds[key]]}")
    return found
