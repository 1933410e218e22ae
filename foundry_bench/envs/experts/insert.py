"""Putting something into a place that is covered from above: a microwave, the compartment of a shelf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm
from foundry_bench.envs.experts.articulation import joints_of
from foundry_bench.envs.experts.grasps import Grasp
from foundry_bench.envs.experts.motions import LET_GO, Actions, go, go_over, is_held, release
from foundry_bench.envs.experts.planner import parent_of
from foundry_bench.envs.experts.world import World

_UP = np.array([0.0, 0.0, 1.0])
_BAND = 0.03  # half width of what is looked at beside the way in
_COLUMN = 0.015  # and over and under the middle: a wall beside a narrow compartment is no ceiling
_OUTSIDE = 0.05  # between the opening and what is about to go in
_SHUT = 0.012  # behind the front, where a door does not touch it
_STROKE = 0.03  # ahead of the fingers, while they push
_INSIDE = 0.9  # share of an object that should be inside
_OVER_FLOOR = 0.012  # height of an object on its way in
_TURNS = np.radians([0.0, 45.0, -45.0, 90.0, -90.0])
_TILTS = np.radians([80.0, 60.0, 45.0])
_HIT, _TOO_TALL, _TOO_LOW, _TURN_COST, _ROLL_COST = 0.5, 8.0, 4.0, 0.3, 0.3
_HAND_HALF, _HAND_BACK = 0.107, 0.026


@dataclass(frozen=True)
class Opening:
    """The way into a covered place.

    Attributes:
        middle: of the place, (3,).
        inward: horizontal unit vector, (3,).
        front: where the place begins, measured along ``inward``.
        half: how far the region reaches from its middle along ``inward``.
        floor, ceiling: heights; ``ground`` that of what the fixture stands on.
        shuts: whether a door will have to shut, so that nothing may stick out.
    """

    middle: np.ndarray
    inward: np.ndarray
    front: float
    half: float
    floor: float
    ceiling: float
    ground: float
    shuts: bool


@dataclass(frozen=True)
class Insertion:
    """How an object is held when it is inside.

    Attributes:
        rotation: of hand and object from the grasp on, in the world frame, (3, 3).
        cost: lower is better.
    """

    rotation: np.ndarray
    cost: float


def find_opening(world: World, place: str) -> Opening | None:
    """The way into a region, or None if it can be reached from above."""
    parent = parent_of(world.problem, place)
    if parent not in world.bodies:
        return None
    middle = world.position(place)
    points = np.concatenate([world.geom_points(geom) for geom in world.fixed_geoms(parent)])
    column = points[(np.abs(points[:, :2] - middle[:2]) < _COLUMN).all(axis=1)]
    above = column[column[:, 2] > middle[2], 2]
    if not len(above):
        return None
    ceiling = float(above.min())
    below = column[column[:, 2] < middle[2], 2]
    floor = float(below.max()) if len(below) else float(points[:, 2].min())
    level = points[(points[:, 2] > floor + 0.02) & (points[:, 2] < ceiling - 0.02)]
    site = world.problem.env.object_sites_dict[place]
    extent = np.abs(world.rotation(place) @ np.asarray(site.size, dtype=float))
    ways = []
    for axis in world.rotation(parent)[:, :2].T:
        for inward in (axis, -axis):
            across = np.cross(_UP, inward)
            local = level - middle
            blocked = (local @ -inward > 0) & (np.abs(local @ across) < _BAND)
            if not blocked.any():
                # Of open sides the one that the robot faces.
                ways.append((float((middle - world.base)[:2] @ -inward[:2]), inward))
    if not ways:
        return None
    inward = min(ways, key=lambda way: abs(way[0]))[1]
    inward = np.array([*inward[:2], 0.0]) / np.linalg.norm(inward[:2])
    beside = points[np.abs((points - middle) @ np.cross(_UP, inward)) < _BAND]
    front = float((beside @ inward).min())
    return Opening(
        middle=middle,
        inward=inward,
        front=front,
        half=float(extent @ np.abs(inward)),
        floor=floor,
        ceiling=ceiling,
        ground=float(points[:, 2].min()),
        shuts=bool(joints_of(world.problem.env, parent)),
    )


def insertion(arm: Arm, name: str, grasp: Grasp, opening: Opening) -> Insertion:
    """The best way to hold an object inside, for a grasp from above.

    The hand stays pointing down, turned about the vertical, or tilts until it points inward.
    """
    world = arm.world
    down, closing = -_UP, np.array([np.cos(grasp.yaw), np.sin(grasp.yaw), 0.0])
    now = np.stack([closing, np.cross(down, closing), down], axis=1)
    held = (world.points(name) - grasp.position) @ now
    origin = (world.position(name) - grasp.position) @ now
    options = []
    for direction, across, extra in _ways_to_hold(grasp.yaw, opening):
        for sign in (1.0, -1.0):
            then = np.stack([sign * across, np.cross(direction, sign * across), direction], axis=1)
            cost = extra + _cost(world, name, held @ then.T, origin @ then.T, direction, across, opening)
            angle = np.arccos(np.clip((np.trace(then @ now.T) - 1) / 2, -1.0, 1.0))
            options.append(Insertion(then @ now.T, cost + _TURN_COST * float(angle)))
    return min(options, key=lambda option: option.cost)


def _ways_to_hold(yaw: float, opening: Opening) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Where the hand could point, along which line its fingers would close, and what that costs."""
    ways = []
    for turn in _TURNS:
        ways.append((-_UP, np.array([np.cos(yaw + turn), np.sin(yaw + turn), 0.0]), 0.0))
    aside = np.cross(_UP, opening.inward)
    for tilt in _TILTS:
        direction = opening.inward * np.sin(tilt) - _UP * np.cos(tilt)
        ways += [(direction, aside, 0.0), (direction, np.cross(direction, aside), _ROLL_COST)]
    return ways


