"""The arm as the skills see it: a hand that is told where to be and which way to point."""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.variety import Variety
from foundry_bench.envs.experts.world import World

OPEN, CLOSED = -1.0, 1.0
_METRES_PER_UNIT, _RADIANS_PER_UNIT = 0.05, 0.5  # of an action
_LARGEST_TURN = 0.5  # units of an action
_TURNED = 0.2  # radians


class Arm:
    """Moves the hand towards poses, one action at a time.

    Args:
        world: the scene.
        variety: decides what is left to choice; None: nothing.
    """

    def __init__(self, world: World, variety: Variety | None = None) -> None:
        self.world = world
        self.variety = variety or Variety()
        self._speed = self.variety.speed
        self.near_contact = False  # tells the noise to be gentle
        self.grasping = False  # going down around something or closing on it
        rotation = world.hand_rotation
        # The start pose points down to within a degree: make it exact, and count yaw from there.
        self._down = _upright(rotation)
        axis = world.closing_axis
        self.home_yaw = float(np.arctan2(axis[1], axis[0]))
        # The closing axis in the hand's own frame, exactly across the pointing axis.
        own = self._down.T @ [np.cos(self.home_yaw), np.sin(self.home_yaw), 0.0]
        self._frame = np.stack([own, np.cross([0.0, 0.0, 1.0], own), [0.0, 0.0, 1.0]], axis=1)
        self._target = self._down

    def towards(self, target: np.ndarray, gripper: float, gain: float = 1.8) -> np.ndarray:
        """The action that takes the hand towards a position, keeping the chosen direction.

        The default gain leaves the controller well damped (0.75); with 1, joint friction stops the hand
        one or two centimetres short.
        """
        error = (target - self.world.hand) * gain / _METRES_PER_UNIT
        largest = np.abs(error).max() / self._speed
        if largest > 1.0:
            error /= largest
        turn = self._missing_turn() * gain / _RADIANS_PER_UNIT
        turn = np.clip(turn, -_LARGEST_TURN, _LARGEST_TURN)
        turn[np.abs(turn) < 1e-3] = 0.0
        return np.array([*error, *turn, gripper])

    def face(self, yaw: float) -> None:
        """Point down, with the closing axis at an angle, turned the short way from the start pose."""
        self.twist(self.home_yaw + wrap_half_turn(yaw - self.home_yaw))

    def twist(self, yaw: float) -> None:
        """Point down, with the closing axis at exactly this angle in radians, not modulo half a turn."""
        angle = yaw - self.home_yaw
        cosine, sine = np.cos(angle), np.sin(angle)
        self._target = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ self._down

    def away(self, yaw: float) -> float:
        """How far an angle of the closing axis is from that of the start pose, radians in [-pi, pi)."""
        return float((yaw - self.home_yaw + np.pi) % (2 * np.pi) - np.pi)

    def nearest_yaw(self, yaw: float) -> float:
        """The angle which `face` would take for a line's direction, radians."""
        return self.home_yaw + wrap_half_turn(yaw - self.home_yaw)

    def point(self, direction: np.ndarray, closing: np.ndarray, then: np.ndarray | None = None) -> None:
        """Point the fingers along ``direction``, closing along a line.

        Of the two ways to hold a line the one that is nearer to the start pose is taken, now and ``then``.

        Args:
            direction: unit vector from the hand to the fingertips, (3,).
            closing: unit vector across it, (3,); its sign does not matter.
            then: how the hand will turn afterwards, (3, 3).
        """
        options = [self._rotation(direction, axis) for axis in (closing, -closing)]
        turns = [np.eye(3)] if then is None else [np.eye(3), then]
        self._target = min(
            options,
            key=lambda rotation: max(float(np.linalg.norm(turn @ rotation - self._down)) for turn in turns),
        )

    def lean_in(self, angle: float) -> None:
        """Lean from pointing down until the fingers point towards the base by ``angle`` radians.

        The lean is about the line along which the fingers close, whichever way that lies.
        """
        closing = self._target @ self._frame[:, 0]
        outward = (self.world.hand - self.world.base) * [1.0, 1.0, 0.0]
        across = np.cross(closing, [0.0, 0.0, 1.0])
        across *= np.sign(across @ outward) or 1.0
        direction = -across * np.sin(angle) - np.array([0.0, 0.0, np.cos(angle)])
        self._target = self._rotation(direction, closing)

    def turn_by(self, angle: float) -> None:
        """Turn from the chosen direction by an angle about the vertical, radians."""
        if angle:
            cosine, sine = np.cos(angle), np.sin(angle)
            self.rotate(np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]))

    def rotate(self, rotation: np.ndarray) -> None:
        """Turn from the chosen direction by a rotation in the world frame, (3, 3)."""
        self._target = rotation @ self._target

    def _rotation(self, direction: np.ndarray, axis: np.ndarray) -> np.ndarray:
        return np.stack([axis, np.cross(direction, axis), direction], axis=1) @ self._frame.T

    def turned(self) -> bool:
        """Whether the hand points as chosen."""
        return self.missing() < _TURNED

    def missing(self) -> float:
        """The angle between where the hand points and where it should, radians."""
        return float(np.linalg.norm(self._missing_turn()))

    def missing_rotation(self) -> np.ndarray:
        """The turn from where the hand points to where it should, (3, 3)."""
        return self._target @ self.world.hand_rotation.T

    def _missing_turn(self) -> np.ndarray:
        return _rotation_vector(self.missing_rotation())


def wrap_half_turn(angle: float) -> float:
    """The same direction of a line as ``angle``, in [-pi/2, pi/2)."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


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
