"""Parts of fixtures that move on a joint: drawers, doors and knobs."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from foundry_bench.data.captions.names import name_of, part_name
from foundry_bench.envs.problem import Problem


@dataclass(frozen=True)
class Part:
    """A drawer, door or knob.

    Attributes:
        name: such as "top drawer", "door", "knob".
        kind: `drawer`, `door` or `knob`.
        owner: the fixture's name in the simulator.
        joint: the joint's name.
        address: of the joint in ``qpos``.
        closed, open: the joint's positions (m or rad) at which it is closed (off) and wide open (turned up).
        geoms: what moves with it.
        regions: LIBERO's regions that move with it, or that it shuts off.
    """

    name: str
    kind: str
    owner: str
    joint: str
    address: int
    closed: float
    open: float
    geoms: frozenset[int]
    regions: tuple[str, ...]

    def position(self, openness: float) -> float:
        """The joint's position at an openness from 0 to 1."""
        return self.closed + openness * (self.open - self.closed)

    def openness(self, position: float) -> float:
        """How far it is open at a position of the joint, 0 to 1."""
        return abs(min(max((position - self.closed) / (self.open - self.closed), 0.0), 1.0))  # no -0.0

    def state(self, openness: float) -> str:
        """ "closed", "partly open", "open", "on" or "off"; empty between two of them, where nobody is asked.

        Open and closed agree with LIBERO's predicates (a cabinet's drawer counts as open from 14 of 16 cm,
        a stove's knob as on from 0.5 rad).
        """
        if self.kind == "knob":
            bands = {"off": (0.0, 0.02), "on": (0.3, 1.0)}
        else:
            bands = {"closed": (0.0, 0.03), "partly open": (0.28, 0.61), "open": (0.885, 1.0)}
        return next((name for name, (low, high) in bands.items() if low <= openness <= high), "")


def parts_of(problem: Problem) -> list[Part]:
    """The parts of a LIBERO problem's fixtures, in the order of its BDDL file."""
    model, env = problem.model, problem.env
    parts = []
    for owner, fixture in env.fixtures_dict.items():
        for joint in fixture.joints:
            found = model.joint(joint)
            if model.jnt_type[found.id] == mujoco.mjtJoint.mjJNT_FREE or not model.jnt_limited[found.id]:
                continue
            low, high = (float(end) for end in model.jnt_range[found.id])
            closed, opened = (0.0, high) if abs(high) > abs(low) else (0.0, low)
            name, kind = part_name(joint.removeprefix(f"{owner}_"), name_of(fixture.category_name).noun)
            parts.append(
                Part(
                    name,
                    kind,
                    owner,
                    joint,
                    int(found.qposadr[0]),
                    closed,
                    opened,
                    subtree_geoms(model, int(model.jnt_bodyid[found.id])),
                    _regions(env, owner, joint, kind),
                )
            )
    return parts


def subtree_geoms(model: mujoco.MjModel, body: int) -> frozenset[int]:
    """The geoms of a body and of everything that hangs on it."""
    members = {body}
    for candidate in range(body + 1, model.nbody):  # a child's index is higher than its parent's
        if int(model.body_parentid[candidate]) in members:
            members.add(candidate)
    return frozenset(geom for geom in range(model.ngeom) if int(model.geom_bodyid[geom]) in members)


def _regions(env: object, owner: str, joint: str, kind: str) -> tuple[str, ...]:
    """A drawer's own region by its joint; of a fixture with a door, those inside."""
    found = []
    for name, region in env.object_sites_dict.items():  # type: ignore[attr-defined]
        if region.parent_name != owner:
            continue
        own = joint in (region.joints or [])
        if own or (kind == "door" and "side" not in name):
            found.append(name)
    return tuple(found)
