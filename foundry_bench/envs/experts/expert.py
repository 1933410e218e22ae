"""The expert: runs a plan's skills on the true state until the task is solved."""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.arm import CLOSED, OPEN, Arm
from foundry_bench.envs.experts.articulation import articulation, opening_sign
from foundry_bench.envs.experts.clearing import Moves, drawer_in_the_way, push_free, set_aside
from foundry_bench.envs.experts.fit import Fit, fit_into
from foundry_bench.envs.experts.fixtures import pull_open, push_shut, swing, turn
from foundry_bench.envs.experts.grasps import Grasp
from foundry_bench.envs.experts.insert import find_opening, held_grasp, insert, insertion
from foundry_bench.envs.experts.motions import retreat
from foundry_bench.envs.experts.planner import PLACING, Plan, Step, holds, is_open, make_plan, parent_of
from foundry_bench.envs.experts.push import push
from foundry_bench.envs.experts.robosuite_skills import destination, perform
from foundry_bench.envs.experts.skills import grasp, lay, place
from foundry_bench.envs.experts.targets import long_side, low_first, region_size, region_top, target_position
from foundry_bench.envs.experts.variety import Variety
from foundry_bench.envs.experts.world import World
from foundry_bench.envs.simulation import Simulation
from foundry_bench.errors import FoundryError

_ABOVE = np.array([0.0, 0.0, 0.12])  # a destination, on the way there with nothing in the hand
_SHIFT = 0.7  # of a region's half width that an object may be from its middle
_CROWDING = 0.05  # of a point that the hand hits where it lets go, against what else a grasp costs
_ROUNDS, _TRIES = 4, 4  # over the plan, and of a grasp in each


class Expert:
    """Solves one episode of one task. Make a new one for each episode, after the objects have settled.

    Args:
        simulation: the running episode, which the expert reads and never steps.
        variety: decides what is left to choice, see `Variety`; None: always the best.

    Raises:
        FoundryError: the task needs a skill that does not exist; `reason` of `make_plan` tells beforehand.
    """

    def __init__(self, simulation: Simulation, variety: Variety | None = None) -> None:
        self._problem = simulation.problem
        self.plan: Plan = make_plan(self._problem)
        if self.plan.reason:
            raise FoundryError(f"no scripted expert for {simulation.task.key}: {self.plan.reason}")
        self._world = World(simulation)
        if self._problem.task.bddl is not None:
            self.plan = low_first(self._world, self.plan)
        self._arm = Arm(self._world, variety)
        self._actions = self._run()
        self.gave_up = ""
        self.destination: np.ndarray | None = None  # where the object of the present step goes, (3,)
        self._thing = ""  # that object

    @property
    def speed(self) -> float:
        """Factor on the largest displacement of a step, (0, 1]."""
        return self._arm.variety.speed

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

    def _run(self) -> Moves:
        tried: dict[str, list[Grasp]] = {step.thing: [] for step in self.plan.steps}
        for _ in range(_ROUNDS):
            for step in self.plan.steps:
                if holds(self._problem, step):
                    continue
                if step.needs and drawer_in_the_way(self._arm, step, self._target(step)):
                    yield from self._work(Step("close", step.needs))
                if step.needs and not is_open(self._problem, step.needs):
                    yield from self._work(Step("open", step.needs))
                if self._problem.task.bddl is None:
                    yield from self._perform(step, tried[step.thing])
                    continue
                if step.predicate not in PLACING:
                    yield from self._work(step)
                    continue
                yield from self._move(step, tried[step.thing])
                if not holds(self._problem, step):
                    break  # what comes next may depend on it, such as shutting a door
        self.gave_up = f"not solved after {_ROUNDS} rounds"
        for _ in range(5):
            yield self._arm.towards(self._world.hand, OPEN)

    def _target(self, step: Step) -> np.ndarray:
        return target_position(self._world, step, self.plan)[0]

    def _perform(self, step: Step, tried: list[Grasp]) -> Moves:
        """Do the step of a task of robosuite's own."""
        self.destination = destination(self._world, step)
        self._thing = step.thing if self.destination is not None else ""
        yield from perform(self._arm, step, tried)

    def _work(self, step: Step) -> Moves:
        """Open, close or turn a part of a fixture."""
        if step.predicate == "open":
            for other in self.plan.steps:
                if other.needs == step.thing and not holds(self._problem, other):
                    self._thing, self.destination = other.thing, None
                    yield from set_aside(self._arm, other, self._target(other))
        self._thing, self.destination = "", None
        world, arm = self._world, self._arm
        part = articulation(world, step.thing)
        opens = step.predicate in ("open", "turnon")
        opening = opening_sign(world, step.thing)

        def done() -> bool:
            return holds(self._problem, step)

        for attempt in range(_TRIES):
            if part.kind == "slide":
                outward = part.axis(world) * opening
                worked = yield from (pull_open if opens else push_shut)(arm, part, outward, done, attempt)
            else:
                sign = opening if opens else -opening
                worked = yield from (swing if part.kind == "door" else turn)(arm, part, sign, done)
            if worked:
                break

    def _move(self, step: Step, tried: list[Grasp]) -> Moves:
        """Take an object where it belongs; a grasp that failed is tried again at once."""
        self._thing = step.thing
        for _ in range(_TRIES if step.slides else 0):
            self.destination = self._target(step)
            if (yield from push(self._arm, step.thing, self.destination, lambda: holds(self._problem, step))):
                return
        opening = find_opening(self._world, step.place) if step.predicate == "in" else None

        def suits(option: Grasp) -> float:
            if opening:
                return insertion(self._arm, step.thing, option, opening).cost
            return self._crowding(step, option) if step.needs else 0.0

        for _ in range(_TRIES):
            yield from push_free(self._arm, step.thing, self._target(step), tried)
            self.destination = self._target(step)
            if (yield from grasp(self._arm, step.thing, self.destination, tried, suits)):
                break
        else:
            yield from retreat(self._arm)
            return
        if opening is not None:
            how = insertion(self._arm, step.thing, held_grasp(self._arm), opening)
            yield from insert(self._arm, step.thing, how, opening)
        else:
            yield from self._put_down(step)

    def _crowding(self, step: Step, option: Grasp) -> float:
        """What a grasp costs for what the hand would hit where it lets go."""
        world = self._world
        hand = self._target(step) + option.position - world.position(step.thing)
        closing = np.array([np.cos(option.yaw), np.sin(option.yaw), 0.0])
        return _CROWDING * world.hand_hits(hand, np.array([0.0, 0.0, -1.0]), closing, [step.thing])

    def _put_down(self, step: Step) -> Moves:
        """Put the held object on or into what is open from above."""
        world, arm = self._world, self._arm
        self.destination, drop = target_position(world, step, self.plan)
        container = parent_of(self._problem, step.place)
        if step.predicate != "in" or container not in world.bodies:
            yield from place(arm, step.thing, self.destination, drop)
            return
        rim = float(world.points(container)[:, 2].max())
        if self.destination[2] > region_top(world, step.place):  # upright it would stick out of the region
            middle = np.array([*world.position(step.place)[:2], self.destination[2]])
            yield from lay(arm, step.thing, middle, long_side(world, step.place), rim)
            return

        def fit() -> Fit:
            room = _SHIFT * region_size(world, step.place)
            return fit_into(arm, step.thing, container, self._target(step), room, bool(step.needs))

        yield from place(arm, step.thing, self.destination, drop, fit=fit)
