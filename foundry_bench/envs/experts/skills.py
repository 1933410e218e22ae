"""Closed-loop skills: grasp from above, carry, place.

A skill is a generator. It yields the action for the next step, reads the true state again when it is resumed,
and ends by returning whether it did its part; nothing is planned open loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm, wrap_half_turn
from foundry_bench.envs.experts.fit import Fit
from foundry_bench.envs.experts.grasps import Grasp, find_grasps
from foundry_bench.envs.experts.motions import (
    ASTRAY,
    LET_GO,
    NOTHING,
    WIDE,
    Actions,
    close_on,
    go_over,
    is_held,
    release,
    retreat,
    support_height,
    up,
)
from foundry_bench.envs.experts.world import World

Suits = Callable[[Grasp], float]

_APPROACH = 0.07  # height above a grasp at which the hand lines up
_DESCENT = 0.02  # largest step down aimed at near a grasp: faster, the arm swings aside
_LAST, _LAST_DESCENT = 0.035, 0.012  # and so close above it, where a policy needs time to correct itself
_LOWERING = 0.015  # smallest step down aimed at while putting down, until something is felt
_FITS = 0.1  # radians
_LAY_TILT = np.radians(65.0)
_STUCK_ABOVE = 0.02  # metres over a grasp
_LOW = 0.03  # this close above a grasp, what is off its line goes back over the top
_TOO_NEAR, _LEAN = 0.36, np.radians(25.0)  # metres from the base
_IN_LINE = 0.007  # metres
_READY = 0.05  # an opening with which the fingers may go down around something


def grasp(
    arm: Arm, name: str, destination: np.ndarray, avoid: list[Grasp], suits: Suits | None = None
) -> Actions:
    """Grasp an object from above and lift it.

    Args:
        arm: the arm.
        name: the object.
        destination: where it goes afterwards, (3,); the grasp should suit that place too.
        avoid: grasps that did not hold; a failed one is added.
        suits: what a grasp costs for what is done afterwards, beside what it costs by itself.
    """
    world = arm.world
    support = support_height(world, name)
    options = [
        option
        for option in find_grasps(world, name, support, destination)
        if not was_tried(option, avoid, world, name)
    ]
    if not options:
        return False
    costs = [option.cost + (suits(option) if suits else 0.0) + _fold_cost(arm, option) for option in options]
    best = options[arm.variety.chosen(costs)]
    start = world.position(name)
    above = best.position + up(_APPROACH)
    arm.face(best.yaw)
    if _folds(arm, best.position):
        arm.lean_in(_LEAN)
    there = yield from go_over(arm, above, OPEN, None, 0.02)
    if not there and not arm.turned():  # the wrist cannot turn so far there
        avoid.append(Grasp(best.position - world.position(name), best.yaw, best.kind, best.cost))
        return False
    arm.near_contact = arm.grasping = True
    down = yield from _straight_down(arm, best.position, name, start)
    closed = down and (yield from close_on(arm, best.position))
    arm.near_contact = arm.grasping = False
    if not closed:
        if world.hand[2] > best.position[2] + _STUCK_ABOVE:  # something holds the hand or the arm up
            avoid.append(Grasp(best.position - world.position(name), best.yaw, best.kind, best.cost))
        return False
    height = world.position(name)[2]
    for _ in range(9):
        yield arm.towards(world.hand + up(0.05), CLOSED)
        if world.position(name)[2] > height + 0.025:
            return True
        if world.opening < NOTHING:
            break
    avoid.append(Grasp(best.position - world.position(name), best.yaw, best.kind, best.cost))
    yield from release(arm)
    return False


def _straight_down(arm: Arm, target: np.ndarray, name: str, start: np.ndarray) -> Actions:
    """Line up over the grasp, then go down; follows the object if it is pushed a little.

    What is done depends on what can be seen, never on how long it has been tried: a policy that imitates this
    knows the one and not the other. False where the hand was pushed off line, the object was pushed away or
    the fingers have closed: then the way is over the top again.
    """
    before, still = arm.world.hand, 0
    for _ in range(45):
        hand = arm.world.hand
        still = still + 1 if np.linalg.norm(hand - before) < 0.001 else 0
        before = hand
        if still > 8 and hand[2] > target[2] + _STUCK_ABOVE:
            return False
        pushed = (arm.world.position(name) - start)[:2]
        if np.linalg.norm(pushed) > 0.03:
            return False
        goal = target + np.array([*pushed, 0.0])
        sideways = float(np.linalg.norm((goal - hand)[:2]))
        if sideways < 0.01 and abs(goal[2] - hand[2]) < 0.008:
            return True
        if arm.world.opening < _READY:
            return arm.world.gripped(name)
        if sideways > ASTRAY and hand[2] < goal[2] + _LOW:
            return False
        # Down only as far as the hand is in line; it never rises again for that.
        slope = max(0.0, sideways - 0.006) * 3.0 + (0.0 if arm.turned() else 0.04)
        step = _DESCENT if hand[2] > goal[2] + _LAST else _LAST_DESCENT
        goal[2] = max(goal[2] - 0.006, min(hand[2], goal[2] + slope), hand[2] - step)
        yield arm.towards(goal, OPEN, gain=2.2)
    return True  # something is in the way: close here and see


def place(
    arm: Arm,
    name: str,
    target: np.ndarray,
    drop: float = 0.0,
    quick: bool = False,
    fit: Callable[[], Fit] | None = None,
) -> Actions:
    """Carry the held object until its position is over ``target``, lower it, let go and rise.

    Args:
        arm: the arm that holds the object.
        name: the held object.
        target: where the object's position goes, (3,).
        drop: height above the target from which it may fall.
        fit: how the object goes between the walls of a container; replaces ``target``.
        quick: whether to leave as soon as the fingers have let go.
    """
    world = arm.world
    arm.near_contact = False
    tight = False
    if fit is not None:
        how = yield from _line_up(arm, name, fit)
        target, drop, tight = how.spot, max(drop, how.drop), how.tight
        if tight:
            yield from _between(arm, name, target + up(drop))
    for _ in range(0 if tight else 3):  # the object may swing in the fingers: steer it, not the hand
        offset = world.hand - world.position(name)
        above = target + offset + up(0.05 + drop)
        arm.near_contact = False
        yield from go_over(arm, above, CLOSED, name, 0.015)
        if not is_held(world, name):
            return False
        if np.linalg.norm((world.position(name) - target)[:2]) < 0.02:
            break
    arm.near_contact = True
    low, stalled = np.inf, 0
    for _ in range(30):
        position = world.position(name)
        if position[2] < target[2] + drop + 0.004:
            break
        way = target + up(drop) - position
        # Never slower and slower: who imitates that never arrives, and hovers with the object in the hand.
        way[2] = min(way[2], -_LOWERING)
        yield arm.towards(world.hand + way, CLOSED, gain=1.2)
        stalled = 0 if position[2] < low - 0.001 else stalled + 1
        low = min(low, position[2])
        if stalled >= 3:
            break
    yield from release(arm, arm.world.opening + LET_GO if quick else WIDE)
    yield from retreat(arm, 0.06 if quick else 0.1)
    arm.near_contact = False
    return True


def _line_up(arm: Arm, name: str, fit: Callable[[], Fit]) -> Generator[np.ndarray, None, Fit]:
    """Turn a held object as it must go in, above the walls and not between them; twice, if it slips."""
    world = arm.world
    how = fit()
    for _ in range(2):
        if abs(how.turn) < _FITS and not how.tight:
            break
        arm.turn_by(how.turn)
        hang = float(world.hand[2] - world.points(name)[:, 2].min())
        high = how.spot + world.hand - world.position(name)
        high[2] = max(high[2], how.rim + hang + 0.02)
        yield from go_over(arm, high, CLOSED, name, 0.02)
        how = fit()
        if abs(how.turn) < _FITS:
            break
    return how


def _between(arm: Arm, name: str, target: np.ndarray) -> Actions:
    """Lower a held object between walls: down only as far as it is in line."""
    world = arm.world
    still, before = 0, np.inf
    for _ in range(50):
        position = world.position(name)
        if position[2] < target[2] + 0.006 or not is_held(world, name):
            break
        way = target - position
        aside = float(np.linalg.norm(way[:2]))
        way[2] = -_LOWERING if aside < _IN_LINE else 0.0
        way[:2] *= 1.2
        yield arm.towards(world.hand + way, CLOSED)
        still = still + 1 if position[2] > before - 0.001 and aside < _IN_LINE else 0
        before = float(position[2])
        if still > 6:
            break
    return True


def lay(arm: Arm, name: str, target: np.ndarray, along: np.ndarray, rim: float) -> Actions:
    """Lay a held object on its side into a container, its upper end last.

    Args:
        arm: the arm, its hand pointing down.
        name: the held object.
        target: where the middle of the object goes, (3,).
        along: horizontal unit vector in which the container is long, (3,).
        rim: height of the container's walls.
    """
    world = arm.world
    tilt_over(arm, along)
    arm.near_contact = False
    for _ in range(2):
        points = world.points(name)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        high = target + world.hand - middle
        high[2] = max(high[2], rim + world.hand[2] - points[:, 2].min() + 0.02)
        yield from go_over(arm, high, CLOSED, name, 0.02)
    arm.near_contact = True
    low, stalled = np.inf, 0
    for _ in range(40):
        points = world.points(name)
        way = target - (points.min(axis=0) + points.max(axis=0)) / 2
        way[2] = -_LOWERING
        if not is_held(world, name):
            break
        yield arm.towards(world.hand + way, CLOSED, gain=1.2)
        lowest = float(world.points(name)[:, 2].min())
        stalled = 0 if lowest < low - 0.001 else stalled + 1
        low = min(low, lowest)
        if stalled >= 4:
            break
    yield from release(arm)
    yield from retreat(arm, 0.12)
    arm.near_contact = False
    arm.face(arm.home_yaw)
    return True


def tilt_over(arm: Arm, along: np.ndarray) -> None:
    """Choose a direction of the hand that lays over what it holds upright, by the smallest turn."""
    down, closing = up(-1.0), arm.world.closing_axis
    closing = np.array([*closing[:2], 0.0]) / np.linalg.norm(closing[:2])
    now = np.stack([closing, np.cross(down, closing), down], axis=1)
    turns = []
    for way in (along, -along):
        direction = way * np.sin(_LAY_TILT) + down * np.cos(_LAY_TILT)
        for across in (np.cross(up(1.0), way), np.cross(way, up(1.0))):
            turns.append(np.stack([across, np.cross(direction, across), direction], axis=1) @ now.T)
    arm.rotate(max(turns, key=lambda turn: float(np.trace(turn))))


def _folds(arm: Arm, position: np.ndarray) -> bool:
    """Whether a position is so near to the base that the elbow cannot fold enough under a hand."""
    return float(np.linalg.norm((position - arm.world.base)[:2])) < _TOO_NEAR


def _fold_cost(arm: Arm, option: Grasp) -> float:
    """There the hand leans, which it can only do about the line along which the fingers close."""
    if not _folds(arm, option.position):
        return 0.0
    way = (option.position - arm.world.base)[:2]
    return 2.0 * abs(float(way @ [np.cos(option.yaw), np.sin(option.yaw)])) / float(np.linalg.norm(way))


def was_tried(option: Grasp, avoid: list[Grasp], world: World, name: str) -> bool:
    here = option.position - world.position(name)
    return any(
        np.linalg.norm(here - old.position) < 0.012 and abs(wrap_half_turn(option.yaw - old.yaw)) < 0.2
        for old in avoid
    )
