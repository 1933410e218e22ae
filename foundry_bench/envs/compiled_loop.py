"""A control step of OSC_POSE in one compiled function: stepping, reading and control law.

The same operations in the same order as robosuite's (see :mod:`foundry_bench.envs.control`), so the same
bits; robosuite's own compiled functions are called from inside. The law is Khatib's (IEEE Journal on
Robotics and Automation, 1987) with robosuite's choices: position and orientation decoupled, a null-space
torque towards the start posture, gravity compensation.

numba keeps the machine code in its cache, so that only the first process on a machine waits for the compiler.
Arrays are copied number by number: numba compiles that in a third of the time that slices take.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import numba
import numpy as np
from numba.core.dispatcher import Dispatcher
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from foundry_bench.envs.control import OBSERVED_SUBSTEP, SUBSTEPS, consecutive
from foundry_bench.envs.guarded_calls import FIRST, addresses, call, failure

log = logging.getLogger(__name__)

_FUNCTIONS = ("mj_step1", "mj_forwardSkip", "mj_fwdConstraint", "mj_step2", "mj_jacSite", "mj_fullM")
_STEP1, _FORWARD, _CONSTRAINT, _STEP2, _JACOBIAN, _FULL_MASS = range(FIRST, FIRST + len(_FUNCTIONS))
_AFTER_VELOCITY = int(mujoco.mjtStage.mjSTAGE_VEL)


class Views(NamedTuple):
    """MuJoCo's own memory, and what does not change.

    Attributes:
        calls: addresses of MuJoCo's functions.
        model, data: addresses of the structs.
        site: number of the end effector's site.
        joints, speeds, motors: number of the arm's first joint coordinate, velocity and actuator.
        fingers: numbers of the gripper's actuators, (g,).
        low, high: limits of the arm's torques, Nm, (n,).
        stiffness, damping: of position and orientation, (6,).
        others: `MjData`'s arrays of these names; `place` and `turn` are the site's ``xpos`` and ``xmat``.
    """

    calls: np.ndarray
    model: int
    data: int
    site: int
    joints: int
    speeds: int
    motors: int
    fingers: np.ndarray
    low: np.ndarray
    high: np.ndarray
    stiffness: np.ndarray
    damping: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray
    qM: np.ndarray  # noqa: N815 - MuJoCo's name
    qfrc_bias: np.ndarray
    ctrl: np.ndarray
    solver_niter: np.ndarray
    place: np.ndarray
    turn: np.ndarray


class Reading(NamedTuple):
    """What the controller has read and what it aims at; written in place.

    Attributes:
        position, rotation, linear, angular: pose (m) and velocity of the end effector.
        joint_pos, joint_vel: of the arm, (n,).
        jacobian, jacobian_pos, jacobian_ori: of the end effector, in Fortran's order as robosuite has them,
            because the order decides how BLAS adds.
        mass: of the arm, (n, n), in Fortran's order.
        goal_position, goal_rotation: where the end effector is to go.
        posture: joints that the null-space torque draws towards.
        all_linear, all_angular, all_mass: room for MuJoCo's answers about every joint.
    """

    position: np.ndarray
    rotation: np.ndarray
    linear: np.ndarray
    angular: np.ndarray
    joint_pos: np.ndarray
    joint_vel: np.ndarray
    jacobian: np.ndarray
    jacobian_pos: np.ndarray
    jacobian_ori: np.ndarray
    mass: np.ndarray
    goal_position: np.ndarray
    goal_rotation: np.ndarray
    posture: np.ndarray
    all_linear: np.ndarray
    all_angular: np.ndarray
    all_mass: np.ndarray


def compiled(function: Callable[..., Any]) -> Any:
    """numba's `njit`, cached where there is a folder to write to."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError as error:  # nowhere: neither beside the code nor in the user's cache
        log.warning("%s is compiled again in every process: %s", function.__name__, error)
        return numba.njit(function)


