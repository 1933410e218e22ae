"""Work on datasets that already lie somewhere: looking at them, changing their form, replaying them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from foundry_bench import runtime
from foundry_bench.data.convert import Converted, refuse_overwriting, to_lerobot
from foundry_bench.data.images import encode_image
from foundry_bench.data.inspection import Inspection, frame_sheet
from foundry_bench.data.inspection import inspect as look
from foundry_bench.data.sources import LeRobotSource, Source, open_source
from foundry_bench.envs.files import atomic_write
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps.sections import camera_names

if TYPE_CHECKING:
    from foundry_bench.data.hdf5_write import Written

__all__ = ["Converted", "Inspection", "convert", "inspect", "replay"]


def inspect(config: DictConfig) -> tuple[Inspection, Path]:
    """Describe the dataset at ``data.path``; returns that and the picture of some frames.

    Raises:
        FoundryError: there is no dataset, or it is damaged.
    """
    source, path = _source(config)
    found = look(source)
    sheet, warnings = frame_sheet(source)
    found.warnings += warnings
    picture = _place(config, "inspect", f"{path.stem}.png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(picture, lambda file: file.write(encode_image(sheet)))
    return found, picture


def convert(config: DictConfig) -> Converted | Written:
    """Write the dataset at ``data.path`` in another form to ``data.out``.

    Raises:
        FoundryError: there is no dataset, it is damaged, or it cannot be written so.
    """
    source, path = _source(config)
    if config.data.out is None:
        raise FoundryError("data.out is missing: foundry-bench data convert FROM TO")
    out = Path(config.data.out).expanduser()
    refuse_overwriting(path, out)
    form = config.data.to or ("hdf5" if isinstance(source, LeRobotSource) else "lerobot")
    with _bar("converting", len(source)) as on_episode:
        if form == "hdf5":
            from foundry_bench.data.hdf5_write import to_hdf5

            runtime.prepare_rendering()
            return to_hdf5(source, out, on_episode)
        video = config.demos.format == "video"
        stored = config.demos.video_codec if video else config.demos.image_format
        return to_lerobot(source, out, stored, config.data.image_size, on_episode)


def replay(config: DictConfig) -> tuple[list[dict[str, Any]], Path]:
    """Simulate the dataset at ``data.path`` again; returns the results and where they are kept.

    Raises:
        FoundryError: there is no dataset, it is damaged, or a worker keeps dying.
    """
    from foundry_bench.data.replay import ReplayConfig, replay_dataset

    settings = ReplayConfig(
        mode=config.replay.mode,
        engine=config.protocol.engine,
        episodes=config.replay.episodes,
        pairing=config.data.pairing,
    )
    workers = runtime.worker_count(config.demos.workers)
    return replay_dataset(_path(config), settings, _place(config, "replay", ""), workers)


def _path(config: DictConfig) -> Path:
    if config.data.path is None:
        raise FoundryError("data.path is missing: name a dataset's folder or an HDF5 file")
    return Path(config.data.path).expanduser()


def _source(config: DictConfig) -> tuple[Source, Path]:

    path = _path(config)
    return open_source(path, camera_names(config), config.data.pairing), path


def _place(config: DictConfig, folder: str, name: str) -> Path:
    """``data.out``, or a place below ``paths.results``."""
    if config.data.out is not None:
        return Path(config.data.out).expanduser()
    return Path(config.paths.results).expanduser() / folder / name


@contextmanager
def _bar(words: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("", total=total)
        yield lambda done: bar.update(line, completed=done)
