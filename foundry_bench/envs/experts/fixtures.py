"""Skills on what is part of a fixture: pull and push drawers, swing doors, turn knobs.

Like all skills these are generators of actions that read the true state at every step and return whether they
did their part. ``done`` is the task's own predicate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm
from foundry_bench.envs.experts.articulation import Articulation
from foundry_bench.envs.experts.grasps import across_grasps
from foundry_bench.envs.experts.motions import Actions, close_on, go, go_over, release
from foundry_bench.envs.experts.world import World

Done = Callable[[], bool]

_UP = np.array([0.0, 0.0, 1.0])
_PULL_TILTS = (80.0, 62.0)  # degrees from straight down; steep enough for the hand not to touch the table
_PULL_ASIDE, _TRAVELS = (0.0, 0.024, -0.024), (0.08, 0.15)
_PUSH_TILTS, _PUSH_ASIDE = (50.0, 30.0, 70.0), (0.0, 0.03, -0.03)
_HOOK_TILT, _HOOK_DEPTH, _HOOK_PRESS = 45.0, 0.004, 0.03
_FINGER_HALF = 0.01
_GRIP_DEPTH = 0.004  # of the grip site beyond the middle of a bar
_HAND_HALF, _HAND_BACK = (
    0.10,
    0.035,
)  # half length of the hand along its closing axis, and how far behind the grip
_STANDOFF = 0.09
_TURNED_FAR = 0.6  # radians
_FREE = 0.035  # an opening that lets go of a bar
_PAST = 2  # steps that go on after the predicate has become true: an end stop must not be missed by a hair
_HANDLE_DEPTH = 0.018  # of the grip below the top of a door's handle
_SWING, _TWIST = 0.16, 0.22  # radians ahead of where the door or the knob is
_LARGEST_TWIST, _LARGEST_SWING = 1.3, 1.4  # of one grasp


def pull_open(arm: Arm, part: Articulation, outward: np.ndarray, done: Done, attempt: int = 0) -> Actions:
    """Pull a drawer out by its bar: grasped from the front, or hooked from above where it is too low.

    Args:
        arm: the arm.
        part: the drawer.
        outward: unit vector in which it opens, (3,).
        done: whether it is open enough.
        attempt: number of attempts before; the next way is taken when one has failed.
    """
    world = arm.world
    bar = _middle(world, part.handle)
    tilts = _pull_tilts(bar[2] - _floor(world, part))
    hooks = attempt % (len(tilts) + 1) == len(tilts)
    tilt = np.radians(_HOOK_TILT) if hooks else tilts[attempt % (len(tilts) + 1)]
    direction = -outward * np.sin(tilt) - _UP * np.cos(tilt)
    across = np.cross(_UP, outward)
    closing = across if hooks else np.cross(direction, across)
    arm.point(direction, closing)
    # Where along the bar the hand has most room on its way.
    bar = bar + across * min(
        _PULL_ASIDE,
        key=lambda aside: sum(
            world.hand_hits(bar + across * aside + outward * travel, direction, closing)
            for travel in _TRAVELS
        ),
    )
    spot = bar + direction * _GRIP_DEPTH
    if hooks:
        points = world.geom_points(part.handle[0])
        half = np.ptp(points @ np.stack([outward, _UP], axis=1), axis=0) / 2
        over = -outward * np.cos(tilt) + _UP * np.sin(tilt)
        spot = bar - outward * half[0] + _UP * half[1] + over * _FINGER_HALF + direction * _HOOK_DEPTH
    fingers = CLOSED if hooks else OPEN
    yield from approach_over(arm, spot - direction * _STANDOFF, fingers)
    yield from go(arm, spot - direction * _STANDOFF, fingers, 0.012, limit=25)
    arm.near_contact = arm.grasping = True
    yield from _straight_in(arm, spot, fingers)
    closed = hooks or (yield from close_on(arm, spot))
    arm.grasping = False
    if closed:
        yield from _draw(arm, part, outward * 0.06 - _UP * (_HOOK_PRESS if hooks else 0.0), done)
    yield from _let_go(arm, direction)
    return done()


def _draw(arm: Arm, part: Articulation, way: np.ndarray, done: Done) -> Actions:
    """Keep the hand where it is on the bar, and move it on; until it is done, slips or nothing moves."""
    world = arm.world
    grip = world.hand - _middle(world, part.handle)
    best, still, past = part.value(world), 0, 0
    for _ in range(80):
        past += done()
        handle = _middle(world, part.handle)
        if past > _PAST or np.linalg.norm(world.hand - handle - grip) > 0.025:
            break
        yield arm.towards(handle + grip + way, CLOSED)
        still = 0 if abs(part.value(world) - best) > 5e-4 else still + 1
        best = part.value(world)
        if still > 8:
            break
    return done()


def push_shut(arm: Arm, part: Articulation, outward: np.ndarray, done: Done, attempt: int = 0) -> Actions:
    """Push a drawer shut with closed fingers against its bar; see `pull_open`."""
    world = arm.world
    yield from _straighten(arm)
    across = np.cross(_UP, outward)
    options: list[tuple[int, int, np.ndarray, float]] = []
    for aside in _PUSH_ASIDE:
        for tilt in np.radians(_PUSH_TILTS):
            direction = -outward * np.sin(tilt) - _UP * np.cos(tilt)
            spot = _front(world, part, outward) + across * aside
            hits = world.hand_hits(spot + outward * 0.05, direction, across)
            options.append((hits, len(options), direction, aside))
    _, _, direction, aside = min(options, key=lambda option: option[:2])
    arm.point(direction, across)
    front = _front(world, part, outward) + across * aside
    yield from approach_over(arm, front + outward * 0.05, CLOSED)
    yield from go(arm, front + outward * 0.05, CLOSED, 0.015, limit=25)
    arm.near_contact = True
    best, still, past = part.value(world), 0, 0
    for step in range(80):
        past += done()
        if past > _PAST:
            break
        front = _front(world, part, outward) + across * aside
        yield arm.towards(front - outward * 0.04, CLOSED)
        still = 0 if step < 8 or abs(part.value(world) - best) > 3e-4 else still + 1
        best = part.value(world)
        if still > 10:
            break
    yield from go(arm, world.hand + outward * 0.06, CLOSED, 0.02, limit=10)
    yield from _rise(arm)
    return done()


def swing(arm: Arm, part: Articulation, sign: float, done: Done) -> Actions:
    """Grasp a door's handle from above and lead it along its arc.

    Args:
        arm: the arm.
        part: the door.
        sign: of the joint's movement.
        done: whether it has gone far enough.
    """
    world = arm.world
    points = np.concatenate([world.geom_points(geom) for geom in part.handle])
    options = across_grasps(world, points, points[:, 2].max() - _HANDLE_DEPTH - 0.03)
    if not options:
        return False
    best_grasp = options[0]
    yaw = _yaw_with_room(arm, best_grasp.yaw, sign * _LARGEST_SWING * np.sign(part.axis(world)[2]))
    arm.twist(yaw)
    spot = np.array([*best_grasp.position[:2], points[:, 2].max() - _HANDLE_DEPTH])
    yield from approach_over(arm, spot + _UP * 0.06, OPEN)
    yield from go(arm, spot + _UP * 0.06, OPEN, 0.012, limit=25)
    return (yield from _take_along(arm, part, spot, yaw, sign, _SWING, done))


def turn(arm: Arm, part: Articulation, sign: float, done: Done) -> Actions:
    """Grasp a knob's ridge from above and turn it; what one turn of the wrist leaves is for the next."""
    world = arm.world
    points = np.concatenate([world.geom_points(geom) for geom in part.handle])
    top = float(points[:, 2].max())
    options = across_grasps(world, points, top - 0.04)
    if not options:
        return False
    grasp = options[0]
    yaw = _yaw_with_room(arm, grasp.yaw, sign * _LARGEST_TWIST * np.sign(part.axis(world)[2]))
    arm.twist(yaw)
    spot = grasp.position
    yield from approach_over(arm, spot + _UP * 0.08, OPEN)
    return (yield from _take_along(arm, part, spot, yaw, sign, _TWIST, done))


