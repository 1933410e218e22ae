"""From a goal to skills: which objects go where, in which order, and what no skill can do yet."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from foundry_bench.envs.experts.world import World
from foundry_bench.envs.problem import Problem

_PLACEABLE = ("on", "in")


@dataclass(frozen=True)
class Step:
    """One conjunct of a goal: put ``thing`` on or in ``place``."""

    predicate: str
    thing: str
    place: str


@dataclass(frozen=True)
class Plan:
    """What an expert does. ``reason`` says why there is none, and is empty otherwise."""

    steps: tuple[Step, ...]
    reason: str = ""


def make_plan(problem: Problem) -> Plan:
    """The plan for a problem's goal, from its predicates and its initial facts alone."""
    if problem.task.bddl is None:
        return Plan((), "no expert for robosuite's own tasks")
    facts = [tuple(fact) for fact in problem.env.parsed_problem["initial_state"]]
    steps = []
    for conjunct in problem.goal:
        predicate, *names = conjunct
        if tuple(conjunct) in facts and predicate in ("turnon", "turnoff", "open", "close"):
            continue  # holds from the start
        if predicate not in _PLACEABLE:
            return Plan((), f"no skill for the predicate '{predicate}'")
        reason = _unreachable(problem, names[1], facts)
        if reason:
            return Plan((), reason)
        if _flat_and_wide(problem, names[0]):
            return Plan((), f"no skill for moving '{names[0]}', too flat and wide to grasp from above")
        steps.append(Step(predicate, names[0], names[1]))
    return Plan(tuple(steps))


def holds(problem: Problem, step: Step) -> bool:
    """Whether one conjunct of the goal is true now."""
    return bool(problem.env._eval_predicate([step.predicate, step.thing, step.place]))


def target_position(world: World, step: Step, plan: Plan) -> tuple[np.ndarray, float]:
    """Where the object's position should go, (3,), and from what height above that it may be dropped."""
    own = world.points(step.thing)
    below = float(world.position(step.thing)[2] - own[:, 2].min())  # from the position down to the underside
    spot = world.position(step.place)
    if step.predicate == "in":
        parent = _parent(world, step.place)
        walls = world.points(parent)
        inside = np.linalg.norm(walls[:, :2] - spot[:2], axis=1) < 0.03
        floor = float(walls[inside, 2].min()) if inside.any() else float(walls[:, 2].min())
        return np.array([*spot[:2], floor + 0.015 + below]), 0.02
    spot = spot + _share(world, step, plan)
    surface = _surface(world, step, spot)
    return np.array([*spot[:2], surface + below]), 0.0


def _share(world: World, step: Step, plan: Plan) -> np.ndarray:
    """How far from a region's middle an object goes when several go there: side by side, (3,)."""
    sharing = [other.thing for other in plan.steps if other.place == step.place]
    if len(sharing) == 1 or step.place in world.bodies:
        return np.zeros(3)
    size = np.asarray(world.problem.env.object_sites_dict[step.place].size, dtype=float)
    axis = int(size[:2].argmax())
    # As far apart as the region allows with both positions well inside.
    pitch = min(2 * 0.7 * size[axis] / (len(sharing) - 1), _footprint(world, step.thing) + 0.01)
    place = sharing.index(step.thing) - (len(sharing) - 1) / 2
    return world.rotation(step.place)[:, axis] * pitch * place


def _footprint(world: World, name: str) -> float:
    """The narrower horizontal extent of an object in metres."""
    points = world.points(name)
    return float(np.ptp(points[:, :2], axis=0).min())


def _surface(world: World, step: Step, spot: np.ndarray) -> float:
    """Height of what the object will stand on at a spot."""
    parent = step.place if step.place in world.bodies else _parent(world, step.place)
    if parent not in world.bodies:
        return float(spot[2])
    points = world.points(parent)
    under = points[np.linalg.norm(points[:, :2] - spot[:2], axis=1) < 0.03]
    if not len(under):
        return float(spot[2])
    if step.place in world.bodies:
        return float(under[:, 2].min()) + 0.008 if _hollow(points, spot) else float(under[:, 2].max())
    # Of the surfaces of a shelf or a rack, the one nearest to where the region is.
    return float(under[np.abs(under[:, 2] - spot[2]).argmin(), 2])


def _hollow(points: np.ndarray, spot: np.ndarray) -> bool:
    """Whether an object's middle is lower than its edge, as a bowl's or a plate's."""
    middle = points[np.linalg.norm(points[:, :2] - spot[:2], axis=1) < 0.03]
    return bool(len(middle) and middle[:, 2].max() < points[:, 2].max() - 0.01)


def _parent(world: World, region: str) -> str:
    """The object or fixture a region belongs to; empty for a region of the table or the floor."""
    return world.problem.env.object_sites_dict[region].parent_name or ""


def _unreachable(problem: Problem, place: str, facts: list[tuple[str, ...]]) -> str:
    """Why nothing can be put there from above as the scene is at the start; empty if it can."""
    env = problem.env
    region = env.object_sites_dict.get(place)
    if region is None or not region.parent_name:
        return ""
    parent = env.get_object(region.parent_name)
    if parent.category_name == "microwave":
        return "no skill for putting something in a microwave"
    joints = getattr(region, "joints", None) or []
    if joints and ("open", place) not in facts:
        return f"no skill for opening '{place}' first"
    return ""


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
