"""Reading demonstrations in the HDF5 layouts of LIBERO and robomimic.

Three kinds of file are met, all with ``data/demo_N/{actions, states, obs/...}``. What the scripts that made
them do was read in their source, and is not what one would guess:

- **LIBERO** (``scripts/create_dataset.py``, the official human demonstrations): ``obs`` of row k is what was
  seen *after* action k, because the script steps first and appends then; ``states`` of row k is the state
  *before* it. The first five rows are left out. Images are as OpenGL renders them, bottom row first.
- **Regenerated LIBERO** (OpenVLA's ``regenerate_libero_dataset.py``): ``obs`` of row k is what was seen
  before action k. There are no attributes. Episodes began with ten steps of rest from ``states[0]``, and
  actions that do nothing were left out and not executed. Images as above.
- **robomimic** (``dataset_states_to_obs.py``): ``obs`` before the action, images flipped upside up.

Here a frame is what was seen before its action, and images are as LIBERO harnesses turn them: by 180 degrees
from what OpenGL renders. On which side of the action a file's observations are is measured where it can be,
by comparing its joint angles with those in its states.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from foundry_bench.data.hdf5_file import MAX_STEPS, REDO, SafeFile, text
from foundry_bench.data.model_xml import body_poses
from foundry_bench.data.recordings import Recording, axis_angle, task_of
from foundry_bench.envs.suites import ROBOSUITE_TASKS
from foundry_bench.errors import FoundryError, nearest

SUFFIXES = (".hdf5", ".h5")
PAIRINGS = ("auto", "stored")
#: Beside ``actions``, which were executed: what a policy should imitate, where that differs. Not LIBERO's.
CLEAN_ACTIONS = "clean_actions"
#: Attributes of an episode, ours too: the simulator state before the steps of rest, how many those are, and
#: the state after the last action. LIBERO keeps none of these, so its episodes are repeated only nearly.
START, REST, END = "start_state", "wait_steps", "final_state"

#: Our camera names and those of the layouts.
CAMERAS = {
    "agentview": ("agentview_rgb", "agentview_image"),
    "wrist": ("eye_in_hand_rgb", "robot0_eye_in_hand_image"),
}
_MAX_PIXELS = 4096
_LARGEST = 1e6  # of a robot's state, in metres and radians: beyond it the file is damaged
_NAME = re.compile(r"demo_(\d+)")
_REST_STEPS = 10  # of a regenerated file, between its first state and its first action


class DemoFile:
    """An HDF5 file of demonstrations of one task; close it, or use it in a ``with``.

    Attributes:
        path: the file.
        demos: names of its episodes in the order of their numbers.
        cameras: our name of a camera -> the name of its images in the file.
        kind: ``libero``, ``regenerated`` or ``robomimic``.
        instruction: what the robot was told.
        image_size: height and width of the images.

    Args:
        path: the file.
        cameras: our name of a camera -> the file's; None for `agentview` and `wrist` as LIBERO or robomimic
            name them.
        pairing: ``auto``: a frame is what was seen before its action; ``stored``: rows as they are stored.

    Raises:
        FoundryError: the file is missing, truncated, of another layout, or lacks a camera.
    """

    def __init__(
        self, path: Path | str, cameras: Mapping[str, str] | None = None, pairing: str = "auto"
    ) -> None:
        self.path = Path(path)
        if pairing not in PAIRINGS:
            raise FoundryError(f"data.pairing={pairing}: no such pairing, {nearest(pairing, PAIRINGS)}")
        self._pairing = pairing
        self._shifts: dict[str, int] = {}
        self._file = SafeFile(self.path)
        try:
            self._open(cameras)
        except BaseException:
            self._file.close()
            raise

    def _open(self, cameras: Mapping[str, str] | None) -> None:
        with self._file.errors(""):
            data = self._file.group("data")
            numbers = {name: _NAME.fullmatch(name) for name in map(text, data)}
            self.demos = sorted(
                (n for n, m in numbers.items() if m), key=lambda n: int(n.removeprefix("demo_"))
            )
            self.attributes = {name: text(value) for name, value in data.attrs.items()}
        if not self.demos:
            raise FoundryError(f"{self.path}: data holds no episode named demo_0, demo_1, ...; {REDO}")
        with self._file.errors(self.demos[0]):
            seen = set(map(text, self._file.group(f"data/{self.demos[0]}/obs")))
        self.cameras = self._choose_cameras(cameras, seen)
        libero = any(name.endswith("_rgb") for name in seen) or "ee_states" in seen
        self.kind = ("libero" if self.attributes else "regenerated") if libero else "robomimic"
        self.instruction = self._instruction()
        first = next(iter(self.cameras.values()))
        self.image_size = self._images(self.demos[0], first).shape[1]

    def __len__(self) -> int:
        return len(self.demos)

    def __enter__(self) -> DemoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def fps(self) -> int:
        """Control steps per second; 20, as LIBERO and robomimic have it, where the file does not say."""
        told = _json(self.attributes.get("env_args", "")).get("env_kwargs")
        rate = told.get("control_freq") if isinstance(told, dict) else None
        return int(rate) if isinstance(rate, (int, float)) and 0 < rate < 1000 else 20

    @property
    def bddl(self) -> str:
        """Path of the task's BDDL file on its maker's machine; made from the file's own name if unknown."""
        named = self.attributes.get("bddl_file_name", "")
        stem = self.path.stem.removesuffix("_demo")
        return named or f"{self.path.parent.name}/{stem}.bddl"

    def recording(self, name: str) -> Recording:
        """One episode without its images.

        Raises:
            FoundryError: naming what is damaged, of another shape or not finite.
        """
        actions = self._file.array(f"data/{name}/actions", 2)
        count = len(actions)
        robot = self._robot(name, count)
        states = self._states(name, count)
        first = self._shift(name, count)
        if first >= count:
            raise FoundryError(f"{self.path}: {name}: has {count} rows, too few to pair them; leave it out")
        with self._file.errors(name):
            attributes = self._file.group(f"data/{name}").attrs
            model = text(attributes.get("model_file", ""))
            human = "human" if self.kind == "libero" else "unknown"
            seed, expert = int(attributes.get("seed", -1)), text(attributes.get("expert", human))
        told = self._optional(name, "rewards", 1, count)
        clean = self._optional(name, CLEAN_ACTIONS, 2, count)
        suite, index = task_of(self.bddl)
        return Recording(
            suite=suite,
            task_index=index,
            instruction=self.instruction,
            actions=actions[first:],
            labels=(actions if clean is None else clean)[first:],
            robot=robot[: count - first],
            states=None if states is None else states[first:],
            **self._start(name, states, first),
            fixtures=body_poses(model, f"{self.path}: model_file of {name}") if model else {},
            success=told is None or bool(told.any()),
            seed=seed,
            expert=expert,
        )

    def _start(self, name: str, states: npt.NDArray[np.float64] | None, first: int) -> dict[str, Any]:
        """Where an episode began and ended: as our writer keeps it, else the first state."""
        attributes = self._file.group(f"data/{name}").attrs
        kept: dict[str, npt.NDArray[np.float64]] = {}
        with self._file.errors(f"attributes of {name}"):
            for key in (START, END):
                if key in attributes:
                    kept[key] = np.asarray(attributes[key], np.float64).reshape(-1)
            rest = int(attributes.get(REST, 0))
        if not all(np.isfinite(state).all() for state in kept.values()) or not 0 <= rest <= 1000:
            raise FoundryError(f"{self.path}: {name} has no valid {START}, {END} and {REST}; {REDO}")
        if START not in kept:
            rest = _REST_STEPS if self.kind == "regenerated" else 0
            kept[START] = np.zeros(0) if states is None else states[first]
        return {"init_state": kept[START], "final_state": kept.get(END), "wait_steps": rest}

    def images(self, name: str, camera: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Frames of one of ``cameras`` before each action of `recording`, (size, size, 3) uint8, upright.

        Raises:
            FoundryError: naming the file and the dataset that is damaged or of another shape.
        """
        stored = self._images(name, self.cameras[camera])
        first = self._shift(name, len(stored))
        bottom_first = self.kind != "robomimic" and self.attributes.get("macros_image_convention") != "opencv"
        for row in range(len(stored) - first):
            with self._file.errors(name):
                image = stored[row]
            yield np.ascontiguousarray(image[::-1, ::-1] if bottom_first else image[:, ::-1])

    def _states(self, name: str, count: int) -> npt.NDArray[np.float64] | None:
        return self._optional(name, "states", 2, count)

    def _optional(self, name: str, key: str, rank: int, rows: int) -> npt.NDArray[np.float64] | None:
        path = f"data/{name}/{key}"
        return self._file.array(path, rank, rows) if self._file.has(path) else None

    def _shift(self, name: str, count: int) -> int:
        """1 where row k of the observations was seen after action k, else 0."""
        if name not in self._shifts:
            self._shifts[name] = self._measured_shift(name, count) if self._pairing == "auto" else 0
        return self._shifts[name]

    def _measured_shift(self, name: str, count: int) -> int:
        if self.attributes.get("observations", "").startswith("before"):  # our writer says so
            return 0
        states = self._states(name, count)
        observed = f"data/{name}/obs/" + ("robot0_joint_pos" if self.kind == "robomimic" else "joint_states")
        if states is None or not self._file.has(observed) or count < 2:
            return int(self.kind == "libero")
        joints = self._file.array(observed, 2, count)
        stored = states[:, 1 : 1 + joints.shape[1]]
        if stored.shape != joints.shape:
            return int(self.kind == "libero")
        # From the second row on: a regenerated file's first state lies before its steps of rest.
        before = np.abs(joints[1:-1] - stored[1:-1]).sum()
        after = np.abs(joints[1:-1] - stored[2:]).sum()
        return int(after < before)

    def _robot(self, name: str, count: int) -> npt.NDArray[np.float32]:
        """(T, 8): end-effector position, axis-angle, finger joints."""
        if self.kind != "robomimic":
            hand = self._file.array(f"data/{name}/obs/ee_states", 2, count)
            fingers = self._file.array(f"data/{name}/obs/gripper_states", 2, count)
        else:
            position = self._file.array(f"data/{name}/obs/robot0_eef_pos", 2, count)
            turned = self._file.array(f"data/{name}/obs/robot0_eef_quat", 2, count)
            hand = np.concatenate([position, axis_angle(turned)], axis=1)
            fingers = self._file.array(f"data/{name}/obs/robot0_gripper_qpos", 2, count)
        robot = np.concatenate([hand, fingers], axis=1)
        if robot.shape[1] != 8:
            raise FoundryError(
                f"{self.path}: {name}: hand and fingers are {hand.shape[1]} and {fingers.shape[1]} numbers, "
                f"expected 6 and 2; {REDO}"
            )
        if np.abs(robot).max() > _LARGEST:
            raise FoundryError(
                f"{self.path}: {name}: the robot's state reaches {np.abs(robot).max():.3g}; {REDO}"
            )
        return robot.astype(np.float32)

    def _images(self, name: str, key: str) -> h5py.Dataset:
        dataset = self._file.dataset(f"data/{name}/obs/{key}")
        with self._file.errors(f"data/{name}/obs/{key}"):
            shape, kind = tuple(dataset.shape or ()), dataset.dtype
        square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3 and 0 < shape[1] <= _MAX_PIXELS
        size = getattr(self, "image_size", shape[1] if square else 0)
        if not square or kind != np.uint8 or not 0 < shape[0] <= MAX_STEPS or shape[1] != size:
            raise FoundryError(
                f"{self.path}: data/{name}/obs/{key} is {kind} of shape {shape}, "
                f"expected uint8 of (steps, {size or 'size'}, {size or 'size'}, 3); {REDO}"
            )
        return dataset

    def _choose_cameras(self, wanted: Mapping[str, str] | None, seen: set[str]) -> dict[str, str]:
        if wanted is None:
            found = {ours: next((n for n in names if n in seen), None) for ours, names in CAMERAS.items()}
            chosen = {ours: name for ours, name in found.items() if name is not None}
        else:
            chosen = dict(wanted)
        images = ", ".join(sorted(name for name in seen if name.endswith(("_rgb", "_image")))) or "none"
        for ours, name in chosen.items():
            if name not in seen:
                raise FoundryError(
                    f"{self.path}: camera {ours!r} ({name}) is missing, it has: {images}; "
                    "name one of these in data.cameras"
                )
        if not chosen:
            raise FoundryError(
                f"{self.path}: has no images of agentview or wrist, its images: {images}; "
                "name cameras in data.cameras, or render them with robomimic's dataset_states_to_obs.py"
            )
        return chosen

    def _instruction(self) -> str:
        problem = _json(self.attributes.get("problem_info", ""))
        told = problem.get("language_instruction")
        if told:
            return "".join(told).strip().strip('"')
        name = str(_json(self.attributes.get("env_args", "")).get("env_name", ""))
        if name in ROBOSUITE_TASKS:
            return ROBOSUITE_TASKS[name]
        stem = Path(self.bddl.replace("\\", "/")).stem
        return re.sub(r"^[A-Z0-9_]*SCENE\d+_", "", stem).replace("_", " ")


def demo_files(source: Path) -> list[Path]:
    """The HDF5 files that ``source`` stands for: itself, or all below a folder, sorted.

    Raises:
        FoundryError: there is none.
    """
    if source.is_file():
        return [source]
    found = sorted(path for suffix in SUFFIXES for path in source.rglob(f"*{suffix}"))
    if not found:
        raise FoundryError(f"{source}: is no HDF5 file and holds none ({', '.join(SUFFIXES)})")
    return found


def _json(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
