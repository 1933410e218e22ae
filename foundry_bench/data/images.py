"""Encoding and decoding camera frames: RGB uint8 arrays to PNG or JPEG bytes and back."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

# Frames are small and decoded one after the other; OpenCV's own threads would only fight with the others.
cv2.setNumThreads(1)

FORMATS = ("png", "jpeg")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SETTINGS = {
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
}
_READ = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def encode_image(image: npt.NDArray[np.uint8], image_format: str = "png") -> bytes:
    """Encode one frame, (height, width, 3) uint8 RGB, to ``png`` (lossless) or ``jpeg`` bytes."""
    suffix, settings = _SETTINGS[image_format]
    done, buffer = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ValueError(f"a frame of shape {image.shape} cannot be encoded as {image_format}")
    return buffer.tobytes()


def decode_image(encoded: bytes) -> npt.NDArray[np.uint8]:
    """Decode PNG or JPEG bytes to (height, width, 3) uint8 RGB.

    Raises:
        ValueError: the bytes are not an image that can be decoded.
    """
    image = _decode(np.frombuffer(encoded, np.uint8))
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def decode_into(encoded: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
    """Decode into ``out``, a C-contiguous (size, size, 3) uint8 array.

    Raises:
        ValueError: the bytes are no image, or one of another size; the message says which.
    """
    header = image_format_and_size(encoded[:24].tobytes())
    # A PNG tells its size before anything is allocated for it, so a decompression bomb stops here.
    if header[1] is not None and header[1] != out.shape[:2]:
        raise ValueError(_other_size(header[1], out))
    image = _decode(encoded)
    if image.shape != out.shape:
        raise ValueError(_other_size(image.shape, out))
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)


def image_format_and_size(head: bytes) -> tuple[str, tuple[int, int] | None]:
    """Format of an encoded image from its first 24 bytes, and (height, width) where they tell it (PNG).

    An unknown beginning counts as ``jpeg`` without a size: decoding decides.
    """
    if head.startswith(_PNG_SIGNATURE) and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return "png", (height, width)
    return "jpeg", None


def _decode(encoded: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    try:
        image = cv2.imdecode(encoded, _READ) if encoded.size else None
    except cv2.error:
        image = None
    if image is None:
        raise ValueError("the bytes are not an image that can be decoded")
    return np.asarray(image, np.uint8)


def _other_size(shape: tuple[int, ...], out: npt.NDArray[np.uint8]) -> str:
    return f"the image is {shape[1]}x{shape[0]} pixels instead of {out.shape[1]}x{out.shape[0]}"
