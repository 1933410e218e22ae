"""Where to grasp an object from above: across its narrow side, or at its rim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundry_bench.envs.experts.arm import wrap_half_turn
from foundry_bench.envs.experts.gripper import HandShape
from foundry_bench.envs.experts.world import World

_RIM_DEPTH = 0.020
_RIM_INSET = 0.004  # from the outermost point of a rim to the middle of its wall
_TIP_CLEARANCE = 0.012  # between the pads' centre and what lies under the object
_DIRECTIONS = 24
_COMFORTABLE_REACH, _FAR_COST = 0.68, 10.0  # metres from the base; beyond about 0.76 the elbow is straight
_CLOSE_COST = 0.4  # for passing something by less than a few centimetres
_SIDE_COST = 0.3  # for the left side of a rim against the right one
_HANDLE_COST = 0.6
_DEPTHS = ((0.026, 0.0), (0.016, 0.1), (0.006, 0.4))  # of the pads' centre below the top, and what it costs
BLOCKED = 3.0  # a cost that only a grasp has whose fingers or hand would hit something
_CHORD_DEPTH, _CHORD_COST = 0.03, 1.0
_PAD_HALF = 0.010  # half width of the pads
_PAD_BELOW = 0.009  # the pads reach this far below their centre

_Candidate = tuple[np.ndarray, float, str, float]  # position, yaw, kind, cost


@dataclass(frozen=True)
class Grasp:
    """A grasp from above.

    Attributes:
        position: where the grip site goes, (3,).
        yaw: angle of the closing axis in the horizontal plane, radians, modulo pi.
        kind: `across`, `rim`, `handle` or `chord`.
        cost: lower is better.
        hits: the part of it that is for what fingers or hand would hit; `BLOCKED` or more is too much.
    """

    position: np.ndarray
    yaw: float
    kind: str
    cost: float
    hits: float = 0.0


def find_grasps(
    world: World,
    name: str,
    support: float,
    destination: np.ndarray,
    coming: np.ndarray | None = None,
    moved: np.ndarray | None = None,
) -> list[Grasp]:
    """Grasps of an object from above, the best first.

    Args:
        world: the scene.
        name: the object.
        support: height of what the object stands on, below which no finger goes.
        destination: where the object's position will be taken, (3,).
        coming: points of what will stand in the way beside what does now, (n, 3).
        moved: as if the object stood so far from where it does, (3,).
    """
    moved = np.zeros(3) if moved is None else moved
    points = world.points(name) + moved
    rotation, origin = world.rotation(name), world.position(name) + moved
    local = (points - origin) @ rotation
    obstacles = world.other_points([name])
    if coming is not None:
        obstacles = np.concatenate([obstacles, coming])
    near = np.linalg.norm(obstacles[:, :2] - points[:, :2].mean(axis=0), axis=1) < 0.3
    obstacles = obstacles[near]
    axis = world.closing_axis
    current = float(np.arctan2(axis[1], axis[0]))
    widest = world.gripper.shape.widest
    found: list[_Candidate] = []
    for number in range(_DIRECTIONS):
        yaw = np.pi * number / _DIRECTIONS
        found += _across(points, yaw, support, widest)
        found += _rim(local, rotation, origin, 2 * yaw, support)
        found += _handle(points, 2 * yaw, support, widest)
    if not found:
        for number in range(2 * _DIRECTIONS):
            found += _chord(points, np.pi * number / _DIRECTIONS, support, widest)
    scored = []
    for position, yaw, kind, cost in found:
        turn = abs(wrap_half_turn(yaw - current))
        reach = max(
            float(np.linalg.norm((spot - world.base)[:2]))
            for spot in (position, destination + position - origin)
        )
        cost += 0.25 * turn + _FAR_COST * max(0.0, reach - _COMFORTABLE_REACH)
        hits = _collisions(position, yaw, kind, points, obstacles, world.gripper.shape)
        scored.append(Grasp(position, yaw, kind, cost + hits, hits))
    return sorted(scored, key=lambda grasp: grasp.cost)


def across_grasps(world: World, points: np.ndarray, support: float) -> list[Grasp]:
    """Grasps across a narrow part given by its points, (n, 3), that nothing is said about but its shape."""
    found = [
        Grasp(*candidate)
        for number in range(_DIRECTIONS)
        for candidate in _across(points, np.pi * number / _DIRECTIONS, support, world.gripper.shape.widest)
    ]
    return sorted(found, key=lambda grasp: grasp.cost)


def _across(points: np.ndarray, yaw: float, support: float, widest: float) -> list[_Candidate]:
    """Grasps through the object's middle with the fingers on both sides, where it is narrow enough."""
    top = points[:, 2].max()
    along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    found: list[_Candidate] = []
    for depth, extra in _DEPTHS:
        height = min(max(top - depth, support + _TIP_CLEARANCE), max(top - 0.004, support + _TIP_CLEARANCE))
        band = points[(points[:, 2] > height - _PAD_BELOW) & (points[:, 2] < height + 0.012)]
        if not len(band):
            continue
        # The middle of the band, not of the whole object: a handle or a lid shifts the latter.
        centre = (band[:, :2].min(axis=0) + band[:, :2].max(axis=0)) / 2
        slab = band[np.abs((band[:, :2] - centre) @ across) < 0.015]
        if not len(slab):
            continue
        reach = (slab[:, :2] - centre) @ along
        width = reach.max() - reach.min()
        if width < widest:
            middle = centre + along * (reach.max() + reach.min()) / 2
            found.append((np.array([*middle, height]), yaw, "across", 6.0 * max(0.0, width - 0.03) + extra))
            break
    return found


