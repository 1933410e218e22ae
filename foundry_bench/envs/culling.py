"""Which geoms a camera cannot see, so that nobody draws them: most of the arm, for the camera in its hand.

A frame in software costs what its vertices cost, whether they end up in it or not. A geom is left out when
its bounding box lies wholly outside of the camera's view, and its mirror images too; then its absence changes
no pixel. Where a light casts shadows nothing is left out: what is out of sight may throw one into the
picture.

Shapes: G geoms, P planes of the view, M mirrors.
"""

from __future__ import annotations

import mujoco
import numpy as np
import numpy.typing as npt

_MARGIN = 1e-3  # metres that a box must be out of sight by
HIDDEN_GROUP = 5  # of the six groups of geoms, one that a renderer's options leave out

_PLANE, _BOX, _MESH = (
    int(kind) for kind in (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_MESH)
)


class Culling:
    """Finds the geoms of one model that a camera cannot see.

    Args:
        model: the compiled scene.
        shadows, reflections: whether the renderer draws them.
    """

    def __init__(self, model: mujoco.MjModel, shadows: bool, reflections: bool) -> None:
        self._shadows = shadows
        material = model.geom_matid
        shiny = (material >= 0) & (model.mat_reflectance[material] > 0) if model.nmat else material < -1
        # A plane has no end; what else is no mesh is drawn in no time, but a mirror costs a second drawing.
        worthwhile = (model.geom_type == _MESH) | (shiny & (model.geom_type == _BOX))
        self._geoms = np.flatnonzero(worthwhile & (model.geom_group > 0))
        self._middle_G3 = model.geom_aabb[self._geoms, :3].copy()
        self._half_G3 = model.geom_aabb[self._geoms, 3:].copy()
        mirrors = shiny & np.isin(model.geom_type, (_PLANE, _BOX)) & (model.geom_group > 0)
        self._mirrors = np.flatnonzero(mirrors) if reflections else np.empty(0, np.int64)

    def unseen(self, model: mujoco.MjModel, data: mujoco.MjData, camera: int) -> npt.NDArray[np.int64]:
        """Numbers of the geoms whose absence cannot change a frame of a fixed camera; none where in doubt."""
        if self._shadows and model.light_castshadow.any():
            return np.empty(0, np.int64)
        if model.cam_orthographic[camera] or model.cam_sensorsize[camera].any():
            return np.empty(0, np.int64)
        eye = data.cam_xpos[camera]
        normals_P3 = _planes(data.cam_xmat[camera].reshape(3, 3), model.cam_fovy[camera])
        axes_G33 = data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        centre_G3 = data.geom_xpos[self._geoms] + np.einsum("gij,gj->gi", axes_G33, self._middle_G3)
        outside_G = _outside(centre_G3 - eye, axes_G33, self._half_G3, normals_P3)
        out_of_sight = set(self._geoms[outside_G].tolist())
        for mirror in self._mirrors:
            if int(mirror) in out_of_sight:
                continue
            # MuJoCo's mirrors are the upper sides of planes and boxes.
            normal = data.geom_xmat[mirror].reshape(3, 3)[:, 2]
            rise = model.geom_size[mirror, 2] if model.geom_type[mirror] == _BOX else 0.0
            away_G = (centre_G3 - data.geom_xpos[mirror]) @ normal - rise
            image_G3 = centre_G3 - 2 * away_G[:, None] * normal
            turned_G33 = axes_G33 - 2 * normal[:, None] * np.einsum("i,gij->gj", normal, axes_G33)[:, None, :]
            outside_G &= _outside(image_G3 - eye, turned_G33, self._half_G3, normals_P3)
        return self._geoms[outside_G]


def _planes(axes_33: npt.NDArray[np.float64], fovy: float) -> npt.NDArray[np.float64]:
    """Outward normals (P, 3) of the sides of a square view and of what is behind the camera."""
    right, up, back = axes_33.T
    half = np.deg2rad(fovy) / 2
    sides = [np.cos(half) * side + np.sin(half) * back for side in (right, -right, up, -up)]
    return np.stack([*sides, back])


def _outside(
    centre_G3: npt.NDArray[np.float64],
    axes_G33: npt.NDArray[np.float64],
    half_G3: npt.NDArray[np.float64],
    normals_P3: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Whether boxes, given relative to the camera, lie wholly beyond one of the planes."""
    distance_GP = centre_G3 @ normals_P3.T
    reach_GP = np.einsum("gpj,gj->gp", np.abs(np.einsum("gij,pi->gpj", axes_G33, normals_P3)), half_G3)
    return (distance_GP - reach_GP > _MARGIN).any(axis=1)
