from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from foundry_bench.data.demonstrate import demonstrate
from foundry_bench.data.demos import DemosConfig
from foundry_bench.data.mistakes import Mistake
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import task

OPEN_LABEL = np.array([0.1, 0.2, -0.3, 0.0, 0.0, 0.1, -1.0])
CLOSE_LABEL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def expert(*, grasping: bool, pinching: bool = False) -> SimpleNamespace:
    return SimpleNamespace(grasping=grasping, pinching=pinching, carry_action=lambda: np.full(7, 0.9))


def executed(mistake: Mistake, label: np.ndarray, steps: int = 80) -> np.ndarray:
    return np.stack([mistake.disturb(label, expert(grasping=True)) for _ in range(steps)])


@pytest.mark.parametrize("seed", range(20))
def test_a_mistake_closes_beside_the_object_once_and_then_lets_the_expert_act(seed: int) -> None:
    mistake = Mistake(1.0, np.random.default_rng(seed))
    actions = executed(mistake, OPEN_LABEL)
    closed = np.flatnonzero(actions[:, 6] > 0)
    assert closed[0] < 7
    np.testing.assert_array_equal(np.diff(closed), 1)
    assert np.linalg.norm(actions[closed[0], :2]) >= 0.5
    np.testing.assert_array_equal(actions[closed[-1] + 1 :], np.tile(OPEN_LABEL, (79 - closed[-1], 1)))
    carried = bool((actions[:, 0] == 0.9).any())
    assert mistake.kind == ("carry" if carried else "miss")


def test_half_of_the_mistakes_carry_nothing_to_the_destination() -> None:
    kinds = []
    for seed in range(200):
        mistake = Mistake(1.0, np.random.default_rng(seed))
        executed(mistake, OPEN_LABEL)
        kinds.append(mistake.kind)
    assert 70 < kinds.count("carry") < 130
    assert kinds.count("miss") == 200 - kinds.count("carry")


def test_no_mistake_without_a_share_before_a_grasp_or_while_the_expert_closes() -> None:
    nothing = Mistake(0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(executed(nothing, OPEN_LABEL), np.tile(OPEN_LABEL, (80, 1)))
    waiting = Mistake(1.0, np.random.default_rng(0))
    for _ in range(50):
        np.testing.assert_array_equal(waiting.disturb(OPEN_LABEL, expert(grasping=False)), OPEN_LABEL)
    np.testing.assert_array_equal(executed(waiting, CLOSE_LABEL), np.tile(CLOSE_LABEL, (80, 1)))
    assert nothing.kind == waiting.kind == ""


def test_a_mistake_is_over_when_the_object_is_between_the_fingers_after_all() -> None:
    mistake = Mistake(1.0, np.random.default_rng(3))
    while not mistake.kind:
        mistake.disturb(OPEN_LABEL, expert(grasping=True))
    for _ in range(6):
        mistake.disturb(OPEN_LABEL, expert(grasping=True))
    np.testing.assert_array_equal(mistake.disturb(CLOSE_LABEL, expert(grasping=True)), CLOSE_LABEL)
    np.testing.assert_array_equal(mistake.disturb(OPEN_LABEL, expert(grasping=False)), OPEN_LABEL)


def test_the_share_draws_the_same_whatever_comes_of_it() -> None:
    """The noise that follows must not depend on whether an attempt has a mistake."""
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    Mistake(0.0, one)
    Mistake(1.0, other)
    assert one.random() == other.random()


@pytest.mark.parametrize("seed", range(5))
def test_a_mistake_is_over_when_both_fingers_touch_the_object(seed: int) -> None:
    mistake = Mistake(1.0, np.random.default_rng(seed))
    while not mistake.kind:
        mistake.disturb(OPEN_LABEL, expert(grasping=True))
    pinched = expert(grasping=True, pinching=True)
    np.testing.assert_array_equal(mistake.disturb(OPEN_LABEL, pinched), OPEN_LABEL)
    np.testing.assert_array_equal(executed(mistake, OPEN_LABEL), np.tile(OPEN_LABEL, (80, 1)))


@pytest.mark.slow
def test_demonstrations_recover_from_their_mistakes() -> None:
    simulation = Simulation(task("libero_spatial", 2), ("agentview", "wrist"), 32, "native", "fast")
    config = DemosConfig(image_size=32, mistakes=1.0)
    made = [demonstrate(simulation, config, number)[0] for number in range(5)]
    kept = [episode for episode in made if episode is not None]
    assert len(kept) >= 4
    missed = [episode for episode in kept if episode.info["mistake"]]
    assert len(missed) >= 3
    for episode in missed:
        defies = np.flatnonzero(episode.action[:, 6] != episode.label[:, 6])
        assert (episode.label[defies, 6] < 0).all()
        assert len(defies) < len(episode) / 2