@compiled
def look(views: Views, reading: Reading, again: bool) -> bool:
    """A substep until its torques are due; false where MuJoCo has failed.

    Args:
        again: whether the controller reads, with the solver's second pass that this costs in robosuite.
    """
    calls, model, data = views.calls, views.model, views.data
    if not call(calls, _STEP1, (model, data)):
        return False
    if not call(calls, _FORWARD, (model, data, _AFTER_VELOCITY, 1)):
        return False
    if not again:
        return True
    # Without an iteration in the first pass a second has none either.
    if views.solver_niter[0] != 0 and not call(calls, _CONSTRAINT, (model, data)):
        return False
    linear, angular, mass = reading.all_linear, reading.all_angular, reading.all_mass
    if not call(calls, _JACOBIAN, (model, data, linear.ctypes.data, angular.ctypes.data, views.site)):
        return False
    if not call(calls, _FULL_MASS, (model, mass.ctypes.data, views.qM.ctypes.data)):
        return False
    linear_velocity, angular_velocity = np.dot(linear, views.qvel), np.dot(angular, views.qvel)
    for row in range(3):
        reading.position[row] = views.place[row]
        reading.linear[row] = linear_velocity[row]
        reading.angular[row] = angular_velocity[row]
        for column in range(3):
            reading.rotation[row, column] = views.turn[row, column]
    for joint in range(len(reading.joint_pos)):
        speed = views.speeds + joint
        reading.joint_pos[joint] = views.qpos[views.joints + joint]
        reading.joint_vel[joint] = views.qvel[speed]
        for row in range(3):
            reading.jacobian[row, joint] = reading.jacobian_pos[row, joint] = linear[row, speed]
            reading.jacobian[3 + row, joint] = reading.jacobian_ori[row, joint] = angular[row, speed]
        for other in range(len(reading.joint_pos)):
            reading.mass[joint, other] = mass[speed, views.speeds + other]
    return True


@numba.njit(inline="always")  # a function of its own would be optimised twice, at a second each
def torques(views: Views, reading: Reading) -> np.ndarray:
    """``OperationalSpaceController.run_controller``, term by term in its order."""
    stiffness, damping = views.stiffness, views.damping
    turn = orientation_error(reading.goal_rotation, reading.rotation)
    force, torque, wrench = np.empty(3), np.empty(3), np.empty(6)
    for axis in range(3):
        force[axis] = (reading.goal_position[axis] - reading.position[axis]) * stiffness[axis]
        force[axis] += -reading.linear[axis] * damping[axis]
        torque[axis] = turn[axis] * stiffness[3 + axis]
        torque[axis] += -reading.angular[axis] * damping[3 + axis]
    _, inertia, rotational, null_space = opspace_matrices(
        reading.mass, reading.jacobian, reading.jacobian_pos, reading.jacobian_ori
    )
    decoupled_force, decoupled_torque = np.dot(inertia, force), np.dot(rotational, torque)
    for axis in range(3):
        wrench[axis], wrench[3 + axis] = decoupled_force[axis], decoupled_torque[axis]
    found = np.dot(reading.jacobian.T, wrench)
    towards_posture = nullspace_torques(
        reading.mass, null_space, reading.posture, reading.joint_pos, reading.joint_vel
    )
    for joint in range(len(found)):
        found[joint] = found[joint] + views.qfrc_bias[views.speeds + joint] + towards_posture[joint]
    return found


@compiled
def advance(views: Views, reading: Reading, fingers: np.ndarray, first: int, last: int) -> bool:
    """Substeps from the torques of ``first``, after its `look`, to the end of ``last``, counted from 0.

    Args:
        fingers: controls of the gripper for each substep, (25, g).
        first, last: substeps.

    Returns:
        Whether MuJoCo has not failed.
    """
    for substep in range(first, last + 1):
        again = substep > first
        if again and not look(views, reading, again):
            return False
        found = torques(views, reading)
        for index in range(len(views.fingers)):
            views.ctrl[views.fingers[index]] = fingers[substep, index]
        for joint in range(len(found)):
            torque = found[joint]
            if torque < views.low[joint]:
                torque = views.low[joint]
            if torque > views.high[joint]:
                torque = views.high[joint]
            views.ctrl[views.motors + joint] = torque
        if not call(views.calls, _STEP2, (views.model, views.data)):
            return False
    return True


