"""What an expert knows: the true state of the scene, as poses and point clouds in the world frame."""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np

from foundry_bench.envs.experts.gripper import gripper_of
from foundry_bench.envs.experts.robosuite_goals import things_of
from foundry_bench.envs.simulation import Simulation

_SPACING = 0.008  # metres between the points sampled on a collision geom
_MAX_PER_SIDE = 24


class World:
    """A read-only view of a simulation for an expert.

    All positions are in metres in the world frame, rotations are 3 x 3 matrices.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.problem = simulation.problem
        self.model = self.problem.model
        self.data = self.problem.data
        robot = self.problem.robot
        self._site = robot.eef_site_id
        self._base = self.model.body(robot.robot_model.root_body).id
        self.gripper = gripper_of(self.problem)
        things = things_of(self.problem.env, self.problem.task.name)
        self.movable = things.movable
        self.bodies = {name: self.model.body(body).id for name, body in things.bodies.items()}
        self._geoms = {
            name: things.seen(self.model, self.collision_geoms(body)) for name, body in self.bodies.items()
        }
        self._parts = {
            name: [self.model.geom(geom).id for geom in geoms] for name, geoms in things.parts.items()
        }
        self.bodies |= {name: int(self.model.geom_bodyid[geoms[0]]) for name, geoms in self._parts.items()}
        self._local = {
            geom: _surface_points(self.model, geom) for geoms in self._geoms.values() for geom in geoms
        }
        self._radius = {geom: np.linalg.norm(points, axis=1).max() for geom, points in self._local.items()}

    # --- the robot ---------------------------------------------------------------------------------

    @property
    def hand(self) -> np.ndarray:
        """Position of the grip site between the finger pads, (3,)."""
        return self.data.site_xpos[self._site].copy()

    @property
    def hand_rotation(self) -> np.ndarray:
        """Rotation of the grip site, (3, 3)."""
        return self.data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def base(self) -> np.ndarray:
        """Position of the robot's base, (3,)."""
        return self.data.xpos[self._base].copy()

    @property
    def opening(self) -> float:
        """Distance between the fingers in metres, 0 to about 0.08."""
        return self.gripper.opening()

    @property
    def closing_axis(self) -> np.ndarray:
        """Unit vector from one finger pad to the other, (3,)."""
        return self.gripper.closing_axis()

    # --- objects -----------------------------------------------------------------------------------

    def position(self, name: str) -> np.ndarray:
        """Position of an object or a site, (3,)."""
        if name in self.bodies:
            return self.data.xpos[self.bodies[name]].copy()
        return self.data.site(name).xpos.copy()

    def rotation(self, name: str) -> np.ndarray:
        """Rotation of an object or a site, (3, 3)."""
        if name in self.bodies:
            return self.data.xmat[self.bodies[name]].reshape(3, 3).copy()
        return self.data.site(name).xmat.reshape(3, 3).copy()

    def points(self, name: str) -> np.ndarray:
        """Points on the collision geoms of an object, (n, 3)."""
        return self._world_points(self._geoms_of(name))

    def other_points(self, excluded: Iterable[str]) -> np.ndarray:
        """Points on everything but the excluded objects, the robot and the table, (n, 3)."""
        left_out = set(excluded)
        return self._world_points(
            [geom for name, geoms in self._geoms.items() if name not in left_out for geom in geoms]
        )

    def points_along(
        self, start: np.ndarray, end: np.ndarray, width: float, excluded: Iterable[str]
    ) -> np.ndarray:
        """Those of `other_points` within ``width`` metres of a straight way, seen from above, (n, 3)."""
        left_out = set(excluded)
        geoms = np.array(
            [geom for name, some in self._geoms.items() if name not in left_out for geom in some], dtype=int
        )
        reach = width + np.array([self._radius[geom] for geom in geoms])
        points = self._world_points(geoms[_from_way(self.data.geom_xpos[geoms], start, end) < reach])
        return points[_from_way(points, start, end) < width]

    def hand_hits(
        self, position: np.ndarray, direction: np.ndarray, closing: np.ndarray, excluded: Iterable[str] = ()
    ) -> int:
        """How many points of the scene the hand with closed fingers would cover in a pose.

        Args:
            position: of the grip site, (3,).
            direction: unit vector in which the fingers point, (3,).
            closing: unit vector along which they close, (3,).
            excluded: objects that do not count.
        """
        axes = np.stack([closing, np.cross(direction, closing), direction], axis=1)
        local = (self.other_points(excluded) - position) @ axes
        return sum(
            int(((local > low) & (local < high)).all(axis=1).sum()) for low, high in self.gripper.shape.boxes
        )

    def gripped(self, name: str) -> bool:
        """Whether both finger pads touch an object."""
        return self._all_touch(self.gripper.pads, name)

    def pinched(self, name: str) -> bool:
        """Whether both fingers touch an object, with their pads or beside them."""
        return self._all_touch(self.gripper.fingers, name)

    def collision_geoms(self, body: int) -> list[int]:
        """The geoms of a body and of what hangs on it that take part in collisions."""
        model = self.model
        members = {body}
        for candidate in range(body + 1, model.nbody):  # a child's index is higher than its parent's
            if int(model.body_parentid[candidate]) in members:
                members.add(candidate)
        return [
            geom
            for geom in range(model.ngeom)
            if int(model.geom_bodyid[geom]) in members
            and (model.geom_contype[geom] or model.geom_conaffinity[geom])
        ]

    def fixed_geoms(self, name: str) -> list[int]:
        """The collision geoms of an object or a fixture but those that a joint of its own moves."""
        root = self.bodies[name]
        moving = {
            int(body)
            for body in range(root + 1, self.model.nbody)
            if int(self.model.body_rootid[body]) == int(self.model.body_rootid[root])
            and self._moves(body, root)
        }
        return [geom for geom in self._geoms[name] if int(self.model.geom_bodyid[geom]) not in moving]

    def _moves(self, body: int, root: int) -> bool:
        """Whether there is a joint between a body and the one it hangs on."""
        while body not in (root, 0):
            if self.model.body_jntnum[body]:
                return True
            body = int(self.model.body_parentid[body])
        return False

    def geom_points(self, geom: int) -> np.ndarray:
        """Points on one collision geom, (n, 3)."""
        return self._world_points([geom])

    def _all_touch(self, sides: list[list[int]], name: str) -> bool:
        geoms = set(self._geoms_of(name))
        pairs = [{int(a), int(b)} for a, b in self.data.contact.geom[: self.data.ncon]]
        touching = [pair for pair in pairs if pair & geoms]
        return all(any(pair.intersection(side) for pair in touching) for side in sides)

    def _geoms_of(self, name: str) -> list[int]:
        return self._parts[name] if name in self._parts else self._geoms[name]

    def _world_points(self, geoms: Iterable[int]) -> np.ndarray:
        clouds = [
            self._local[geom] @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom]
            for geom in geoms
        ]
        return np.concatenate(clouds) if clouds else np.zeros((0, 3))


def _from_way(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Horizontal distance of points (n, 3) from the straight line between two positions, (n,)."""
    way = (end - start)[:2]
    length = float(np.linalg.norm(way)) or 1e-6
    along = np.clip((points[:, :2] - start[:2]) @ way / length, 0.0, length)
    nearest = start[:2] + along[:, None] * way / length
    return np.linalg.norm(points[:, :2] - nearest, axis=1)


def _surface_points(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """A grid of points on a geom's bounding box in its own frame; LIBERO's collision geoms are boxes."""
    box = model.geom_aabb[geom]
    counts = np.clip(np.ceil(2 * box[3:] / _SPACING).astype(int) + 1, 2, _MAX_PER_SIDE)
    grids = [np.linspace(-1, 1, count) for count in counts]
    points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 3)
    surface = (np.abs(points) > 1 - 1e-9).any(axis=1)
    return points[surface] * box[3:] + box[:3]
