"""Where an object must go for a goal to be true: on what surface, on what floor, beside what."""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.planner import Plan, Step, parent_of
from foundry_bench.envs.experts.world import World

_ASIDE = np.arange(0.06, 0.42, 0.02)  # metres that something is set aside
_CORRIDOR = 0.13  # half width of what has to be passed over
_NEAR, _FAR = 0.4, 0.7  # from the robot's base
_MUCH_TALLER = 0.02
_ROOM, _CLEAR = 0.012, 0.035  # beside it, from what is there and from what will come


def target_position(world: World, step: Step, plan: Plan) -> tuple[np.ndarray, float]:
    """Where the object's position should go, (3,), and from what height above that it may be dropped."""
    own = world.points(step.thing)
    below = float(world.position(step.thing)[2] - own[:, 2].min())  # from the position down to the underside
    spot = world.position(step.place)
    if step.predicate == "in":
        parent = parent_of(world.problem, step.place)
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


def low_first(world: World, plan: Plan) -> Plan:
    """The plan with lower things before taller ones where they do not go beside each other into a place."""
    steps = list(plan.steps)
    for number in range(len(steps) - 1):
        first, second = steps[number : number + 2]
        if not first.predicate == second.predicate == "in" or first.place != second.place:
            continue
        beside = _footprint(world, first.thing) + _footprint(world, second.thing)
        if beside > 2 * region_size(world, first.place) and _taller(world, first.thing, second.thing):
            steps[number : number + 2] = second, first
    return Plan(tuple(steps), plan.reason)


def _taller(world: World, name: str, other: str) -> bool:
    heights = [float(np.ptp(world.points(thing)[:, 2])) for thing in (name, other)]
    return heights[0] > heights[1] + _MUCH_TALLER


def _footprint(world: World, name: str) -> float:
    """The narrower horizontal extent of an object in metres."""
    points = world.points(name)
    return float(np.ptp(points[:, :2], axis=0).min())


def _surface(world: World, step: Step, spot: np.ndarray) -> float:
    """Height of what the object will stand on at a spot."""
    parent = step.place if step.place in world.bodies else parent_of(world.problem, step.place)
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


def free_spot(world: World, name: str, coming: np.ndarray, destination: np.ndarray) -> np.ndarray | None:
    """The handiest place on the table where an object can be set aside, as its position, (3,); None if full.

    Args:
        world: the scene.
        name: the object.
        coming: points of what will move to where it is now in the way, (n, 3).
        destination: where the object goes later, (3,).
    """
    here = world.position(name)
    own = world.points(name)
    radius = float(np.linalg.norm(own[:, :2] - here[:2], axis=1).max())
    support = float(own[:, 2].min())
    obstacles = world.other_points([name])
    obstacles = obstacles[obstacles[:, 2] > support - 0.005]
    options: list[tuple[float, int, np.ndarray]] = []
    for distance in _ASIDE:
        for angle in np.linspace(0, 2 * np.pi, 32, endpoint=False):
            spot = here + distance * np.array([np.cos(angle), np.sin(angle), 0.0])
            if not _NEAR < np.linalg.norm((spot - world.base)[:2]) < _FAR:
                continue
            room = np.linalg.norm(obstacles[:, :2] - spot[:2], axis=1).min(initial=np.inf)
            clear = np.linalg.norm(coming[:, :2] - spot[:2], axis=1).min(initial=np.inf)
            if room > radius + _ROOM and clear > radius + _CLEAR:
                on_way = world.points_along(here, spot, _CORRIDOR, [name])
                rise = max(0.0, float(on_way[:, 2].max(initial=-np.inf)) - support)
                way = distance + 2 * rise + float(np.linalg.norm((destination - spot)[:2]))
                options.append((way, len(options), spot))
    return min(options, key=lambda option: option[:2])[2] if options else None


def region_top(world: World, region: str) -> float:
    """Height up to which a position is in a region."""
    site = world.problem.env.object_sites_dict[region]
    extent = np.abs(world.rotation(region) @ np.asarray(site.size, dtype=float))
    return float(world.position(region)[2] + extent[2])


def region_size(world: World, region: str) -> float:
    """The smaller horizontal half extent of a region, metres."""
    site = world.problem.env.object_sites_dict[region]
    extent = np.abs(world.rotation(region) @ np.asarray(site.size, dtype=float))
    return float(extent[:2].min())


def long_side(world: World, region: str) -> np.ndarray:
    """Horizontal unit vector along the longer side of a region, (3,)."""
    site = world.problem.env.object_sites_dict[region]
    sides = world.rotation(region) * np.asarray(site.size, dtype=float)
    side = sides[:, int(np.argmax(np.linalg.norm(sides[:2], axis=0)))]
    return np.array([*side[:2], 0.0]) / np.linalg.norm(side[:2])
