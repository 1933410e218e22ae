"""Grippers as the skills see them: how far they are open, where they touch, what room they need.

The numbers that the skills compare with are the Panda's. Other grippers report their opening on its scale,
from nothing between the fingers to as wide as they go, and say how wide a thing they take; their fingers and
hands are measured from their collision geoms.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from foundry_bench.envs.problem import Problem

_PANDA_OPEN = 0.078  # metres between the Panda's pads, the scale of every opening
_PLAY = 0.003  # metres by which fingers with nothing between them may stay apart
_SPARE = 0.006  # metres of a gripper's width that are needed to get around a thing
_SETTLE = 600  # simulator steps in which any gripper opens or closes
_THERE = 1e-3  # metres from where the fingers end
_PASSING = (0.02, 0.033)  # metres beside the hand, along its closing axis and across it
_ROOM = 0.004  # metres added around what is measured
_FINGERTIP = 0.06  # what is farther behind the tips than that is no finger that goes in somewhere
_LAST_STEPS = 5  # of closing, to tell that the fingers have stopped
_SIDES = ("left", "right")


@dataclass(frozen=True)
class HandShape:
    """The room a hand takes, metres, in a frame at its grip site.

    The axes are the one along which the fingers close, the one across it and the one along which they point.

    Attributes:
        widest: what fits between the open fingers.
        fingers: of the open fingers the distances from the middle at which they begin and end, half their
            width, and how far they reach beyond the grip site.
        hand: half extents of the hand along and across the closing axis, and how far behind the grip site it
            begins.
        passing: half extents of what should better stay free beside the hand.
        boxes: of the hand and of the closed fingers, as low and high corners, (3,) each.
    """

    widest: float
    fingers: tuple[float, float, float, float]
    hand: tuple[float, float, float]
    passing: tuple[float, float]
    boxes: tuple[tuple[np.ndarray, np.ndarray], ...]


#: The Panda's hand and fingers; they open to 7.25 cm in practice.
PANDA = HandShape(
    widest=0.066,
    fingers=(0.034, 0.062, 0.016, 0.016),
    hand=(0.11, 0.042, 0.035),
    passing=(0.13, 0.075),
    boxes=(
        (np.array([-0.107, -0.034, -0.125]), np.array([0.107, 0.034, -0.026])),
        (np.array([-0.025, -0.012, -0.026]), np.array([0.025, 0.012, 0.013])),
    ),
)


class Gripper:
    """The Panda's gripper.

    Attributes:
        pads: numbers of the geoms that hold, for each side.
        fingers: those of the whole fingers, for each side.
        shape: the room it takes.
        closing_steps: control steps in which it closes on something, at most.
    """

    shape = PANDA
    closing_steps = 12

    def __init__(self, problem: Problem) -> None:
        self._model, self._data = problem.model, problem.data
        self._robot: Any = problem.robot
        geoms = self._robot.gripper.important_geoms
        self.pads = [self._numbers(geoms[f"{side}_fingerpad"]) for side in _SIDES]
        self.fingers = [self._numbers(geoms[f"{side}_finger"]) for side in _SIDES]
        self._joints = list(self._robot._ref_gripper_joint_pos_indexes or [])

    def opening(self) -> float:
        """Distance between the fingers in metres, 0 to about 0.08."""
        left, right = self._data.qpos[self._joints]
        return float(left - right)

    def closing_axis(self) -> np.ndarray:
        """Unit vector from one finger pad to the other, (3,)."""
        axis = self._data.geom_xpos[self.pads[1][0]] - self._data.geom_xpos[self.pads[0][0]]
        return axis / np.linalg.norm(axis)

    def _numbers(self, names: list[str]) -> list[int]:
        return [self._model.geom(name).id for name in names]


class MeasuredGripper(Gripper):
    """A gripper with two sides of fingers that is known by its geoms alone."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._closed, self._open, self.closing_steps, self.shape = _measure(problem, self)

    def opening(self) -> float:
        """How far the fingers are open, on the scale of the Panda's: 0 to about 0.08."""
        share = (self.distance(self._data) - self._closed - _PLAY) / (self._open - self._closed - _PLAY)
        return _PANDA_OPEN * max(0.0, share)

    def closing_axis(self) -> np.ndarray:
        """Unit vector from the pads of one side to those of the other, (3,)."""
        axis = self._between(self._data)
        return axis / np.linalg.norm(axis)

    def distance(self, data: mujoco.MjData) -> float:
        """Distance of the middles of the pads of both sides in metres."""
        return float(np.linalg.norm(self._between(data)))

    def _between(self, data: mujoco.MjData) -> np.ndarray:
        left, right = (data.geom_xpos[pads].mean(axis=0) for pads in self.pads)
        return np.asarray(right - left)


class Tool(Gripper):
    """A tool that holds nothing."""

    shape = HandShape(0.0, (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0), ())

    def opening(self) -> float:
        """Nothing opens."""
        return 0.0

    def closing_axis(self) -> np.ndarray:
        """The tool's second axis, (3,)."""
        return self._data.site_xmat[self._robot.eef_site_id].reshape(3, 3)[:, 1].copy()


def gripper_of(problem: Problem) -> Gripper:
    """The gripper of a problem's robot."""
    name = type(problem.robot.gripper).__name__
    if name == "PandaGripper":
        return Gripper(problem)
    geoms = problem.robot.gripper.important_geoms
    return MeasuredGripper(problem) if geoms["left_fingerpad"] else Tool(problem)


