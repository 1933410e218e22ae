"""What is in a set of demonstrations, and what looks wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foundry_bench.data.convert import resized
from foundry_bench.data.episode import ACTION_NAMES, STATE_NAMES
from foundry_bench.data.sources import Source

_QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)
_SATURATED = 0.2  # share of an action's values at its limit beyond which that is worth a word
_AT_LIMIT = 0.999
_STILL = 1e-6
_SHEET_EPISODES, _SHEET_FRAMES, _TILE, _LABEL = 6, 6, 128, 18


@dataclass
class Inspection:
    """What was found.

    Attributes:
        kind: what the files are.
        episodes, frames, fps: counts and rate.
        cameras, image_size: of the frames.
        lengths: shortest, median and longest episode in frames.
        failures: episodes that the files call failures.
        tasks: for each instruction ``suite``, ``task``, ``instruction``, ``episodes`` and mean ``length``.
        ranges: for each number of the state and the action its name, minimum, 1 %, median, 99 % and maximum.
        experts: who acted -> episodes.
        warnings: what looks wrong, one line each.
    """

    kind: str
    fps: int
    cameras: tuple[str, ...]
    image_size: int
    episodes: int = 0
    frames: int = 0
    lengths: tuple[int, float, int] = (0, 0.0, 0)
    failures: int = 0
    tasks: list[dict[str, Any]] = field(default_factory=list)
    ranges: list[tuple[str, list[float]]] = field(default_factory=list)
    experts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def inspect(source: Source) -> Inspection:
    """Read everything but the frames and describe it.

    Raises:
        FoundryError: an episode is damaged.
    """
    found = Inspection(source.kind, source.fps, source.cameras, source.image_size)
    tasks: dict[tuple[str, int, str], list[int]] = {}
    states, actions, keys = [], [], []
    for index in range(len(source)):
        recording = source.recording(index)
        states.append(recording.robot)
        actions.append(recording.labels)
        keys.append(source.key(index))
        found.failures += not recording.success
        found.experts[recording.expert or "unknown"] = found.experts.get(recording.expert or "unknown", 0) + 1
        name = (recording.suite, recording.task_index, recording.instruction)
        tasks.setdefault(name, []).append(len(recording.actions))
    lengths = np.array([len(rows) for rows in actions])
    found.episodes, found.frames = len(lengths), int(lengths.sum())
    found.lengths = (int(lengths.min()), float(np.median(lengths)), int(lengths.max()))
    found.tasks = [
        {"suite": suite, "task": task, "instruction": told, "episodes": len(of), "length": float(np.mean(of))}
        for (suite, task, told), of in sorted(tasks.items())
    ]
    state_names = _names(STATE_NAMES, states[0], "state")
    action_names = _names(ACTION_NAMES, actions[0], "action")
    for what, names, rows in (("state", state_names, states), ("action", action_names, actions)):
        table = np.concatenate(rows).astype(np.float64)
        quantiles = np.quantile(table, _QUANTILES, axis=0).T
        found.ranges += [(f"{what} {n}", q.tolist()) for n, q in zip(names, quantiles, strict=True)]
        found.warnings += _range_warnings(what, names, table)
    found.warnings += _episode_warnings(keys, actions, lengths)
    if found.failures:
        found.warnings.append(f"{found.failures} of {found.episodes} episodes are marked as failures")
    return found


def frame_sheet(source: Source) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Frames from beginning to end of some episodes, and what looks wrong with them.

    Returns:
        (height, width, 3) uint8 RGB: a row for each camera of each episode, under the instruction; and a
        warning for each camera that shows one colour.
    """
    count = len(source)
    chosen = sorted({number * count // _SHEET_EPISODES for number in range(_SHEET_EPISODES)})
    rows, warnings = [], []
    for index in chosen:
        rows.append(_label(f"episode {index}: {source.recording(index).instruction}"))
        for camera in source.cameras:
            frames = list(source.images(index, camera))
            places = np.linspace(0, len(frames) - 1, _SHEET_FRAMES).round().astype(int)
            rows.append(np.concatenate([resized(frames[place], _TILE) for place in places], axis=1))
            if any(frames[place].min() == frames[place].max() for place in places):
                warnings.append(f"{source.key(index)}: camera {camera} shows a single colour")
    return np.concatenate(rows), warnings


def _label(words: str) -> npt.NDArray[np.uint8]:
    strip = np.full((_LABEL, _TILE * _SHEET_FRAMES, 3), 255, np.uint8)
    plain = words.encode("ascii", "replace").decode()
    cv2.putText(strip, plain, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _range_warnings(what: str, names: tuple[str, ...], table: npt.NDArray[np.float64]) -> list[str]:
    warnings = [
        f"{what} {name} is always {table[0, column]:.4g}"
        for column, name in enumerate(names)
        if np.ptp(table[:, column]) < _STILL
    ]
    if what != "action":
        return warnings
    for column, name in enumerate(names):
        values = np.abs(table[:, column])
        if values.max() > 1 + _STILL:
            warnings.append(f"action {name} reaches {values.max():.4g}, beyond the controller's range of 1")
        at_limit = float((values >= _AT_LIMIT).mean())
        if column < len(names) - 1 and at_limit > _SATURATED and np.ptp(table[:, column]) >= _STILL:
            warnings.append(f"action {name} is at its limit in {at_limit:.0%} of the frames")
    return warnings


def _episode_warnings(
    keys: list[str], actions: list[npt.NDArray[np.float64]], lengths: npt.NDArray[np.int64]
) -> list[str]:
    still = [key for key, rows in zip(keys, actions, strict=True) if np.ptp(rows[:, -1]) < _STILL]
    idle = [
        key for key, rows in zip(keys, actions, strict=True) if np.abs(rows[:, :-1]).max(initial=0) < _STILL
    ]
    short = [key for key, length in zip(keys, lengths, strict=True) if length < 5]
    twice = [keys[index] for index in _repeated(actions)]
    told = (
        (still, "the gripper never moves"),
        (idle, "the arm never moves"),
        (short, "fewer than 5 frames"),
        (twice, "the same actions as an earlier episode"),
    )
    return [
        f"{words} in {len(names)} of {len(keys)} episodes: {_some(names)}" for names, words in told if names
    ]


def _repeated(actions: list[npt.NDArray[np.float64]]) -> list[int]:
    seen: set[bytes] = set()
    repeated = []
    for index, rows in enumerate(actions):
        content = rows.tobytes()
        if content in seen:
            repeated.append(index)
        seen.add(content)
    return repeated


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _names(usual: tuple[str, ...], rows: npt.NDArray[Any], what: str) -> tuple[str, ...]:
    width = rows.shape[1]
    return usual if width == len(usual) else tuple(f"{what}_{index}" for index in range(width))
