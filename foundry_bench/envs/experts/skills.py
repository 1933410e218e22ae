"""Closed-loop skills: grasp from above, carry, place.

A skill is a generator. It yields the action for the next step, reads the true state again when it is resumed,
and ends by returning whether it did its part; nothing is planned open loop.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from foundry_bench.envs.experts.grasps import Grasp, find_grasps, wrap_half_turn
from foundry_bench.envs.experts.world import World

Actions = Generator[np.ndarray, None, bool]

OPEN, CLOSED = -1.0, 1.0
_METRES_PER_UNIT, _RADIANS_PER_UNIT = 0.05, 0.5  # of an action
_APPROACH = 0.07  # height above a grasp at which the hand lines up
_DESCENT = 0.02  # largest step down aimed at near a grasp: faster, the arm swings aside
_LAST, _LAST_DESCENT = 0.035, 0.012  # and so close above it, where a policy needs time to correct itself
_LOWERING = 0.015  # smallest step down aimed at while putting down, until something is felt
_CLEARANCE = 0.035
_WIDE = 0.07  # an opening that lets go of anything
_READY = 0.05  # an opening with which the fingers may go down around something
_NOTHING = 0.002  # an opening with nothing between the fingers; the thinnest rim leaves more
_ASTRAY, _LOW = 0.02, 0.03  # this far off line and this close above a grasp, the way back is over the top
_CORRIDOR = 0.13  # half width of what is looked at on a way


class Arm:
    """Moves the hand towards poses, one action at a time.

    Args:
        world: the scene.
        speed: factor on the largest displacement of a step, (0, 1].
    """

    def __init__(self, world: World, speed: float = 1.0) -> None:
        self.world = world
        self.speed = speed
        self.near_contact = False  # tells the noise to be gentle
        self.grasping = False  # going down around something or closing on it
        rotation = world.hand_rotation
        # The start pose points down to within a degree: make it exact, and count yaw from there.
        self._down = _upright(rotation)
        axis = world.closing_axis
        self._home_yaw = float(np.arctan2(axis[1], axis[0]))
        self._yaw = self._home_yaw

    def towards(self, target: np.ndarray, gripper: float, gain: float = 1.8) -> np.ndarray:
        """The action that takes the hand towards a position, keeping the chosen yaw.

        The default gain leaves the controller well damped (0.75); with 1, joint friction stops the hand
        one or two centimetres short.
        """
        error = (target - self.world.hand) * gain / _METRES_PER_UNIT
        largest = np.abs(error).max() / self.speed
        if largest > 1.0:
            error /= largest
        turn = _rotation_vector(self._rotation() @ self.world.hand_rotation.T) * gain / _RADIANS_PER_UNIT
        turn = np.clip(turn, -0.5, 0.5)
        turn[np.abs(turn) < 1e-3] = 0.0
        return np.array([*error, *turn, gripper])

    def face(self, yaw: float) -> None:
        """Choose the direction of the closing axis; the wrist turns the short way from the start pose."""
        self._yaw = self._home_yaw + wrap_half_turn(yaw - self._home_yaw)

    def turned(self) -> bool:
        """Whether the hand has the chosen yaw."""
        return float(np.linalg.norm(_rotation_vector(self._rotation() @ self.world.hand_rotation.T))) < 0.2

    def _rotation(self) -> np.ndarray:
        angle = self._yaw - self._home_yaw
        cosine, sine = np.cos(angle), np.sin(angle)
        return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ self._down


def go(arm: Arm, target: np.ndarray, gripper: float, tolerance: float, limit: int = 60) -> Actions:
    """Move in a straight line until within ``tolerance`` metres and turned; False after ``limit`` steps."""
    for _ in range(limit):
        if np.linalg.norm(target - arm.world.hand) < tolerance and arm.turned():
            return True
        yield arm.towards(target, gripper)
    return False


def go_over(arm: Arm, target: np.ndarray, gripper: float, held: str | None, tolerance: float) -> Actions:
    """Move to a position over whatever stands in the way: rise first if need be, then across, then down."""
    world = arm.world
    still, before = 0, world.hand
    for _ in range(90):
        hand = world.hand
        if held and not is_held(world, held):
            return False
        still = still + 1 if np.linalg.norm(hand - before) < 0.001 else 0
        if still > 6:  # friction or something in the way: what comes next may still work
            return False
        before = hand
        hang = float(hand[2] - world.points(held)[:, 2].min()) if held else 0.02
        offset = target[:2] - hand[:2]
        distance = float(np.linalg.norm(offset))
        if distance < tolerance and abs(target[2] - hand[2]) < max(tolerance, 0.012) and arm.turned():
            return True
        floor = _highest_on_way(world, hand, target, [held] if held else []) + hang + _CLEARANCE
        height = max(target[2], floor)
        waypoint = np.array([*target[:2], height])
        if distance > 0.03 and hand[2] < floor - 0.01:
            # Too low to cross: rise, and move across only as far as the height allows.
            share = np.clip(1.0 - (floor - hand[2]) / 0.06, 0.0, 1.0)
            waypoint[:2] = hand[:2] + offset * share * min(1.0, 0.05 / distance)
        elif distance < 0.02:
            waypoint[2] = target[2]
        yield arm.towards(waypoint, gripper)
    return False


def grasp(arm: Arm, name: str, destination: np.ndarray, avoid: list[Grasp]) -> Actions:
    """Grasp an object from above and lift it.

    Args:
        arm: the arm.
        name: the object.
        destination: where it goes afterwards, (3,); the grasp should suit that place too.
        avoid: grasps that did not hold; a failed one is added.
    """
    world = arm.world
    support = support_height(world, name)
    options = [
        option
        for option in find_grasps(world, name, support, destination)
        if not _tried(option, avoid, world, name)
    ]
    if not options:
        return False
    best = options[0]
    start = world.position(name)
    above = best.position + _up(_APPROACH)
    arm.face(best.yaw)
    yield from go_over(arm, above, OPEN, None, 0.02)
    arm.near_contact = arm.grasping = True
    closed = yield from _straight_down(arm, best.position, name, start)
    closed = closed and (yield from _close(arm, best.position))
    arm.near_contact = arm.grasping = False
    if not closed:
        return False
    height = world.position(name)[2]
    for _ in range(9):
        yield arm.towards(world.hand + _up(0.05), CLOSED)
        if world.position(name)[2] > height + 0.025:
            return True
        if world.opening < _NOTHING:
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
    for _ in range(45):
        hand = arm.world.hand
        pushed = (arm.world.position(name) - start)[:2]
        if np.linalg.norm(pushed) > 0.03:
            return False
        goal = target + np.array([*pushed, 0.0])
        sideways = float(np.linalg.norm((goal - hand)[:2]))
        if sideways < 0.01 and abs(goal[2] - hand[2]) < 0.008:
            return True
        if arm.world.opening < _READY:
            return arm.world.gripped(name)
        if sideways > _ASTRAY and hand[2] < goal[2] + _LOW:
            return False
        # Down only as far as the hand is in line; it never rises again for that.
        slope = max(0.0, sideways - 0.006) * 3.0 + (0.0 if arm.turned() else 0.04)
        step = _DESCENT if hand[2] > goal[2] + _LAST else _LAST_DESCENT
        goal[2] = max(goal[2] - 0.006, min(hand[2], goal[2] + slope), hand[2] - step)
        yield arm.towards(goal, OPEN, gain=2.2)
    return True  # something is in the way: close here and see


def _close(arm: Arm, position: np.ndarray) -> Actions:
    """Close the fingers until they stop; False as soon as the hand is off line or has closed on nothing."""
    before = arm.world.opening
    for step in range(12):
        if np.linalg.norm((position - arm.world.hand)[:2]) > 2 * _ASTRAY:
            return False
        yield arm.towards(position, CLOSED)
        now = arm.world.opening
        if now < _NOTHING:
            return False
        if step >= 3 and abs(now - before) < 5e-4:
            break
        before = now
    return True


def place(arm: Arm, name: str, target: np.ndarray, drop: float = 0.0) -> Actions:
    """Carry the held object until its position is over ``target``, lower it, let go and rise.

    Args:
        arm: the arm that holds the object.
        name: the held object.
        target: where the object's position goes, (3,).
        drop: height above the target from which it may fall.
    """
    world = arm.world
    for _ in range(3):  # the object may swing in the fingers: steer it, not the hand
        offset = world.hand - world.position(name)
        above = target + offset + _up(0.05 + drop)
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
        way = target + _up(drop) - position
        # Never slower and slower: who imitates that never arrives, and hovers with the object in the hand.
        way[2] = min(way[2], -_LOWERING)
        yield arm.towards(world.hand + way, CLOSED, gain=1.2)
        stalled = 0 if position[2] < low - 0.001 else stalled + 1
        low = min(low, position[2])
        if stalled >= 3:
            break
    yield from release(arm)
    yield from retreat(arm)
    arm.near_contact = False
    return True


def release(arm: Arm) -> Actions:
    """Open the fingers where they are."""
    spot = arm.world.hand
    for _ in range(12):
        if arm.world.opening > _WIDE:
            break
        yield arm.towards(spot, OPEN)
    return True


def retreat(arm: Arm, height: float = 0.1) -> Actions:
    """Rise with open fingers."""
    return (yield from go(arm, arm.world.hand + _up(height), OPEN, 0.03, limit=15))


def is_held(world: World, name: str) -> bool:
    """Whether an object is between the fingers: they are not closed, and it is near them."""
    close = np.linalg.norm(world.points(name) - world.hand, axis=1).min() < 0.03
    return bool(close and world.opening > 0.001)


def support_height(world: World, name: str) -> float:
    """Height of the lowest point of an object: what it stands on cannot be higher there."""
    return float(world.points(name)[:, 2].min())


def _highest_on_way(world: World, start: np.ndarray, end: np.ndarray, excluded: list[str]) -> float:
    """The highest point of anything within a corridor between two positions; -inf if there is nothing."""
    points = world.points_along(start, end, _CORRIDOR if excluded else 0.09, excluded)
    # What is under the end itself does not have to be cleared: the target's height already says.
    heights = points[np.linalg.norm(points[:, :2] - end[:2], axis=1) > 0.07, 2]
    return float(heights.max()) if len(heights) else -np.inf


def _tried(option: Grasp, avoid: list[Grasp], world: World, name: str) -> bool:
    here = option.position - world.position(name)
    return any(
        np.linalg.norm(here - old.position) < 0.012 and abs(wrap_half_turn(option.yaw - old.yaw)) < 0.2
        for old in avoid
    )


def _up(height: float) -> np.ndarray:
    return np.array([0.0, 0.0, height])


def _upright(rotation: np.ndarray) -> np.ndarray:
    """The rotation nearest to ``rotation`` whose third axis points straight down."""
    first = np.array([*rotation[:2, 0], 0.0])
    first /= np.linalg.norm(first)
    third = np.array([0.0, 0.0, -1.0])
    return np.stack([first, np.cross(third, first), third], axis=1)


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle of a rotation matrix."""
    skew = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine = np.linalg.norm(skew) / 2
    angle = float(np.arctan2(sine, (np.trace(rotation) - 1) / 2))
    if sine < 1e-9:
        return np.zeros(3)
    return skew / (2 * sine) * angle
