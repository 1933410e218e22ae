"""Randomised scenes: where things lie, what stands open, how the arm is posed, camera and light.

A scene is a function of its generator alone. It begins as demonstrations begin, with a state drawn by
LIBERO's own samplers from the task's regions, never with an official init state; then joints of fixtures are
set, in a scrambled scene every object is put somewhere else, and physics runs until things lie still.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mujoco
import numpy as np
from scipy.spatial import cKDTree

from foundry_bench.data.captions.colours import PAINTS
from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.looks import Looks
from foundry_bench.data.captions.names import is_surface
from foundry_bench.data.captions.parts import Part, parts_of, subtree_geoms
from foundry_bench.envs.experts.world import World
from foundry_bench.envs.simulation import Simulation
from foundry_bench.errors import FoundryError

_TRIES = 12  # of a whole scene, then of an arm's pose
_SPOTS = 60
_X, _Y = (-0.24, 0.2), (-0.36, 0.36)  # metres on the table, seen by the agent view
_APART = 0.012  # metres between things on the table
_SETTLE = 250  # simulator steps of 2 ms, at most four times
_STILL = 0.03  # metres or radians a second
_HIDDEN, _STACKED = 0.15, 0.3  # shares of the objects of a scrambled scene
_PAINTABLE = (
    "akita_black_bowl", "white_bowl", "plate", "porcelain_mug", "glazed_rim_porcelain_ramekin", "basket",
    "white_cabinet",
)  # fmt: skip
_FAR = (18.0, 18.0)  # behind the agent view: where hidden objects are


@dataclass(frozen=True)
class Scene:
    """What was done to make a scene.

    Attributes:
        seed: of the state the samplers drew.
        scrambled: whether objects lie elsewhere than the task puts them.
        hidden: objects that were taken away.
        painted: objects that have another colour than usual, and which.
    """

    seed: int
    scrambled: bool
    hidden: tuple[str, ...]
    painted: dict[str, str] = field(default_factory=dict)


class Randomiser:
    """Makes randomised scenes of one task in its simulator."""

    def __init__(self, simulation: Simulation, config: CaptionsConfig) -> None:
        if simulation.task.bddl is None:
            raise FoundryError(
                f"{simulation.task.key}: captions need a task with a BDDL file, choose another suite"
            )
        self.simulation, self.config = simulation, config
        self.problem = simulation.problem
        self.model, self.data = self.problem.model, self.problem.data
        self.world = World(simulation)
        self.parts = parts_of(self.problem)
        self._free = {
            name: self.model.joint(thing.joints[-1]) for name, thing in self.problem.env.objects_dict.items()
        }
        self._geoms = {name: subtree_geoms(self.model, self.world.bodies[name]) for name in self.world.bodies}
        self._arm = list(self.problem.robot._ref_joint_pos_indexes)
        self._arm_velocities = list(self.problem.robot._ref_joint_vel_indexes)
        self.fingers = list(self.problem.robot._ref_gripper_joint_pos_indexes)
        self.robot_geoms = self._geoms_of_robot()
        self._looks = Looks(self.model)

    def randomise(self, generator: np.random.Generator) -> Scene:
        """Put the simulator into a new scene.

        Raises:
            FoundryError: no scene at rest was found, or LIBERO's samplers found no placement.
        """
        for _ in range(_TRIES):
            scene = self._attempt(generator)
            if scene is not None:
                self._looks.jitter(self.config, generator)
                self.problem.refresh()
                mujoco.mj_forward(self.model, self.data)
                return scene
        raise FoundryError(f"{self.problem.task.key}: no scene came to rest in {_TRIES} tries")

    def restore(self) -> None:
        """Put camera and light back as the task has them."""
        self._looks.restore()

    def _attempt(self, generator: np.random.Generator) -> Scene | None:
        seed = int(generator.integers(2**31))
        self._looks.restore()
        self.simulation.begin(*self.problem.sample_state(seed))
        scrambled = bool(generator.random() < self.config.scrambled)
        if scrambled:
            for number, name in enumerate(self._free):
                self._put_away(name, number)
        self._set_parts(generator)
        hidden = self._scramble(generator) if scrambled else ()
        if not self._pose_arm(generator) or not self._settle():
            return None
        return Scene(seed, scrambled, hidden, self._paint(generator) if scrambled else {})

    def _paint(self, generator: np.random.Generator) -> dict[str, str]:
        """Give some light and plain things another colour; a task's own scene keeps its colours."""
        env, painted = self.problem.env, {}
        for name, thing in {**env.objects_dict, **env.fixtures_dict}.items():
            draw, colour = generator.random(), list(PAINTS)[int(generator.integers(len(PAINTS)))]
            if thing.category_name in _PAINTABLE and draw < self.config.painted:
                painted[name] = colour
                self._looks.paint(self._geoms[name], PAINTS[colour])
        return painted

    # --- joints of fixtures ----------------------------------------------------------------------------

    def _set_parts(self, generator: np.random.Generator) -> None:
        for part in self.parts:
            low, high = [(0.0, 0.0), (0.35, 0.6), (0.92, 1.0)][int(generator.integers(3))]
            if part.kind == "knob":
                low, high = [(0.0, 0.0), (0.5, 1.0)][int(generator.integers(2))]
            wanted = float(generator.uniform(low, high))
            before = float(self.data.qpos[part.address])
            if self._holds_something(part):
                continue  # what lies in a drawer would not come along
            self.data.qpos[part.address] = part.position(wanted)
            mujoco.mj_forward(self.model, self.data)
            if self._deepest(part.geoms) < -0.002:  # something is in the way
                self.data.qpos[part.address] = before
                mujoco.mj_forward(self.model, self.data)

    def _holds_something(self, part: Part) -> bool:
        env = self.problem.env
        return any(
            env.object_sites_dict[region].in_box(
                self.data.site(region).xpos,
                self.data.site(region).xmat.reshape(3, 3),
                self.world.position(name),
            )
            for region in part.regions
            for name in self._free
        )

    # --- objects ---------------------------------------------------------------------------------------

    def _scramble(self, generator: np.random.Generator) -> tuple[str, ...]:
        names = list(self._free)
        wide = {name: float(np.ptp(self.world.points(name)[:, :2], axis=0).max()) for name in names}
        generator.shuffle(names)
        names.sort(key=lambda name: wide[name] < 0.13)  # what others can be put into comes first
        chosen = generator.random(len(names))
        hidden: list[str] = []
        placed: list[str] = []
        for name, draw in zip(names, chosen, strict=True):
            if draw < _HIDDEN and len(names) - len(hidden) > 2:
                hidden.append(name)
                continue
            if (
                draw > 1 - _STACKED and wide[name] < 0.13 and self._put_into(name, placed, generator)
            ) or self._put_on_table(name, placed, generator):
                placed.append(name)
            else:
                self._put_away(name, list(self._free).index(name))
                hidden.append(name)
        return tuple(sorted(hidden))

    def _put_away(self, name: str, number: int) -> None:
        self._move(name, np.array([_FAR[0] + 2 * number, _FAR[1], 1.0]))

    def _put_on_table(self, name: str, placed: list[str], generator: np.random.Generator) -> bool:
        surface = float(self.problem.env.workspace_offset[2])
        others = [*placed, *(other for other in self.world.bodies if other not in self._free)]
        clouds = [self.world.points(other) for other in others if not self._is_surface(other)]
        tree = cKDTree(np.concatenate(clouds)[:, :2]) if clouds else None
        self._turn(name, generator)
        own = self.world.points(name) - self.world.position(name)
        for _ in range(_SPOTS):
            spot = np.array([generator.uniform(*_X), generator.uniform(*_Y)])
            if tree is None or tree.query(own[:, :2] + spot)[0].min() > _APART:
                return self._lower(name, np.array([*spot, surface]))
        return False

    def _put_into(self, name: str, placed: list[str], generator: np.random.Generator) -> bool:
        """Put an object on or into another one, a drawer or a fixture, as low as it fits."""
        places = [self._base_of(other) for other in placed if self._may_carry(other)]
        env = self.problem.env
        for site, region in env.object_sites_dict.items():
            if region.parent_name in env.fixtures_dict and self._is_open(site):
                half = np.abs(self.data.site(site).xmat.reshape(3, 3) @ np.asarray(region.size, dtype=float))
                places.append(self.data.site(site).xpos - np.array([0, 0, float(half[2])]))
        if not places:
            return False
        place = places[int(generator.integers(len(places)))] + np.array([*generator.normal(0, 0.004, 2), 0.0])
        self._turn(name, generator)
        return self._lower(name, place)

    def _lower(self, name: str, place: np.ndarray) -> bool:
        """Put an object's underside at a place, or as little above it as nothing is in the way.

        The top of a table is not where its arena says: the living room's is two centimetres higher.
        """
        low = float((self.world.points(name) - self.world.position(name))[:, 2].min())
        geoms = self._geoms[name]
        for height in np.arange(0.002, 0.11, 0.006):
            self._move(name, place + np.array([0, 0, height - low]))
            if self._deepest(geoms) > -0.001:
                return True
        return False

    def _base_of(self, name: str) -> np.ndarray:
        points = self.world.points(name)
        return np.array([*self.world.position(name)[:2], points[:, 2].min()])

    def _may_carry(self, name: str) -> bool:
        """Whether an object is low and wide, or hollow: a plate, a bowl, a basket, a tray."""
        size = np.ptp(self.world.points(name), axis=0)
        return bool(min(size[:2]) > 0.1 and size[2] < 1.2 * min(size[:2]))

    def _is_open(self, site: str) -> bool:
        """Whether something can be put there: no closed drawer or door in the way."""
        return all(self.openness(part) >= 0.3 for part in self.parts if site in part.regions)

    def geoms_of(self, name: str) -> frozenset[int]:
        """The geoms of an object or a fixture."""
        return self._geoms[name]

    def openness(self, part: Part) -> float:
        """How far a part is open or turned now, 0 to 1."""
        return part.openness(float(self.data.qpos[part.address]))

    def _is_surface(self, name: str) -> bool:
        return (
            is_surface(self.problem.env.fixtures_dict[name].category_name)
            if name not in self._free
            else False
        )

    def _turn(self, name: str, generator: np.random.Generator) -> None:
        """Turn an object about the vertical by any angle."""
        address = self._free[name].qposadr[0]
        angle = generator.uniform(-np.pi, np.pi)
        turned = np.zeros(4)
        about = np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])
        mujoco.mju_mulQuat(turned, about, self.data.qpos[address + 3 : address + 7].copy())
        self.data.qpos[address + 3 : address + 7] = turned
        mujoco.mj_forward(self.model, self.data)

    def _move(self, name: str, position: np.ndarray) -> None:
        joint = self._free[name]
        self.data.qpos[joint.qposadr[0] : joint.qposadr[0] + 3] = position
        self.data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0.0
        mujoco.mj_forward(self.model, self.data)

    # --- the robot -------------------------------------------------------------------------------------

    def _pose_arm(self, generator: np.random.Generator) -> bool:
        home = self.data.qpos[self._arm].copy()
        limits = self.model.jnt_range[: len(home)]
        for _ in range(_TRIES):
            reach = generator.choice([0.08, 0.3])
            pose = home + generator.uniform(-reach, reach, len(home))
            self.data.qpos[self._arm] = np.clip(pose, limits[:, 0] + 0.05, limits[:, 1] - 0.05)
            opening = float(generator.choice([0.0, 0.02, 0.04])) if len(self.fingers) == 2 else 0.0
            if len(self.fingers) == 2:
                self.data.qpos[self.fingers] = [opening, -opening]
            mujoco.mj_forward(self.model, self.data)
            if self._deepest(self.robot_geoms) > 0.0:
                return True
        return False

    def _geoms_of_robot(self) -> frozenset[int]:
        root = self.model.body(self.problem.robot.robot_model.root_body).id
        roots = self.model.body_rootid
        return frozenset(
            geom
            for geom in range(self.model.ngeom)
            if roots[self.model.geom_bodyid[geom]] == roots[root]
            and self.model.body_weldid[self.model.geom_bodyid[geom]] != 0  # the mount stands on the floor
        )

    # --- physics ---------------------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Run physics with the robot held where it is until things lie still; False where they do not."""
        held = [*self._arm, *self.fingers]
        velocities = [*self._arm_velocities, *self.problem.robot._ref_gripper_joint_vel_indexes]
        pose = self.data.qpos[held].copy()
        self.data.ctrl[:] = 0.0
        for _ in range(4):
            for _ in range(_SETTLE):
                self.data.qpos[held] = pose
                self.data.qvel[velocities] = 0.0
                mujoco.mj_step(self.model, self.data)
            self.data.qpos[held] = pose
            self.data.qvel[velocities] = 0.0
            if not np.isfinite(self.data.qpos).all():
                return False
            if max((self._speed(name) for name in self._free), default=0.0) < _STILL:
                mujoco.mj_forward(self.model, self.data)
                return self._deepest(self.robot_geoms) > -0.002
        return False

    def _speed(self, name: str) -> float:
        start = self._free[name].dofadr[0]
        return float(np.abs(self.data.qvel[start : start + 3]).max())

    def _deepest(self, geoms: frozenset[int]) -> float:
        """The smallest distance of a contact between these geoms and others; 1 without one."""
        deepest = 1.0
        for number in range(self.data.ncon):
            contact = self.data.contact[number]
            if (int(contact.geom1) in geoms) != (int(contact.geom2) in geoms):
                deepest = min(deepest, float(contact.dist))
        return deepest
