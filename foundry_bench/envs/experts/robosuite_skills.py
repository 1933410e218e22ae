"""What robosuite's own tasks ask for beside LIBERO's predicates, out of the same skills.

Lift is a grasp, Stack and PickPlace put something down, NutAssembly lowers a nut around a peg; the door and
the wiping have skills of their own.
"""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, Arm
from foundry_bench.envs.experts.door import open_door
from foundry_bench.envs.experts.grasps import Grasp
from foundry_bench.envs.experts.motions import Actions, go, retreat, support_height
from foundry_bench.envs.experts.nut import across_handle, around_peg
from foundry_bench.envs.experts.planner import Step
from foundry_bench.envs.experts.robosuite_goals import HANDLE
from foundry_bench.envs.experts.skills import grasp, place
from foundry_bench.envs.experts.wipe import wipe
from foundry_bench.envs.experts.world import World

_TRIES = 4
_LIFT = 0.1
_DROP = 0.02  # metres from which a can may fall
_BESIDE, _FINGERS = 0.045, 0.09  # metres between the middle of a can and a wall, across and along the fingers
_OVER_FLOOR = 0.02
_UP = np.array([0.0, 0.0, 1.0])


def destination(world: World, step: Step) -> np.ndarray | None:
    """Where the object's position goes, (3,); None for what is not carried."""
    if step.predicate not in ("lift", "stack", "thread", "drop"):
        return None
    position, env = world.position(step.thing), world.problem.env
    if step.predicate == "lift":
        return position + _LIFT * _UP
    below = float(position[2]) - support_height(world, step.thing)
    if step.predicate == "stack":
        points = world.points(step.place)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        return np.array([*middle[:2], points[:, 2].max() + below])
    if step.predicate == "thread":
        return np.array([*world.position(step.place)[:2], env.table_offset[2] + below])
    middle = np.asarray(env.target_bin_placements[env.object_id], dtype=float)
    # As near to the base as the walls allow: the middle of the bin is at the end of an arm's reach.
    beside = _BESIDE + (_FINGERS - _BESIDE) * np.abs(world.closing_axis[:2]).round()
    room = np.maximum(np.asarray(env.bin_size[:2]) / 4 - beside, 0.0)
    spot = middle[:2] + np.clip(world.base[:2] - middle[:2], -room, room)
    return np.array([*spot, middle[2] + _OVER_FLOOR + below])


def perform(arm: Arm, step: Step, tried: list[Grasp]) -> Actions:
    """Do a step of a robosuite task; whether the skill did its part.

    Args:
        arm: the arm.
        step: the task's one step.
        tried: grasps that did not hold; failed ones are added.
    """
    world = arm.world
    if step.predicate == "wipe":
        return (yield from wipe(arm))
    goal = destination(world, step)
    if goal is None:
        return (yield from open_door(arm, world.problem.success))
    threads = step.predicate == "thread"
    part = f"{step.thing} {HANDLE}" if threads else step.thing

    def suits(option: Grasp) -> float:
        return across_handle(world, step.thing, part, option) if threads else 0.0

    for _ in range(_TRIES):
        if (yield from grasp(arm, part, goal, tried, suits)):
            break
    else:
        return (yield from retreat(arm))
    if step.predicate == "lift":
        return (yield from go(arm, world.hand + _LIFT * _UP, CLOSED, 0.02))
    if threads:
        return (yield from around_peg(arm, step.thing, step.place, goal))
    return (yield from place(arm, step.thing, goal, drop=_DROP if step.predicate == "drop" else 0.0))
