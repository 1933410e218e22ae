"""Suites that users bring, down to whole episodes in the service that evaluations use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.configs.compose import compose
from foundry_bench.envs import user_suites
from foundry_bench.envs.service import EpisodeService
from foundry_bench.envs.suites import resolve_suites, suite, task
from foundry_bench.errors import FoundryError

_SETTINGS = {
    "cameras": ["agentview", "wrist"],
    "image_size": 32,
    "engine": "native",
    "render_profile": "fast",
    "wait_steps": 2,
    "max_steps": {"mine": 6},
}


class Push(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A dot that is pushed to the right edge; its camera is twice as large as ours."""

    observation_space = gymnasium.spaces.Dict(
        {
            "pixels": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "agent_pos": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32)

    def __init__(self, wall: float = 1.0, silent: bool = False) -> None:
        self._wall, self._silent = wall, silent

    def _look(self) -> dict[str, Any]:
        pixels = np.zeros((64, 64, 3), np.uint8)
        row, column = (int(31.5 + 31 * value) for value in self._place)
        pixels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 255
        return {"pixels": pixels, "agent_pos": self._place.astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._place = self.np_random.uniform(-0.5, 0.5, 2)
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._place = np.clip(self._place + action, -1, 1)
        solved = bool(self._place[1] >= self._wall)
        info = {} if self._silent else {"is_success": solved}
        return self._look(), float(solved), bool(self._place[0] <= -1), False, info


gymnasium.register("foundry_bench_tests/Push-v0", Push)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one of LIBERO's tasks, under another name, and its init states."""
    made = tmp_path / "folder"
    made.mkdir()
    original = task("libero_object", 0)
    assert original.bddl is not None
    assert original.init_states is not None
    shutil.copy(original.bddl, made / "fetch_soup.bddl")
    shutil.copy(original.init_states, made / "fetch_soup.npz")
    shutil.copy(original.bddl, made / "again.bddl")
    return made


def gymnasium_file(folder: Path, **changes: Any) -> Path:
    """A YAML file for `Push`; JSON is YAML."""
    content: dict[str, Any] = {
        "environments": [
            {"id": "foundry_bench_tests/Push-v0", "instruction": "push the dot", "kwargs": {"wall": 0.9}}
        ],
        "observation": {"agentview": "pixels", "wrist": "pixels", "state": "agent_pos"},
        "success": "is_success",
        "state_dim": 2,
        "action_dim": 2,
        "max_steps": 6,
    }
    content.update(changes)
    path = folder / "push.yaml"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_a_folder_of_bddl_files_is_a_suite(folder: Path) -> None:
    (folder / "suite.yaml").write_text(
        "tasks: [fetch_soup, again]\ninstructions: {again: Do it again}\nmax_steps: 33\n"
    )
    user_suites.register({"mine": str(folder)})
    fetch, again = resolve_suites("mine")[0].tasks
    assert fetch.name == "fetch_soup"
    assert fetch.instruction == "pick the alphabet soup and place it in the basket"
    assert fetch.init_states == folder / "fetch_soup.npz"
    assert again.instruction == "Do it again"
    assert again.init_states is None
    assert user_suites.max_steps("mine") == 33


def test_its_episodes_run_with_official_and_with_sampled_init_states(folder: Path) -> None:
    user_suites.register({"mine": str(folder)})
    service = EpisodeService(_SETTINGS)
    frames = []
    for number in (0, 1, 0):  # sorted by name: `again` has no init states on file
        observation = service.start(0, "mine", number, init_state=2, seed=7)
        frames.append(observation["agentview"])
        assert service.advance(0, np.zeros((6, 7)))["done"]
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any()


def test_a_gymnasium_id_is_a_task(tmp_path: Path) -> None:
    user_suites.register({"mine": str(gymnasium_file(tmp_path))})
    (only,) = suite("mine").tasks
    assert (only.state_dim, only.action_dim, only.instruction) == (2, 2, "push the dot")
    service = EpisodeService(_SETTINGS)
    first = service.start(0, "mine", 0, init_state=4, seed=7)
    assert first["agentview"].shape == (32, 32, 3)
    assert first["state"].shape == (2,)
    other = service.start(1, "mine", 0, init_state=5, seed=7)
    assert (first["state"] != other["state"]).any()
    again = service.start(1, "mine", 0, init_state=4, seed=7)
    np.testing.assert_array_equal(first["agentview"], again["agentview"])
    answer = service.advance(0, np.array([[0.0, 1.0]] * 6))
    assert answer["success"]
    assert answer["done"]
    assert answer["steps"] < 6
    ended = service.advance(1, np.array([[-1.0, 0.0]] * 6))  # runs into the edge where the episode ends
    assert ended["done"]
    assert not ended["success"]
    assert ended["steps"] < 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environments": [{"id": "foundry_bench_tests/None-v0", "instruction": "x"}]}, "None-v0"),
        ({"action_dim": 3}, "action_dim: 3"),
        ({"state_dim": 3}, "state_dim: 3"),
        ({"observation": {"agentview": "pixels", "state": "agent_pos"}}, "no key for 'wrist'"),
        (
            {"observation": {"agentview": "pixel", "wrist": "pixels", "state": "agent_pos"}},
            "no 'pixel' .for agentview., it has pixels, agent_pos",
        ),
    ],
)
def test_what_the_environment_does_not_have_is_named(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    user_suites.register({"mine": str(gymnasium_file(tmp_path, **changes))})
    with pytest.raises(FoundryError, match=said):
        EpisodeService(_SETTINGS).start(0, "mine", 0, init_state=0, seed=7)


def test_an_info_that_is_silent_about_success_is_an_error(tmp_path: Path) -> None:
    environments = [{"id": "foundry_bench_tests/Push-v0", "instruction": "push", "kwargs": {"silent": True}}]
    user_suites.register({"mine": str(gymnasium_file(tmp_path, environments=environments))})
    service = EpisodeService(_SETTINGS)
    service.start(0, "mine", 0, init_state=0, seed=7)
    with pytest.raises(FoundryError, match="no key 'is_success'"):
        service.advance(0, np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"success": None}, "'success' is missing"),
        ({"state_dim": 0}, "above 0"),
        ({"state_dim": "two"}, "whole number"),
        ({"observation": {"front": "pixels"}}, "observation.front"),
        ({"environments": [{"id": "x"}]}, r"environments\[0\]"),
        ({"environments": []}, "no tasks"),
        ({"sucess": "x"}, "did you mean 'success'"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = gymnasium_file(tmp_path, **changes)
    user_suites.register({"mine": str(path)})
    with pytest.raises(FoundryError, match=said) as refused:
        suite("mine")
    assert str(path) in str(refused.value)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_suite_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("suite") / "suite.yaml"
    path.write_bytes(content)
    user_suites.register({"mine": str(path)})
    with pytest.raises(FoundryError):
        suite("mine")


def test_folders_that_are_no_suite_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    user_suites.register({"mine": str(tmp_path / "empty"), "other": str(folder)})
    with pytest.raises(FoundryError, match="no tasks"):
        suite("mine")
    (folder / "suite.yaml").write_text("tasks: [fetch_soap]")
    with pytest.raises(FoundryError, match="did you mean 'fetch_soup'"):
        suite("other")
    (folder / "suite.yaml").unlink()
    (folder / "again.bddl").write_text("(define (problem X))")
    with pytest.raises(FoundryError, match="no instruction"):
        suite("other")
    with pytest.raises(FoundryError, match="no such folder"):
        user_suites.register({"mine": str(tmp_path / "nowhere")})
    with pytest.raises(FoundryError, match="lower case"):
        user_suites.register({"My Suite": str(folder)})


def test_the_configuration_makes_a_suite_known(folder: Path) -> None:
    (folder / "suite.yaml").write_text("max_steps: 33")
    config = compose([f"suites={{mine: '{folder}'}}", "suite=mine"])
    assert config.suite == "mine"
    assert config.protocol.max_steps.mine == 33
    config = compose([f"suites={{mine: '{folder}'}}", "suite=mine", "protocol.max_steps.mine=44"])
    assert config.protocol.max_steps.mine == 44
    with pytest.raises(FoundryError, match="no such folder"):
        compose(["suites={mine: nowhere}", "suite=mine"])


def test_the_arm_is_part_of_the_suites_name() -> None:
    assert compose(["suite=robosuite", "robot=UR5e"]).suite == "robosuite_ur5e"
    assert compose(["suite=robosuite", "robot=Panda"]).suite == "robosuite"
    assert compose(["suite=robosuite_jaco"]).suite == "robosuite_jaco"
    with pytest.raises(FoundryError, match="did you mean 'UR5e'"):
        compose(["suite=robosuite", "robot=UR5"])
    with pytest.raises(FoundryError, match="only suite=robosuite"):
        compose(["suite=libero", "robot=UR5e"])
