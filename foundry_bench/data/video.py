"""Camera frames as video: one clip per camera and episode, and the mp4 files that clips are joined into.

The settings are those with which lerobot 0.4.4 encodes (``lerobot/datasets/video_utils.py``): a key frame
every second frame, so that any frame is at most two decodings away, 4:2:0 chroma, and for AV1 SVT-AV1 with
constant rate factor 30. H.264 uses rate factor 18, because lerobot's 30 loses small objects at 96 to 128
pixels: 31 dB instead of 39 dB of peak signal-to-noise ratio on LIBERO's frames, for which 18 takes a tenth of
the bytes of PNG. One encoder thread: same frames, same bytes.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import numpy.typing as npt

from foundry_bench.errors import FoundryError

av.logging.set_level(av.logging.PANIC)  # what goes wrong comes as an exception; FFmpeg need not print it too
os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1: errors only

#: What `encode_clip` can write: our name -> encoder and its options.
_ENCODERS = {
    # x264's lookahead is off: it is of no use with a key frame every second frame, and it made other bytes of
    # the same frames in one clip of a hundred (seen at 32 pixels; not so with asm=0).
    "h264": (
        "libx264",
        {"g": "2", "crf": "18", "bf": "0", "rc-lookahead": "0", "sc_threshold": "0", "threads": "1"},
    ),
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=1"}),
}
VIDEO_FORMATS = tuple(_ENCODERS)
PIXEL_FORMAT = "yuv420p"

#: What decoding of damaged or hostile bytes may raise.
VIDEO_ERRORS = (av.FFmpegError, EOFError, IndexError, OSError, OverflowError, ValueError)
#: The only kind of file that is opened. FFmpeg left to guess follows playlists, to other files and hosts.
CONTAINER = "mp4"


@dataclass(frozen=True)
class ClipInfo:
    """What a video stream says of itself.

    Attributes:
        frames: how many frames it has.
        height, width: in pixels.
        codec: FFmpeg's name of the codec, such as ``h264`` or ``av1``.
        fps: average frames per second.
    """

    frames: int
    height: int
    width: int
    codec: str
    fps: float


def encode_clip(frames: Sequence[npt.NDArray[np.uint8]], fps: int, codec: str) -> bytes:
    """Encode frames, each (height, width, 3) uint8 RGB, to the bytes of an mp4 file.

    Args:
        frames: at least one; height and width are even, because chroma is stored at half the resolution.
        fps: frames per second.
        codec: ``h264`` or ``av1``.

    Raises:
        FoundryError: this build of PyAV lacks the encoder.
        ValueError: no frames, an odd size, or frames of several sizes.
    """
    name, options = _ENCODERS[codec]
    height, width = frames[0].shape[:2] if len(frames) else (0, 0)
    if height % 2 or width % 2 or not height * width:
        raise ValueError(f"frames of {width}x{height} pixels cannot be encoded as video: sides must be even")
    if name not in av.codecs_available:
        raise FoundryError(f"this build of PyAV has no {name}; choose another demos.video_codec")
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream: Any = container.add_stream(name, rate=fps, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = width, height, PIXEL_FORMAT
        for frame in frames:
            if frame.shape != (height, width, 3):
                raise ValueError(f"frames have shapes {frames[0].shape} and {frame.shape}")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return sink.getvalue()


def clip_info(clip: bytes) -> ClipInfo:
    """Describe a clip without decoding it.

    Raises:
        ValueError: the bytes are not a video.
    """
    with _reading(clip) as container:
        return stream_info(container)


def stream_info(container: Any) -> ClipInfo:
    """Describe the first video stream of an open container.

    Raises:
        ValueError: it has none, or the stream says nothing useful.
    """
    if not container.streams.video:
        raise ValueError("there is no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError("its codec is unknown")
    rate = stream.average_rate or stream.base_rate or 0
    return ClipInfo(
        stream.frames, stream.height, stream.width, stream.codec_context.codec.canonical_name, float(rate)
    )


def decode_clip(clip: bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames of a clip, one after the other, (height, width, 3) uint8 RGB.

    Raises:
        ValueError: the bytes are not a video, or are damaged.
    """
    with _reading(clip) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield rgb(frame)


