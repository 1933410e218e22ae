"""What robosuite's own tasks ask for beside LIBERO's predicates, out of the same skills.

Lift is a grasp, Stack and PickPlace put something down, NutAssembly lowers a nut around a peg; the door and the
wiping have skills of their own.
"""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, Arm, wrap_half_turn
from foundry_bench.envs.experts.door import open_door
from foundry_bench.envs.experts.grasps import Grasp
from foundry_bench.envs.experts.planner import Step
from foundry_bench.envs.experts.robosuite_goals import HANDLE
from foundry_bench.envs.experts.skills import (
    Actions,
    go,
    go_over,
    grasp,
    is_held,
    place,
    release,
    retreat,
)
from foundry_bench.envs.experts.wipe import wipe
from foundry_bench.envs.experts.world import World

_TRIES = 4
_LIFT = 0.1
_REACH_COST = 10.0  # of a metre that the hand is farther from the base while it puts a nut down
_WRIST, _WRIST_COST = 1.9, 20.0  # radians that any wrist turns from the start pose, and the cost of one more
_OVER_PEG = 0.02  # metres over a peg, where a nut is lined up
_IN_LINE = 0.003
_ASTRAY, _CALM = 0.005, 0.002  # metres off line over the peg; metres a step
_ALONG_COST = 8.0
_SKEW = 0.03  # radians
_LOWERING, _GENTLE = 0.015, 1.2  # metres aimed at, and the gain
_INTEGRAL, _LARGEST_DRIFT = 0.06, 0.015
_BESIDE, _FINGERS = 0.045, 0.09  # metres between the middle of a can and a wall, across and along the fingers
_TURN_COST = 0.25  # of a radian that the hand turns away from its start pose
_OVER_FLOOR = 0.02
_UP = np.array([0.0, 0.0, 1.0])


def destination(world: World, step: Step) -> np.ndarray | None:
    """Where the object's position goes, (3,); None for what is not carried."""
    if step.predicate == "lift":
        return world.position(step.thing) + _LIFT * _UP
    if step.predicate == "stack":
        below = world.points(step.place)
        spot = (below.min(axis=0) + below.max(axis=0)) / 2
        return np.array([*spot[:2], below[:, 2].max() + _half_height(world, step.thing)])
    if step.predicate == "thread":
        return np.array([*world.position(step.place)[:2], _table(world) + _half_height(world, step.thing)])
    if step.predicate == "drop":
        env = world.problem.env
        middle = np.asarray(env.target_bin_placements[env.object_id], dtype=float)
        beside = _BESIDE + (_FINGERS - _BESIDE) * np.abs(world.closing_axis[:2]).round()
        room = np.maximum(np.asarray(env.bin_size[:2]) / 4 - beside, 0.0)
        spot = middle[:2] + np.clip(world.base[:2] - middle[:2], -room, room)
        return np.array([*spot, middle[2] + _OVER_FLOOR + _half_height(world, step.thing)])
    return None


def perform(arm: Arm, step: Step, tried: list[Grasp]) -> Actions:
    """Do a step of a robosuite task; whether the skill did its part."""
    world = arm.world
    if step.predicate == "wipe":
        return (yield from wipe(arm))
    if step.predicate == "unlatch":
        return (yield from open_door(arm, world.problem.success))
    goal = destination(world, step)
    assert goal is not None
    part = f"{step.thing} {HANDLE}" if step.predicate == "thread" else step.thing

    def suits(option: Grasp) -> float:
        return _ALONG_COST * _along(world, step, part, option) if part != step.thing else 0.0

    for _ in range(_TRIES):
        if (yield from grasp(arm, part, goal, tried, suits)):
            break
    else:
        return (yield from retreat(arm))
    if step.predicate == "lift":
        return (yield from go(arm, world.hand + _LIFT * _UP, CLOSED, 0.02))
    if step.predicate == "thread":
        return (yield from _around_peg(arm, step, goal))
    return (yield from place(arm, step.thing, goal, drop=0.0 if step.predicate == "stack" else 0.02))


