"""Drawers, doors and knobs: where their handle is, how they move, and how far they are open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.experts.world import World

_RANGES = {
    "open": "default_open_ranges",
    "close": "default_close_ranges",
    "turnon": "default_turnon_ranges",
    "turnoff": "default_turnoff_ranges",
}


@dataclass(frozen=True)
class Articulation:
    """A joint of a fixture with what is moved by it.

    Attributes:
        kind: `slide` (a drawer), `door` (a hinge beside its panel) or `knob` (a hinge through its middle).
        joint: number of the joint.
        handle: numbers of the collision geoms by which it is moved.
        panel: the others that move with it.
    """

    kind: str
    joint: int
    handle: tuple[int, ...]
    panel: tuple[int, ...]

    def value(self, world: World) -> float:
        """Position of the joint, metres or radians."""
        return float(world.data.qpos[world.model.jnt_qposadr[self.joint]])

    def axis(self, world: World) -> np.ndarray:
        """Direction of the joint's axis, (3,)."""
        return world.data.xaxis[self.joint].copy()

    def anchor(self, world: World) -> np.ndarray:
        """A point on the joint's axis, (3,)."""
        return world.data.xanchor[self.joint].copy()


def articulation(world: World, name: str) -> Articulation:
    """What moves when a fixture, or a region of one, is opened, closed or turned.

    Raises:
        KeyError: nothing of that name has a joint of its own.
    """
    joint = world.model.joint(joints_of(world.problem.env, name)[0]).id
    body = int(world.model.jnt_bodyid[joint])
    geoms = world.collision_geoms(body)
    if int(world.model.jnt_type[joint]) == int(mujoco.mjtJoint.mjJNT_SLIDE):
        outward = world.data.xaxis[joint] * opening_sign(world, name)
        out = {geom: float((world.geom_points(geom) @ outward).max()) for geom in geoms}
        bar = max(out, key=lambda geom: out[geom])
        return Articulation("slide", joint, (bar,), tuple(geom for geom in geoms if geom != bar))
    anchor = world.data.xanchor[joint]
    centres = {geom: world.geom_points(geom).mean(axis=0) for geom in geoms}
    panel = max(geoms, key=lambda geom: float(np.prod(np.sort(world.model.geom_aabb[geom][3:])[1:])))
    if np.linalg.norm((centres[panel] - anchor)[:2]) < 0.05:
        return Articulation("knob", joint, tuple(geoms), ())
    handle = tuple(geom for geom in geoms if geom != panel)
    return Articulation("door", joint, handle or (panel,), (panel,))


def joints_of(env: Any, name: str) -> list[str]:
    """Names of the joints that a goal about ``name`` is about; empty where there are none."""
    thing = env.object_sites_dict.get(name)
    if thing is None:
        thing = env.get_object(name) if name in env.fixtures_dict else None
    return list(getattr(thing, "joints", None) or [])


def opening_sign(world: World, name: str) -> float:
    """The sign of the joint's movement that opens or turns on."""
    return float(np.sign(wanted_value(world, "open", name) or wanted_value(world, "turnon", name)))


def wanted_value(world: World, predicate: str, name: str) -> float:
    """A joint position well inside of what makes a predicate true; 0 where the fixture has no such state."""
    env = world.problem.env
    owner = name if name in env.fixtures_dict else env.object_sites_dict[name].parent_name
    ranges = env.get_object(owner).object_properties["articulation"].get(_RANGES[predicate]) or [0.0]
    return float(np.mean(ranges))
