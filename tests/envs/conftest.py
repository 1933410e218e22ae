"""Simulators shared by the tests of a session: building one takes longer than most tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import task

MakeSimulation = Callable[..., Simulation]


@pytest.fixture(scope="session")
def simulation() -> Iterator[MakeSimulation]:
    """Makes (suite, index, engine) simulators with both cameras at 64 px, each once."""
    made: dict[tuple[str, int, str], Simulation] = {}

    def make(suite: str, index: int, engine: str = "native") -> Simulation:
        key = (suite, index, engine)
        if key not in made:
            made[key] = Simulation(task(suite, index), ("agentview", "wrist"), 64, engine, "fast")
        return made[key]

    yield make
    for item in made.values():
        item.close()