def held_grasp(arm: Arm) -> Grasp:
    """The grasp with which something is held now, the hand pointing down."""
    axis = arm.world.closing_axis
    return Grasp(arm.world.hand, float(np.arctan2(axis[1], axis[0])), "held", 0.0)


def insert(arm: Arm, name: str, how: Insertion, opening: Opening) -> Actions:
    """Bring the held object in front of the opening, move it in, put it down and come back out.

    Args:
        arm: the arm that holds the object.
        name: the held object.
        how: it is held when it is inside.
        opening: the way in.
    """
    world = arm.world
    arm.rotate(how.rotation)
    arm.near_contact = False
    for _ in range(3):
        # As it will be held: what hangs from the hand now swings forward with it, and must not over the top.
        turn = arm.missing_rotation().T
        held = (world.points(name) - world.hand) @ turn
        ahead, low = float((held @ opening.inward).max()), float(held[:, 2].min())
        origin = (world.position(name) - world.hand) @ turn
        spot = _on_way(opening, origin, opening.front - ahead - _OUTSIDE)
        spot[2] = opening.floor + _OVER_FLOOR - low
        yield from go_over(arm, spot, CLOSED, name, 0.015)
        if not is_held(world, name):
            return False
        if arm.turned() and np.linalg.norm(spot - world.hand) < 0.03:
            break
    arm.near_contact = True
    target = _depth(world, name, opening)
    best, still = -np.inf, 0
    for _ in range(80):
        if not is_held(world, name):
            break
        position, points = world.position(name), world.points(name)
        left = target - float(position @ opening.inward)
        if left < 0.004:
            break
        low = float(points[:, 2].min())
        along = float(world.hand @ opening.inward) + min(0.03, max(left, 0.012))
        spot = _on_way(opening, position - world.hand, along)
        spot[2] = world.hand[2] + np.clip(opening.floor + _OVER_FLOOR - low, -0.02, 0.02)
        yield arm.towards(spot, CLOSED, gain=1.6)
        now = float(world.position(name) @ opening.inward)
        still = 0 if now > best + 0.001 else still + 1
        best = max(best, now)
        if still > 8:
            break
    for _ in range(8):
        low = float(world.points(name)[:, 2].min())
        if low < opening.floor + 0.003:
            break
        yield arm.towards(world.hand - _UP * 0.015, CLOSED, gain=1.2)
    yield from release(arm, world.opening + LET_GO)
    # Out the way the fingers point: one of them may be inside of the object.
    yield from go(arm, world.hand - world.hand_rotation[:, 2] * 0.05, OPEN, 0.02, limit=10)
    yield from go(arm, world.hand - opening.inward * 0.08, OPEN, 0.03, limit=15)
    if opening.shuts and _outermost(world, name, opening) < opening.front + _SHUT / 2:
        yield from _push_in(arm, name, opening)
    arm.near_contact = False
    arm.face(arm.home_yaw)
    yield from go(arm, world.hand + _UP * 0.08, OPEN, 0.04, limit=12)
    return True


