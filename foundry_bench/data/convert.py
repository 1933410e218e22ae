"""From one form of demonstrations to another: HDF5 to LeRobotDataset and back, images to video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foundry_bench.data.episode import ACTION_NAMES, STATE_NAMES, DatasetSpec, Episode
from foundry_bench.data.images import encode_image
from foundry_bench.data.recordings import Recording
from foundry_bench.data.sources import Source
from foundry_bench.data.store import EpisodeStore
from foundry_bench.data.video import encode_clip
from foundry_bench.errors import FoundryError


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        root: the dataset.
        episodes: how many it has.
        new: how many of them this call made; the others were there from one that was interrupted.
        failed: how many the source calls failures, kept as such.
        unknown: how many belong to no task that is known here, so that they cannot be replayed.
    """

    root: Path
    episodes: int
    new: int
    failed: int
    unknown: int


def to_lerobot(
    source: Source,
    out: Path,
    image_format: str = "png",
    image_size: int | None = None,
    on_episode: Callable[[int], None] = lambda _: None,
) -> Converted:
    """Write a LeRobotDataset v3.0; goes on where it was stopped.

    Args:
        source: what to read.
        out: the dataset's folder.
        image_format: of `DatasetSpec`: ``png``, ``jpeg``, ``h264`` or ``av1``.
        image_size: side of the frames; None leaves them as they are.
        on_episode: called with the number of episodes that are done.

    Raises:
        FoundryError: an episode is damaged, the folder holds something else, or the disk is full. What was
            converted before is kept.
    """
    first = source.recording(0)
    spec = DatasetSpec(
        fps=source.fps,
        cameras=source.cameras,
        image_size=image_size or source.image_size,
        state_names=_names(STATE_NAMES, first.robot, "state"),
        action_names=_names(ACTION_NAMES, first.actions, "action"),
        image_format=image_format,
    )
    store = EpisodeStore(out, spec)
    there = set(store.keys())
    keys = [source.key(index) for index in range(len(source))]
    new = failed = unknown = 0
    for index, key in enumerate(keys):
        recording = source.recording(index)
        if key not in there:
            store.add(key, _episode(source, index, recording, spec))
            new += 1
        failed += not recording.success
        unknown += recording.task_index < 0
        on_episode(index + 1)
    store.finalize(keys)
    return Converted(out, len(keys), new, failed, unknown)


def resized(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The image at (size, size, 3); averaged over areas where it becomes smaller."""
    if image.shape[0] == size:
        return image
    how = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def _episode(source: Source, index: int, recording: Recording, spec: DatasetSpec) -> Episode:
    images: dict[str, list[bytes]] = {}
    clips: dict[str, bytes] = {}
    for camera in spec.cameras:
        frames = (resized(image, spec.image_size) for image in source.images(index, camera))
        if spec.is_video:
            clips[camera] = encode_clip(list(frames), spec.fps, spec.image_format)
        else:
            images[camera] = [encode_image(frame, spec.image_format) for frame in frames]
    told = {"success": recording.success, "wait_steps": recording.wait_steps}
    return Episode(
        suite=recording.suite,
        task_index=recording.task_index,
        instruction=recording.instruction,
        seed=recording.seed,
        expert=recording.expert,
        images=images,
        clips=clips,
        state=recording.robot,
        action=recording.actions.astype(np.float32),
        label=recording.labels.astype(np.float32),
        init_state=recording.init_state,
        fixtures=recording.fixtures,
        info={**recording.info, **told},
    )


def _names(usual: tuple[str, ...], rows: npt.NDArray[Any], what: str) -> tuple[str, ...]:
    width = rows.shape[1]
    return usual if width == len(usual) else tuple(f"{what}_{index}" for index in range(width))


def refuse_overwriting(source: Path, out: Path) -> None:
    """Raise FoundryError where writing ``out`` would write into ``source``."""
    one, other = source.resolve(), out.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise FoundryError(f"{out}: lies in what is read ({source}); give another place")
