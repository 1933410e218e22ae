"""Rendering with one OpenGL context per process, shared by every scene.

A second context in a process silently draws blank frames: when the first one is collected, its destructor
un-binds the second. So there is one, made on first use and never freed.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.culling import HIDDEN_GROUP, Culling
from foundry_bench.envs.scene import RenderProfile
from foundry_bench.errors import FoundryError

#: Our camera names and LIBERO's.
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
_MAX_GEOMS = 1000  # as robosuite; a scene with more would be cut off
_OFF_WIDTH, _OFF_HEIGHT = 640, 480  # robosuite's offscreen buffer; larger images enlarge it


@lru_cache(maxsize=1)
def _context() -> Any:
    """The process's OpenGL context, made current."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        from mujoco.gl_context import GLContext  # type: ignore[attr-defined]

        context = GLContext(_OFF_WIDTH, _OFF_HEIGHT)
        context.make_current()
    except (
        Exception
    ) as error:  # the GL stack raises whatever it likes, ImportError and AttributeError included
        raise FoundryError(
            f"no OpenGL context for rendering (MUJOCO_GL={os.environ.get('MUJOCO_GL')}): {error}; "
            "install it with "
            "`apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri`, then run `foundry-bench doctor`"
        ) from error
    return context


class Renderer:
    """Draws a model's cameras. Belongs to the thread that made it.

    Args:
        model: the compiled scene.
        profile: `exact` or `fast`.
        image_size: side of the square images in pixels.
    """

    def __init__(self, model: mujoco.MjModel, profile: RenderProfile, image_size: int) -> None:
        _context()
        self.image_size = image_size
        model.vis.global_.offwidth = image_size
        model.vis.global_.offheight = image_size
        # No text is drawn, and the smallest font is ready a tenth of a second sooner.
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # collision geoms
        self._options.geomgroup[1] = 1
        self._options.geomgroup[HIDDEN_GROUP] = 0
        self._culling = Culling(model, shadows=profile.effects, reflections=profile.effects)
        self._perturb = mujoco.MjvPerturb()
        self._viewport = mujoco.MjrRect(0, 0, image_size, image_size)
        self._camera_ids = {name: model.camera(own).id for name, own in CAMERAS.items()}
        if not profile.effects:
            flag = mujoco.mjtRndFlag
            for effect in (flag.mjRND_SHADOW, flag.mjRND_REFLECTION, flag.mjRND_SKYBOX, flag.mjRND_HAZE):
                self._scene.flags[effect] = 0

    def render(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
        """One upright frame, uint8 of shape (image_size, image_size, 3)."""
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = self._camera_ids[camera]
        unseen = self._culling.unseen(model, data, view.fixedcamid)
        groups = model.geom_group[unseen]  # a copy
        model.geom_group[unseen] = HIDDEN_GROUP
        try:
            mujoco.mjv_updateScene(
                model, data, self._options, self._perturb, view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
            )
        finally:
            model.geom_group[unseen] = groups
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        frame = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(frame, None, self._viewport, self._context)
        # OpenGL's first row is the bottom one. LIBERO hands out that order; published harnesses turn it by
        # 180 degrees ([::-1, ::-1]), and so does this, so that the image is what those policies see.
        return np.ascontiguousarray(frame[::-1, ::-1])

    def close(self) -> None:
        """Free the scene's textures and meshes on the graphics side."""
        self._context.free()
