"""Camera, light and paint of a model: changed, and put back."""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np

from foundry_bench.data.captions.config import CaptionsConfig


class Looks:
    """What a model looks like."""

    _ARRAYS = (
        "cam_pos", "cam_quat", "cam_fovy", "light_pos", "light_diffuse", "mat_rgba",
    )  # fmt: skip

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._before = {name: getattr(model, name).copy() for name in self._ARRAYS}
        self._headlight = {
            name: np.array(getattr(model.vis.headlight, name)) for name in ("ambient", "diffuse")
        }

    def restore(self) -> None:
        """Put everything back as the task has it."""
        for name, values in self._before.items():
            getattr(self._model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values

    def paint(self, geoms: Iterable[int], factors: tuple[float, float, float]) -> None:
        """Multiply the colours of the geoms' materials, textures included, by red, green and blue factors."""
        for geom in geoms:
            material = int(self._model.geom_matid[geom])
            if material >= 0:
                self._model.mat_rgba[material, :3] = factors

    def jitter(self, config: CaptionsConfig, generator: np.random.Generator) -> None:
        """Move every camera a little, and change brightness, tint and place of every light."""
        model, amount, light = self._model, config.camera_jitter, config.light_jitter
        for camera in range(model.ncam):
            near = 0.15 if model.cam_bodyid[camera] != 0 else 1.0  # one that is fixed to the hand moves less
            model.cam_pos[camera] += near * amount * generator.uniform(-0.03, 0.03, 3)
            model.cam_fovy[camera] += near * amount * generator.uniform(-2.0, 2.0)
            axis, turned = generator.normal(size=3), np.zeros(4)
            axis *= near * amount * np.deg2rad(2.0) * generator.random() / np.linalg.norm(axis)
            mujoco.mju_axisAngle2Quat(turned, axis / np.linalg.norm(axis), float(np.linalg.norm(axis)))
            mujoco.mju_mulQuat(model.cam_quat[camera], model.cam_quat[camera].copy(), turned)
        tint = 1 + light * generator.uniform(-0.06, 0.06, 3)
        for number in range(model.nlight):
            bright = 1 + light * generator.uniform(-0.35, 0.3)
            model.light_diffuse[number] *= max(bright, 0.1) * tint
            model.light_pos[number] += light * generator.uniform(-0.5, 0.5, 3) * [1, 1, 0.3]
        even = max(1 + light * generator.uniform(-0.25, 0.35), 0.1)
        model.vis.headlight.ambient[:] *= even * tint
        model.vis.headlight.diffuse[:] *= even * tint
