"""From a simulator's state and a camera's pictures to what is true."""

from __future__ import annotations

from typing import Any

import cv2
import mujoco
import numpy as np

from foundry_bench.data.captions.colours import colour_of
from foundry_bench.data.captions.facts import Facts, SeenPart, Thing
from foundry_bench.data.captions.holdings import Holdings
from foundry_bench.data.captions.names import COLOUR_WORDS, is_surface, name_of, room_of, surface_of
from foundry_bench.data.captions.randomise import Randomiser, Scene
from foundry_bench.data.captions.view import Picture
from foundry_bench.envs.render import CAMERAS

_FAR = 5.0  # metres: what was taken away is no part of the scene


class Observer:
    """Tells what is true in pictures of one task's simulator."""

    def __init__(self, randomiser: Randomiser) -> None:
        self._randomiser = randomiser
        self._problem = randomiser.problem
        self._model, self._data = randomiser.model, randomiser.data
        self._world = randomiser.world
        env = self._problem.env
        self._categories = {
            name: thing.category_name
            for name, thing in {**env.objects_dict, **env.fixtures_dict}.items()
            if name in env.objects_dict or not is_surface(thing.category_name)
        }
        self._geoms = {
            name: np.array(sorted(randomiser.geoms_of(name)), dtype=np.int64) for name in self._categories
        }
        self._fingers = self._finger_geoms()
        self._holdings = Holdings(randomiser, self._categories)

    def facts(self, picture: Picture, camera: str, scene: Scene) -> Facts:
        """Everything that is asked about in one picture."""
        size = picture.geoms.shape[0]
        things = [
            self._thing(name, picture, camera, scene.painted.get(name, "")) for name in self._categories
        ]
        present = [thing for thing in things if abs(thing.position[0]) < _FAR]
        holdings, unclear = self._holdings.now(thing.name for thing in present)
        fingers = np.isin(picture.geoms, self._fingers)
        instruction, target = ("", "") if scene.scrambled else self._instruction()
        workspace = self._problem.env.workspace_name
        return Facts(
            camera=camera,
            size=size,
            room=room_of(workspace),
            surface=surface_of(workspace),
            things=tuple(present),
            parts=tuple(self._part(part, picture) for part in self._randomiser.parts),
            holdings=tuple(holdings),
            unclear=tuple(unclear),
            gripper=self._gripper(),
            gripper_pixels=int(fingers.sum()),
            instruction=instruction,
            target=target,
        )

    def _thing(self, name: str, picture: Picture, camera: str, painted: str) -> Thing:
        mask = np.isin(picture.geoms, self._geoms[name])
        colour, colours = colour_of(picture.flat[mask])
        said = [word for word in name_of(self._categories[name]).phrase.split() if word in COLOUR_WORDS]
        share = self._share(name, int(mask.sum()), picture.geoms.shape[0], camera)
        if painted:
            said = [painted]
            if colour != painted:
                share = 0.0  # paint that does not look like its name: nobody is asked about the thing
        if said and said != [colour]:
            colour = None  # LIBERO's black bowl is a grey one: nobody is asked for its colour
        position = self._world.position(name)
        return Thing(
            name=name,
            category=self._categories[name],
            fixture=name not in self._problem.env.objects_dict,
            pixels=int(mask.sum()),
            share=round(share, 3),
            point=_middle(mask),
            box=_box(mask),
            colour=colour or "",
            colours=tuple(dict.fromkeys([*colours, *said])),
            painted=painted,
            position=(float(position[0]), float(position[1]), float(position[2])),
            depth=float(project(self._model, self._data, camera, position[None], 1)[0, 2]),
        )

    def _share(self, name: str, pixels: int, size: int, camera: str) -> float:
        """Seen pixels over the area of the outline of its collision geoms, which may leave the picture."""
        if not pixels:
            return 0.0
        points = project(self._model, self._data, camera, self._world.points(name), size)
        points = points[points[:, 2] > 0.02]
        if len(points) < 3:
            return 0.0
        hull = cv2.convexHull(np.clip(points[:, :2], -9 * size, 10 * size).astype(np.float32))
        return min(pixels / max(float(cv2.contourArea(hull)), 1.0), 1.0)

    def _part(self, part: Any, picture: Picture) -> SeenPart:
        mask = np.isin(picture.geoms, np.array(sorted(part.geoms)))
        openness = self._randomiser.openness(part)
        return SeenPart(
            part.name,
            part.kind,
            part.owner,
            round(openness, 4),
            part.state(openness),
            int(mask.sum()),
            _middle(mask),
        )

    def _gripper(self) -> str:
        fingers = self._randomiser.fingers
        if len(fingers) != 2:
            return ""
        opening = float(self._data.qpos[fingers[0]] - self._data.qpos[fingers[1]])
        return "open" if opening > 0.06 else "closed" if opening < 0.01 else ""

    def _finger_geoms(self) -> np.ndarray:
        bodies = {
            int(self._model.jnt_bodyid[joint])
            for joint in range(self._model.njnt)
            if int(self._model.jnt_qposadr[joint]) in self._randomiser.fingers
        }
        return np.array([g for g in range(self._model.ngeom) if int(self._model.geom_bodyid[g]) in bodies])

    def _instruction(self) -> tuple[str, str]:
        """The task's instruction and what it moves, where the scene is as the task describes it."""
        env, goal = self._problem.env, self._problem.goal
        targets = {self._target(conjunct) for conjunct in goal}
        if len(targets) != 1 or "" in targets:
            return "", ""
        target = targets.pop()
        owner = target.split("/")[0]
        for fact in env.parsed_problem["initial_state"]:
            placed = [word for word in fact[1:] if word in env.objects_dict]
            if owner in fact and placed and not env._eval_predicate(fact):
                return "", ""
        if self._problem.success():
            return "", ""
        return self._problem.task.instruction, target

    def _target(self, conjunct: list[str]) -> str:
        """What a conjunct of the goal has the robot move; empty where that is not clear."""
        env, name = self._problem.env, conjunct[1]
        if name in env.objects_dict:
            return name
        for part in self._randomiser.parts:
            if name in part.regions or name == part.owner:
                return f"{part.owner}/{part.name}"
        return ""