def _along(world: World, step: Step, part: str, option: Grasp) -> float:
    """How far the fingers would close along a nut's handle and not across it, 0 to 1: one is then in the hole."""
    middle = world.points(part).mean(axis=0) - world.position(step.thing)
    way = middle[:2] / np.linalg.norm(middle[:2])
    return float(abs(way @ [np.cos(option.yaw), np.sin(option.yaw)]))


def _around_peg(arm: Arm, step: Step, goal: np.ndarray) -> Actions:
    """Take a held nut over its peg, turned so that its hole is in line, and lower it."""
    world, name = arm.world, step.thing
    rim = float(world.points(step.place)[:, 2].max())
    arm.near_contact = False
    turn = _turn_of_nut(arm, step, goal, free=True)
    arm.turn_by(turn)
    high = np.array([*goal[:2], rim + _half_height(world, name) + _OVER_PEG])
    grip = world.hand - world.position(name)
    cosine, sine = np.cos(turn), np.sin(turn)
    grip[:2] = [cosine * grip[0] - sine * grip[1], sine * grip[0] + cosine * grip[1]]
    yield from go_over(arm, high + grip, CLOSED, name, 0.02)
    arm.near_contact = True
    drift, height, before = np.zeros(2), float(high[2]), world.position(name)
    for _ in range(120):
        position = world.position(name)
        if position[2] < goal[2] + 0.01 or not is_held(world, name):
            break
        aside = goal[:2] - position[:2]
        speed = float(np.linalg.norm((position - before)[:2]))
        before = position
        askew = _turn_of_nut(arm, step, goal, free=False)
        if abs(askew) > _SKEW and arm.missing() < _SKEW:
            arm.turn_by(askew)
        ready = speed < _CALM and abs(askew) < 2 * _SKEW
        if position[2] < rim:
            height = position[2] - _LOWERING
        elif float(np.abs(aside).max()) < (_IN_LINE if ready else 0.0):
            height = min(height, position[2]) - _LOWERING
        elif float(np.abs(aside).max()) > _ASTRAY:
            height = float(high[2])
        # Joint friction stops the hand a little short: what is missing adds up until it moves.
        drift = np.clip(drift + _INTEGRAL * aside, -_LARGEST_DRIFT, _LARGEST_DRIFT)
        way = np.array([*(aside + drift), height - position[2]])
        way[2] = np.clip(way[2], -_LOWERING, _LOWERING)
        yield arm.towards(world.hand + way, CLOSED, gain=_GENTLE)
    yield from release(arm)
    yield from retreat(arm)
    arm.near_contact = False
    return True


def _turn_of_nut(arm: Arm, step: Step, goal: np.ndarray, free: bool) -> float:
    """How a held nut turns so that its hole is in line with the peg, radians.

    Args:
        arm: the arm.
        step: the nut and its peg.
        goal: where the nut goes, (3,).
        free: whether all quarter turns are as good, and the handiest is taken, or the smallest is.
    """
    world = arm.world
    sides, peg = world.rotation(step.thing)[:, 0], world.rotation(step.place)[:, 0]
    missing = float(np.arctan2(peg[1], peg[0]) - np.arctan2(sides[1], sides[0]))
    turns = [wrap_half_turn(missing) + quarter * np.pi / 2 for quarter in range(-3, 4)]
    if not free:
        return min(turns, key=abs)
    grip = world.hand - world.position(step.thing)
    axis = world.closing_axis
    away = arm.away(float(np.arctan2(axis[1], axis[0])))

    def cost(turn: float) -> float:
        cosine, sine = np.cos(turn), np.sin(turn)
        there = goal[:2] + [cosine * grip[0] - sine * grip[1], sine * grip[0] + cosine * grip[1]]
        reach = float(np.linalg.norm(there - world.base[:2]))
        twist = abs(away + turn)
        return _TURN_COST * twist + _WRIST_COST * max(0.0, twist - _WRIST) + _REACH_COST * reach

    return min(turns, key=cost)


def _half_height(world: World, name: str) -> float:
    """How far an object's position is above its underside."""
    return float(world.position(name)[2] - world.points(name)[:, 2].min())


def _table(world: World) -> float:
    """Height of the table."""
    return float(world.problem.env.table_offset[2])
