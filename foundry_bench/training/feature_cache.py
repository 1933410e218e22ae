"""What a frozen vision encoder gives for every frame of a dataset, computed once and kept in float16.

A frozen encoder gives the same tokens for the same pixels in every epoch; on a CPU they are nearly all of the
cost of a step. Random shifts would make the pixels new each time, so a fixed number of shifted views of each
frame is kept instead, the first of them not shifted, and training draws one of them per camera image.

Shapes: F frames, K views of a frame, C cameras, S pixels, P tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.vision_encoders import VisionEncoder
from foundry_bench.training.augment import shift_images
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.order import FEATURES, generator
from foundry_bench.training.stage import Rows

if TYPE_CHECKING:
    from foundry_bench.data.reader import RobotDataset

FOLDER = "features"  # beside the dataset's own folders; may be deleted at any time
_FRAMES = 32  # in one pass of the encoder
_GIB = 2**30


class FeatureCache:
    """Features of all frames (F, K, C, P, D), float16: a file beside the dataset, or memory.

    Non-obvious behaviours: the file's name is a hash of everything the features depend on (the dataset's
    contents, the encoder's weights and pixels, cameras, shifts), so a stale one is never read and any number
    of runs share one; where the dataset's folder cannot be written to, they are kept in memory for this run.
    """

    def __init__(self, features: npt.NDArray[np.float16]) -> None:
        self.features = features

    @classmethod
    def of(
        cls, model: nn.Module, dataset: RobotDataset, config: TrainConfig, progress: bool = True
    ) -> FeatureCache:
        """Features of a model's frozen encoder for a dataset, read or computed.

        Raises:
            FoundryError: the model has no frozen vision encoder, or the features would be larger than
                ``train.feature_gib``.
        """
        encoder = getattr(model, "vision", None)
        if not isinstance(encoder, VisionEncoder) or not encoder.frozen:
            raise FoundryError(
                f"train.feature_views={config.feature_views} needs a frozen vision encoder: set "
                "model.vision_tuning=frozen with model.vision=efficientnet_lite0 or pretrained, or "
                "train.feature_views=0"
            )
        cameras: tuple[str, ...] = model.config.cameras  # type: ignore[union-attr, assignment]
        shifts = fixed_shifts(config, len(cameras))
        shape = (dataset.num_frames, len(shifts), len(cameras), encoder.grid**2, encoder.width)
        size = 2 * int(np.prod(shape)) / _GIB
        if size > config.feature_gib:
            fits = int(config.feature_gib / (size / len(shifts)))
            raise FoundryError(
                f"train.feature_views={config.feature_views} takes {size:.1f} GiB, train.feature_gib allows "
                f"{config.feature_gib:g}; {f'use {fits} views, or ' if fits else ''}allow more, or set "
                "train.feature_views=0"
            )
        path = file_of(dataset, encoder, cameras, shifts)
        kept = _read(path, shape)
        if kept is not None:
            return cls(kept)
        features, temporary = _room(path, shape)
        try:
            starts = range(0, shape[0], _FRAMES)
            for start in track(starts, "features", console=Console(stderr=True), disable=not progress):
                frames = np.arange(start, min(start + _FRAMES, shape[0]))
                features[frames] = encoded(encoder, dataset, frames, cameras, shifts)
            if temporary is not None:
                features.flush()  # type: ignore[attr-defined]
                temporary.replace(path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)  # what was not finished is gigabytes that nobody would read
        kept = _read(path, shape) if temporary is not None else None
        return cls(features if kept is None else kept)

    def draw(
        self, frames: npt.NDArray[np.int64], chance: np.random.Generator, rows: Rows
    ) -> npt.NDArray[np.float16]:
        """Features (B, C, P, D) of frames, each camera's from a view of its own.

        Args:
            frames: of these rows of a batch.
            chance: that of the whole batch, whichever rows are asked for.
            rows: which of the batch they are.
        """
        _, views, cameras = self.features.shape[:3]
        drawn = chance.integers(0, views, (rows.total, cameras))[rows.first : rows.stop]
        return self.features[frames[:, None], drawn, np.arange(cameras)[None]]


def fixed_shifts(config: TrainConfig, cameras: int) -> npt.NDArray[np.int64]:
    """Shifts in pixels (K, C, 2), rows and columns; the first view is not shifted."""
    shifts = generator(config.seed, FEATURES, 0).integers(
        -config.shift, config.shift + 1, (config.feature_views, cameras, 2)
    )
    shifts[0] = 0
    return shifts


def encoded(
    encoder: VisionEncoder,
    dataset: RobotDataset,
    frames: npt.NDArray[np.int64],
    cameras: tuple[str, ...],
    shifts: npt.NDArray[np.int64],
) -> npt.NDArray[np.float16]:
    """Features (frames, K, C, P, D) of a few frames."""
    device = next(encoder.parameters()).device
    raw = dataset.batch(frames, 1)["images"]
    images = np.stack([raw[camera] for camera in cameras], axis=1)
    views = []
    for shift_C2 in shifts:
        flat = images.reshape(-1, *images.shape[2:])
        moved = shift_images(flat, np.tile(shift_C2, (len(frames), 1))).reshape(images.shape)
        with torch.inference_mode():
            views.append(encoder.tokens(torch.from_numpy(moved).to(device)).half().cpu().numpy())
    return np.stack(views, axis=1)


def file_of(
    dataset: RobotDataset, encoder: VisionEncoder, cameras: tuple[str, ...], shifts: npt.NDArray[np.int64]
) -> Path:
    """Where the features are kept; the name is a hash of what they depend on."""
    about = {
        "dataset": dataset.fingerprint,
        "encoder": [type(encoder).__name__, encoder.fingerprint(), encoder.grid, encoder.width],
        "pixels": getattr(encoder, "side", None),
        "scaling": encoder.assets,
        "cameras": list(cameras),
        "shifts": shifts.tolist(),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    return Path(dataset.root) / FOLDER / f"{key}.npy"


def _read(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float16] | None:
    """The kept features, read as they are needed; None where there are none, or a damaged file."""
    with suppress(OSError, ValueError):
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        if features.shape == shape and features.dtype == np.float16:
            return features
    return None


def _room(path: Path, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float16], Path | None]:
    """An array to fill: of a new file under a temporary name, or memory where none can be written."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        if not path.parent.parent.is_dir():
            raise FileNotFoundError(path)
        path.parent.mkdir(exist_ok=True)
        file = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        _reserve(temporary)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return np.empty(shape, np.float16), None
    return file, temporary


def _reserve(path: Path) -> None:
    """Have the disk keep room for a whole sparse file; OSError where there is none.

    A write through a memory map that finds the disk full is no error but the end of the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
