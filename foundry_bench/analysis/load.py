"""Reading episode records into a data frame, one row for each episode that counts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from foundry_bench.errors import FoundryError

COLUMNS: dict[str, type | tuple[type, ...]] = {
    "run": str,
    "policy": str,
    "checkpoint_hash": str,
    "protocol": str,
    "protocol_hash": str,
    "suite": str,
    "task_index": int,
    "instruction": str,
    "init_state": int,
    "seed": int,
    "outcome": str,
    "steps": int,
    "wall_seconds": (int, float),
    "versions": dict,
}
_EPISODE = ["policy", "checkpoint_hash", "protocol_hash", "suite", "task_index", "init_state", "seed"]
_OUTCOMES = ("success", "failure", "error")


def load_records(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The records of one or several files, one row for each episode, in the order of ``_EPISODE``.

    An episode that was run again after an error counts as what it became: the first record that is no error,
    else the last error. A torn last line is left out with a warning.

    Raises:
        FoundryError: a file is missing or holds something that is no record, or there are no records at all.
    """
    files = [Path(path) for path in paths]
    rows = [row for file in files for row in _rows(file)]
    if not rows:
        raise FoundryError(f"{', '.join(map(str, files))}: no episode records; run the evaluation first")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["order"] = range(len(frame))
    frame["failed_to_run"] = frame["outcome"] == "error"
    # Among errors the last counts, among the others the first.
    frame.loc[frame["failed_to_run"], "order"] *= -1
    frame = frame.sort_values([*_EPISODE, "failed_to_run", "order"], kind="stable")
    frame = frame.drop_duplicates(_EPISODE, keep="first")
    return frame.drop(columns=["order", "failed_to_run"]).reset_index(drop=True)


def _rows(path: Path) -> list[list[Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror}); run the evaluation first") from None
    if lines.pop():
        warnings.warn(f"{path}:{len(lines) + 1}: last record is torn and left out", stacklevel=4)
    return [_row(line, path, number) for number, line in enumerate(lines, start=1)]


def _row(line: bytes, path: Path, number: int) -> list[Any]:
    try:
        values = json.loads(line)
        row = [values[name] for name in COLUMNS]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        cause = f"no '{error.args[0]}'" if isinstance(error, KeyError) else "not a JSON object"
        raise FoundryError(f"{path}:{number}: not an episode record ({cause}); remove that line") from None
    for (name, kinds), value in zip(COLUMNS.items(), row, strict=True):
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise FoundryError(
                f"{path}:{number}: not an episode record ({name} is {value!r:.40}); remove that line"
            )
    if values["outcome"] not in _OUTCOMES:
        raise FoundryError(f"{path}:{number}: outcome is {values['outcome']!r:.40}; remove that line")
    return row
