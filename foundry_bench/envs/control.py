"""robosuite's controllers without their repeated work.

Every torque is the same to the last bit as robosuite's, because it comes from the same operations on arrays
with the same contents and memory layout (layouts decide in which order BLAS adds). What is left out is that
robosuite runs the whole forward dynamics before each reading, twice a substep, and most of its copying.

- `LeanControl` lets robosuite's controller compute, whichever it is: joint position, velocity, torque.
- `LeanOperationalSpaceControl` is the usual case, OSC_POSE as LIBERO configures it, with the arithmetic
  written out: Khatib's control law (IEEE Journal on Robotics and Automation, 1987) with robosuite's choices,
  position and orientation decoupled, a null-space torque towards the start posture, gravity compensation.

Not obvious, and kept because results depend on it: the goal orientation stays while the rotation part of the
action is zero; the first substep after a reset acts on what the controller read when it was made (the start
pose), not on the init state; the gripper moves a hundredth of its range a substep.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np


class LeanControl:
    """Turns an action into controls, substep by substep.

    Args:
        model: the compiled scene.
        data: its state.
        robot: the robosuite robot. Its controller is looked up at every `begin`, since a reset replaces it.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> None:
        self._model, self._data, self._robot = model, data, robot
        self._controller: Any = robot.controller
        self._site = model.site(self._controller.eef_name).id
        self._site_position = data.site_xpos[self._site]
        self._site_rotation = data.site_xmat[self._site].reshape(3, 3)
        self._qpos = _slice(robot._ref_joint_pos_indexes)
        self._qvel = _slice(robot._ref_joint_vel_indexes)
        self._actuators = _slice(robot._ref_joint_actuator_indexes)
        self._torque_low, self._torque_high = robot.torque_limits
        self._fingers = np.array(robot._ref_joint_gripper_actuator_indexes or [], dtype=int)
        limits = model.actuator_ctrlrange[self._fingers]
        self._finger_bias = 0.5 * (limits[:, 1] + limits[:, 0])
        self._finger_weight = 0.5 * (limits[:, 1] - limits[:, 0])
        self._mass = np.zeros((model.nv, model.nv))
        self._jacobian = np.zeros((3, model.nv)), np.zeros((3, model.nv))

    def begin(self) -> None:
        """Start an episode with the robot's new controller."""
        self._controller = self._robot.controller

    @property
    def reads_again(self) -> bool:
        """Whether robosuite's controller would run the forward dynamics once more to read from it."""
        return bool(self._controller.new_update)

    def apply(self, action: np.ndarray, new: bool) -> None:
        """Write the controls of one substep; call it after ``mj_step1``.

        Args:
            action: of the robot's action size.
            new: whether this is the first substep of the action.
        """
        controller = self._controller
        if controller.new_update:  # not in the first substep: robosuite acts on what it read at the reset
            self._read(controller)
            controller.new_update = False  # robosuite's own update has nothing left to do
        size = controller.control_dim
        if new:
            controller.set_goal(action[:size])
        torques = self._torques(controller)
        control = self._data.ctrl
        if len(self._fingers):
            fingers = self._robot.gripper.format_action(action[size:])
            control[self._fingers] = self._finger_bias + self._finger_weight * fingers
        control[self._actuators] = np.minimum(np.maximum(torques, self._torque_low), self._torque_high)

    def _torques(self, controller: Any) -> np.ndarray:
        torques: np.ndarray = controller.run_controller()
        return torques

    def _read(self, controller: Any) -> None:
        """What ``Controller.update`` reads."""
        data = self._data
        linear, angular = self._jacobian
        mujoco.mj_jacSite(self._model, data, linear, angular, self._site)
        mujoco.mj_fullM(self._model, self._mass, data.qM)
        velocities = data.qvel
        controller.ee_pos = self._site_position.copy()
        controller.ee_ori_mat = self._site_rotation.copy()
        controller.ee_pos_vel = linear.dot(velocities)
        controller.ee_ori_vel = angular.dot(velocities)
        controller.joint_pos = data.qpos[self._qpos].copy()
        controller.joint_vel = velocities[self._qvel].copy()
        # Fancy indexing, as robosuite does it, makes arrays in Fortran's order: so do these copies.
        full = np.empty((6, self._qvel.stop - self._qvel.start), order="F")
        full[:3] = linear[:, self._qvel]
        full[3:] = angular[:, self._qvel]
        controller.J_full = full
        controller.J_pos = full[:3].copy(order="F")
        controller.J_ori = full[3:].copy(order="F")
        controller.mass_matrix = self._mass[self._qvel, self._qvel].copy(order="F")


class LeanOperationalSpaceControl(LeanControl):
    """The same for OSC_POSE with fixed gains, deltas, decoupled and without interpolation."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> None:
        from robosuite.utils import control_utils

        super().__init__(model, data, robot)
        self._opspace_matrices = control_utils.opspace_matrices
        self._nullspace_torques = control_utils.nullspace_torques
        self._orientation_error = control_utils.orientation_error
        self._wrench = np.empty(6)

    @staticmethod
    def fits(controller: Any) -> bool:
        """Whether a controller is of the kind whose arithmetic is written out here."""
        return (
            controller.name == "OSC_POSE"
            and controller.impedance_mode == "fixed"
            and controller.uncoupling
            and controller.interpolator_pos is None
            and controller.interpolator_ori is None
        )

    def _torques(self, controller: Any) -> np.ndarray:
        """``OperationalSpaceController.run_controller``, term by term in its order."""
        stiffness, damping = controller.kp, controller.kd
        force = (controller.goal_pos - controller.ee_pos) * stiffness[:3]
        force += -controller.ee_pos_vel * damping[:3]
        torque = self._orientation_error(controller.goal_ori, controller.ee_ori_mat) * stiffness[3:]
        torque += -controller.ee_ori_vel * damping[3:]
        jacobian, mass = controller.J_full, controller.mass_matrix
        _, inertia, rotational, null_space = self._opspace_matrices(
            mass, jacobian, controller.J_pos, controller.J_ori
        )
        wrench = self._wrench
        wrench[:3] = inertia.dot(force)
        wrench[3:] = rotational.dot(torque)
        torques: np.ndarray = jacobian.T.dot(wrench) + self._data.qfrc_bias[self._qvel]
        torques += self._nullspace_torques(
            mass, null_space, controller.initial_joint, controller.joint_pos, controller.joint_vel
        )
        controller.torques = torques
        controller.new_update = True
        return torques


def make_control(model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> LeanControl:
    """The control that fits the robot's controller."""
    usual = LeanOperationalSpaceControl.fits(robot.controller)
    return (LeanOperationalSpaceControl if usual else LeanControl)(model, data, robot)


def _slice(indices: Any) -> slice:
    """Consecutive indices as a slice; robosuite numbers an arm's joints and motors one after the other."""
    first, last = int(indices[0]), int(indices[-1]) + 1
    if list(indices) != list(range(first, last)):
        raise ValueError(f"the joints of an arm are not in a row: {list(indices)}")
    return slice(first, last)
