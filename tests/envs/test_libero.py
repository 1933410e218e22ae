from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from foundry_bench import make_env
from foundry_bench.envs.libero import LiberoEnv
from foundry_bench.envs.registration import register
from foundry_bench.errors import FoundryError


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    made = LiberoEnv(3, "libero_object", image_size=64, max_steps=20)
    yield made
    made.close()


def test_check_env(env: LiberoEnv) -> None:
    check_env(env)


def test_it_is_registered() -> None:
    register()  # Gymnasium does this itself where the package is installed
    made = gymnasium.make("foundry_bench/libero_spatial-v0", task=3, image_size=48)
    assert made.observation_space["agentview"].shape == (48, 48, 3)
    made.close()


def test_make_env_names_the_suite_first() -> None:
    assert make_env("libero_object", task=3, image_size=48).task.key == "libero_object-03"


def test_the_caller_names_the_episode(env: LiberoEnv) -> None:
    options = {"init_state": 4}
    first, info = env.reset(seed=1, options=options)
    env.step(env.action_space.sample())
    again, _ = env.reset(seed=1, options=options)
    other, _ = env.reset(seed=1, options={"init_state": 5})
    np.testing.assert_array_equal(first["agentview"], again["agentview"])
    assert (first["agentview"] != other["agentview"]).any()
    handed_in, _ = env.reset(options={"state": info["init_state"], "fixtures": info["fixtures"]})
    np.testing.assert_array_equal(first["wrist"], handed_in["wrist"])


def test_a_chunk_is_its_steps(env: LiberoEnv) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 7))
    env.reset(seed=0, options={"init_state": 0})
    for action in actions:
        single, _, _, _, _ = env.step(action)
    env.reset(seed=0, options={"init_state": 0})
    chunk, _, _, _, info = env.step_chunk(actions)
    assert info["steps"] == 6
    for name in ("agentview", "wrist", "state"):
        np.testing.assert_array_equal(single[name], chunk[name])


def test_the_budget_truncates_within_a_chunk(env: LiberoEnv) -> None:
    env.reset(seed=0, options={"init_state": 0})
    _, _, _, truncated, info = env.step_chunk(np.zeros((15, 7)))
    assert (truncated, info["steps"]) == (False, 15)
    observation, reward, terminated, truncated, info = env.step_chunk(np.zeros((15, 7)))
    assert (reward, terminated, truncated, info["steps"]) == (0.0, False, True, 5)
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("action", "what"),
    [
        (np.zeros(6), "shape"),
        (np.full(7, np.nan), "NaN"),
        (np.zeros((0, 7)), "shape"),
        (np.zeros(8), "shape"),
    ],
)
def test_broken_actions_are_refused(env: LiberoEnv, action: np.ndarray, what: str) -> None:
    env.reset(seed=0, options={"init_state": 0})
    with pytest.raises(FoundryError, match=what):
        env.step_chunk(action if action.ndim == 2 else action[None])


def test_unknown_things_are_named() -> None:
    with pytest.raises(FoundryError, match="did you mean 'wrist'"):
        LiberoEnv(0, "libero_object", cameras=("wrst",))
    with pytest.raises(FoundryError, match="init states 0 to 49"):
        LiberoEnv(3, "libero_object", image_size=48).reset(options={"init_state": 50})
    with pytest.raises(FoundryError, match="name the suite"):
        LiberoEnv(3)
