"""Writing LIBERO's HDF5 layout, one file a task, for LIBERO's and robomimic's loaders.

Groups, names and attributes are those of LIBERO's ``scripts/create_dataset.py``, and images are upside down
as there. Two things differ and are said in the file: ``obs`` of row k is what was seen *before* action k
(attribute ``observations`` of ``data``; LIBERO pairs an action with what was seen after it), and ``actions``
is what was executed, with what a policy should imitate beside it in ``clean_actions``. Simulator states are
made by simulating each episode again; where that does not lead to where the recording did, they are left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from foundry_bench.data.files import PARTIAL, storage_errors, sync_folder
from foundry_bench.data.hdf5 import CLEAN_ACTIONS, END, REST, START
from foundry_bench.data.model_xml import with_poses
from foundry_bench.data.recordings import Recording
from foundry_bench.data.resimulate import Replay, replay
from foundry_bench.data.sources import Source
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import Task
from foundry_bench.envs.suites import task as find_task
from foundry_bench.errors import FoundryError

#: Robot states of a recording and of its simulation may differ by so much (m, rad) to count as the same.
_SAME = 1e-3
_OBSERVED = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}


@dataclass(frozen=True)
class Written:
    """What came of writing: the files, their episodes, and how many of those have no simulator states."""

    files: list[Path]
    episodes: int
    without_states: int


def to_hdf5(source: Source, out: Path, on_episode: Callable[[int], None] = lambda _: None) -> Written:
    """Write ``out/SUITE/TASK_demo.hdf5`` for every task; finished files of an interrupted call are kept.

    Args:
        source: demonstrations of LIBERO's tasks.
        out: a folder.
        on_episode: called with the number of episodes that are done.

    Raises:
        FoundryError: an episode is of no LIBERO task or has other cameras, or the disk is full.
    """
    missing = [camera for camera in _OBSERVED if camera not in source.cameras]
    if missing:
        raise FoundryError(
            f"LIBERO's layout has the cameras {list(_OBSERVED)}, the dataset has {list(source.cameras)}; "
            "say which is which with data.cameras"
        )
    tasks = _by_task(source)
    done = without = 0
    files = []
    for task, indices in tasks.items():
        path = out / task.suite / f"{task.name}_demo.hdf5"
        if _finished(path) != len(indices):
            _write_file(source, task, indices, path, on_episode, done)
        with h5py.File(path, "r") as file:
            without += sum("states" not in file[f"data/demo_{row}"] for row in range(len(indices)))
        files.append(path)
        done += len(indices)
        on_episode(done)
    return Written(files, done, without)


def _by_task(source: Source) -> dict[Task, list[int]]:
    tasks: dict[Task, list[int]] = {}
    for index in range(len(source)):
        recording = source.recording(index)
        task = find_task(recording.suite, recording.task_index) if recording.task_index >= 0 else None
        if task is None or task.bddl is None:
            raise FoundryError(
                f"{source.key(index)}: '{recording.instruction}' is no task of LIBERO, but LIBERO's layout "
                "needs one; leave such episodes out"
            )
        tasks.setdefault(task, []).append(index)
    return tasks


def _finished(path: Path) -> int | None:
    """How many episodes a finished file holds; None where there is none."""
    try:
        with h5py.File(path, "r") as file:
            return int(file["data"].attrs["num_demos"])
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _write_file(
    source: Source, task: Task, indices: list[int], path: Path, on_episode: Callable[[int], None], done: int
) -> None:
    partial = path.with_name(path.name + PARTIAL + "new")
    simulator = _Simulator(task)
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _Sink(partial) as sink, h5py.File(sink, "w") as file:
                data = file.create_group("data")
                frames = 0
                for row, index in enumerate(indices):
                    recording = source.recording(index)
                    _write_episode(data.create_group(f"demo_{row}"), source, index, recording, simulator)
                    file.flush()
                    sink.check()
                    frames += len(recording.actions)
                    on_episode(done + row + 1)
                data.attrs.update(_attributes(task, source, len(indices), frames))
            partial.replace(path)
            sync_folder(path.parent)
    finally:
        simulator.close()
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


class _Sink(io.FileIO):
    """A file for HDF5 to write to.

    The library crashes at closing where it could not write (seen with h5py 3.16). So a write that fails is
    remembered and looks like a success, until `check` or the end of the ``with`` raises it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self._error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Make the file ``size`` bytes long."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def check(self) -> None:
        """Raise what went wrong, if anything."""
        if self._error is not None:
            raise self._error

    def __exit__(self, *reason: Any) -> None:
        try:
            self.check()
            os.fsync(self.fileno())
        finally:
            super().__exit__(*reason)


