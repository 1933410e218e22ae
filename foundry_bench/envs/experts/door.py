"""A door with a lever: turn the lever down, pull the door open by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm
from foundry_bench.envs.experts.articulation import Articulation
from foundry_bench.envs.experts.motions import Actions, close_on, go, release
from foundry_bench.envs.experts.world import World

_UP = np.array([0.0, 0.0, 1.0])
_TILT = np.radians(80.0)  # of the fingers from straight down towards the door
_STANDOFF = 0.10
_DEPTH = 0.01  # of the grip site beyond the middle of the lever
_OUT = 0.02  # of the grip beyond the middle of the lever, away from its axis
_AHEAD, _ROLL = 0.25, 1.0  # radians ahead of the lever; share of its turn that the hand makes
_TURNED = 1.25  # radians from its rest at which the latch is out of the frame
_PULL = 0.06  # metres ahead of the hand along the door's arc


def open_door(arm: Arm, done: Callable[[], bool]) -> Actions:
    """Grasp the lever across from the front, turn it down and pull.

    Args:
        arm: the arm.
        done: whether the door is open.
    """
    world = arm.world
    lever, hinge = _parts(world)
    axis = lever.axis(world)
    handle = world.geom_points(lever.handle[0])
    middle = (handle.min(axis=0) + handle.max(axis=0)) / 2
    outward = axis if (middle - lever.anchor(world)) @ axis > 0 else -axis
    arm_of_lever = middle - lever.anchor(world)
    along = arm_of_lever - (arm_of_lever @ outward) * outward
    along = along / np.linalg.norm(along)
    direction = -outward * np.sin(_TILT) - _UP * np.cos(_TILT)
    # Across the lever as it is now: after a try that slipped it may hang down.
    closing = np.cross(direction, along)
    left = max(0.0, _TURNED - abs(lever.value(world)))
    down = -float(np.sign(np.cross(axis, along)[2]))
    arm.point(direction, closing / np.linalg.norm(closing), _rotation(axis, down * _ROLL * left))
    spot = middle + along * _OUT + direction * _DEPTH
    yield from go(arm, spot - direction * _STANDOFF, OPEN, 0.015)
    arm.near_contact = arm.grasping = True
    yield from _slowly(arm, spot)
    closed = yield from close_on(arm, spot)
    arm.grasping = False
    if closed:
        yield from _turn(arm, lever)
        yield from _pull(arm, hinge, lever, done)
    yield from release(arm, world.opening + 0.025)
    yield from go(arm, world.hand - direction * _STANDOFF, OPEN, 0.03, limit=10)
    arm.near_contact = False
    return done()


def _parts(world: World) -> tuple[Articulation, Articulation]:
    model, door = world.model, world.problem.env.door
    hinge, latch = (model.joint(name).id for name in door.joints)
    handle = model.geom(f"{door.naming_prefix}handle").id
    return Articulation("knob", latch, (handle,), ()), Articulation("door", hinge, (handle,), ())


def _slowly(arm: Arm, target: np.ndarray) -> Actions:
    for _ in range(40):
        way = target - arm.world.hand
        distance = float(np.linalg.norm(way))
        if distance < 0.008:
            return True
        yield arm.towards(arm.world.hand + way * min(1.0, 0.025 / distance), OPEN, gain=2.0)
    return False


def _turn(arm: Arm, lever: Articulation) -> Actions:
    """Lead the lever down around its axis."""
    world = arm.world
    axis, start = lever.axis(world), lever.value(world)
    reach = world.hand - lever.anchor(world)
    sign = -float(np.sign(np.cross(axis, reach)[2]))
    made, still, before = 0.0, 0, start
    for _ in range(60):
        value = lever.value(world)
        if abs(value) > _TURNED:
            return True
        angle = value - start + sign * _AHEAD
        arm.rotate(_rotation(axis, _ROLL * (angle - made)))
        made = angle
        yield arm.towards(lever.anchor(world) + _rotation(axis, angle) @ reach, CLOSED, gain=2.2)
        still = 0 if abs(value - before) > 2e-3 else still + 1
        before = value
        if still > 10:
            break
    return False


def _pull(arm: Arm, hinge: Articulation, lever: Articulation, done: Callable[[], bool]) -> Actions:
    """Pull along the door's arc, turning with it, the lever kept down."""
    world = arm.world
    axis, start = hinge.axis(world), hinge.value(world)
    reach = world.hand - hinge.anchor(world)
    radius = float(np.linalg.norm(reach[:2]))
    made = 0.0
    still, before = 0, start
    for _ in range(60):
        value = hinge.value(world)
        if done():
            return True
        handle = world.geom_points(lever.handle[0]).mean(axis=0)
        if np.linalg.norm(world.hand - handle) > 0.12:
            return False
        turned = value - start
        arm.rotate(_rotation(axis, turned - made))
        made = turned
        angle = turned + _PULL / radius
        yield arm.towards(hinge.anchor(world) + _rotation(axis, angle) @ reach, CLOSED, gain=2.2)
        still = 0 if abs(value - before) > 5e-4 else still + 1
        before = value
        if still > 12:
            break
    return done()


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation by an angle about a unit vector (Rodrigues' formula), (3, 3)."""
    x, y, z = axis
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * skew + (1.0 - np.cos(angle)) * skew @ skew)
