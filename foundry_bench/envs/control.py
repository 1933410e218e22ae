"""robosuite's controllers without their repeated work.

Every torque is the same to the last bit as robosuite's, because it comes from the same operations on arrays
with the same contents and memory layout (layouts decide in which order BLAS adds). What is left out is that
robosuite runs the whole forward dynamics before each reading, twice a substep, and most of its copying.

`LeanControl` lets robosuite's controller compute, whichever it is. The usual one, OSC_POSE as LIBERO
configures it, has a compiled loop of its own: :mod:`foundry_bench.envs.compiled_loop`.

Not obvious, and kept because results depend on it: the goal orientation stays while the rotation part of the
action is zero; the first substep after a reset acts on what the controller read when it was made (the start
pose), not on the init state; the gripper moves a hundredth of its range a substep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

SUBSTEPS = 25  # of 2 ms: 20 Hz
#: Stock LIBERO samples its observations after this substep when an episode begins with `reset()` and
#: `set_init_state()`, as all published harnesses do: each forces one update, and robosuite's sampling
#: clock then runs ahead of the control clock by one substep.
OBSERVED_SUBSTEP = 24


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
        self._qpos = consecutive(robot._ref_joint_pos_indexes)
        self._qvel = consecutive(robot._ref_joint_vel_indexes)
        self._actuators = consecutive(robot._ref_joint_actuator_indexes)
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
        torques = controller.run_controller()
        control = self._data.ctrl
        if len(self._fingers):
            fingers = self._robot.gripper.format_action(action[size:])
            control[self._fingers] = self._finger_bias + self._finger_weight * fingers
        control[self._actuators] = np.minimum(np.maximum(torques, self._torque_low), self._torque_high)

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


class LeanLoop:
    """A control step in Python, for every controller.

    Args:
        model, data, robot: as `LeanControl` takes them.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, robot: Any) -> None:
        self._model, self._data = model, data
        self.control = LeanControl(model, data, robot)

    def begin(self) -> None:
        """Start an episode with the robot's new controller."""
        self.control.begin()

    def step(self, action: np.ndarray, observe: Callable[[], None] | None = None) -> None:
        """One control step; see ``Engine.step``."""
        model, data, control = self._model, self._data, self.control
        for substep in range(1, SUBSTEPS + 1):
            mujoco.mj_step1(model, data)
            mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 1)
            if (
                control.reads_again and data.solver_niter[0]
            ):  # without an iteration a second pass has none either
                mujoco.mj_fwdConstraint(model, data)
            control.apply(action, new=substep == 1)
            mujoco.mj_step2(model, data)
            if observe is not None and substep == OBSERVED_SUBSTEP:
                observe()


def consecutive(indices: Any) -> slice:
    """Consecutive indices as a slice; robosuite numbers an arm's joints and motors one after the other."""
    first, last = int(indices[0]), int(indices[-1]) + 1
    if list(indices) != list(range(first, last)):
        raise ValueError(f"the joints of an arm are not in a row: {list(indices)}")
    return slice(first, last)
