"""Making scenes; hosted by a worker process. A scene is a function of (settings, task, number) alone."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.observe import Observer
from foundry_bench.data.captions.pairs import write_pairs
from foundry_bench.data.captions.randomise import Randomiser, Scene
from foundry_bench.data.captions.scenes import SceneRecord, SceneStore, SceneView
from foundry_bench.data.captions.view import Camera
from foundry_bench.data.images import encode_image
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import Task, init_states
from foundry_bench.envs.suites import task as find_task
from foundry_bench.envs.workers import beat

_KEPT = 2  # simulators; a worker stays with a task as long as it can
_OFFICIAL = 1e-3  # metres, radians: a state as near as this to an official init state is not used


class SceneMaker:
    """Makes scenes of one task."""

    def __init__(self, task: Task, config: CaptionsConfig) -> None:
        self._task, self._config = task, config
        self._simulation = Simulation(
            task, config.cameras, config.image_size, "native", config.render_profile
        )
        self.randomiser = Randomiser(self._simulation, config)
        self.observer = Observer(self.randomiser)
        self.model, self.data = self.randomiser.model, self.randomiser.data
        self.camera = Camera(self.model, config.render_profile, config.image_size)
        self._official = init_states(task) if task.init_states is not None else None

    def make(self, number: int) -> SceneRecord:
        """The scene of that number.

        Raises:
            FoundryError: no scene at rest was found.
        """
        generator = np.random.default_rng([self._config.seed, *self._task.key.encode(), number])
        scene = self.randomiser.randomise(generator)
        while self._is_official():
            scene = self.randomiser.randomise(generator)
        views = tuple(self._view(camera, scene, generator) for camera in self._config.cameras)
        self.randomiser.restore()
        return SceneRecord(f"{self._task.key}-{number:06d}", scene.seed, scene.scrambled, views)

    def _view(self, camera: str, scene: Scene, generator: np.random.Generator) -> SceneView:
        picture = self.camera.picture(self.model, self.data, camera)
        facts = self.observer.facts(picture, camera, scene)
        pairs = tuple(write_pairs(facts, generator))
        return SceneView(camera, encode_image(picture.image, self._config.image_format), facts, pairs)

    def _is_official(self) -> bool:
        """Whether the evaluation starts from this very state."""
        if self._official is None or self._official.shape[1] != 1 + self.model.nq + self.model.nv:
            return False
        away = np.abs(self._official[:, 1 : 1 + self.model.nq] - self.data.qpos).max(axis=1)
        return bool(away.min() < _OFFICIAL)

    def close(self) -> None:
        """Free what is held on the graphics side."""
        self.camera.close()
        self._simulation.close()


class CaptionService:
    """Makes scenes of any task and stores them."""

    def __init__(self, config: dict[str, Any], root: str) -> None:
        self._config = CaptionsConfig(**config)
        self._store = SceneStore(Path(root), self._config)
        self._makers: OrderedDict[tuple[str, int], SceneMaker] = OrderedDict()

    def make(self, suite: str, task: int, numbers: list[int]) -> int:
        """Make some scenes of a task and store them; returns how many pairs they have."""
        maker, pairs = self._maker(suite, task), 0
        for number in numbers:
            record = maker.make(number)
            self._store.add(record)
            pairs += sum(len(view.pairs) for view in record.views)
            beat()
        return pairs

    def close(self) -> None:
        """Free every simulator."""
        while self._makers:
            self._makers.popitem()[1].close()

    def _maker(self, suite: str, task: int) -> SceneMaker:
        if (suite, task) not in self._makers:
            while len(self._makers) >= _KEPT:
                self._makers.popitem(last=False)[1].close()
            self._makers[suite, task] = SceneMaker(find_task(suite, task), self._config)
        self._makers.move_to_end((suite, task))
        return self._makers[suite, task]
