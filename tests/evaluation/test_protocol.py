"""The protocol: what its hash covers, which budgets suites get, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundry_bench.errors import FoundryError
from foundry_bench.evaluation import Protocol

CONFIGS = sorted((Path(__file__).parents[2] / "foundry_bench/configs/protocol").glob("*.yaml"))
OTHER: dict[str, Any] = {
    "version": 1,
    "max_steps": {"libero_spatial": 221},
    "wait_steps": 0,
    "cameras": ("agentview",),
    "image_size": 128,
    "replan": 8,
    "seed": 0,
    "engine": "robosuite",
    "render_profile": "exact",
    "versions": {"mujoco": "3.17.0"},
    "action_convention": "joint_velocity",
    "reset_mode": "legacy",
}
ONE_CHOICE = {"rotation", "seed_policy", "state_convention"}


def test_the_hash_covers_every_field_that_can_move_a_number() -> None:
    base = Protocol()
    for entry in fields(Protocol):
        if entry.name in ("name", "trials"):
            changed = replace(base, **{entry.name: {"name": "other", "trials": 3}[entry.name]})
            assert changed.hash == base.hash
        elif entry.name not in ONE_CHOICE:
            assert replace(base, **{entry.name: OTHER[entry.name]}).hash != base.hash, entry.name
    assert len(base.hash) == 12
    assert Protocol().hash == base.hash


def test_versions_come_from_the_installed_packages() -> None:
    assert Protocol().versions["mujoco"].count(".") == 2
    assert set(Protocol().versions) == {"mujoco", "robosuite", "libero"}


def test_describe_and_back() -> None:
    protocol = Protocol(replan=5, cameras=("agentview",), versions={"mujoco": "1"})
    described = json.loads(json.dumps(protocol.describe()))
    assert described["hash"] == protocol.hash
    again = Protocol.from_mapping(described)
    assert again == protocol
    assert again.hash == protocol.hash


@pytest.mark.parametrize(
    ("suite", "steps"),
    [
        ("libero_spatial", 220),
        ("libero_10", 520),
        ("libero_90", 400),
        ("libero_spatial_swap", 220),
        ("libero_object_lan", 280),
        ("libero_10_task", 520),
    ],
)
def test_budgets(suite: str, steps: int) -> None:
    assert Protocol().steps_for(suite) == steps
    assert Protocol().env_settings([suite])["max_steps"][suite] == steps


def test_the_longest_name_that_a_suite_extends_decides() -> None:
    protocol = Protocol(max_steps={"libero_spatial": 1, "libero_spatial_swap": 2})
    assert protocol.steps_for("libero_spatial_swap") == 2
    with pytest.raises(
        FoundryError, match=r"no budget for suite 'libero_spatially'.*max_steps\.libero_spatially=N"
    ):
        protocol.steps_for("libero_spatially")


def test_env_settings_are_plain_values() -> None:
    settings = Protocol().env_settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["cameras"] == ["agentview", "wrist"]
    assert settings["wait_steps"] == 10


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"render_profil": "fast"}, "protocol.render_profil: no such key, did you mean 'render_profile'"),
        ({"render_profile": "exakt"}, "protocol.render_profile=exakt: not possible, did you mean 'exact'"),
        ({"image_size": 0}, "protocol.image_size=0: must be a whole number"),
        ({"replan": 2.5}, "protocol.replan=2.5"),
        ({"replan": True}, "protocol.replan=True"),
        ({"cameras": []}, "protocol.cameras"),
        ({"max_steps": {"libero_10": -1}}, "protocol.max_steps.libero_10=-1"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError) as caught:
        Protocol.from_mapping(values)
    assert words in str(caught.value)


def test_the_configs_fill_every_field() -> None:
    names = {entry.name for entry in fields(Protocol)} - {"versions"}
    shipped = {"foundry", "libero_openpi", "libero_openvla"}
    for path in CONFIGS:
        if path.stem in shipped:
            values = yaml.safe_load(path.read_text())
            assert set(values) == names
            assert Protocol.from_mapping(values).name == path.stem
            shipped.remove(path.stem)
    assert not shipped


def test_the_default_is_the_foundry_config() -> None:
    path = next(path for path in CONFIGS if path.stem == "foundry")
    assert Protocol.from_mapping(yaml.safe_load(path.read_text())) == Protocol()
