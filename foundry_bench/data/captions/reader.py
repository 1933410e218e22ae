"""Reading image-text pairs for training: random access to one question, its answer and its image."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundry_bench.data.captions.config import SPLITS
from foundry_bench.data.captions.pairs import KINDS
from foundry_bench.data.captions.shards import PAIR_TYPE, SCHEMA
from foundry_bench.data.images import decode_into, image_format_and_size
from foundry_bench.errors import FoundryError, nearest

_REMAKE = "delete the dataset and make it again with `foundry-bench captions`"
_LARGEST = 4096  # pixels


@dataclass(frozen=True)
class CaptionSample:
    """One question about one image.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        question: what is asked.
        answer: what is true.
        kind: of the question, one of ``pairs.KINDS``.
        key: names the image.
        camera: `agentview` or `wrist`.
        point: the pixel (x, y) that question or answer speaks of, or None.
    """

    image: np.ndarray
    question: str
    answer: str
    kind: str
    key: str
    camera: str
    point: tuple[int, int] | None


class CaptionDataset:
    """The pairs of one split of a dataset that ``foundry-bench captions`` wrote.

    ``len(dataset)`` pairs; ``dataset[i]`` is a `CaptionSample`. Pairs are ordered by image. Images stay
    encoded in memory (about 15 kB each at 96 px) and are decoded when asked for; use from several threads is
    safe.

    Args:
        root: the dataset's folder.
        split: `train`, `val` or `test`.
        kinds: only questions of these kinds; None for all.

    Raises:
        FoundryError: no dataset, no such split or kind, or a file that is missing, truncated or of another
            shape; the file is named.
    """

    def __init__(self, root: Path | str, split: str = "train", kinds: Sequence[str] | None = None) -> None:
        if split not in SPLITS:
            raise FoundryError(f"split={split}: no such split, {nearest(split, SPLITS)}")
        for kind in kinds or ():
            if kind not in KINDS:
                raise FoundryError(f"kind '{kind}': no such kind of question, {nearest(kind, KINDS)}")
        self.root, self.split = Path(root), split
        self.manifest = _read_manifest(self.root)
        self.image_size = int(self.manifest["config"]["image_size"])
        self._images: list[bytes] = []
        self._keys: list[str] = []
        self._cameras: list[str] = []
        self._pairs: list[dict[str, Any]] = []
        self._first: list[int] = []  # for each image, the number of its first pair
        for path in _shards(self.root, self.manifest, split):
            self._load(path, None if kinds is None else frozenset(kinds))
        if not self._pairs:
            raise FoundryError(
                f"{self.root}: no pairs in the split '{split}'; more scenes (captions.scenes) fill it"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> CaptionSample:
        """
        Raises:
            IndexError: no such pair.
            FoundryError: the image is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        index %= len(self)
        image = bisect.bisect_right(self._first, index) - 1
        pair = self._pairs[index]
        point = None if pair["x"] is None or pair["y"] is None else (pair["x"], pair["y"])
        return CaptionSample(
            self.image(image), pair["question"], pair["answer"], pair["kind"],
            self._keys[image], self._cameras[image], point,
        )  # fmt: skip

    def __iter__(self) -> Iterator[CaptionSample]:
        return (self[index] for index in range(len(self)))

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self._images)

    @property
    def kinds(self) -> list[str]:
        """The kind of every pair, for sampling by kind."""
        return [pair["kind"] for pair in self._pairs]

    @property
    def cameras(self) -> list[str]:
        """The camera that took each pair's picture."""
        return [self._cameras[bisect.bisect_right(self._first, index) - 1] for index in range(len(self))]

    def texts(self) -> Iterator[tuple[str, str, str]]:
        """Kind, question and answer of every pair, without its picture."""
        return ((pair["kind"], pair["question"], pair["answer"]) for pair in self._pairs)

    def image(self, number: int) -> np.ndarray:
        """An image by its number, uint8 (size, size, 3).

        Raises:
            FoundryError: it is damaged or of another size.
        """
        encoded = np.frombuffer(self._images[number], np.uint8)
        image = np.empty((self.image_size, self.image_size, 3), np.uint8)
        try:
            kind, size = image_format_and_size(self._images[number][:24])
            if kind == "png" and size is None:
                raise ValueError("the image is cut off")
            decode_into(encoded, image)
        except ValueError as error:
            raise FoundryError(f"{self.root}: image {self._keys[number]}: {error}; {_REMAKE}") from error
        return image

    def pairs_of(self, image: int) -> range:
        """The numbers of the pairs of an image."""
        end = self._first[image + 1] if image + 1 < len(self._first) else len(self._pairs)
        return range(self._first[image], end)

    def _load(self, path: Path, kinds: frozenset[str] | None) -> None:
        table = _read_table(path)
        columns = [table.column(name).to_pylist() for name in ("key", "camera", "image", "pairs")]
        for key, camera, image, pairs in zip(*columns, strict=True):
            if key is None or camera is None or image is None or image["bytes"] is None or pairs is None:
                raise FoundryError(f"{path}: an empty cell in the row of {key}; {_REMAKE}")
            wanted = [
                pair
                for pair in pairs
                if _checked(pair, path, key) and (kinds is None or pair["kind"] in kinds)
            ]
            if not wanted:
                continue
            self._keys.append(key)
            self._cameras.append(camera)
            self._images.append(image["bytes"])
            self._first.append(len(self._pairs))
            self._pairs += wanted


def _checked(pair: dict[str, Any] | None, path: Path, key: str) -> bool:
    if pair is None or any(not pair[name] for name in ("kind", "question", "answer")):
        raise FoundryError(f"{path}: a pair of {key} has no question or no answer; {_REMAKE}")
    return True


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / "manifest.json"
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        size = manifest["config"]["image_size"]
        if type(size) is not int or not 1 <= size <= _LARGEST:
            raise ValueError(f"image_size={size!r}")
        if not isinstance(manifest["files"], dict):
            raise ValueError("files is no mapping")
    except FileNotFoundError:
        raise FoundryError(f"{root}: no captions there; make them with `foundry-bench captions`") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise FoundryError(f"{path}: damaged ({reason}); {_REMAKE}") from error
    return manifest


def _shards(root: Path, manifest: dict[str, Any], split: str) -> list[Path]:
    """The parquet files of a split that the manifest names, which may not leave the folder."""
    names = [str(name) for name in manifest["files"] if str(name).startswith(f"parquet/{split}-")]
    for name in names:
        if ".." in Path(name).parts or not name.endswith(".parquet"):
            raise FoundryError(f"{root / 'manifest.json'}: '{name}' is no file of a dataset; {_REMAKE}")
    return [root / name for name in sorted(names)]


def _read_table(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            for name in ("key", "camera", "image", "pairs"):
                if name not in schema.names:
                    raise FoundryError(f"{path}: column '{name}' is missing; {_REMAKE}")
                wanted = SCHEMA.field(name).type
                found = schema.field(name).type
                if found != wanted and not (name == "pairs" and _same_pairs(found)):
                    raise FoundryError(f"{path}: column '{name}' is {found}, expected {wanted}; {_REMAKE}")
            return file.read(columns=["key", "camera", "image", "pairs"], use_threads=False)
    except FileNotFoundError:
        raise FoundryError(f"{path}: is missing; {_REMAKE}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FoundryError(f"{path}: truncated, damaged or not parquet ({reason}); {_REMAKE}") from error


def _same_pairs(found: pa.DataType) -> bool:
    """Whether a type is a list of pairs, whatever its writer called the list's elements."""
    return bool(pa.types.is_list(found) and found.value_type == PAIR_TYPE)
