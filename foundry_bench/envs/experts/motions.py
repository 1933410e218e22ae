"""Motions that skills are made of: in a straight line, over things, opening and closing the fingers.

A motion, like a skill, is a generator. It yields the action for the next step, reads the true state again
when it is resumed, and ends by returning whether it did its part.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm
from foundry_bench.envs.experts.world import World

Actions = Generator[np.ndarray, None, bool]

WIDE = 0.07  # an opening that lets go of anything
LET_GO = 0.025  # this much wider than they held it
NOTHING = 0.002  # an opening with nothing between the fingers; the thinnest rim leaves more
ASTRAY = 0.02  # this far off the line of a grasp, the way back is over the top
_CLEARANCE = 0.035
_OVER = 0.02  # from a position seen from above, metres
_VIA = 0.05  # metres: a point on a detour is passed, not reached
_PATIENCE = 25  # steps without coming nearer
_NEAR, _RISE = 0.15, 0.6  # metres within which a height must be reached now, and the slope of the rise
_CORRIDOR = 0.13  # half width of what is looked at on a way


def go(arm: Arm, target: np.ndarray, gripper: float, tolerance: float, limit: int = 60) -> Actions:
    """Move in a straight line until within ``tolerance`` metres and turned; False after ``limit`` steps."""
    for _ in range(limit):
        if np.linalg.norm(target - arm.world.hand) < tolerance and arm.turned():
            return True
        yield arm.towards(target, gripper)
    return False


def go_over(arm: Arm, target: np.ndarray, gripper: float, held: str | None, tolerance: float) -> Actions:
    """Move to a position over whatever stands in the way: rise first if need be, then across, then down."""
    via = arm.variety.detour(arm.world.hand, target)
    if via is not None:
        yield from _go_over(arm, via, gripper, held, _VIA)
    return (yield from _go_over(arm, target, gripper, held, tolerance))


def _go_over(arm: Arm, target: np.ndarray, gripper: float, held: str | None, tolerance: float) -> Actions:
    world = arm.world
    still, before = 0, world.hand
    nearest, stalled = np.inf, 0
    for _ in range(90):
        hand = world.hand
        if held and not is_held(world, held):
            return False
        still = still + 1 if np.linalg.norm(hand - before) < 0.001 else 0
        left = float(np.linalg.norm(target - hand))
        stalled = 0 if left < nearest - 0.003 else stalled + 1
        nearest = min(nearest, left)
        # Friction, something in the way or a joint at its limit: what comes next may still work.
        if still > 6 or stalled > _PATIENCE:
            return False
        before = hand
        hang = float(hand[2] - world.points(held)[:, 2].min()) if held else 0.02
        offset = target[:2] - hand[:2]
        distance = float(np.linalg.norm(offset))
        if distance < tolerance and abs(target[2] - hand[2]) < max(tolerance, 0.012) and arm.turned():
            return True
        highest, near = _highest_on_way(world, hand, target, [held] if held else [])
        floor, height = near + hang + _CLEARANCE, max(target[2], highest + hang + _CLEARANCE)
        waypoint = np.array([*target[:2], height])
        if distance > 0.03 and hand[2] < floor - 0.01:
            # Too low to cross: rise, and move across only as far as the height allows.
            share = np.clip(1.0 - (floor - hand[2]) / 0.06, 0.0, 1.0)
            waypoint[:2] = hand[:2] + offset * share * min(1.0, 0.05 / distance)
        elif distance < _OVER and (arm.turned() or not held):
            waypoint[2] = target[2]
        yield arm.towards(waypoint, gripper)
    return False


def close_on(arm: Arm, position: np.ndarray) -> Actions:
    """Close the fingers until they stop; False as soon as the hand is off line or has closed on nothing."""
    before = arm.world.opening
    for step in range(arm.world.gripper.closing_steps):
        if np.linalg.norm((position - arm.world.hand)[:2]) > 2 * ASTRAY:
            return False
        yield arm.towards(position, CLOSED)
        now = arm.world.opening
        if now < NOTHING:
            return False
        if step >= 3 and abs(now - before) < 5e-4:
            break
        before = now
    return True


def release(arm: Arm, opening: float = WIDE) -> Actions:
    """Open the fingers where they are."""
    spot = arm.world.hand
    for _ in range(12):
        if arm.world.opening > opening:
            break
        yield arm.towards(spot, OPEN)
    return True


def retreat(arm: Arm, height: float = 0.1) -> Actions:
    """Rise with open fingers."""
    return (yield from go(arm, arm.world.hand + up(height), OPEN, 0.03, limit=15))


def is_held(world: World, name: str) -> bool:
    """Whether an object is between the fingers: they are not closed, and it is near them."""
    close = np.linalg.norm(world.points(name) - world.hand, axis=1).min() < 0.03
    return bool(close and world.opening > 0.001)


def support_height(world: World, name: str) -> float:
    """Height of the lowest point of an object: what it stands on cannot be higher there."""
    return float(world.points(name)[:, 2].min())


def _highest_on_way(
    world: World, start: np.ndarray, end: np.ndarray, excluded: list[str]
) -> tuple[float, float]:
    """The highest point of anything in a corridor between two positions, and what that asks for already now.

    What is farther off may be higher, since the hand rises on its way. Both are -inf if there is nothing.
    """
    points = world.points_along(start, end, _CORRIDOR if excluded else 0.09, excluded)
    # What is under the end itself does not have to be cleared: the target's height already says.
    points = points[np.linalg.norm(points[:, :2] - end[:2], axis=1) > 0.07]
    if not len(points):
        return -np.inf, -np.inf
    reach = max(
        (float(np.linalg.norm(world.points(held)[:, :2] - start[:2], axis=1).max()) for held in excluded),
        default=0.0,
    )
    far = np.maximum(0.0, np.linalg.norm(points[:, :2] - start[:2], axis=1) - _NEAR - reach)
    return float(points[:, 2].max()), float((points[:, 2] - _RISE * far).max())


def up(height: float) -> np.ndarray:
    """So far upwards, metres, as a displacement (3,)."""
    return np.array([0.0, 0.0, height])
