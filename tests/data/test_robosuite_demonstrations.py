"""Demonstrations of robosuite's own tasks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from foundry_bench.data.demonstrate import DemonstrationService, demonstrate
from foundry_bench.data.demos import DemosConfig
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import suite, task


def test_a_noisy_attempt_becomes_a_demonstration_that_can_be_made_again() -> None:
    simulation = Simulation(task("robosuite", 0), ("agentview", "wrist"), 32, "native", "fast")
    config = DemosConfig(image_size=32, noise=0.25, mistakes=0.0)
    episode, reason = demonstrate(simulation, config, 0)
    assert episode is not None, reason
    assert (episode.suite, episode.task_index) == ("robosuite", 0)
    assert episode.action.shape == episode.label.shape == (len(episode), 7)
    assert np.abs(episode.action - episode.label).max() > 0.01
    again, _ = demonstrate(simulation, config, 0)
    assert again is not None
    np.testing.assert_array_equal(again.action, episode.action)
    simulation.close()


def test_the_service_plans_robosuites_tasks_and_names_the_arm_it_cannot_use(tmp_path: Path) -> None:
    service = DemonstrationService(asdict(DemosConfig(image_size=32)), str(tmp_path))
    assert service.plan("robosuite", 0) == ""
    assert "Sawyer" in service.plan("robosuite_sawyer", 0)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(6))
def test_most_noisy_attempts_succeed(index: int) -> None:
    simulation = Simulation(suite("robosuite").tasks[index], ("agentview", "wrist"), 32, "native", "fast")
    config = DemosConfig(image_size=32, noise=0.25, mistakes=0.0)
    made = [demonstrate(simulation, config, number)[0] is not None for number in range(5)]
    simulation.close()
    assert sum(made) >= 3
