"""Writing demonstrations episode by episode, so that a killed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from foundry_bench.data import schema
from foundry_bench.data.episode import DatasetSpec, Episode
from foundry_bench.data.files import PARTIAL, recover_swap, storage_errors, swap_in, sync_tree, write_atomic
from foundry_bench.data.frames import stage, unstage
from foundry_bench.data.packing import Packer
from foundry_bench.data.reader import RobotDataset
from foundry_bench.errors import FoundryError

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SUFFIX = ".parquet"


class EpisodeStore:
    """Episodes under way to a dataset at ``root``.

    What is not obvious:

    - Episodes are staged as single files in the folder ``<root>.staging`` beside ``root``; ``root`` itself
      only ever holds a complete dataset.
    - Every method may be killed at any moment. What `add` returned from is kept; an interrupted `finalize`
      is simply called again.
    - `keys` and `finalize` see staged episodes and those of a dataset already at ``root``, so a finished
      dataset can be extended without making its episodes again.
    - Several processes may `add` to the same store; one of them at a time may `finalize`.
    """

    def __init__(self, root: Path | str, spec: DatasetSpec) -> None:
        """
        Raises:
            FoundryError: ``root`` already holds episodes of another spec.
        """
        self.root = Path(root)
        self.spec = spec
        self.staging = self.root.with_name(self.root.name + ".staging")
        self._building = self.root.with_name(self.root.name + ".building")
        self._settings = self.staging / "spec.json"
        recover_swap(self.root)
        self._check_settings()
        self._packed: dict[str, int] | None = None

    def add(self, key: str, episode: Episode) -> None:
        """Store ``episode`` under ``key``, replacing one of the same key; on the disk when this returns.

        Raises:
            FoundryError: the key or the episode is not as it should be, or the disk is full; what was
                stored before is intact.
        """
        if not _KEY.fullmatch(key) or PARTIAL in key:
            raise FoundryError(f"episode key {key!r}: use letters, digits, '_', '-' and '.' only")
        episode = episode.as_stored(self.spec, key)
        episode.check(self.spec, key)
        data = stage(episode, self.spec)
        with storage_errors(self.staging):
            self.staging.mkdir(parents=True, exist_ok=True)
            if not self._settings.exists():
                write_atomic(self._settings, _spec_text(self.spec).encode())
            write_atomic(self._staged(key), data)

    def keys(self) -> list[str]:
        """Keys of all episodes that are stored, sorted."""
        return sorted({*self._staged_keys(), *self._packed_keys()})

    def finalize(self, keys: Sequence[str]) -> Path:
        """Make the dataset at ``root`` hold exactly the episodes of ``keys``, in that order.

        The result appears in one piece, and its bytes depend on the episodes and the order of ``keys``
        only. Staged episodes that were packed are removed from the staging folder, others stay there.

        Returns:
            ``root``.

        Raises:
            FoundryError: a key is unknown or given twice, a staged file is damaged, or the disk is full.
        """
        staged, packed = set(self._staged_keys()), self._packed_keys()
        missing = [key for key in keys if key not in staged and key not in packed]
        if missing or not keys:
            what = (
                f"episode {missing[0]!r} (and {len(missing) - 1} more) is not there"
                if missing
                else "no episodes"
            )
            raise FoundryError(f"{self.root}: {what}; make the demonstrations first")
        if len(set(keys)) != len(keys):
            raise FoundryError(f"{self.root}: an episode key is given twice; give each one once")
        if list(packed) != list(keys) or staged.intersection(keys):
            with storage_errors(self.root):
                self._build(keys, staged, packed)
        self._clean(keys)
        return self.root

    def clear(self) -> None:
        """Remove everything that is staged; a finished dataset stays."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _build(self, keys: Sequence[str], staged: set[str], packed: dict[str, int]) -> None:
        shutil.rmtree(self._building, ignore_errors=True)
        try:
            self._building.mkdir(parents=True)
            Packer(self.spec, self._building).run(self._episodes(keys, staged, packed))
            sync_tree(self._building)
        except BaseException:
            shutil.rmtree(self._building, ignore_errors=True)
            raise
        swap_in(self._building, self.root)
        self._packed = None

    def _episodes(
        self, keys: Sequence[str], staged: set[str], packed: dict[str, int]
    ) -> Iterator[tuple[str, Episode]]:
        finished: RobotDataset | None = None
        for key in keys:
            if key in staged:
                yield key, unstage(self._staged(key), self.spec)
            else:
                finished = finished or RobotDataset(self.root)
                yield key, finished.episode(packed[key])

    def _clean(self, keys: Sequence[str]) -> None:
        if not self.staging.exists():
            return
        for key in keys:
            self._staged(key).unlink(missing_ok=True)
        for partial in self.staging.glob(f"*{PARTIAL}*"):
            partial.unlink(missing_ok=True)
        if not self._staged_keys():
            self.clear()

    def _staged(self, key: str) -> Path:
        return self.staging / (key + _SUFFIX)

    def _staged_keys(self) -> list[str]:
        return [path.name.removesuffix(_SUFFIX) for path in self.staging.glob(f"*{_SUFFIX}")]

    def _packed_keys(self) -> dict[str, int]:
        """Key -> episode index of the dataset at ``root``, in its order."""
        if self._packed is None:
            self._packed = {}
            if (self.root / schema.INFO).exists():
                table = RobotDataset(self.root).episodes
                self._packed = dict(zip(table["key"], table["episode_index"], strict=True))
                if len(self._packed) != len(table):
                    raise FoundryError(
                        f"{self.root}: holds a dataset made by another tool; give another folder"
                    )
        return self._packed

    def _check_settings(self) -> None:
        """Refuse to mix episodes of different settings in one folder."""
        wanted = json.loads(_spec_text(self.spec))
        found = None
        if self._settings.exists():
            try:
                found = dict(json.loads(self._settings.read_text(encoding="utf-8")))
            except (OSError, TypeError, ValueError) as error:
                raise FoundryError(
                    f"{self._settings}: not readable ({error}); delete {self.staging}"
                ) from error
        elif (self.root / schema.INFO).exists():
            found = json.loads(_spec_text(RobotDataset(self.root).spec))
        for name, value in (found or wanted).items():
            if wanted.get(name) != value:
                raise FoundryError(
                    f"{self.root}: holds episodes of {name}={value}, asked for {name}={wanted.get(name)}; "
                    "give another folder or delete this one"
                )


def _spec_text(spec: DatasetSpec) -> str:
    return json.dumps(dataclasses.asdict(spec), indent=4) + "\n"
