"""How image-text pairs are made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from foundry_bench.data.images import FORMATS
from foundry_bench.errors import FoundryError, nearest

#: Raise when the same settings lead to other scenes or other words.
CAPTIONS_VERSION = "captions-1"
VIEWS = ("agentview", "wrist")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CaptionsConfig:
    """How scenes are randomised and drawn.

    Attributes:
        scenes: how many scenes; each is one state of one task, drawn by every camera.
        seed: decides scenes, words and splits.
        image_size: side of the images in pixels.
        cameras: `agentview`, `wrist` or both.
        scrambled: share of the scenes whose objects lie elsewhere than the task puts them.
        painted: share of the plain objects (bowls, plates, white mugs) of a scrambled scene that get another
            colour, so that colours cannot be guessed from names.
        camera_jitter: factor on the camera's displacement (at 1: up to 3 cm, 2 degrees, 2 degrees of view).
        light_jitter: factor on the variation of brightness, tint and place of the lights.
        image_format: `png` or `jpeg`.
        render_profile: `fast` or `exact`.
    """

    scenes: int = 400
    seed: int = 0
    image_size: int = 96
    cameras: tuple[str, ...] = VIEWS
    scrambled: float = 0.7
    painted: float = 0.35
    camera_jitter: float = 1.0
    light_jitter: float = 1.0
    image_format: str = "png"
    render_profile: str = "fast"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if self.scenes < 1:
            raise FoundryError(f"captions.scenes={self.scenes}: must be at least 1")
        if self.image_size < 32:
            raise FoundryError(f"captions.image_size={self.image_size}: must be at least 32")
        for name in ("scrambled", "painted"):
            if not 0 <= getattr(self, name) <= 1:
                raise FoundryError(f"captions.{name}={getattr(self, name)}: must be between 0 and 1")
        for name in ("camera_jitter", "light_jitter"):
            if not 0 <= getattr(self, name) <= 3:
                raise FoundryError(f"captions.{name}={getattr(self, name)}: must be between 0 and 3")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise FoundryError(f"captions.cameras={list(self.cameras)}: name each camera once, at least one")
        for camera in self.cameras:
            if camera not in VIEWS:
                raise FoundryError(f"captions.cameras: no camera '{camera}', {nearest(camera, VIEWS)}")
        if self.image_format not in FORMATS:
            raise FoundryError(
                f"captions.image_format={self.image_format}: no such format, "
                f"{nearest(self.image_format, FORMATS)}"
            )

    def scene_settings(self) -> dict[str, object]:
        """What one scene depends on beside its task and number: everything but how many there are."""
        settings = {key: value for key, value in asdict(self).items() if key != "scenes"}
        return {**settings, "cameras": list(self.cameras), "version": CAPTIONS_VERSION}


def digest(value: object) -> str:
    """Twelve hexadecimal digits that stand for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
