"""From ``key=value`` words to one checked, resolved configuration.

Hydra composes the groups; the values given on the command line are then set one by one, each against the
type of the default it replaces, so that every mistake can be named together with what was probably meant.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundry_bench.configs.checks import check_bounds, check_relations, check_type
from foundry_bench.configs.keys import ALIASES, GROUPS, harmless, idle
from foundry_bench.configs.overrides import Override, parse
from foundry_bench.errors import FoundryError, nearest

#: Mappings whose keys are the user's.
LEAVES = ("tasks", "suites", "llm.corpora", "train.rates")


def compose(words: Sequence[str]) -> DictConfig:
    """The resolved configuration for the ``key=value`` words of a command line.

    ``experiment`` is filled in where it was left null: suite, scale, and six hex digits that stand for
    everything else that differs from the scale's own numbers.

    Raises:
        FoundryError: a word that does not parse, or an unknown key, group, choice or value.
    """
    overrides = [_as_group(parse(word)) for word in words]
    _register_suites(overrides)
    choices = [override for override in overrides if override.key in groups()]
    values = [override for override in overrides if override.key not in groups()]
    config = _compose_groups(choices)
    defaults = flatten(config)
    for override in values:
        _set(config, defaults, override)
    _choose_robot(config)
    _own_step_budget(config)
    OmegaConf.resolve(config)
    check_bounds(flatten(config))
    check_relations(config)
    if config.experiment is None:
        config.experiment = _experiment_name(config)
    OmegaConf.set_readonly(config, True)
    return config


def _as_group(override: Override) -> Override:
    """A group by its own name, where people know it as a key of the section that it fills."""
    return replace(override, key=GROUPS.get(override.key, override.key))


@lru_cache(maxsize=1)
def groups() -> dict[str, list[str]]:
    """Hydra groups and the choices each has a YAML file for."""
    root = resources.files("foundry_bench.configs")
    folders = (entry for entry in root.iterdir() if entry.is_dir())
    found = {
        folder.name: sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
        for folder in folders
    }
    return {name: choices for name, choices in sorted(found.items()) if choices}


def flatten(config: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name, interpolations followed; lists and the mappings in `LEAVES` count as leaves."""
    leaves: dict[str, Any] = {}
    for name in map(str, config):
        key = f"{prefix}{name}"
        value = config[name]
        if isinstance(value, DictConfig) and key not in LEAVES:
            leaves.update(flatten(value, key + "."))
        else:
            leaves[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return leaves


def _compose_groups(choices: Sequence[Override]) -> DictConfig:
    """Compose with the chosen group members; a suite without a YAML file is only a name."""
    known = groups()
    words, suite = [], None
    for override in choices:
        if not isinstance(override.value, str):
            raise FoundryError(
                f"{override.word}: {override.key} takes a name, known: {', '.join(known[override.key])}"
            )
        if override.value in known[override.key]:
            words.append(f"{override.key}={override.value}")
        elif override.key == "suite":
            suite = override.value
        else:
            raise FoundryError(
                f"{override.word}: no such {override.key}, {nearest(override.value, known[override.key])}"
            )
    config = copy.deepcopy(_composed(tuple(words)))
    if suite is not None:
        config.suite = _known_suite(suite)
    return config


@lru_cache(maxsize=64)  # a tenth of a second each, and a grid of runs composes the same groups many times
def _composed(choices: tuple[str, ...]) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    with initialize_config_module("foundry_bench.configs", version_base="1.3"):
        return hydra_compose("config", overrides=list(choices))


def _known_suite(name: str) -> str:
    if name not in _suite_names():
        raise FoundryError(f"suite={name}: no such suite, {nearest(name, ['libero', *_suite_names()])}")
    return name


def _suite_names() -> list[str]:
    from foundry_bench.envs.suites import suite_names

    return suite_names()


def _register_suites(overrides: Sequence[Override]) -> None:
    """Make the names in ``suites=`` known before anything is asked for by name."""
    from foundry_bench.envs.user_suites import register

    for override in overrides:
        if override.key == "suites":
            register(check_type("suites", override.value, {}, override.word))


def _choose_robot(config: DictConfig) -> None:
    """``suite=robosuite robot=UR5e`` is the suite ``robosuite_ur5e``, so that tables and records say so."""
    from foundry_bench.envs.suites import ROBOTS

    robot, config.robot = config.robot, None
    if robot is None:
        return
    suffixes = {name.lower(): suffix for suffix, name in ROBOTS.items()}
    if robot.lower() not in (*suffixes, "panda"):
        raise FoundryError(f"robot={robot}: no such arm, {nearest(robot, ['Panda', *ROBOTS.values()])}")
    if not config.suite.startswith("robosuite"):
        raise FoundryError(f"robot={robot}: only suite=robosuite has a choice of arms, not {config.suite}")
    config.suite = "robosuite" if robot.lower() == "panda" else f"robosuite_{suffixes[robot.lower()]}"


def _own_step_budget(config: DictConfig) -> None:
    """The step budget that a user's suite asks for, where the protocol has none for it."""
    from foundry_bench.envs import user_suites

    if config.suite in user_suites.registered() and config.suite not in config.protocol.max_steps:
        budget = user_suites.max_steps(config.suite)
        if budget is not None:
            OmegaConf.update(config, f"protocol.max_steps.{config.suite}", budget, force_add=True)


def _set(config: DictConfig, defaults: dict[str, Any], override: Override) -> None:
    """Set one value, or each value of a mapping, where a key of that name and type exists."""
    key = ALIASES.get(override.key, override.key)
    if key in defaults:
        value = check_type(key, override.value, defaults[key], override.word)
        OmegaConf.update(config, key, value, merge=False)
        return
    budget_of = key.removeprefix("protocol.max_steps.")
    if budget_of != key and budget_of in _suite_names():
        OmegaConf.update(config, key, check_type(key, override.value, 1, override.word), force_add=True)
        return
    if not any(name.startswith(key + ".") for name in defaults):
        known = {*defaults, *groups(), *ALIASES}
        raise FoundryError(f"{override.word}: no such key, {nearest(override.key, known)}")
    if not isinstance(override.value, dict):
        raise FoundryError(
            f"{override.word}: {key} is a section, set one of its keys: {_children(key, defaults)}"
        )
    for name, value in override.value.items():
        _set(config, defaults, Override(override.word, f"{key}.{name}", value))


def _children(section: str, defaults: dict[str, Any]) -> str:
    return ", ".join(name for name in defaults if name.startswith(section + "."))


def _experiment_name(config: DictConfig) -> str:
    changed = differences(flatten(_compose_groups(_own_choices(config))), flatten(config))
    name = f"{config.suite}-{config.scale}"
    if not changed:
        return name
    text = json.dumps(changed, sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _own_choices(config: DictConfig) -> list[Override]:
    return [Override(f"{key}={config[key]}", key, config[key]) for key in ("suite", "scale")]


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The leaves whose value differs and may move a number, with the value they have in ``after``."""
    names = [*after, *(name for name in before if name not in after)]
    missing = object()
    return {
        name: after.get(name)
        for name in names
        if before.get(name, missing) != after.get(name, missing)
        and not (harmless(name) or (idle(name, before) and idle(name, after)))
    }


def completed(before: DictConfig, config: DictConfig) -> dict[str, Any]:
    """The leaves of a configuration that was saved, those that it did not know yet with their defaults.

    Args:
        before: as it was saved, maybe by an older version.
        config: one of today; it says which keys there are, and its suite and scale which defaults they have.
    """
    known = flatten(before)
    usual = _compose_groups(_own_choices(config))
    OmegaConf.set_struct(usual, False)
    for name, value in known.items():  # defaults follow other keys, as llm.seed does seed
        OmegaConf.update(usual, name, value, merge=False, force_add=True)
    defaults = flatten(usual)
    return {**{name: defaults[name] for name in flatten(config) if name in defaults}, **known}


def describe(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(describe, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{describe(item)}" for name, item in value.items()) + "}"
    return str(value)
