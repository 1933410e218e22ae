"""Rollout videos: which episodes are recorded and under which name."""

from __future__ import annotations

from pathlib import Path

from foundry_bench.evaluation.plan import Episode

_UNFINISHED = "unfinished-"


class VideoShelf:
    """Names the videos of an evaluation.

    The first ``per_task`` init states of each task are recorded: a choice that does not depend on outcomes,
    workers or timing. A worker writes under a temporary name; the outcome is put into the name at the end.

    Args:
        folder: folder of the records; videos go into ``videos`` in it.
        per_task: how many episodes of each task to record.
    """

    def __init__(self, folder: Path, per_task: int) -> None:
        self._folder = folder
        self._per_task = per_task
        if per_task > 0:
            self._root.mkdir(parents=True, exist_ok=True)
        self.sweep()

    @property
    def _root(self) -> Path:
        return self._folder / "videos"

    def request(self, episode: Episode, attempt: int) -> str | None:
        """Where a worker should record this attempt, or None."""
        if episode.init_state >= self._per_task:
            return None
        return str((self._root / f"{_UNFINISHED}{_stem(episode)}-{attempt}.mp4").absolute())

    def keep(self, episode: Episode, recorded: str | None, outcome: str) -> str | None:
        """Name a finished video after its outcome; returns its path relative to the records' folder."""
        if recorded is None or not Path(recorded).is_file():
            return None
        final = self._root / f"{_stem(episode)}-{outcome}.mp4"
        Path(recorded).replace(final)
        return final.relative_to(self._folder).as_posix()

    def sweep(self) -> None:
        """Remove what interrupted episodes left behind."""
        for path in self._root.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)


def _stem(episode: Episode) -> str:
    return f"{episode.suite}-{episode.task_index:02d}-{episode.init_state:03d}"
