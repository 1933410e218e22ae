"""Putting a nut around a peg: held by its handle, turned until its hole is in line, then lowered."""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, Arm, wrap_half_turn
from foundry_bench.envs.experts.grasps import Grasp
from foundry_bench.envs.experts.motions import Actions, go_over, is_held, release, retreat, support_height
from foundry_bench.envs.experts.world import World

_OVER_PEG = 0.02  # metres over a peg, where a nut is lined up
_IN_LINE, _CALM, _SKEW = 0.003, 0.002, 0.03  # metres, metres a step and radians with which it may go down
_ASTRAY = 0.005  # metres off line with which it rises again
_LOWERING, _GENTLE = 0.015, 1.2  # metres aimed at in a step, and the gain
_INTEGRAL, _LARGEST_DRIFT = 0.06, 0.015
_THERE = 0.01  # metres over the goal
_TURN_COST = 0.25  # of a radian that the hand turns away from its start pose
_WRIST, _WRIST_COST = 1.9, 20.0  # radians that any wrist turns from the start pose, and the cost of one more
_REACH_COST = 10.0  # of a metre that the hand is farther from the base
_ALONG_COST = 8.0


def across_handle(world: World, name: str, handle: str, option: Grasp) -> float:
    """What a grasp costs that closes along a nut's handle and not across it: one finger is then in the hole.

    Args:
        world: the scene.
        name: the nut.
        handle: the name of its handle.
        option: the grasp.
    """
    way = (world.points(handle).mean(axis=0) - world.position(name))[:2]
    way = way / np.linalg.norm(way)
    return _ALONG_COST * float(abs(way @ [np.cos(option.yaw), np.sin(option.yaw)]))


def around_peg(arm: Arm, name: str, peg: str, goal: np.ndarray) -> Actions:
    """Take a held nut over a peg, turned so that its hole is in line, lower it and let go.

    Args:
        arm: the arm.
        name: the nut.
        peg: what it goes around.
        goal: where the nut's position goes, (3,).
    """
    world = arm.world
    rim = float(world.points(peg)[:, 2].max())
    arm.near_contact = False
    turn = _handiest_turn(arm, name, peg, goal)
    arm.turn_by(turn)
    below = float(world.position(name)[2]) - support_height(world, name)
    high = np.array([*goal[:2], rim + below + _OVER_PEG])
    grip = world.hand - world.position(name)
    grip[:2] = _turned(grip[:2], turn)
    yield from go_over(arm, high + grip, CLOSED, name, 0.02)
    arm.near_contact = True
    yield from _lower(arm, name, peg, goal, rim, float(high[2]))
    yield from release(arm)
    yield from retreat(arm)
    arm.near_contact = False
    return True


def _lower(arm: Arm, name: str, peg: str, goal: np.ndarray, rim: float, top: float) -> Actions:
    """Lower a nut that is over its peg: down while it is in line and calm, up again when it is astray."""
    world = arm.world
    drift, height, before = np.zeros(2), top, world.position(name)
    for _ in range(120):
        position = world.position(name)
        if position[2] < goal[2] + _THERE or not is_held(world, name):
            break
        aside = goal[:2] - position[:2]
        off = float(np.abs(aside).max())
        calm = np.linalg.norm((position - before)[:2]) < _CALM
        before = position
        askew = min(_turns(world, name, peg), key=abs)
        if abs(askew) > _SKEW and arm.missing() < _SKEW:
            arm.turn_by(askew)
        if position[2] < rim:
            height = position[2] - _LOWERING
        elif off < _IN_LINE and calm and abs(askew) < 2 * _SKEW:
            height = min(height, position[2]) - _LOWERING
        elif off > _ASTRAY:
            height = top
        # Joint friction stops the hand a little short: what is missing adds up until it moves.
        drift = np.clip(drift + _INTEGRAL * aside, -_LARGEST_DRIFT, _LARGEST_DRIFT)
        rise = np.clip(height - position[2], -_LOWERING, _LOWERING)
        yield arm.towards(world.hand + np.array([*(aside + drift), rise]), CLOSED, gain=_GENTLE)
    return True


def _turns(world: World, name: str, peg: str) -> list[float]:
    """The angles about the vertical after which a square hole is in line with its peg, radians."""
    sides, wanted = world.rotation(name)[:, 0], world.rotation(peg)[:, 0]
    missing = float(np.arctan2(wanted[1], wanted[0]) - np.arctan2(sides[1], sides[0]))
    return [wrap_half_turn(missing) + quarter * np.pi / 2 for quarter in range(-3, 4)]


def _handiest_turn(arm: Arm, name: str, peg: str, goal: np.ndarray) -> float:
    """Of the quarter turns the one with which the wrist turns little and the hand stays near."""
    world = arm.world
    grip = (world.hand - world.position(name))[:2]
    axis = world.closing_axis
    away = arm.away(float(np.arctan2(axis[1], axis[0])))

    def cost(turn: float) -> float:
        reach = float(np.linalg.norm(goal[:2] + _turned(grip, turn) - world.base[:2]))
        twist = abs(away + turn)
        return _TURN_COST * twist + _WRIST_COST * max(0.0, twist - _WRIST) + _REACH_COST * reach

    return min(_turns(world, name, peg), key=cost)


def _turned(vector: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]]) @ vector
