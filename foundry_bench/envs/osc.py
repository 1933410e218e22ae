"""Operational space control of the arm, as robosuite 1.4.0 computes it, without its repeated work.

The control law is Khatib's (IEEE Journal on Robotics and Automation, 1987) with robosuite's choices: position
and orientation decoupled, a null-space torque towards the start posture, gravity compensation.

Not obvious, and kept because results depend on it: the goal orientation stays while the rotation part of the
action is zero; the first action after a reset is applied to the pose the robot had when its controller was
made (the start pose), not to the pose of the init state; the gripper moves a hundredth of its range a
substep.
"""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

_NULL_SPACE_STIFFNESS = 10.0


class ArmState:
    """What the control law reads from the simulator at one moment."""

    __slots__ = ("jacobian", "joint_velocity", "joints", "mass", "position", "rotation", "velocity")

    position: np.ndarray  # (3,) end effector, metres
    rotation: np.ndarray  # (3, 3)
    velocity: np.ndarray  # (6,) linear and angular
    joints: np.ndarray  # (7,)
    joint_velocity: np.ndarray  # (7,)
    jacobian: np.ndarray  # (6, 7)
    mass: np.ndarray  # (7, 7)


class OperationalSpaceControl:
    """Turns a 7-D action into controls, substep by substep.

    Args:
        model: the compiled scene.
        data: its state.
        robot: the robosuite robot, which knows its gains, limits and indices.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> None:
        import robosuite.utils.transform_utils

        self._transform = robosuite.utils.transform_utils
        controller = robot.controller
        self._model, self._data = model, data
        self._site = model.site(controller.eef_name).id
        self._qpos = np.array(robot._ref_joint_pos_indexes)
        self._qvel = np.array(robot._ref_joint_vel_indexes)
        self._block = np.ix_(self._qvel, self._qvel)
        self._actuators = np.array(robot._ref_joint_actuator_indexes)
        self._torque_low, self._torque_high = (
            np.array(limit, dtype=np.float64) for limit in robot.torque_limits
        )
        self._stiffness, self._damping = np.array(controller.kp), np.array(controller.kd)
        low, high = np.asarray(controller.output_min), np.asarray(controller.output_max)
        in_low, in_high = np.asarray(controller.input_min), np.asarray(controller.input_max)
        self._in_low, self._in_high = in_low, in_high
        self._scale = abs(high - low) / abs(in_high - in_low)
        self._out_middle, self._in_middle = (high + low) / 2.0, (in_high + in_low) / 2.0
        self._posture = np.array(robot.init_qpos)
        self._fingers = np.array(robot._ref_joint_gripper_actuator_indexes)
        limits = model.actuator_ctrlrange[self._fingers]
        self._finger_middle = 0.5 * (limits[:, 1] + limits[:, 0])
        self._finger_half = 0.5 * (limits[:, 1] - limits[:, 0])
        self._finger_speed = robot.gripper.speed * np.array([-1.0, 1.0])
        self._finger_target = np.zeros(2)
        self._jacobian = np.zeros((6, model.nv))
        self._full_mass = np.zeros((model.nv, model.nv))
        self._eye = np.eye(len(self._qvel))
        self._state: ArmState | None = None
        self._goal_position = np.zeros(3)
        self._goal_rotation = np.eye(3)

    def reset(self) -> None:
        """Start an episode. Call it while the robot is in its start pose, before the init state is set."""
        self._state = self._read()
        self._goal_position = self._state.position
        self._goal_rotation = self._state.rotation
        self._finger_target = np.zeros(2)

    def set_goal(self, action: np.ndarray) -> None:
        """Take a new 7-D action in [-1, 1]; call it after ``mj_step1``, before `apply`."""
        state = self._state = self._state or self._read()
        clipped = np.clip(action[:6], self._in_low, self._in_high)
        delta = (clipped - self._in_middle) * self._scale + self._out_middle
        if any(not math.isclose(component, 0.0) for component in delta[3:]):
            # robosuite turns the quaternion into a matrix in single precision: only its own function agrees.
            turn = self._transform.quat2mat(self._transform.axisangle2quat(delta[3:]))
            self._goal_rotation = turn @ state.rotation
        self._goal_position = state.position + delta[:3]

    def apply(self, gripper: float) -> None:
        """Write the controls of one substep; call it after ``mj_step1``."""
        torques = self._torques(self._state or self._read())
        self._state = None
        control = self._data.ctrl
        control[self._actuators] = np.clip(torques, self._torque_low, self._torque_high)
        target = self._finger_target + self._finger_speed * np.sign(gripper)
        self._finger_target = np.clip(target, -1.0, 1.0)
        control[self._fingers] = self._finger_middle + self._finger_half * self._finger_target

    def _read(self) -> ArmState:
        data = self._data
        mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        mujoco.mj_fullM(self._model, self._full_mass, data.qM)
        state = ArmState()
        state.position = data.site_xpos[self._site].copy()
        state.rotation = data.site_xmat[self._site].reshape(3, 3).copy()
        state.velocity = self._jacobian @ data.qvel
        state.joints = data.qpos[self._qpos]
        state.joint_velocity = data.qvel[self._qvel]
        state.jacobian = self._jacobian[:, self._qvel]
        state.mass = self._full_mass[self._block]
        return state

    def _torques(self, state: ArmState) -> np.ndarray:
        error = np.empty(6)
        error[:3] = self._goal_position - state.position
        error[3:] = _rotation_error(self._goal_rotation, state.rotation)
        wrench = error * self._stiffness - state.velocity * self._damping
        jacobian = state.jacobian
        inverse_mass = np.linalg.inv(state.mass)
        spread = inverse_mass @ jacobian.T  # (7, 6)
        inverse_inertia = jacobian @ spread  # (6, 6), of the end effector
        force = np.linalg.inv(inverse_inertia[:3, :3]) @ wrench[:3]
        torque = np.linalg.inv(inverse_inertia[3:, 3:]) @ wrench[3:]
        null_space = self._eye - (spread @ np.linalg.inv(inverse_inertia)) @ jacobian
        pull = _NULL_SPACE_STIFFNESS * (self._posture - state.joints)
        pull -= 2.0 * math.sqrt(_NULL_SPACE_STIFFNESS) * state.joint_velocity
        torques = jacobian.T @ np.concatenate([force, torque]) + self._data.qfrc_bias[self._qvel]
        return torques + null_space.T @ (state.mass @ pull)


def _rotation_error(desired: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Half the sum of the cross products of the axes: a small-angle rotation vector, shape (3,)."""
    # sum_i current[:, i] x desired[:, i] is the vector of the antisymmetric part of desired @ current.T
    product = desired @ current.T
    return 0.5 * np.array(
        [product[2, 1] - product[1, 2], product[0, 2] - product[2, 0], product[1, 0] - product[0, 1]]
    )
