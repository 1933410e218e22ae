"""Making room before an object is taken: out of the way of a drawer, out of a corner."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from foundry_bench.envs.experts.arm import Arm
from foundry_bench.envs.experts.articulation import articulation, wanted_value
from foundry_bench.envs.experts.grasps import BLOCKED, Grasp, find_grasps
from foundry_bench.envs.experts.motions import support_height
from foundry_bench.envs.experts.planner import Step, is_open
from foundry_bench.envs.experts.push import push, way_out
from foundry_bench.envs.experts.skills import grasp, place, was_tried
from foundry_bench.envs.experts.targets import free_spot

_IN_THE_WAY = 0.3  # rise of a grasp's cost that a drawer makes which comes out over the object
_NEAR_DRAWER = 0.15  # metres
_ON_TABLE = 0.03  # metres above the lowest point of anything
_TRIES = 4
_NOT_MOVED = np.zeros(3)

Moves = Generator[np.ndarray, None, None]


def grasp_cost(
    arm: Arm,
    name: str,
    destination: np.ndarray,
    coming: np.ndarray | None = None,
    moved: np.ndarray = _NOT_MOVED,
) -> float:
    """What the best grasp of an object costs; see `find_grasps`. Without any it is as good as blocked."""
    world = arm.world
    options = find_grasps(world, name, support_height(world, name), destination, coming, moved)
    return min((option.cost for option in options), default=2 * BLOCKED)


def _is_blocked(arm: Arm, name: str, destination: np.ndarray, tried: list[Grasp] | None = None) -> bool:
    """Whether the hand would hit something with every grasp of an object that was not tried yet."""
    world = arm.world
    options = find_grasps(world, name, support_height(world, name), destination)
    free = [option for option in options if option.hits < BLOCKED]
    return not any(not was_tried(option, tried or [], world, name) for option in free)


def set_aside(arm: Arm, step: Step, destination: np.ndarray) -> Moves:
    """Put the object of a step elsewhere if the drawer it goes into would come out over it."""
    world = arm.world
    part = articulation(world, step.needs)
    if part.kind != "slide" or step.slides:
        return
    travel = wanted_value(world, "open", step.needs) - part.value(world)
    coming = np.concatenate([world.geom_points(geom) for geom in (*part.handle, *part.panel)])
    coming = coming + part.axis(world) * travel
    rise = grasp_cost(arm, step.thing, destination, coming) - grasp_cost(arm, step.thing, destination)
    spot = free_spot(world, step.thing, coming, destination) if rise > _IN_THE_WAY else None
    if spot is None:
        return
    tried: list[Grasp] = []
    for _ in range(_TRIES):
        if (yield from grasp(arm, step.thing, spot, tried)):
            yield from place(arm, step.thing, spot, quick=True)
            return


def drawer_in_the_way(arm: Arm, step: Step, destination: np.ndarray) -> bool:
    """Whether the open drawer into which an object goes keeps the hand from taking it, or pushing it free.

    Pushing takes a third of the steps of shutting the drawer and opening it again.
    """
    world = arm.world
    part = articulation(world, step.needs)
    if part.kind != "slide" or not is_open(world.problem, step.needs):
        return False
    if not _is_blocked(arm, step.thing, destination):
        return False
    points = np.concatenate([world.geom_points(geom) for geom in (*part.handle, *part.panel)])
    near = np.linalg.norm(points[:, :2] - world.position(step.thing)[:2], axis=1).min()
    return bool(near < _NEAR_DRAWER) and _way_out(arm, step.thing, destination) is None


def _way_out(arm: Arm, name: str, destination: np.ndarray) -> np.ndarray | None:
    return way_out(arm.world, name, lambda moved: grasp_cost(arm, name, destination, moved=moved))


def push_free(arm: Arm, name: str, destination: np.ndarray, tried: list[Grasp]) -> Moves:
    """Push an object out of a corner in which no hand could get around it."""
    world = arm.world
    ground = float(world.other_points([])[:, 2].min())
    if support_height(world, name) > ground + _ON_TABLE or not _is_blocked(arm, name, destination, tried):
        return
    spot = _way_out(arm, name, destination)
    if spot is None:
        return
    start = world.position(name)
    far = 0.8 * float(np.linalg.norm(spot - start))

    def done() -> bool:
        return float(np.linalg.norm((world.position(name) - start)[:2])) > far

    yield from push(arm, name, spot, done)
