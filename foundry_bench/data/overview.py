"""What a collection of demonstrations looks like: yields and lengths, a sheet and a video of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from foundry_bench.data.episode import Episode
from foundry_bench.data.images import decode_image
from foundry_bench.data.reader import RobotDataset
from foundry_bench.envs.video import VideoWriter

TABLE = "demonstrations.csv"
_COLUMNS = 8  # frames of a sheet, evenly spaced over the episode
_TITLE = 20  # pixels for the instruction


def write_overview(dataset: RobotDataset, report: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write ``demonstrations.csv`` and, of the first demonstration of each task, a frame sheet and a video.

    Pictures that are there already are kept: the first demonstration of a task never changes.

    Args:
        dataset: the demonstrations.
        report: one row per task, as `CollectReport.per_task` has it.
        folder: where to write; it is made.

    Returns:
        The table's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_with_lengths(dict(row), dataset) for row in report]
    table = folder / TABLE
    pd.DataFrame(rows).rename(columns={"yield_": "yield"}).to_csv(table, index=False, float_format="%.4g")
    for row in rows:
        found = _episodes_of(dataset, row)
        if not len(found):
            continue
        sheet = folder / f"{row['suite']}-{int(row['task']):02d}.png"
        if not sheet.exists():
            episode = dataset.episode(int(found.index[0]))
            _write_video(episode, sheet.with_suffix(".mp4"), dataset.spec.fps)
            cv2.imwrite(str(sheet), cv2.cvtColor(frame_sheet(episode), cv2.COLOR_RGB2BGR))
    return table


def frame_sheet(episode: Episode) -> np.ndarray:
    """Frames over the course of an episode, a row for each camera under the instruction, uint8 RGB."""
    steps = np.linspace(0, len(episode) - 1, _COLUMNS).round().astype(int)
    rows = [
        np.concatenate([decode_image(frames[step]) for step in steps], axis=1)
        for frames in episode.images.values()
    ]
    title = np.full((_TITLE, rows[0].shape[1], 3), 255, np.uint8)
    text = f"{episode.suite} {episode.task_index}: {episode.instruction} ({len(episode)} steps)"
    cv2.putText(title, text, (4, _TITLE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([title, *rows], axis=0)


def _with_lengths(row: dict[str, Any], dataset: RobotDataset) -> dict[str, Any]:
    lengths = _episodes_of(dataset, row)["length"]
    row["shortest"] = int(lengths.min()) if len(lengths) else 0
    row["longest"] = int(lengths.max()) if len(lengths) else 0
    return row


def _episodes_of(dataset: RobotDataset, row: Mapping[str, Any]) -> pd.DataFrame:
    episodes = dataset.episodes
    return episodes[(episodes["suite"] == row["suite"]) & (episodes["task_index"] == row["task"])]


def _write_video(episode: Episode, path: Path, fps: int) -> None:
    """All cameras side by side; under another name until it is whole."""
    partial = path.with_name("." + path.name)
    video = VideoWriter(partial, fps)
    try:
        for frames in zip(*episode.images.values(), strict=True):
            video.add(np.concatenate([decode_image(frame) for frame in frames], axis=1))
    finally:
        video.close()
    partial.rename(path)