_Measures = tuple[float, float, int, HandShape]
_MEASURED: weakref.WeakKeyDictionary[Problem, _Measures] = weakref.WeakKeyDictionary()


def _measure(problem: Problem, gripper: MeasuredGripper) -> _Measures:
    """Distance of the pads closed and open, steps to close, and shape; moved once for each scene."""
    if problem in _MEASURED:
        return _MEASURED[problem]
    robot = problem.robot.gripper
    before = np.array(robot.current_action)
    robot.current_action = np.zeros(robot.dof)
    data = mujoco.MjData(problem.model)
    data.qpos[problem.robot._ref_joint_pos_indexes] = problem.robot.robot_model.init_qpos
    data.qpos[problem.robot._ref_gripper_joint_pos_indexes] = robot.init_qpos
    _move(problem, gripper, data, -1.0)
    wide = copy.copy(data)
    moving = _move(problem, gripper, data, 1.0)
    robot.current_action = before
    steps = _LAST_STEPS + int(np.ceil(moving * problem.model.opt.timestep * problem.env.control_freq))
    shape = _shape(problem, gripper, wide, data)
    _MEASURED[problem] = gripper.distance(data), gripper.distance(wide), steps, shape
    return _MEASURED[problem]


def _move(problem: Problem, gripper: MeasuredGripper, data: mujoco.MjData, action: float) -> int:
    """Move the fingers, and nothing else, as far as an action takes them; in how many simulator steps."""
    model, robot = problem.model, problem.robot
    fixed = np.setdiff1d(np.arange(model.nq), robot._ref_gripper_joint_pos_indexes)
    still = np.setdiff1d(np.arange(model.nv), robot._ref_gripper_joint_vel_indexes)
    kept = data.qpos[fixed].copy()
    actuators = robot._ref_joint_gripper_actuator_indexes
    low, high = model.actuator_ctrlrange[actuators].T
    distances = np.zeros(_SETTLE)
    for step in range(_SETTLE):
        share = robot.gripper.format_action(np.full(robot.gripper.dof, action))
        data.ctrl[actuators] = (low + high) / 2 + (high - low) / 2 * share
        mujoco.mj_step(model, data)
        data.qpos[fixed] = kept
        data.qvel[still] = 0.0
        distances[step] = gripper.distance(data)
    mujoco.mj_forward(model, data)
    return int(np.flatnonzero(np.abs(distances - distances[-1]) > _THERE).max(initial=0))


def _shape(problem: Problem, gripper: Gripper, wide: mujoco.MjData, shut: mujoco.MjData) -> HandShape:
    """The boxes around a gripper's collision geoms, open and closed."""
    inner, outer, across, below = np.inf, 0.0, 0.0, 0.0
    fingers = {geom for side in gripper.fingers + gripper.pads for geom in side}
    for geom in fingers:
        low, high = _extent(problem, gripper, geom, wide)
        near = float(min(abs(low[0]), abs(high[0])))
        if high[2] < -_FINGERTIP:
            continue
        if any(geom in pads for pads in gripper.pads):
            inner = min(inner, near)
        outer = max(outer, float(max(abs(low[0]), abs(high[0]))))
        across = max(across, float(max(abs(low[1]), abs(high[1]))))
        below = max(below, float(high[2]))
    rest = [geom for geom in _geoms(problem) if geom not in fingers]
    hand = _box([_extent(problem, gripper, geom, wide) for geom in rest])
    closed = _box([_extent(problem, gripper, geom, shut) for geom in fingers])
    length, width, _ = np.abs(hand).max(axis=0) + _ROOM
    return HandShape(
        widest=2 * inner - _SPARE,
        fingers=(inner - _ROOM, outer, across + _ROOM, below + _ROOM),
        hand=(float(length), float(width), float(-hand[1][2])),
        passing=(float(length) + _PASSING[0], float(width) + _PASSING[1]),
        boxes=(hand, closed),
    )


def _geoms(problem: Problem) -> list[int]:
    """The collision geoms of the gripper."""
    model = problem.model
    members = {model.body(problem.robot.gripper.root_body).id}
    for body in range(min(members) + 1, model.nbody):
        if int(model.body_parentid[body]) in members:
            members.add(body)
    return [
        geom
        for geom in range(model.ngeom)
        if int(model.geom_bodyid[geom]) in members
        and (model.geom_contype[geom] or model.geom_conaffinity[geom])
    ]


def _extent(
    problem: Problem, gripper: Gripper, geom: int, data: mujoco.MjData
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner of a geom's bounding box in the frame of `HandShape`."""
    site = problem.robot.eef_site_id
    pointing = data.site_xmat[site].reshape(3, 3)[:, 2]
    left, right = (data.geom_xpos[pads].mean(axis=0) for pads in gripper.pads)
    closing = right - left - ((right - left) @ pointing) * pointing
    closing = closing / np.linalg.norm(closing)
    frame = np.stack([closing, np.cross(pointing, closing), pointing])
    own = data.geom_xmat[geom].reshape(3, 3)
    box = problem.model.geom_aabb[geom]
    middle = frame @ (data.geom_xpos[geom] + own @ box[:3] - data.site_xpos[site])
    half = np.abs(frame @ own) @ box[3:]
    return middle - half, middle + half


def _box(extents: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    lows, highs = zip(*extents, strict=True)
    return np.min(lows, axis=0), np.max(highs, axis=0)