def _push_in(arm: Arm, name: str, opening: Opening) -> Actions:
    """Push an object that sticks out of the opening further in, with closed fingers that point as they do."""
    world = arm.world
    across = np.cross(_UP, opening.inward)
    for start in (True, False):
        still, before = 0, -np.inf
        for _ in range(30):
            points = world.points(name)
            outermost = float((points @ opening.inward).min())
            middle = (points.min(axis=0) + points.max(axis=0)) / 2
            along = outermost - _OUTSIDE if start else float(world.hand @ opening.inward) + _STROKE
            spot = opening.inward * along + across * float(middle @ across) + _UP * middle[2]
            if start and np.linalg.norm(spot - world.hand) < 0.015:
                break
            if not start and outermost > opening.front + _SHUT:
                break
            yield arm.towards(spot, CLOSED)
            still = 0 if outermost > before + 0.001 else still + 1
            before = max(before, outermost)
            if not start and still > 10:
                break
    return (yield from go(arm, world.hand - opening.inward * 0.08, CLOSED, 0.03, limit=15))


def _outermost(world: World, name: str, opening: Opening) -> float:
    """Where an object begins, measured along ``inward``."""
    return float((world.points(name) @ opening.inward).min())


def _cost(
    world: World,
    name: str,
    held: np.ndarray,
    origin: np.ndarray,
    direction: np.ndarray,
    across: np.ndarray,
    opening: Opening,
) -> float:
    """What speaks against a way to hold an object inside; ``held``, ``origin`` are relative to the grip."""
    depth = opening.front + 0.02 + _needed(opening)
    if opening.shuts:
        depth = max(depth, opening.front + _SHUT + float(((origin - held) @ opening.inward).max()))
    hand = _on_way(opening, origin, depth - float(origin @ opening.inward))
    hand[2] = opening.floor + _OVER_FLOOR - held[:, 2].min()
    inside = held[(held + hand) @ opening.inward > opening.front]
    cost = _HIT * world.hand_hits(hand, direction, across, [name])
    if len(inside) and (inside + hand)[:, 2].max() > opening.ceiling - 0.003:
        cost += _TOO_TALL
    if hand[2] - _HAND_HALF * abs(across[2]) - _HAND_BACK * direction[2] < opening.ground:
        cost += _TOO_LOW
    return cost


def _needed(opening: Opening) -> float:
    """How far behind the front an object's position must be to be in the region."""
    return max(0.0, float(opening.middle @ opening.inward) - opening.half - opening.front)


def _depth(world: World, name: str, opening: Opening) -> float:
    """Where the object's position should end along ``inward``: its body inside, or as deep as is needed."""
    position = float(world.position(name) @ opening.inward)
    behind = position - float((world.points(name) @ opening.inward).min())
    wanted = opening.front + max(_needed(opening) + 0.02, min(behind, 2 * opening.half) * _INSIDE)
    if opening.shuts:
        wanted = max(wanted, opening.front + behind + _SHUT)
    return float(min(wanted, float(opening.middle @ opening.inward) + 0.6 * opening.half))


def _on_way(opening: Opening, offset: np.ndarray, along: float) -> np.ndarray:
    """Where the hand is when it is so far ``along`` and the object it holds is in line with the opening."""
    across = np.cross(_UP, opening.inward)
    aside = float(opening.middle @ across) - float(offset @ across)
    return opening.inward * along + across * aside + _UP * 0.0
