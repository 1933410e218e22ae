"""The expert: runs a plan's skills on the true state until the task is solved."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm
from foundry_bench.envs.experts.articulation import articulation, opening_sign, wanted_value
from foundry_bench.envs.experts.fit import Fit, fit_into
from foundry_bench.envs.experts.fixtures import pull_open, push_shut, swing, turn
from foundry_bench.envs.experts.grasps import BLOCKED, Grasp, find_grasps
from foundry_bench.envs.experts.insert import find_opening, held_grasp, insert, insertion
from foundry_bench.envs.experts.planner import PLACING, Plan, Step, holds, is_open, make_plan, parent_of
from foundry_bench.envs.experts.push import push, way_out
from foundry_bench.envs.experts.robosuite_skills import destination, perform
from foundry_bench.envs.experts.skills import grasp, lay, place, retreat, support_height, was_tried
from foundry_bench.envs.experts.targets import free_spot, long_side, region_size, region_top, target_position
from foundry_bench.envs.experts.world import World
from foundry_bench.envs.simulation import Simulation
from foundry_bench.errors import FoundryError

#: Named in every demonstration; raise it when the same seed would give other actions.
EXPERT_VERSION = "scripted-5"
_ABOVE = np.array([0.0, 0.0, 0.12])  # a destination, on the way there with nothing in the hand
_IN_THE_WAY = 0.3  # rise of a grasp's cost that a drawer makes which comes out over the object
_NEAR_DRAWER = 0.15  # metres
_ROUNDS, _TRIES = 4, 4  # over the plan, and of a grasp in each


class Expert:
    """Solves one episode of one task. Make a new one for each episode, after the objects have settled.

    Args:
        simulation: the running episode, which the expert reads and never steps.
        speed: factor on the largest displacement of a step, (0, 1].

    Raises:
        FoundryError: the task needs a skill that does not exist; `reason` of `make_plan` tells beforehand.
    """

    def __init__(self, simulation: Simulation, speed: float = 1.0) -> None:
        self._problem = simulation.problem
        self.plan: Plan = make_plan(self._problem)
        if self.plan.reason:
            raise FoundryError(f"no scripted expert for {simulation.task.key}: {self.plan.reason}")
        self._world = World(simulation)
        self._arm = Arm(self._world, speed)
        self._actions = self._run()
        self.gave_up = ""
        self.destination: np.ndarray | None = None  # where the object of the present step goes, (3,)
        self._thing = ""  # that object

    @property
    def near_contact(self) -> bool:
        """Whether the hand is about to touch something, so that noise should be small."""
        return self._arm.near_contact

    @property
    def grasping(self) -> bool:
        """Whether the hand goes down around an object or closes on it."""
        return self._arm.grasping

    @property
    def pinching(self) -> bool:
        """Whether both fingers touch the object that is to be taken now."""
        return bool(self._thing) and self._world.pinched(self._thing)

    def carry_action(self) -> np.ndarray:
        """What it would do now if it had the object: go on to where that is put down, fingers closed."""
        if self.destination is None:
            return self._arm.towards(self._world.hand, CLOSED)
        return np.clip(self._arm.towards(self.destination + _ABOVE, CLOSED), -1.0, 1.0)

    def act(self) -> np.ndarray | None:
        """The action for the present state, float64 (7,) in [-1, 1]; None when the expert gives up."""
        try:
            return np.clip(next(self._actions), -1.0, 1.0)
        except StopIteration:
            return None

    def _run(self) -> Generator[np.ndarray, None, None]:
        tried: dict[str, list[Grasp]] = {step.thing: [] for step in self.plan.steps}
        for _ in range(_ROUNDS):
            for step in self.plan.steps:
                if holds(self._problem, step):
                    continue
                if step.needs and self._drawer_in_the_way(step):
                    yield from self._work(Step("close", step.needs))
                if step.needs and not is_open(self._problem, step.needs):
                    yield from self._work(Step("open", step.needs))
                if self._problem.task.bddl is None:
                    yield from self._perform(step, tried[step.thing])
                elif step.predicate in PLACING:
                    yield from self._move(step, tried[step.thing])
                else:
                    yield from self._work(step)
        self.gave_up = f"not solved after {_ROUNDS} rounds"
        for _ in range(5):
            yield self._arm.towards(self._world.hand, OPEN)

    def _perform(self, step: Step, tried: list[Grasp]) -> Generator[np.ndarray, None, None]:
        """Do the step of a task of robosuite's own."""
        self.destination = destination(self._world, step)
        self._thing = step.thing if self.destination is not None else ""
        yield from perform(self._arm, step, tried)

    def _set_aside(self, step: Step) -> Generator[np.ndarray, None, None]:
        """Put the object of a step elsewhere if the drawer it goes into would come out over it."""
        world = self._world
        part = articulation(world, step.needs)
        if part.kind != "slide" or step.slides:
            return
        travel = wanted_value(world, "open", step.needs) - part.value(world)
        coming = np.concatenate([world.geom_points(geom) for geom in (*part.handle, *part.panel)])
        coming = coming + part.axis(world) * travel
        support = support_height(world, step.thing)
        destination, _ = target_position(world, step, self.plan)
        costs = [
            min(
                (grasp.cost for grasp in find_grasps(world, step.thing, support, destination, some)),
                default=BLOCKED,
            )
            for some in (None, coming)
        ]
        if costs[1] - costs[0] < _IN_THE_WAY:
            return
        spot = free_spot(world, step.thing, coming, destination)
        if spot is None:
            return
        self._thing, self.destination = step.thing, spot
        tried: list[Grasp] = []
        for _ in range(_TRIES):
            if (yield from grasp(self._arm, step.thing, spot, tried)):
                yield from place(self._arm, step.thing, spot, quick=True)
                return

    def _drawer_in_the_way(self, step: Step) -> bool:
        """Whether the open drawer into which an object goes is what keeps the hand from taking it."""
        world = self._world
        part = articulation(world, step.needs)
        if part.kind != "slide" or not is_open(self._problem, step.needs):
            return False
        support = support_height(world, step.thing)
        destination, _ = target_position(world, step, self.plan)
        options = find_grasps(world, step.thing, support, destination)
        if options and options[0].cost < BLOCKED:
            return False
        geoms = [world.geom_points(geom) for geom in (*part.handle, *part.panel)]
        near = np.linalg.norm(np.concatenate(geoms)[:, :2] - world.position(step.thing)[:2], axis=1).min()
        return bool(near < _NEAR_DRAWER)

    def _work(self, step: Step) -> Generator[np.ndarray, None, None]:
        """Open, close or turn a part of a fixture."""
        if step.predicate == "open":
            for other in self.plan.steps:
                if other.needs == step.thing and not holds(self._problem, other):
                    yield from self._set_aside(other)
        self._thing, self.destination = "", None
        world, arm = self._world, self._arm
        part = articulation(world, step.thing)
        opens = step.predicate in ("open", "turnon")
        sign = opening_sign(world, step.thing) * (1.0 if opens else -1.0)

        def done() -> bool:
            return holds(self._problem, step)

        for attempt in range(_TRIES):
            if part.kind == "slide":
                outward = part.axis(world) * opening_sign(world, step.thing)
                worked = yield from (pull_open if opens else push_shut)(arm, part, outward, done, attempt)
            else:
                worked = yield from (swing if part.kind == "door" else turn)(arm, part, sign, done)
            if worked:
                break

    def _free(self, step: Step, tried: list[Grasp]) -> Generator[np.ndarray, None, None]:
        """Push an object out of a corner in which no hand could get around it."""
        world, name = self._world, step.thing
        support = support_height(world, name)
        destination, _ = target_position(world, step, self.plan)

        def cost(moved: np.ndarray) -> float:
            options = find_grasps(world, name, support, destination, moved=moved)
            if not moved.any():
                options = [option for option in options if not was_tried(option, tried, world, name)]
            return options[0].cost if options else 2 * BLOCKED

        if cost(np.zeros(3)) < BLOCKED:
            return
        spot = way_out(world, name, cost)
        if spot is None:
            return
        start = world.position(name)
        far = 0.8 * float(np.linalg.norm(spot - start))

        def done() -> bool:
            return float(np.linalg.norm((world.position(name) - start)[:2])) > far

        yield from push(self._arm, name, spot, done)

    def _move(self, step: Step, tried: list[Grasp]) -> Generator[np.ndarray, None, None]:
        """Take an object where it belongs; a grasp that failed is tried again at once."""
        self._thing = step.thing
        for _ in range(_TRIES if step.slides else 0):
            self.destination, _ = target_position(self._world, step, self.plan)
            if (yield from push(self._arm, step.thing, self.destination, lambda: holds(self._problem, step))):
                return
        opening = find_opening(self._world, step.place) if step.predicate == "in" else None

        def suits(option: Grasp) -> float:
            return insertion(self._arm, step.thing, option, opening).cost if opening else 0.0

        for _ in range(_TRIES):
            yield from self._free(step, tried)
            self.destination, _ = target_position(self._world, step, self.plan)
            if (yield from grasp(self._arm, step.thing, self.destination, tried, suits)):
                break
        else:
            yield from retreat(self._arm)
            return
        if opening is not None:
            how = insertion(self._arm, step.thing, held_grasp(self._arm), opening)
            yield from insert(self._arm, step.thing, how, opening)
            return
        self.destination, drop = target_position(self._world, step, self.plan)
        container = parent_of(self._problem, step.place)
        within = step.predicate == "in" and container in self._world.bodies

        if within and self.destination[2] > region_top(self._world, step.place):
            walls = self._world.points(container)
            yield from lay(
                self._arm,
                step.thing,
                np.array([*self._world.position(step.place)[:2], self.destination[2]]),
                long_side(self._world, step.place),
                float(walls[:, 2].max()),
            )
            return

        def fit() -> Fit:
            room = 0.7 * region_size(self._world, step.place)
            spot, _ = target_position(self._world, step, self.plan)
            return fit_into(self._arm, step.thing, container, spot, room)

        yield from place(self._arm, step.thing, self.destination, drop, fit=fit if within else None)
