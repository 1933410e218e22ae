"""robosuite's controllers without their repeated work.

The arithmetic is robosuite's own, called on arrays that were read from the simulator by the same operations,
so that every torque is the same to the last bit; what is left out is that robosuite runs the whole forward
dynamics before each reading, twice a substep. That works for every controller alike (operational space,
joint position, velocity, torque).

Not obvious, and kept because results depend on it: the goal orientation stays while the rotation part of the
action is zero; the first substep after a reset acts on what the controller read when it was made (the start
pose), not on the init state; the gripper moves a hundredth of its range a
substep.
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
        self._qpos = robot._ref_joint_pos_indexes
        self._qvel = robot._ref_joint_vel_indexes
        self._actuators = np.array(robot._ref_joint_actuator_indexes)
        self._torque_low, self._torque_high = robot.torque_limits
        self._fingers = (
            np.array(robot._ref_joint_gripper_actuator_indexes, dtype=int) if robot.has_gripper else None
        )
        if self._fingers is not None:
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
        controller, robot = self._controller, self._robot
        if (
            controller.new_update
        ):  # not in the first substep after a reset: robosuite acts on what it read then
            self._read(controller)
        size = controller.control_dim
        if new:
            controller.set_goal(action[:size])
        torques = np.clip(controller.run_controller(), self._torque_low, self._torque_high)
        control = self._data.ctrl
        if self._fingers is not None:
            fingers = robot.gripper.format_action(action[size:])
            control[self._fingers] = self._finger_bias + self._finger_weight * fingers
        control[self._actuators] = torques

    def _read(self, controller: Any) -> None:
        """What ``Controller.update`` reads, by the same operations: even memory layouts decide last bits."""
        model, data = self._model, self._data
        linear, angular = self._jacobian
        mujoco.mj_jacSite(model, data, linear, angular, self._site)
        mujoco.mj_fullM(model, self._mass, data.qM)
        controller.ee_pos = data.site_xpos[self._site].copy()
        controller.ee_ori_mat = data.site_xmat[self._site].reshape([3, 3]).copy()
        controller.ee_pos_vel = np.dot(linear, data.qvel)
        controller.ee_ori_vel = np.dot(angular, data.qvel)
        controller.joint_pos = data.qpos[self._qpos]
        controller.joint_vel = data.qvel[self._qvel]
        controller.J_pos = linear[:, self._qvel]
        controller.J_ori = angular[:, self._qvel]
        controller.J_full = np.vstack([controller.J_pos, controller.J_ori])
        controller.mass_matrix = self._mass[self._qvel, :][:, self._qvel]
        controller.new_update = False  # robosuite's own update has nothing left to do
