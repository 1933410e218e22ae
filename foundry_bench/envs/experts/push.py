"""Pushing along the table what is too flat and wide to be grasped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, Arm
from foundry_bench.envs.experts.motions import Actions, go, go_over, retreat
from foundry_bench.envs.experts.world import World

_TIP = 0.012  # the fingers end this far beyond the grip site
_ABOVE_TABLE = 0.004
_BEHIND = 0.035  # between the fingers and the object before the push
_ASTRAY = 0.035  # so far off the line the push starts again
_AHEAD = 0.035
_DESCENT, _LOW_ENOUGH = 0.16, 0.02  # metres
_TURN_COST = 4.0  # in points that the hand would hit
_LEANS, _TURNS = np.radians([20.0, 30.0, 40.0]), np.radians([0.0, 25.0, -25.0, 50.0, -50.0, 75.0, -75.0])
_UP = np.array([0.0, 0.0, 1.0])
_DISTANCES, _DISTANCE_COST = (0.06, 0.1, 0.15), 5.0  # metres that something is pushed out of a corner
_ROOM, _GOOD_ENOUGH = 0.06, 2.5


def push(arm: Arm, name: str, target: np.ndarray, done: Callable[[], bool]) -> Actions:
    """Push an object to a place with closed fingers, from the side opposite of it.

    The push goes through the object's middle; drifting off that line they would turn the object, so they
    are led back to the line, or lifted to start again.

    Args:
        arm: the arm.
        name: the object.
        target: where its middle should go, (3,).
        done: whether it is there.
    """
    world = arm.world
    points = world.points(name)
    height = float(points[:, 2].min()) + _TIP + _ABOVE_TABLE
    way, radius = _line(arm, name, target)
    behind = np.array([*(_middle(arm, name) - way * (radius + _BEHIND)), height])
    direction, closing = _lean(arm, np.array([*way, 0.0]), behind)
    arm.point(direction, closing)
    # Down along the lean, over the object: what keeps the hand from it may stand close behind it.
    yield from go_over(arm, behind - direction * _DESCENT, CLOSED, None, 0.03)
    arm.near_contact = True
    yield from go(arm, behind, CLOSED, 0.012, limit=40)
    if world.hand[2] > behind[2] + _LOW_ENOUGH:
        arm.near_contact = False
        yield from retreat(arm)
        return done()
    still, before = 0, world.position(name)
    for step in range(100):
        if done():
            break
        way, radius = _line(arm, name, target)
        middle = _middle(arm, name)
        offset = world.hand[:2] - middle
        along, aside = float(offset @ way), offset - (offset @ way) * way
        if float(np.linalg.norm(aside)) > _ASTRAY or along > 0:
            break
        left = float(np.linalg.norm(target[:2] - middle))
        ahead = min(_AHEAD, 0.012 + left)
        goal = np.array([*(world.hand[:2] - 1.5 * aside + way * ahead), height])
        yield arm.towards(goal, CLOSED)
        now = world.position(name)
        still = 0 if np.linalg.norm(now - before) > 3e-4 or step < 12 else still + 1
        before = now
        if still > 8:
            break
    arm.near_contact = False
    yield from retreat(arm)
    arm.face(arm.home_yaw)
    return done()


def way_out(world: World, name: str, cost: Callable[[np.ndarray], float]) -> np.ndarray | None:
    """Where to push an object that stands too close to something to be grasped, (3,); None if nowhere helps.

    Args:
        world: the scene.
        name: the object.
        cost: of the best grasp, were the object so far from where it is, (3,).
    """
    here = world.position(name)
    others = world.other_points([name])
    others = others[others[:, 2] < world.points(name)[:, 2].max()]
    options: list[tuple[float, int, np.ndarray]] = []
    for distance in _DISTANCES:
        for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
            moved = distance * np.array([np.cos(angle), np.sin(angle), 0.0])
            there = world.points(name)[:, :2].mean(axis=0) + moved[:2]
            if np.linalg.norm(others[:, :2] - there, axis=1).min(initial=np.inf) < _ROOM:
                continue
            options.append((cost(moved) + _DISTANCE_COST * distance, len(options), here + moved))
    best = min(options, key=lambda option: option[:2], default=None)
    return None if best is None or best[0] > _GOOD_ENOUGH else best[2]


def _lean(arm: Arm, forward: np.ndarray, spot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the fingers point and along which line they close: leaning over the object, clear of the rest."""
    options: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    for lean in _LEANS:
        direction = -forward * np.sin(lean) - _UP * np.cos(lean)
        aside = np.cross(_UP, forward)
        for turn in _TURNS:
            closing = aside * np.cos(turn) + np.cross(direction, aside) * np.sin(turn)
            hits = arm.world.hand_hits(spot, direction, closing)
            turned = 1.0 - abs(float(closing @ arm.world.closing_axis))
            options.append((hits + _TURN_COST * turned, len(options), direction, closing))
    _, _, direction, closing = min(options, key=lambda option: option[:2])
    return direction, closing


def _middle(arm: Arm, name: str) -> np.ndarray:
    """Middle of an object seen from above, (2,)."""
    points = arm.world.points(name)[:, :2]
    middle: np.ndarray = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle


def _line(arm: Arm, name: str, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit vector from the object to the target, (2,), and how far the object reaches the other way."""
    middle = _middle(arm, name)
    way = target[:2] - middle
    way = way / max(float(np.linalg.norm(way)), 1e-6)
    return way, float(((arm.world.points(name)[:, :2] - middle) @ -way).max())
