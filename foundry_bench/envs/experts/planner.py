"""From a goal to steps: what is done to which object, what comes first, and what no skill can do yet."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from foundry_bench.envs.experts.articulation import joints_of
from foundry_bench.envs.experts.robosuite_goals import robosuite_goal
from foundry_bench.envs.problem import Problem

PLACING = ("on", "in")
MOVING = ("open", "close", "turnon", "turnoff")


@dataclass(frozen=True)
class Step:
    """Make one conjunct of a goal true.

    Attributes:
        predicate: `on`, `in`, `open`, `close`, `turnon` or `turnoff`, or what a task of robosuite asks for.
        thing: the object that is placed, or the region or fixture that is moved.
        place: where it goes; empty for what is moved.
        slides: whether the object is pushed along the table, being too flat and wide to be grasped.
        needs: what must be open before the step can be done; empty if nothing.
    """

    predicate: str
    thing: str
    place: str = ""
    needs: str = ""
    slides: bool = False


@dataclass(frozen=True)
class Plan:
    """What an expert does. ``reason`` says why there is none, and is empty otherwise."""

    steps: tuple[Step, ...]
    reason: str = ""


def make_plan(problem: Problem) -> Plan:
    """The plan for a problem's goal, from its predicates alone: no task is known by name."""
    if problem.task.bddl is None:
        try:
            return Plan((Step(*robosuite_goal(problem.task.name, problem.task.robot)),))
        except LookupError as reason:
            return Plan((), str(reason))
    steps = []
    for predicate, *names in problem.goal:
        if predicate in MOVING:
            steps.append(Step(predicate, names[0]))
            continue
        if predicate not in PLACING:
            return Plan((), f"no skill for the predicate '{predicate}'")
        thing, place = names
        needs = _container(problem, place) if predicate == "in" else ""
        steps.append(Step(predicate, thing, place, needs, _flat_and_wide(problem, thing)))
    return Plan(tuple(_ordered(problem, steps)))


def holds(problem: Problem, step: Step) -> bool:
    """Whether a step's conjunct is true now."""
    if problem.task.bddl is None:
        return problem.success()
    names = [step.thing, step.place] if step.place else [step.thing]
    return bool(problem.env._eval_predicate([step.predicate, *names]))


def is_open(problem: Problem, name: str) -> bool:
    """Whether a drawer or a door is open enough for LIBERO's predicate."""
    return bool(problem.env._eval_predicate(["open", name]))


def parent_of(problem: Problem, region: str) -> str:
    """The object or fixture a region belongs to; empty for a region of the table or the floor."""
    site = problem.env.object_sites_dict.get(region)
    return (site.parent_name or "") if site is not None else ""


def _container(problem: Problem, place: str) -> str:
    """What must be open for something to go into a place: the drawer itself or the fixture's door."""
    if joints_of(problem.env, place):
        return place
    parent = parent_of(problem, place)
    return parent if joints_of(problem.env, parent) else ""


def _ordered(problem: Problem, steps: list[Step]) -> list[Step]:
    """The goal's order, but for what must come first: what others go onto, what goes in before it is shut."""
    left, result = list(steps), []
    while left:
        free = [
            step
            for step in left
            if not any(_precedes(problem, other, step) for other in left if other != step)
        ]
        result.append((free or left)[0])
        left.remove(result[-1])
    return result


def _precedes(problem: Problem, first: Step, second: Step) -> bool:
    if first.predicate not in PLACING:
        return False
    if second.predicate in PLACING:
        return first.thing in (second.place, parent_of(problem, second.place))
    return second.predicate == "close" and second.thing in (first.place, first.needs)


def _flat_and_wide(problem: Problem, name: str) -> bool:
    """Whether no grasp from above can hold an object, by the extents of its collision geoms."""
    model = problem.model
    body = model.body(problem.env.objects_dict[name].root_body).id
    low, high, rotation = np.full(3, np.inf), np.full(3, -np.inf), np.zeros(9)
    for geom in range(model.ngeom):
        if int(model.geom_bodyid[geom]) == body and model.geom_contype[geom]:
            mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
            half = np.abs(rotation.reshape(3, 3)) @ model.geom_aabb[geom][3:]
            low = np.minimum(low, model.geom_pos[geom] - half)
            high = np.maximum(high, model.geom_pos[geom] + half)
    thickness, width, _ = np.sort(high - low)
    return bool(thickness < 0.025 and width > 0.1)
