"""A pretend simulator and pretend policies: pure numpy, deterministic, and able to break on purpose.

The simulator is a point that has to reach a goal; both are drawn from the episode's names. It runs in
spawned processes, so it lives in a module of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench.errors import FoundryError
from foundry_bench.policies.base import PolicySpec

SERVICE = "tests.evaluation.fakes:point_service"
IMAGE_SIZE = 8


@dataclass(frozen=True)
class PointTask:
    suite: str = "libero_spatial"
    index: int = 0
    instruction: str = "go to the goal"


def tasks(count: int, suite: str = "libero_spatial") -> list[PointTask]:
    return [PointTask(suite, index, f"go to goal {index}") for index in range(count)]


@dataclass
class _Point:
    position: np.ndarray
    goal: np.ndarray
    instruction: str
    name: str
    budget: int
    steps: int = 0
    video: str | None = None


@dataclass
class PointService:
    """An episode service.

    ``faults`` says what breaks: episode name to ``kind@moment``, with kind crash, hang, raise or refuse and
    moment start or middle. A third part ``@marker`` names a file: the fault happens once and leaves the file.
    """

    settings: dict[str, Any]
    delay_s: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    _points: dict[int, _Point] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        return {"mujoco": "0", "robosuite": "0", "libero": "0", "numpy": np.__version__}

    def start(
        self, slot: int, suite: str, task: int, init_state: int, seed: int, video: str | None
    ) -> dict[str, Any]:
        name = f"{suite}-{task}-{init_state}"
        self._break(name, "start")
        generator = np.random.default_rng([task, init_state, seed])
        position, goal = generator.uniform(-1, 1, (2, 7))
        budget = self.settings["max_steps"][suite]
        self._points[slot] = _Point(position, goal, f"go to goal {task}", name, budget, video=video)
        return self._observe(slot)

    def advance(self, slot: int, actions: np.ndarray) -> dict[str, Any]:
        point = self._points[slot]
        time.sleep(self.delay_s)
        done = success = False
        for action in actions:
            point.position = point.position + 0.1 * np.asarray(action, np.float64)
            point.steps += 1
            success = bool(np.linalg.norm(point.position - point.goal) < 0.25)
            done = success or point.steps >= point.budget
            if done:
                break
        if point.steps >= 8:
            self._break(point.name, "middle")
        answer = {
            "observation": None if done else self._observe(slot),
            "done": done,
            "success": success,
            "steps": point.steps,
            "sim_seconds": 0.001,
        }
        if done and point.video:
            Path(point.video).write_bytes(b"video of " + point.name.encode())
            answer["video"] = point.video
        return answer

    def drop(self, slot: int) -> None:
        self._points.pop(slot, None)

    def _observe(self, slot: int) -> dict[str, Any]:
        point = self._points[slot]
        image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), point.steps % 256, np.uint8)
        state = np.zeros(8, np.float32)
        state[:7] = point.goal - point.position
        return {"agentview": image, "wrist": image, "state": state, "instruction": point.instruction}

    def _break(self, name: str, moment: str) -> None:
        kind, _, rest = self.faults.get(name, "").partition("@")
        when, _, marker = rest.partition("@")
        if not kind or when != moment:
            return
        if marker:
            if Path(marker).exists():
                return
            Path(marker).touch()
        if kind == "crash":
            os._exit(3)
        if kind == "hang":
            time.sleep(600)
        if kind == "raise":
            raise ValueError(f"bad contact in {name}")
        if kind == "refuse":
            raise FoundryError(f"{name}: no such init state; take a smaller number")


def point_service(settings: dict[str, Any]) -> PointService:
    """``POINT_FAULTS`` holds words ``suite-task-init=kind@moment[@marker]``, ``POINT_DELAY`` seconds."""
    words = os.environ.get("POINT_FAULTS", "").split()
    faults = dict(word.split("=", 1) for word in words)
    return PointService(settings, float(os.environ.get("POINT_DELAY", "0")), faults)


SPEC = PolicySpec(cameras=("agentview", "wrist"), image_size=IMAGE_SIZE, horizon=8)


@dataclass
class PointPolicy:
    """Walks to the goal with noise; ``confused`` tasks are walked away from. Counts what it is asked."""

    noise: float = 0.4
    confused: tuple[str, ...] = ()
    name: str = "point"
    checkpoint_hash: str = "abc123"
    spec: PolicySpec = SPEC
    batches: list[int] = field(default_factory=list)

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        self.batches.append(len(noise_seeds))
        assert observations["agentview"].shape == (len(noise_seeds), IMAGE_SIZE, IMAGE_SIZE, 3)
        assert observations["agentview"].dtype == np.uint8
        return np.stack(
            [
                self.row({key: value[row] for key, value in observations.items()}, seed)
                for row, seed in enumerate(noise_seeds)
            ]
        )

    def row(self, observation: Mapping[str, Any], seed: int) -> np.ndarray:
        direction = observation["state"][:7]
        if observation["instruction"] in self.confused:
            direction = -direction
        generator = np.random.default_rng(seed)
        chunk = np.tile(direction * 2, (self.spec.horizon, 1)) + self.noise * generator.normal(size=(8, 7))
        return np.clip(chunk, -1, 1).astype(np.float32)

    def with_spec(self, **changes: Any) -> PointPolicy:
        return PointPolicy(self.noise, self.confused, spec=replace(self.spec, **changes))


@dataclass
class BrokenPolicy(PointPolicy):
    """Breaks on one instruction: ``raise``, ``nan``, ``shape``, or ``once`` (raises the first time only)."""

    how: str = "raise"
    where: str = "go to goal 1"
    broken: int = 0

    def predict(self, observations: dict[str, Any], noise_seeds: Sequence[int]) -> np.ndarray:
        rows = [row for row, text in enumerate(observations["instruction"]) if self.where in (text, "*")]
        chunks = super().predict(observations, noise_seeds)
        if rows and not (self.how == "once" and self.broken):
            self.broken += 1
            if self.how in ("raise", "once"):
                raise RuntimeError("out of\nmemory")
            if self.how == "shape":
                return chunks[:, :, :6]
            if self.how == "text":
                return np.array("nonsense")
            chunks[rows, 2, 3] = np.nan
        return chunks
