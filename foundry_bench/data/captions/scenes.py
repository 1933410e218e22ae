"""Scenes on their way to a dataset: one file each, so that a killed run goes on where it stopped."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.facts import Facts
from foundry_bench.data.captions.pairs import Pair
from foundry_bench.data.files import storage_errors, write_atomic
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError


@dataclass(frozen=True)
class Which:
    """Which scene: the ``number``-th of a task, the ``index``-th of the dataset."""

    index: int
    task: Task
    number: int

    @property
    def key(self) -> str:
        """Its name; sorts by task and number."""
        return f"{self.task.key}-{self.number:06d}"


def scenes_of(tasks: list[Task], count: int) -> list[Which]:
    """The first scenes of a dataset: tasks take turns, so that a longer list begins with a shorter one."""
    return [Which(i, tasks[i % len(tasks)], i // len(tasks)) for i in range(count)]


def split_of(index: int, seed: int) -> str:
    """The split of a scene: of each ten in a row one is `val`, one `test`, which ones is random."""
    rank = int(np.random.default_rng([seed, 0x5C, index // 10]).permutation(10)[index % 10])
    return {0: "val", 1: "test"}.get(rank, "train")


@dataclass(frozen=True)
class SceneView:
    """One picture of a scene with its truth and every pair that it gives.

    Attributes:
        camera: which camera.
        image: encoded PNG or JPEG.
        facts: what is true in it.
        pairs: before balancing.
    """

    camera: str
    image: bytes
    facts: Facts
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class SceneRecord:
    """A finished scene.

    Attributes:
        key: its name.
        seed: of the state that LIBERO's samplers drew.
        scrambled: whether objects lie elsewhere than the task puts them.
        views: its pictures, in the order of the cameras.
    """

    key: str
    seed: int
    scrambled: bool
    views: tuple[SceneView, ...]


class SceneStore:
    """The folder ``<root>.scenes`` beside a dataset.

    Args:
        root: of the dataset.
        config: scenes of other settings are not taken.

    Raises:
        FoundryError: the folder holds scenes of other settings.
    """

    def __init__(self, root: Path, config: CaptionsConfig) -> None:
        self.folder = root.with_name(root.name + ".scenes")
        self._settings_file = self.folder / "settings.json"
        self._settings = json.dumps(config.scene_settings(), indent=1, sort_keys=True)
        self._check()

    def _check(self) -> None:
        try:
            text = self._settings_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise FoundryError(
                f"{self._settings_file}: not readable ({error}); delete {self.folder}"
            ) from error
        if text != self._settings:
            raise FoundryError(
                f"{self.folder}: holds scenes of other settings (see settings.json there); delete it or give "
                "another captions.root"
            )

    def add(self, record: SceneRecord) -> None:
        """Store a scene; on the disk when this returns.

        Raises:
            FoundryError: the disk is full or not writable.
        """
        plain = {
            "key": record.key,
            "seed": record.seed,
            "scrambled": record.scrambled,
            "views": [
                {
                    "camera": view.camera,
                    "image": base64.b64encode(view.image).decode(),
                    "facts": view.facts.to_json(),
                    "pairs": [pair.to_json() for pair in view.pairs],
                }
                for view in record.views
            ],
        }
        text = json.dumps(plain, separators=(",", ":"))
        checksum = hashlib.sha256(text.encode()).hexdigest()
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._settings_file.exists():
                write_atomic(self._settings_file, self._settings.encode())
            write_atomic(self._path(record.key), f"{checksum}\n{text}".encode())

    def keys(self) -> set[str]:
        """Names of the scenes that are there."""
        return {path.name.removesuffix(".json") for path in self.folder.glob("*-*.json")}

    def discard(self, key: str) -> None:
        """Forget a scene, so that it is made again."""
        self._path(key).unlink(missing_ok=True)

    def load(self, key: str) -> SceneRecord:
        """A stored scene.

        Raises:
            FoundryError: the file is missing, truncated or changed.
        """
        path = self._path(key)
        try:
            checksum, text = path.read_bytes().split(b"\n", 1)
            if hashlib.sha256(text).hexdigest().encode() != checksum:
                raise ValueError("the checksum does not match")
            return _record(json.loads(text), key)
        except (OSError, ValueError, KeyError, TypeError, FoundryError) as error:
            reason = " ".join(str(error).split())[:120]
            raise FoundryError(
                f"{path}: damaged ({reason}); delete it, then run the same command again"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _record(plain: Any, key: str) -> SceneRecord:
    views = tuple(
        SceneView(
            str(view["camera"]),
            base64.b64decode(view["image"], validate=True),
            Facts.from_json(view["facts"]),
            tuple(Pair.from_json(pair) for pair in view["pairs"]),
        )
        for view in plain["views"]
    )
    if plain["key"] != key:
        raise ValueError(f"it is the scene {plain['key']}")
    return SceneRecord(key, int(plain["seed"]), bool(plain["scrambled"]), views)
