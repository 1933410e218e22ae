"""Wiping marks off a table with a flat tool."""

from __future__ import annotations

from typing import Any

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, Arm
from foundry_bench.envs.experts.motions import Actions

_ABOVE = 0.04  # over the table, where the tool lines up
_PRESS = 0.02  # metres below the table aimed at, which the controller turns into a force
_PATIENCE = 15  # steps over a mark
_FLAT, _TIPPED = 0.1, 0.3  # radians
_STEP = 0.03  # largest way aimed at in a step while wiping


def wipe(arm: Arm) -> Actions:
    """Press the tool onto the table and lead it along the marks that are left, in their order."""
    world = arm.world
    env = world.problem.env
    corners = [world.model.geom(name).id for name in world.problem.robot.gripper.important_geoms["corners"]]
    table = float(env.table_offset[2])
    markers = _from_nearer_end(arm, list(env.model.mujoco_arena.markers))
    arm.face(arm.home_yaw)
    down, same, before = False, 0, None
    while True:
        left = [marker for marker in markers if marker not in env.wiped_markers]
        if not left:
            return True
        same = same + 1 if down and left[0] is before else 0
        before = left[0]
        if same > _PATIENCE:  # it does not come off from here: first the others
            markers.remove(left[0])
            markers.append(left[0])
            same, before = 0, None
            continue
        mark = world.data.body(left[0].root_body).xpos
        tool = world.data.geom_xpos[corners].mean(axis=0)
        way = np.array([*(mark - tool)[:2], 0.0])
        distance = float(np.linalg.norm(way))
        if arm.missing() > _TIPPED:  # it stands on an edge: lift it and set it down again
            down = False
        if not down:
            ready = distance < 0.02 and arm.missing() < _FLAT
            way[2] = table - _PRESS - tool[2] if ready else table + _ABOVE - tool[2]
            down = bool(tool[2] < table + 0.003)
        else:
            way *= min(1.0, _STEP / max(distance, 1e-6))
            way[2] = table - _PRESS - tool[2]
        arm.near_contact = down
        yield arm.towards(world.hand + way, CLOSED)


def _from_nearer_end(arm: Arm, markers: list[Any]) -> list[Any]:
    """The marks of a line from the end which is nearer to the hand."""
    first, last = (
        np.linalg.norm(arm.world.data.body(marker.root_body).xpos - arm.world.hand)
        for marker in (markers[0], markers[-1])
    )
    return markers if first <= last else markers[::-1]
