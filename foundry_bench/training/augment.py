"""Augmentation on numpy arrays, in the thread that prepares batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shift_images(images: npt.NDArray[np.uint8], shifts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Move each image by whole pixels; what comes in at the border repeats the border.

    Copying slices is several times faster than gathering pixels by index.

    Args:
        images: (N, S, S, 3).
        shifts: (N, 2), rows and columns: the new pixel (y, x) is the old (y + shift[0], x + shift[1]).
    """
    size = images.shape[1]
    out = np.empty_like(images)
    for image, new, (down, right) in zip(images, out, shifts.tolist(), strict=True):
        top, bottom = max(0, -down), size - max(0, down)
        left, end = max(0, -right), size - max(0, right)
        new[top:bottom, left:end] = image[top + down : bottom + down, left + right : end + right]
        if top:
            new[:top, left:end] = new[top, left:end]
        if bottom < size:
            new[bottom:, left:end] = new[bottom - 1, left:end]
        if left:
            new[:, :left] = new[:, left : left + 1]
        if end < size:
            new[:, end:] = new[:, end - 1 : end]
    return out