class _Simulator:
    """The task's simulator, built when the first episode needs it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._simulation: Simulation | None = None

    def again(self, recording: Recording) -> Replay | None:
        """An episode simulated again, if that gives the same."""
        if not recording.init_state.size:
            return None
        if self._simulation is None:
            self._simulation = Simulation(self._task, (), 64, "native", "fast")
        try:
            again = replay(self._simulation, recording, trace=True)
        except FoundryError:
            return None
        return again if again.success == recording.success and again.robot_difference < _SAME else None

    def model(self, recording: Recording) -> str:
        """The task's model as XML, with the recording's fixtures in their places."""
        assert self._simulation is not None
        return with_poses(self._simulation.problem.env.model.get_xml(), recording.fixtures)

    def close(self) -> None:
        """Free the simulator."""
        if self._simulation is not None:
            self._simulation.close()


def _write_episode(
    group: h5py.Group, source: Source, index: int, recording: Recording, simulator: _Simulator
) -> None:
    steps = len(recording.actions)
    obs = group.create_group("obs")
    for camera, name in _OBSERVED.items():
        size = source.image_size
        images = obs.create_dataset(name, (steps, size, size, 3), np.uint8)
        for row, image in enumerate(source.images(index, camera)):
            images[row] = image[::-1, ::-1]
    robot = recording.robot.astype(np.float64)
    obs["ee_states"], obs["ee_pos"], obs["ee_ori"] = robot[:, :6], robot[:, :3], robot[:, 3:6]
    obs["gripper_states"] = robot[:, 6:8]
    group["actions"], group[CLEAN_ACTIONS] = recording.actions, recording.labels
    end = np.zeros(steps, np.uint8)
    end[-1] = recording.success
    group["rewards"] = end
    group["dones"] = np.eye(1, steps, steps - 1, dtype=np.uint8)[0]
    group.attrs.update(num_samples=steps, seed=recording.seed, expert=recording.expert)
    again = simulator.again(recording)
    if again is not None:
        group["states"] = np.stack(again.states)
        obs["joint_states"] = np.stack(again.joints)
        turned = np.stack(again.quaternions)
        group["robot_states"] = np.concatenate([robot[:, 6:8], robot[:, :3], turned], axis=1)
        group.attrs["init_state"] = again.states[0]
        group.attrs.update({START: recording.init_state, REST: recording.wait_steps, END: again.final_state})
        group.attrs["model_file"] = simulator.model(recording)


def _attributes(task: Task, source: Source, demos: int, frames: int) -> dict[str, Any]:
    """What LIBERO's script writes beside the episodes."""
    from libero.libero.envs import bddl_utils

    assert task.bddl is not None
    info = bddl_utils.get_problem_info(str(task.bddl))
    bddl = f"libero/libero/bddl_files/{task.suite}/{task.name}.bddl"
    cameras = {"camera_names": ["robot0_eye_in_hand", "agentview"]}
    sizes = {"camera_heights": source.image_size, "camera_widths": source.image_size}
    arguments = {
        "robots": [task.robot],
        "control_freq": source.fps,
        "bddl_file_name": bddl,
        **cameras,
        **sizes,
    }
    return {
        "env_name": info["problem_name"],
        "problem_info": json.dumps({**info, "language_instruction": task.instruction}),
        "macros_image_convention": "opengl",
        "bddl_file_name": bddl,
        "bddl_file_content": task.bddl.read_text(encoding="utf-8"),
        "env_args": json.dumps(
            {
                "type": 1,
                "env_name": info["problem_name"],
                "problem_name": info["problem_name"],
                "bddl_file": bddl,
                "env_kwargs": arguments,
            }
        ),
        "num_demos": demos,
        "total": frames,
        "observations": "before the action",
    }