def _chord(points: np.ndarray, yaw: float, support: float, widest: float) -> list[_Candidate]:
    """The grasp beside the middle of what is round and too wide there, where it is narrow enough."""
    top = points[:, 2].max()
    height = max(top - _CHORD_DEPTH, support + _TIP_CLEARANCE)
    band = points[(points[:, 2] > height - _PAD_BELOW) & (points[:, 2] < height + 0.012)]
    along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    if not len(band):
        return []
    centre = (band[:, :2].min(axis=0) + band[:, :2].max(axis=0)) / 2
    reach, side = (band[:, :2] - centre) @ along, (band[:, :2] - centre) @ across
    for place in np.arange(0.01, side.max(), 0.003):
        slab = reach[np.abs(side - place) < _PAD_HALF]
        if len(slab) and np.ptp(slab) < widest:
            spot = centre + across * place + along * (slab.max() + slab.min()) / 2
            return [(np.array([*spot, height]), yaw % np.pi, "chord", _CHORD_COST)]
    return []


def _rim(
    local: np.ndarray, rotation: np.ndarray, origin: np.ndarray, angle: float, support: float
) -> list[_Candidate]:
    """The grasp of a hollow object's wall at one angle around it; the object may stand askew."""
    top = local[:, 2].max()
    upper = local[local[:, 2] > top - 0.012]
    centre = (upper[:, :2].min(axis=0) + upper[:, :2].max(axis=0)) / 2
    offset = upper[:, :2] - centre
    radius = np.linalg.norm(offset, axis=1)
    if radius.max() < 0.035 or (radius < 0.4 * radius.max()).any():
        return []  # too small, or not hollow
    turned = (np.arctan2(offset[:, 1], offset[:, 0]) - angle + np.pi) % (2 * np.pi) - np.pi
    sector = radius[np.abs(turned) < np.radians(9)]
    if not len(sector) or sector.max() - sector.min() > 0.03:
        return []  # no wall here, or a handle
    direction = np.array([np.cos(angle), np.sin(angle)])
    outward = rotation @ [*direction, 0.0]
    position = rotation @ [*(centre + direction * (sector.max() - _RIM_INSET)), top - _RIM_DEPTH] + origin
    position[2] = max(position[2], support + _TIP_CLEARANCE)
    # Where the object leans, the fingers close best along the axis it leans about. Of two sides that are as
    # good, always the same one: demonstrations that differ for no reason are hard to imitate.
    cost = 0.15 + 2.0 * abs(float(outward[2])) + _SIDE_COST * bool(outward[1] > 0.05)
    return [(position, float(np.arctan2(outward[1], outward[0])) % np.pi, "rim", cost)]


def _handle(points: np.ndarray, angle: float, support: float, widest: float) -> list[_Candidate]:
    """The grasp of what sticks out at one angle, such as a mug's handle or a pan's, across it."""
    middle = np.median(points[:, :2], axis=0)
    direction, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    out, off = (points[:, :2] - middle) @ direction, np.abs((points[:, :2] - middle) @ aside)
    usual = float(np.median([out.max(), -out.min()]))
    reach = float(out.max())
    if reach < 1.25 * usual or off[out > reach - 0.005].max() > widest / 2:
        return []
    # Of what is narrow, the part next to the body: less of a lever.
    found: list[_Candidate] = []
    for place in np.arange(reach - 0.012, usual, -0.01):
        band = points[np.abs(out - place) < 0.011]
        width = np.ptp((band[:, :2] - middle) @ aside) if len(band) else np.inf
        if width > widest - 0.02:
            break
        height = max(float(band[:, 2].max()) - _RIM_DEPTH, support + _TIP_CLEARANCE)
        spot = middle + direction * place + aside * float(((band[:, :2] - middle) @ aside).mean())
        found = [(np.array([*spot, height]), (angle + np.pi / 2) % np.pi, "handle", _HANDLE_COST)]
    return found


def _collisions(
    position: np.ndarray, yaw: float, kind: str, own: np.ndarray, obstacles: np.ndarray, shape: HandShape
) -> float:
    """A penalty for what the open fingers and the hand would hit on their way down."""
    along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    inner, outer, beside, below = shape.fingers
    length, width, above = shape.hand
    penalty = 0.0
    for cloud, weight in ((obstacles, 1.0), (own, 0.5)):
        if not len(cloud):
            continue
        local = cloud - position
        u, v, up = np.abs(local[:, :2] @ along), np.abs(local[:, :2] @ across), local[:, 2]
        hand = (u < length) & (v < width) & (up > above) & (up < 0.2)
        fingers = (u > inner) & (u < outer) & (v < beside) & (up > -below) & (up < 0.2)
        if weight == 1.0:
            close = (u < shape.passing[0]) & (v < shape.passing[1]) & (up > above) & (up < 0.2)
            penalty += _CLOSE_COST * bool(close.any())
        if kind != "across" and weight < 1:
            fingers = np.zeros_like(fingers)  # the inner finger goes into the object
        penalty += weight * (
            4.0 * bool(hand.any()) + 3.0 * bool(fingers.any()) + 0.02 * int((hand | fingers).sum())
        )
    return penalty