def rgb(frame: Any) -> npt.NDArray[np.uint8]:
    """Pixels of a decoded frame."""
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


class ClipWriter:
    """Joins clips into one mp4 file without decoding them.

    All clips must come from `encode_clip` with the same codec, size and fps: the file has one header for all.

    Args:
        path: the file to write; its folder is made.
        fps: frames per second of every clip.
    """

    def __init__(self, path: Path, fps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.frames = 0
        self.size = 0
        self._tick = Fraction(1, fps)
        # Written through our own file object, so that a full disk is an OSError with its number.
        self._file = path.open("wb")
        self._container = av.open(self._file, "w", format="mp4")
        self._stream: Any = None
        self._header = b""

    def add(self, clip: bytes) -> tuple[float, float]:
        """Append a clip; returns the time in seconds at which it begins and ends in the file.

        Raises:
            ValueError: the clip is damaged or was encoded with other settings than the first.
        """
        begin = self.frames
        with _reading(clip) as source:
            template = source.streams.video[0]
            packets = [packet for packet in source.demux(template) if packet.dts is not None]
            header = bytes(template.codec_context.extradata or b"")
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(template, opaque=True)
                self._stream.time_base = self._tick
                self._header = header
            elif header != self._header:
                raise ValueError("the clip was encoded with other settings than the one before it")
        for packet in packets:
            self._container.mux(_placed(packet, self._stream, self.frames, self._tick))
            self.size += packet.size
            self.frames += 1
        return float(begin * self._tick), float(self.frames * self._tick)

    def close(self) -> None:
        """Finish the file."""
        try:
            self._container.close()
        finally:
            self._file.close()


def cut_clip(path: Path, first: int, count: int, fps: int) -> bytes:
    """``count`` frames of a file written by `ClipWriter` from its ``first`` one on, as a clip, not decoded.

    Raises:
        ValueError: the file is damaged, shorter, or has no key frame there.
    """
    sink = io.BytesIO()
    tick = Fraction(1, fps)
    with _reading(path) as source, av.open(sink, "w", format="mp4") as target:
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template, opaque=True)
        stream.time_base = tick
        source.seek(round(first * tick / template.time_base), stream=template, backward=True)
        wanted = (
            packet
            for packet in source.demux(template)
            if packet.dts is not None and round(packet.pts * packet.time_base / tick) >= first
        )
        number = 0
        for number, packet in enumerate(itertools.islice(wanted, count), 1):
            if round(packet.pts * packet.time_base / tick) != first + number - 1:
                raise ValueError(f"{path}: frame {first + number - 1} is missing or stored out of order")
            if number == 1 and not packet.is_keyframe:
                raise ValueError(f"{path}: frame {first} is no key frame; make the dataset again")
            target.mux(_placed(packet, stream, number - 1, tick))
    if number != count:
        raise ValueError(f"{path}: ends after {first + number} frames, expected {first + count}")
    return sink.getvalue()


def _placed(packet: Any, stream: Any, frame: int, tick: Fraction) -> Any:
    """The packet as frame number ``frame`` of another stream."""
    packet.stream, packet.time_base = stream, tick
    packet.pts = packet.dts = frame
    packet.duration = 1
    return packet


@contextmanager
def _reading(source: bytes | Path) -> Iterator[Any]:
    """Open for reading; whatever is wrong with the bytes is a ValueError."""
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with av.open(opened, "r", format=CONTAINER) as container:
            if not container.streams.video:
                raise ValueError("there is no video stream")
            yield container
    except VIDEO_ERRORS as error:
        if isinstance(error, ValueError) and not isinstance(error, av.FFmpegError):
            raise
        raise ValueError(f"not a readable video ({str(error).split(': ')[0]})") from error
