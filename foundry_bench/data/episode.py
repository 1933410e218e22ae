"""One demonstration in memory, and the description of a dataset of them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from foundry_bench.data.images import FORMATS, decode_image, image_format_and_size
from foundry_bench.data.video import VIDEO_FORMATS, clip_info, encode_clip
from foundry_bench.errors import FoundryError, nearest

STATE_NAMES = ("eef_x", "eef_y", "eef_z", "eef_rx", "eef_ry", "eef_rz", "finger_left", "finger_right")
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper")
_READ_ONLY = ("hevc", "vp9", "vp8", "mpeg4", "mjpeg")  # codecs met in datasets made elsewhere


@dataclass(frozen=True)
class DatasetSpec:
    """What every episode of a dataset has in common.

    Attributes:
        fps: control steps, and so frames, per simulated second.
        cameras: names of the cameras, in order.
        image_size: height and width of every frame in pixels.
        state_names: one name for each number of the state.
        action_names: one name for each number of the action.
        image_format: how frames are stored: as images, ``png`` (lossless) or ``jpeg``, or as video, ``h264``
            or ``av1`` (datasets made elsewhere may have other codecs, which can be read only).
    """

    fps: int = 20
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size: int = 96
    state_names: tuple[str, ...] = STATE_NAMES
    action_names: tuple[str, ...] = ACTION_NAMES
    image_format: str = "png"

    def __post_init__(self) -> None:
        for name in ("cameras", "state_names", "action_names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        known = (*FORMATS, *VIDEO_FORMATS)
        if self.image_format not in (*known, *_READ_ONLY):
            raise FoundryError(f"image_format={self.image_format}: {nearest(self.image_format, known)}")
        if self.fps <= 0 or self.image_size <= 0:
            raise FoundryError(f"fps={self.fps}, image_size={self.image_size}: both must be positive")
        if len(set(self.cameras)) != len(self.cameras) or any("/" in name for name in self.cameras):
            raise FoundryError(f"cameras={list(self.cameras)}: names must differ and hold no '/'")
        if self.image_format in VIDEO_FORMATS and self.image_size % 2:
            raise FoundryError(
                f"image_size={self.image_size}: frames stored as video need an even size; "
                f"use {self.image_size + 1} or store images"
            )

    @property
    def is_video(self) -> bool:
        """Whether frames are stored as video."""
        return self.image_format not in FORMATS


@dataclass(eq=False)
class Episode:
    """One demonstration: T frames and all that is needed to make it again.

    Attributes:
        suite: name of the suite.
        task_index: place of the task in its suite.
        instruction: what the robot was asked to do.
        seed: the seed that the start state and the noise came from.
        expert: name and version of what acted.
        images: camera -> T encoded frames (PNG or JPEG bytes); empty where ``clips`` has them.
        state: (T, 8) float32, robot state before the action of the frame.
        action: (T, 7) float32, the executed action, noise included.
        label: (T, 7) float32, the expert's clean action: what a policy imitates.
        init_state: (D,) float64, the simulator state the episode started from.
        fixtures: body name -> position (3) and quaternion (4) of what the simulator state does not hold.
        info: small JSON object: noise, attempts, versions. ``info["success"]`` defaults to true.
        clips: camera -> the T frames as the bytes of one mp4 file, where they are stored as video.
    """

    suite: str
    task_index: int
    instruction: str
    seed: int
    expert: str
    images: dict[str, list[bytes]]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    init_state: npt.NDArray[np.float64]
    fixtures: dict[str, list[float]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    clips: dict[str, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.state)

    def check(self, spec: DatasetSpec, name: str) -> None:
        """Refuse an episode that does not fit ``spec``.

        Raises:
            FoundryError: naming the episode, what is wrong with it and what was expected.
        """
        length = len(self)
        if length == 0:
            raise FoundryError(f"episode {name}: has no frames; leave it out")
        self._check_array("state", self.state, (length, len(spec.state_names)), name)
        self._check_array("action", self.action, (length, len(spec.action_names)), name)
        self._check_array("label", self.label, (length, len(spec.action_names)), name)
        self._check_array("init_state", self.init_state, (np.size(self.init_state),), name)
        for camera in spec.cameras:
            (self._check_clip if spec.is_video else self._check_images)(camera, spec, name)
        if not -(2**63) <= self.seed < 2**63:
            raise FoundryError(
                f"episode {name}: seed {self.seed} does not fit into 64 bits; give a smaller one"
            )
        for field_name in ("fixtures", "info"):
            canonical_json(getattr(self, field_name), f"episode {name}: {field_name}")

    def as_stored(self, spec: DatasetSpec, name: str) -> Episode:
        """This episode with its frames in the form in which ``spec`` stores them: images become clips.

        Raises:
            FoundryError: a frame cannot be decoded or has another size than the others.
        """
        if not spec.is_video or not self.images:
            return self
        clips = dict(self.clips)
        for camera, frames in self.images.items():
            try:
                clips[camera] = encode_clip(
                    [decode_image(frame) for frame in frames], spec.fps, spec.image_format
                )
            except ValueError as error:
                raise FoundryError(
                    f"episode {name}: camera {camera!r}: {error}; drop this episode"
                ) from error
        return dataclasses.replace(self, images={}, clips=clips)

    @staticmethod
    def _check_array(field_name: str, array: npt.NDArray[Any], shape: tuple[int, ...], name: str) -> None:
        if np.shape(array) != shape:
            raise FoundryError(f"episode {name}: {field_name} has shape {np.shape(array)}, expected {shape}")
        if not np.isfinite(array).all():
            step = int(np.argwhere(~np.isfinite(array))[0][0])
            raise FoundryError(
                f"episode {name}: {field_name} is NaN or infinite at {step}; drop this episode"
            )

    def _check_clip(self, camera: str, spec: DatasetSpec, name: str) -> None:
        clip = self.clips.get(camera)
        if clip is None:
            raise FoundryError(f"episode {name}: camera {camera!r} is missing; it has {sorted(self.clips)}")
        problem = _clip_problem(clip, len(self), spec)
        if problem:
            raise FoundryError(f"episode {name}: video of camera {camera!r}: {problem}")

    def _check_images(self, camera: str, spec: DatasetSpec, name: str) -> None:
        frames = self.images.get(camera)
        if frames is None:
            raise FoundryError(f"episode {name}: camera {camera!r} is missing; it has {sorted(self.images)}")
        if len(frames) != len(self):
            raise FoundryError(
                f"episode {name}: camera {camera!r} has {len(frames)} frames for {len(self)} states"
            )
        for step, frame in enumerate(frames):
            image_format, size = image_format_and_size(frame[:24])
            if image_format != spec.image_format:
                raise FoundryError(
                    f"episode {name}: camera {camera!r} frame {step} is not a {spec.image_format} image"
                )
            if size is not None and size != (spec.image_size, spec.image_size):
                raise FoundryError(
                    f"episode {name}: camera {camera!r} frame {step} is {size[1]}x{size[0]} pixels, "
                    f"expected {spec.image_size}"
                )


def _clip_problem(clip: bytes, frames: int, spec: DatasetSpec) -> str:
    """What is wrong with a clip; empty if nothing is."""
    try:
        found = clip_info(clip)
    except ValueError as error:
        return str(error)
    size = spec.image_size
    if found.frames != frames:
        return f"{found.frames} frames for {frames} states"
    if (found.height, found.width) != (size, size):
        return f"{found.width}x{found.height} pixels, expected {size}"
    if found.codec != spec.image_format or round(found.fps) != spec.fps:
        return f"{found.codec} at {found.fps:g} fps, expected {spec.image_format} at {spec.fps}"
    return ""


def canonical_json(value: Any, where: str) -> str:
    """The one JSON text of ``value``: sorted keys, no blanks, finite numbers only.

    Raises:
        FoundryError: naming ``where``, when the value has no such text.
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FoundryError(f"{where} cannot be stored as JSON ({error})") from error


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays as plain numbers and lists, keys as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    return value