def _take_along(
    arm: Arm, part: Articulation, spot: np.ndarray, yaw: float, sign: float, ahead: float, done: Done
) -> Actions:
    """Go into a grasp, close, lead what is grasped around its joint, let go."""
    arm.near_contact = arm.grasping = True
    yield from _straight_in(arm, spot, OPEN)
    closed = yield from close_on(arm, spot)
    arm.grasping = False
    if closed:
        yield from _lead(arm, part, yaw, sign, ahead, done)
    yield from release(arm)
    yield from _rise(arm)
    return done()


def _lead(arm: Arm, part: Articulation, yaw: float, sign: float, ahead: float, done: Done) -> Actions:
    """Take what is in the hand around the joint's axis, turning the hand with it."""
    world = arm.world
    axis = part.axis(world)
    upright = float(np.sign(axis[2]))
    start = part.value(world)
    still, past, before = 0, 0, start
    reach = world.hand - part.anchor(world)
    for _ in range(120):
        value = part.value(world)
        past += done()
        if past > _PAST or (abs(value - start) > _LARGEST_TWIST and part.kind == "knob"):
            break
        angle = upright * (value - start + sign * ahead)
        cosine, sine = np.cos(angle), np.sin(angle)
        turned = np.array(
            [cosine * reach[0] - sine * reach[1], sine * reach[0] + cosine * reach[1], reach[2]]
        )
        arm.twist(yaw + angle)
        target = part.anchor(world) + turned
        if np.linalg.norm((target - world.hand)[:2]) > 0.12 and part.kind == "door":
            break  # the handle has slipped out
        yield arm.towards(target, CLOSED)
        still = 0 if abs(part.value(world) - before) > 1e-3 else still + 1
        before = part.value(world)
        if still > 10:
            break
    return True


