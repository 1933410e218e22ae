"""Is a value of the right type and within its bounds? Each refusal names the key and what would be right."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig

from foundry_bench.configs.keys import ALIASES, KEYS
from foundry_bench.errors import FoundryError, nearest

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    list: "a list",
    dict: "a mapping",
}


def check_type(key: str, value: Any, default: Any, word: str) -> Any:
    """The value, made a float where the default is one.

    Raises:
        FoundryError: the value is of another type than the default, or than the key's declared kind.
    """
    if key == "tasks":
        return _check_tasks(value, word)
    if key == "suites":
        return _check_suites(value, word)
    known = KEYS.get(key)
    kind = (
        known.kind
        if known is not None and known.kind is not None
        else None
        if default is None
        else type(default)
    )
    if value is None and (default is None or (known is not None and known.optional)):
        return None
    if kind is None or type(value) is kind:
        if isinstance(value, list) and default and isinstance(default, list):
            for item in value:
                check_type(key, item, default[0], word)
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():  # 1e5 samples
        return int(value)
    raise FoundryError(
        f"{word}: {key} takes {_WORDS.get(kind, kind.__name__)}, as in {key}={_example(default, kind)}"
    )


def check_bounds(leaves: dict[str, Any]) -> None:
    """Raise FoundryError for the first number outside its bounds or word outside its choices."""
    for name, key in KEYS.items():
        value = leaves.get(ALIASES.get(name, name))
        if isinstance(value, bool) or value is None:
            continue
        if key.choices and value not in key.choices:
            raise FoundryError(f"{name}={value}: no such choice, {nearest(str(value), key.choices)}")
        if isinstance(value, int | float):
            too_low = key.low is not None and value < key.low
            too_high = key.high is not None and value > key.high
            if too_low or too_high or not math.isfinite(value):
                raise FoundryError(f"{name}={value}: must be {_range(key.low, key.high)}")


def check_relations(config: DictConfig) -> None:
    """Raise FoundryError where two values that are each fine do not go together."""
    replan, horizon = config.protocol.replan, config.model.horizon
    if config.checkpoint is None and replan > horizon:
        raise FoundryError(
            f"eval.replan={replan}: at most model.horizon={horizon}, the actions that are predicted"
        )
    sizes = {
        f"{section}.image_size": config[section].image_size for section in ("protocol", "demos", "model")
    }
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise FoundryError(f"{said}: these must agree; set protocol.image_size, which sets all three")
    if not _device_is_spelt(config.device):
        raise FoundryError(
            f"device={config.device}: no such device, known: auto, cpu, cuda, cuda:0, cuda:1, mps"
        )
    name = config.experiment
    if name is not None and (not name or name in (".", "..") or any(c in name for c in "/\\\0")):
        raise FoundryError(
            f"experiment={name}: a plain name without slashes; paths.results says where it goes"
        )


def _device_is_spelt(device: str) -> bool:
    kind, _, index = device.partition(":")
    return device in ("auto", "cpu", "mps") or (kind == "cuda" and (device == "cuda" or index.isdecimal()))


def _check_tasks(value: Any, word: str) -> Any:
    """``tasks`` may be null, a number, a list of numbers, or a mapping of such by suite."""
    if value is None:
        return None
    if type(value) is int:
        return [value]
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return value
    if isinstance(value, dict) and value:
        return {name: _check_tasks(item, word) for name, item in value.items()}
    raise FoundryError(
        f"{word}: tasks takes task numbers, as in tasks=[0,3] or tasks={{libero_goal:[0]}}, or null for all"
    )


def _check_suites(value: Any, word: str) -> Any:
    """``suites`` is a mapping from names to paths."""
    if isinstance(value, dict) and all(isinstance(path, str) for path in value.values()):
        return value
    raise FoundryError(f"{word}: suites takes folders or files by name, as in suites={{mine: my/folder}}")


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low:.12g} to {high:.12g}"
    return (
        f"at least {low:.12g}"
        if low is not None
        else f"at most {high:.12g}"
        if high is not None
        else "a finite number"
    )


def _example(default: Any, kind: type) -> str:
    if default is None:
        return {int: "8", float: "0.5"}.get(kind, "NAME")
    if isinstance(default, bool):
        return "true"
    return str(default).replace(" ", "")
