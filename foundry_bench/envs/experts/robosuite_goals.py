"""robosuite's own tasks in the words of plans: what there is, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

#: What follows the name of a nut in that of its handle.
HANDLE = "handle"
#: Bodies of the arenas that stand in the way.
_ARENA_BODIES = {
    "NutAssemblySquare": ("peg1", "peg2"),
    "PickPlaceCan": ("bin1", "bin2"),
}
#: Predicate, thing, place.
_GOALS = {
    "Lift": ("lift", "cube", ""),
    "Stack": ("stack", "cubeA", "cubeB"),
    "Door": ("unlatch", "Door", ""),
    "NutAssemblySquare": ("thread", "SquareNut", "peg1"),
    "PickPlaceCan": ("drop", "Can", "bin2"),
    "Wipe": ("wipe", "table", ""),
}
_FLOOR_THICK, _FLOOR_WIDE = 0.03, 0.1  # half extents of a floor, metres
_STUCK = "in robosuite's model its first link touches its base, and friction holds the first joint"
_SLIPS = "its fingers do not hold the nut by its handle"
#: Pairs of robot and task (or every task) that no skill solves often enough, and why.
_UNSUPPORTED = {
    ("Sawyer", "*"): _STUCK,
    ("Kinova3", "NutAssemblySquare"): _SLIPS,
    ("IIWA", "NutAssemblySquare"): _SLIPS,
    ("Jaco", "NutAssemblySquare"): _SLIPS,
    ("Jaco", "Wipe"): "its tool rocks at the far marks and leaves some",
    ("Jaco", "PickPlaceCan"): "its fingers do not hold the can on the way to the bin",
}


@dataclass(frozen=True)
class Things:
    """What an expert sees in a scene.

    Attributes:
        movable: names of what can be taken.
        bodies: the root body of everything, by name.
        floors: whether a body's flat floor counts as what can be in the way.
        parts: geoms of parts that things are taken by, by name; they are no things of their own.
    """

    movable: list[str]
    bodies: dict[str, str]
    floors: bool = True
    parts: dict[str, list[str]] = field(default_factory=dict)

    def seen(self, model: mujoco.MjModel, geoms: list[int]) -> list[int]:
        """Those of a body's geoms that can be in the way."""
        return [geom for geom in geoms if self.floors or not _is_floor(model, geom)]


def things_of(env: Any, name: str) -> Things:
    """What there is in a scene of LIBERO or of robosuite.

    Args:
        env: the robosuite environment.
        name: of the task.
    """
    if hasattr(env, "objects_dict"):
        everything = {**env.objects_dict, **env.fixtures_dict}
        return Things(list(env.objects_dict), {name: thing.root_body for name, thing in everything.items()})
    present = _objects(env)
    bodies = {thing.name: thing.root_body for thing in present}
    bodies |= {body: body for body in _ARENA_BODIES.get(name, ())}
    if hasattr(env, "door"):
        bodies[env.door.name] = env.door.root_body
    return Things([thing.name for thing in present], bodies, floors=False, parts=_parts(env))


def _is_floor(model: mujoco.MjModel, geom: int) -> bool:
    return bool(model.geom_aabb[geom][5] < _FLOOR_THICK and model.geom_aabb[geom][3:5].min() > _FLOOR_WIDE)


def robosuite_goal(name: str, robot: str) -> tuple[str, str, str]:
    """The one conjunct of a robosuite task: predicate, thing and place.

    Raises:
        LookupError: there is no expert for that task or that robot; the argument says why.
    """
    if name not in _GOALS:
        raise LookupError(f"no skill for robosuite's task {name}")
    reason = _UNSUPPORTED.get((robot, name)) or _UNSUPPORTED.get((robot, "*"))
    if reason:
        raise LookupError(f"not with the arm {robot}: {reason}")
    return _GOALS[name]


def _objects(env: Any) -> list[Any]:
    for names in (("cube",), ("cubeA", "cubeB")):
        if all(hasattr(env, name) for name in names):
            return [getattr(env, name) for name in names]
    if hasattr(env, "nuts"):
        return [env.nuts[env.nut_id]]
    if hasattr(env, "object_to_id"):
        return [env.objects[env.object_id]]
    return []


def _parts(env: Any) -> dict[str, list[str]]:
    """The handle of a nut: of its boxes the one that is farthest from the middle of its hole."""
    if not hasattr(env, "nuts"):
        return {}
    nut = env.nuts[env.nut_id]
    model = env.sim.model._model
    far = max(nut.contact_geoms, key=lambda name: float(np.linalg.norm(model.geom(name).pos)))
    return {f"{nut.name} {HANDLE}": [far]}