def _yaw_with_room(arm: Arm, line: float, turn: float) -> float:
    """Of the ways to grasp along a line, the one from which the wrist turns without coming near its limit."""
    first = arm.nearest_yaw(line)
    return min(
        (first - np.pi, first, first + np.pi),
        key=lambda yaw: max(abs(yaw - arm.home_yaw), abs(yaw + turn - arm.home_yaw)),
    )


def approach_over(arm: Arm, target: np.ndarray, gripper: float) -> Actions:
    """Go somewhere over what stands in the way."""
    return (yield from go_over(arm, target, gripper, None, 0.02))


def _straight_in(arm: Arm, target: np.ndarray, gripper: float) -> Actions:
    """Move into a grasp slowly, in a straight line."""
    before, still = arm.world.hand, 0
    for _ in range(40):
        way = target - arm.world.hand
        distance = float(np.linalg.norm(way))
        if distance < 0.006:
            return True
        yield arm.towards(arm.world.hand + way * min(1.0, 0.02 / distance), gripper, gain=2.0)
        still = still + 1 if np.linalg.norm(arm.world.hand - before) < 5e-4 else 0
        before = arm.world.hand
        if still > 5:
            return False
    return False


def _let_go(arm: Arm, direction: np.ndarray) -> Actions:
    """Open the fingers just enough, back off the way the hand came, then up."""
    spot = arm.world.hand
    for _ in range(8):
        if arm.world.opening > _FREE:
            break
        yield arm.towards(spot, OPEN)
    yield from go(arm, arm.world.hand - direction * 0.07, OPEN, 0.03, limit=8)
    return (yield from _rise(arm))


def _rise(arm: Arm) -> Actions:
    """Up and back to pointing down, out of the way of what comes next."""
    arm.near_contact = False
    arm.face(arm.home_yaw)
    goal = arm.world.hand + _UP * 0.1
    for _ in range(12):
        if arm.world.hand[2] > goal[2] - 0.03:
            break
        yield arm.towards(goal, OPEN)
    return True


def _straighten(arm: Arm) -> Actions:
    """Turn back if the hand was turned far before: from there, tilting it would fold the wrist."""
    axis = arm.world.closing_axis
    if abs(arm.away(float(np.arctan2(axis[1], axis[0])))) < _TURNED_FAR:
        return True
    arm.face(arm.home_yaw)
    return (yield from go(arm, arm.world.hand + _UP * 0.05, CLOSED, 0.03, limit=20))


def _middle(world: World, geoms: tuple[int, ...]) -> np.ndarray:
    points = np.concatenate([world.geom_points(geom) for geom in geoms])
    return (points.min(axis=0) + points.max(axis=0)) / 2


def _front(world: World, part: Articulation, outward: np.ndarray) -> np.ndarray:
    """The middle of the bar's outer side, where fingertips push."""
    points = np.concatenate([world.geom_points(geom) for geom in part.handle])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle + outward * (float((points @ outward).max()) - float(middle @ outward) + 0.01)


def _floor(world: World, part: Articulation) -> float:
    """Height of what the fixture stands on."""
    root = int(world.model.body_rootid[world.model.jnt_bodyid[part.joint]])
    geoms = world.collision_geoms(root)
    return float(min(world.geom_points(geom)[:, 2].min() for geom in geoms)) if geoms else 0.0


def _pull_tilts(height: float) -> list[float]:
    """How far the hand may tilt, radians, so that its lower end stays above the table."""
    tilts = [float(np.radians(degrees)) for degrees in _PULL_TILTS]
    return [tilt for tilt in tilts if height + _HAND_BACK * np.cos(tilt) - _HAND_HALF * np.sin(tilt) > 0.0]
