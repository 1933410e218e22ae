"""The table, sheets and videos beside a collection."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import pandas as pd

from foundry_bench.data.images import decode_image
from foundry_bench.data.lerobot import RobotDataset
from foundry_bench.data.overview import TABLE, frame_sheet, write_overview


def _report(dataset: RobotDataset) -> list[dict[str, object]]:
    first = dataset.episodes.iloc[0]
    here = {"suite": first["suite"], "task": int(first["task_index"]), "instruction": first["instruction"]}
    nothing = {"suite": "nowhere", "task": 3, "instruction": "fly", "kept": 0, "attempts": 4, "yield_": 0.0}
    return [{**here, "kept": 1, "attempts": 2, "yield_": 0.5}, nothing]


def test_a_sheet_shows_the_frames_of_every_camera(dataset: Path) -> None:
    episode = RobotDataset(dataset).episode(0)
    sheet = frame_sheet(episode)
    size = decode_image(next(iter(episode.images.values()))[0]).shape[0]
    assert sheet.shape == (20 + size * len(episode.images), 8 * size, 3)
    for row, frames in enumerate(episode.images.values()):
        top = 20 + row * size
        assert (sheet[top : top + size, :size] == decode_image(frames[0])).all()
        assert (sheet[top : top + size, -size:] == decode_image(frames[-1])).all()


def test_the_table_counts_and_each_task_with_demonstrations_has_a_sheet_and_a_video(
    dataset: Path, tmp_path: Path
) -> None:
    opened = RobotDataset(dataset)
    report = _report(opened)
    table = pd.read_csv(write_overview(opened, report, tmp_path / "shown"))
    lengths = opened.episodes.query("suite == @report[0]['suite'] and task_index == @report[0]['task']")[
        "length"
    ]
    assert list(table["yield"]) == [0.5, 0.0]
    assert (table["shortest"][0], table["longest"][0]) == (lengths.min(), lengths.max())
    assert (table["shortest"][1], table["longest"][1]) == (0, 0)
    name = f"{report[0]['suite']}-{report[0]['task']:02d}"
    made = sorted(path.name for path in (tmp_path / "shown").iterdir())
    assert made == sorted([TABLE, f"{name}.png", f"{name}.mp4"])
    assert cv2.imread(str(tmp_path / "shown" / f"{name}.png")) is not None
    with av.open(str(tmp_path / "shown" / f"{name}.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == opened.episodes["length"].iloc[0]


def test_pictures_that_are_there_are_kept(dataset: Path, tmp_path: Path) -> None:
    opened = RobotDataset(dataset)
    write_overview(opened, _report(opened), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.[pm]*")}
    write_overview(opened, _report(opened), tmp_path)
    assert before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.[pm]*")} == before