def project(
    model: mujoco.MjModel, data: mujoco.MjData, camera: str, points: np.ndarray, size: int
) -> np.ndarray:
    """Where points of the world are in the saved picture.

    Args:
        model, data: MuJoCo's, after a forward pass.
        camera: `agentview` or `wrist`.
        points: (n, 3), metres.
        size: side of the picture in pixels.

    Returns:
        (n, 3): x to the right and y down in pixels, and the depth along the view in metres. The picture is
        the mirror image of what a person at the camera would see, as in every published use of LIBERO.
    """
    number = model.camera(CAMERAS[camera]).id
    own = (points - data.cam_xpos[number]) @ data.cam_xmat[number].reshape(3, 3)
    depth = -own[:, 2]
    focal = 0.5 * size / np.tan(np.deg2rad(model.cam_fovy[number]) / 2)
    safe = np.where(np.abs(depth) > 1e-6, depth, 1e-6)
    return np.stack([size / 2 - focal * own[:, 0] / safe, size / 2 - focal * own[:, 1] / safe, depth], axis=1)


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of a mask that is deepest inside it, among those near the middle; (-1, -1) if empty.

    The middle alone may show something else, where a thing is seen on both sides of another.
    """
    if not mask.any():
        return -1, -1
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    away = np.hypot(rows - rows.mean(), columns - columns.mean())
    best = int(np.argmax(inside[rows, columns] - 0.5 * away))
    return int(columns[best]), int(rows[best])


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return -1, -1, -1, -1
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())