class CompiledLoop:
    """Steps a robot with an OSC_POSE controller that `fits`, like `LeanLoop` and to the same bits.

    Args:
        model, data: the compiled scene and its state.
        robot: the robosuite robot. Its controller is looked up at every `begin`, since a reset replaces it.

    Raises:
        OSError, AttributeError: MuJoCo's library or a function of it was not found.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> None:
        self._robot = robot
        self._controller: Any = robot.controller
        self._size = self._controller.control_dim
        self._views = _views(model, data, robot)
        self._reading = _reading(len(robot._ref_joint_pos_indexes), model.nv)
        limits = model.actuator_ctrlrange[self._views.fingers]
        self._finger_bias = 0.5 * (limits[:, 1] + limits[:, 0])
        self._finger_weight = 0.5 * (limits[:, 1] - limits[:, 0])
        self._fingers = np.zeros((SUBSTEPS, len(limits)))

    @staticmethod
    def fits(controller: Any) -> bool:
        """Whether a controller is an OSC_POSE with fixed gains, decoupled and without interpolation."""
        return (
            controller.name == "OSC_POSE"
            and controller.impedance_mode == "fixed"
            and controller.uncoupling
            and controller.interpolator_pos is None
            and controller.interpolator_ori is None
            and isinstance(opspace_matrices, Dispatcher)  # robosuite can be told to do without numba
        )

    def begin(self) -> None:
        """Start an episode with what the robot's new controller has read."""
        controller = self._controller = self._robot.controller
        for name, own in _ATTRIBUTES.items():
            values = getattr(self._reading, name)
            values[:] = getattr(controller, own)
            setattr(controller, own, values)  # shared from now on: robosuite's code finds the present reading

    def step(self, action: np.ndarray, observe: Callable[[], None] | None = None) -> None:
        """One control step; see ``Engine.step``.

        Raises:
            mujoco.FatalError: MuJoCo cannot go on.
        """
        views, reading, controller = self._views, self._reading, self._controller
        self._plan_fingers(action[self._size :])
        _check(look(views, reading, controller.new_update))
        controller.new_update = False  # robosuite's own update has nothing left to do
        controller.set_goal(action[: self._size])
        reading.goal_position[:] = controller.goal_pos
        reading.goal_rotation[:] = controller.goal_ori
        controller.new_update = True  # whatever comes, the next step reads again
        first = 0
        if observe is not None:
            _check(advance(views, reading, self._fingers, first, OBSERVED_SUBSTEP - 1))
            observe()
            first = OBSERVED_SUBSTEP
            _check(look(views, reading, True))
        _check(advance(views, reading, self._fingers, first, SUBSTEPS - 1))

    def _plan_fingers(self, action: np.ndarray) -> None:
        """The gripper's controls in all substeps, which depend on nothing but the action."""
        if not len(self._finger_bias):
            return
        gripper = self._robot.gripper
        for substep in range(SUBSTEPS):
            before = np.array(gripper.current_action)
            fingers = gripper.format_action(action)
            self._fingers[substep] = self._finger_bias + self._finger_weight * fingers
            if np.array_equal(gripper.current_action, before):  # wide open, or shut: so it stays
                self._fingers[substep:] = self._fingers[substep]
                return


#: Fields of `Reading` and what robosuite's controllers call them.
_ATTRIBUTES = {
    "position": "ee_pos",
    "rotation": "ee_ori_mat",
    "linear": "ee_pos_vel",
    "angular": "ee_ori_vel",
    "joint_pos": "joint_pos",
    "joint_vel": "joint_vel",
    "jacobian": "J_full",
    "jacobian_pos": "J_pos",
    "jacobian_ori": "J_ori",
    "mass": "mass_matrix",
    "posture": "initial_joint",
}


def _check(went_well: bool) -> None:
    if not went_well:
        raise mujoco.FatalError(failure())


def _views(model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> Views:
    controller = robot.controller
    site = model.site(controller.eef_name).id
    low, high = robot.torque_limits
    return Views(
        calls=addresses(_FUNCTIONS),
        model=model._address,
        data=data._address,
        site=site,
        joints=consecutive(robot._ref_joint_pos_indexes).start,
        speeds=consecutive(robot._ref_joint_vel_indexes).start,
        motors=consecutive(robot._ref_joint_actuator_indexes).start,
        fingers=np.array(robot._ref_joint_gripper_actuator_indexes or [], dtype=np.int64),
        low=np.array(low, dtype=np.float64),
        high=np.array(high, dtype=np.float64),
        stiffness=np.array(controller.kp, dtype=np.float64),
        damping=np.array(controller.kd, dtype=np.float64),
        qpos=data.qpos,
        qvel=data.qvel,
        qM=data.qM,
        qfrc_bias=data.qfrc_bias,
        ctrl=data.ctrl,
        solver_niter=data.solver_niter,
        place=data.site_xpos[site],
        turn=data.site_xmat[site].reshape(3, 3),
    )


def _reading(joints: int, nv: int) -> Reading:
    return Reading(
        position=np.zeros(3),
        rotation=np.zeros((3, 3)),
        linear=np.zeros(3),
        angular=np.zeros(3),
        joint_pos=np.zeros(joints),
        joint_vel=np.zeros(joints),
        jacobian=np.zeros((6, joints), order="F"),
        jacobian_pos=np.zeros((3, joints), order="F"),
        jacobian_ori=np.zeros((3, joints), order="F"),
        mass=np.zeros((joints, joints), order="F"),
        goal_position=np.zeros(3),
        goal_rotation=np.zeros((3, 3)),
        posture=np.zeros(joints),
        all_linear=np.zeros((3, nv)),
        all_angular=np.zeros((3, nv)),
        all_mass=np.zeros((nv, nv)),
    )
