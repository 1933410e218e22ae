"""How a held object must turn and shift to go between the walls of what it is put into from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull

from foundry_bench.envs.experts.arm import Arm

_LARGEST_TURN = np.radians(100.0)
_TURN_COST = 0.02  # of a radian, in points that would be inside of the object or the hand
_SHIFT_COST = 2.0  # of a metre
_DROP_COST = 10.0  # of a metre
_ROOM = 0.02  # metres beside an object with which nothing can go wrong
_STEPS = 3  # of a shift to either side
_ROUND = 1.3  # ratio of the sides of what is not worth turning
_FLOOR = 0.015  # what is so low under an object is what it will stand on
_HIGHEST_DROP = 0.06
_HAND_BACK, _HAND_ABOVE = (
    0.026,
    0.004,
)  # the hand begins so far behind the grip site, and stays so far above walls
_MARGINS = ((0.003, 1.0), (0.012, 0.1))  # metres around the object, and what a point there costs
_ANGLES = np.radians(np.arange(0.0, 90.0, 3.0))
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Fit:
    """How a held object goes into a container.

    Attributes:
        turn: angle about the vertical by which it turns before, radians.
        spot: where its position goes, (3,).
        drop: height from which it is dropped, so that the hand stays above the walls, metres.
        rim: height of the walls.
        tight: whether there is little room beside the object.
    """

    turn: float
    spot: np.ndarray
    drop: float
    rim: float
    tight: bool


def fit_into(arm: Arm, name: str, container: str, target: np.ndarray, room: float, below: bool) -> Fit:
    """How a held object should go into a container.

    Args:
        arm: the arm, its hand pointing down.
        name: the held object.
        container: what it goes into.
        target: where the object's position would best be, (3,).
        room: how far from there it may be, metres.
        below: whether parts of the container, such as other drawers, may reach over the way in.
    """
    world = arm.world
    walls = world.points(container) - target
    own = world.points(name) - world.position(name)
    grip, axis = world.hand - world.position(name), world.closing_axis
    yaw = box_angle(own)
    along = world.rotation(container)[:2, 0]
    missing = float(np.arctan2(along[1], along[0])) - yaw
    # No turn, and those that bring the object's sides in line with the container's.
    turns = [0.0, *((missing + quarter * np.pi / 2 + np.pi) % (2 * np.pi) - np.pi for quarter in range(4))]
    turns = [turn for turn in turns if abs(turn) < _LARGEST_TURN]
    rim = float(walls[:, 2].max() + target[2])
    above = max(0.0, rim + _HAND_ABOVE - float(target[2] + grip[2] + _HAND_BACK))
    outline = _Outline(own, below)
    sides = np.sort(np.ptp(own @ _about_vertical(yaw), axis=0)[:2])
    if not outline.contains(walls, _MARGINS[0][0]):
        return Fit(0.0, target, 0.0, rim, tight=False)
    if sides[1] < _ROUND * sides[0]:
        turns = [0.0]

    def rated(turn: float, shift: np.ndarray) -> tuple[float, Fit]:
        rotation = _about_vertical(turn)
        there = (walls - shift) @ rotation  # as the object sees the walls
        hits = sum(weight * outline.contains(there, margin) for margin, weight in _MARGINS)
        hand = target + shift + rotation @ grip
        touches = world.hand_hits(hand, -_UP, rotation @ axis, [name]) > 0
        drop = min(above, _HIGHEST_DROP) if touches else 0.0
        cost = hits + _DROP_COST * drop + _TURN_COST * abs(turn) + _SHIFT_COST * float(np.linalg.norm(shift))
        tight = outline.contains(there, _ROOM) > 0
        return cost, Fit(turn, target + shift, drop, rim, tight)

    coarse = [rated(turn, shift) for turn in turns for shift in _shifts(along, room)]
    best = min(coarse, key=lambda option: option[0])[1]
    between = _shifts(along, room / _STEPS)
    fine = [rated(best.turn, best.spot - target + shift) for shift in between]
    return min([*fine, *coarse], key=lambda option: option[0])[1]


def _shifts(along: np.ndarray, room: float) -> list[np.ndarray]:
    """Displacements along a container's sides, (3,) each, the smallest first."""
    steps = np.linspace(-room, room, 2 * _STEPS + 1)
    sides = np.array([[along[0], along[1], 0.0], [-along[1], along[0], 0.0]])
    shifts = [u * sides[0] + v * sides[1] for u in steps for v in steps]
    return sorted(shifts, key=lambda shift: float(np.linalg.norm(shift)))


def box_angle(points: np.ndarray) -> float:
    """The angle of the smallest upright box around points, (n, 3), in [0, pi/2)."""
    areas = [np.prod(np.ptp(points @ _about_vertical(angle), axis=0)[:2]) for angle in _ANGLES]
    return float(_ANGLES[int(np.argmin(areas))])


class _Outline:
    """The upright prism around an object: the convex hull of its points seen from above, and its height.

    Args:
        points: of the object, (n, 3), relative to its position.
        endless: whether the prism goes on above the object.
    """

    def __init__(self, points: np.ndarray, endless: bool) -> None:
        self._sides = ConvexHull(points[:, :2]).equations  # (m, 3): outward normals and offsets
        self._low = float(points[:, 2].min()) + _FLOOR
        self._high = np.inf if endless else float(points[:, 2].max())

    def contains(self, points: np.ndarray, margin: float) -> int:
        """How many points, (n, 3), lie in the prism or less than ``margin`` metres beside it."""
        level = points[(points[:, 2] > self._low) & (points[:, 2] < self._high + margin)]
        return int((level[:, :2] @ self._sides[:, :2].T + self._sides[:, 2] < margin).all(axis=1).sum())


def _about_vertical(angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
