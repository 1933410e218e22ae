"""A few simulators kept warm, of whatever kind their tasks need."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from foundry_bench.envs.gymnasium_simulation import GymnasiumSimulation
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import Task

AnySimulation = Simulation | GymnasiumSimulation


class SimulationPool:
    """Keeps the simulators last used, so that the next episode of a task starts at once.

    Args:
        limit: how many idle simulators are kept.
        settings: the keyword arguments of `Simulation` other than the task.
    """

    def __init__(self, limit: int = 8, **settings: Any) -> None:
        self._limit = limit
        self._settings = settings
        self._idle: OrderedDict[int, AnySimulation] = OrderedDict()  # oldest first
        self._count = 0

    def acquire(self, task: Task) -> AnySimulation:
        """A simulator of the task that nobody else is using."""
        for number in reversed(self._idle):
            if self._idle[number].task == task:
                return self._idle.pop(number)
        while len(self._idle) >= self._limit:
            self._idle.popitem(last=False)[1].close()
        if task.gymnasium is not None:
            return GymnasiumSimulation(task, self._settings["cameras"], self._settings["image_size"])
        return Simulation(task, **self._settings)

    def release(self, simulation: AnySimulation) -> None:
        """Hand a simulator back."""
        self._count += 1
        self._idle[self._count] = simulation
