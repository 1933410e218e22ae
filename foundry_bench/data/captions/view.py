"""Three pictures of one view: the one that is saved, the geom in each pixel, and colours without light."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from foundry_bench.envs.render import CAMERAS, Renderer
from foundry_bench.envs.scene import render_profile


@dataclass(frozen=True)
class Picture:
    """What a camera sees.

    Attributes:
        image: uint8 (size, size, 3), as policies see it.
        geoms: int32 (size, size), the number of the geom that each pixel shows; -1 for none.
        flat: uint8 (size, size, 3), drawn with even ambient light only.
    """

    image: np.ndarray
    geoms: np.ndarray
    flat: np.ndarray


class Camera(Renderer):
    """A renderer that also tells which geom each pixel shows.

    The segmentation is drawn without multisampling, which would blend the numbers of two geoms at an edge:
    pixels of an `exact` image at an edge may show a mixture, their label is the geom in the pixel's middle.
    """

    def __init__(self, model: mujoco.MjModel, profile: str, image_size: int) -> None:
        super().__init__(model, render_profile(profile), image_size)
        self._plain = self._context
        if model.vis.quality.offsamples:
            samples, model.vis.quality.offsamples = model.vis.quality.offsamples, 0
            self._plain = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
            model.vis.quality.offsamples = samples
        self._labels = mujoco.MjvScene(model, maxgeom=1000)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG"):
            self._labels.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._solid = mujoco.MjvOption()
        self._solid.geomgroup[0], self._solid.geomgroup[1] = 0, 1
        self._solid.sitegroup[:] = 0

    def picture(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> Picture:
        """Draw a camera three times."""
        image = self.render(model, data, camera)
        geoms = self._segment(model, data, camera)
        return Picture(image, geoms, self._flat(model, data, camera))

    def close(self) -> None:
        """Free what is held on the graphics side."""
        if self._plain is not self._context:
            self._plain.free()
        super().close()

    def _segment(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
        flags = self._labels.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        frame = self._draw(model, data, camera).astype(np.int64)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        code = frame[..., 0] + frame[..., 1] * 256 + frame[..., 2] * 65536  # 0: nothing was drawn
        geom_of = np.full(int(code.max()) + 1, -1, dtype=np.int32)
        for number in range(self._labels.ngeom):
            drawn = self._labels.geoms[number]
            if drawn.objtype == mujoco.mjtObj.mjOBJ_GEOM and 0 <= drawn.segid < len(geom_of) - 1:
                geom_of[drawn.segid + 1] = drawn.objid
        return geom_of[code]

    def _flat(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
        light, active = model.vis.headlight, model.light_active.copy()
        before = [np.array(values) for values in (light.ambient, light.diffuse, light.specular)]
        on = int(light.active)
        try:
            light.ambient[:], light.diffuse[:], light.specular[:] = 1.0, 0.0, 0.0
            light.active = 1
            model.light_active[:] = 0
            return self._draw(model, data, camera)
        finally:
            light.ambient[:], light.diffuse[:], light.specular[:] = before
            light.active = on
            model.light_active[:] = active

    def _draw(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = model.camera(CAMERAS[camera]).id
        mujoco.mjv_updateScene(
            model, data, self._solid, self._perturb, view, mujoco.mjtCatBit.mjCAT_ALL, self._labels
        )
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._plain)
        mujoco.mjr_render(self._viewport, self._labels, self._plain)
        frame = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(frame, None, self._viewport, self._plain)
        return np.ascontiguousarray(frame[::-1, ::-1])  # turned as the image is
