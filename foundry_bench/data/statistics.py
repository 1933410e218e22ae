"""Statistics of a dataset in the form that LeRobotDataset keeps them.

A feature's statistics are a dict with ``min``, ``max``, ``mean``, ``std`` (population), ``q01``, ``q10``,
``q50``, ``q90``, ``q99`` and ``count`` (shape (1,), number of frames). Those of a vector have its shape;
those of a camera have shape (3, 1, 1), one number per colour channel scaled to [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from foundry_bench.data.images import decode_image
from foundry_bench.data.video import decode_clip

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

#: Frames of one camera that are looked at per episode, evenly spaced: decoding all would cost minutes.
FRAMES_PER_EPISODE = 16

Statistics = dict[str, npt.NDArray[Any]]


def vector_statistics(values: npt.NDArray[Any]) -> Statistics:
    """Exact statistics of ``values`` of shape (N, D), computed in float64 over the N frames."""
    table = np.asarray(values, np.float64)
    result: Statistics = {
        "min": table.min(axis=0),
        "max": table.max(axis=0),
        "mean": table.mean(axis=0),
        "std": table.std(axis=0),
        "count": np.array([len(table)]),
    }
    quantiles = np.quantile(table, list(QUANTILES.values()), axis=0)
    result.update(zip(QUANTILES, quantiles, strict=True))
    return result


def image_histogram(frames: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], int]:
    """Histogram (3, 256) of the channel values in some evenly spaced ``frames``, and how many they were."""
    chosen = _chosen(len(frames))
    return _histogram(decode_image(frames[index]) for index in chosen), len(chosen)


def clip_histogram(clip: bytes, frames: int) -> tuple[npt.NDArray[np.int64], int]:
    """The same of the frames that a clip of ``frames`` frames shows when it is decoded."""
    chosen = _chosen(frames)
    wanted = set(chosen.tolist())
    return _histogram(pixels for index, pixels in enumerate(decode_clip(clip)) if index in wanted), len(
        chosen
    )


def _chosen(frames: int) -> npt.NDArray[np.int64]:
    spaced = np.linspace(0, frames - 1, min(FRAMES_PER_EPISODE, frames))
    return np.unique(spaced.round().astype(np.int64))


def _histogram(images: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    histogram = np.zeros((3, 256), np.int64)
    for image in images:
        pixels = image.reshape(-1, 3)
        for channel in range(3):
            histogram[channel] += np.bincount(pixels[:, channel], minlength=256)
    return histogram


def image_statistics(histogram: npt.NDArray[np.int64], frames: int) -> Statistics:
    """Statistics of a camera from the (3, 256) histogram of ``frames`` frames; histograms may be summed."""
    levels = np.arange(256) / 255.0
    cumulative = histogram.cumsum(axis=1)
    total = cumulative[:, -1:]
    mean = (histogram * levels).sum(axis=1, keepdims=True) / total
    variance = (histogram * (levels - mean) ** 2).sum(axis=1, keepdims=True) / total
    result: Statistics = {
        "min": levels[(histogram > 0).argmax(axis=1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(variance),
    }
    for name, quantile in QUANTILES.items():
        result[name] = levels[(cumulative >= quantile * total).argmax(axis=1)]
    shaped: Statistics = {name: value.reshape(3, 1, 1) for name, value in result.items()}
    shaped["count"] = np.array([frames])
    return shaped
