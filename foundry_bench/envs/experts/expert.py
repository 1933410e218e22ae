"""The expert: runs a plan's skills on the true state until the task is solved."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from foundry_bench.envs.experts.grasps import Grasp
from foundry_bench.envs.experts.planner import Plan, Step, holds, make_plan, target_position
from foundry_bench.envs.experts.skills import CLOSED, OPEN, Arm, grasp, place, retreat
from foundry_bench.envs.experts.world import World
from foundry_bench.envs.simulation import Simulation
from foundry_bench.errors import FoundryError

#: Named in every demonstration; raise it when the same seed would give other actions.
EXPERT_VERSION = "scripted-4"
_ABOVE = np.array([0.0, 0.0, 0.12])  # a destination, on the way there with nothing in the hand
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
                if not holds(self._problem, step):
                    yield from self._move(step, tried[step.thing])
        self.gave_up = f"not solved after {_ROUNDS} rounds"
        for _ in range(5):
            yield self._arm.towards(self._world.hand, OPEN)

    def _move(self, step: Step, tried: list[Grasp]) -> Generator[np.ndarray, None, None]:
        """Take an object where it belongs; a grasp that failed is tried again at once."""
        self._thing = step.thing
        for _ in range(_TRIES):
            self.destination, _ = target_position(self._world, step, self.plan)
            if (yield from grasp(self._arm, step.thing, self.destination, tried)):
                break
        else:
            yield from retreat(self._arm)
            return
        self.destination, drop = target_position(self._world, step, self.plan)
        yield from place(self._arm, step.thing, self.destination, drop)
