"""The files of a dataset: parquet for Hugging Face `datasets`, tar shards for WebDataset, text.

Every setting is fixed and no time is written, so that equal content gives equal bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from foundry_bench.data.captions.config import SPLITS, CaptionsConfig

if TYPE_CHECKING:
    from foundry_bench.data.captions.text import Text
    from foundry_bench.data.captions.write import Picture

PER_SHARD = 1000  # images
_GROUP = 100  # images in a row group: what a reader loads at a time

PAIR_TYPE = pa.struct(
    [
        ("kind", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("x", pa.int32()),
        ("y", pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("suite", pa.string()),
        ("task", pa.int32()),
        ("camera", pa.string()),
        ("instruction", pa.string()),
        ("scrambled", pa.bool_()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("pairs", pa.list_(PAIR_TYPE)),
        ("facts", pa.string()),
    ]
)


def _value(kind: pa.DataType) -> dict[str, str]:
    return {"dtype": {"bool": "bool", "int32": "int32"}.get(str(kind), "string"), "_type": "Value"}


def _hugging_face() -> dict[bytes, bytes]:
    """What `datasets` reads to know that a struct of bytes is an image."""
    features: dict[str, Any] = {
        field.name: _value(field.type) for field in SCHEMA if field.name not in ("image", "pairs")
    }
    features["image"] = {"_type": "Image"}
    features["pairs"] = [{field.name: _value(field.type) for field in PAIR_TYPE}]
    ordered = {name: features[name] for name in SCHEMA.names}
    return {b"huggingface": json.dumps({"info": {"features": ordered}}).encode()}


class ParquetShards:
    """Writes ``parquet/SPLIT-00000.parquet`` and so on: one row for each image, with a list of its pairs."""

    def __init__(self, root: Path, config: CaptionsConfig) -> None:
        self._folder = root / "parquet"
        self._folder.mkdir()
        self._suffix = _suffix(config)
        self._schema = SCHEMA.with_metadata(_hugging_face())
        self._rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._written = dict.fromkeys(SPLITS, 0)

    def add(self, picture: Picture) -> None:
        """Append an image to its split."""
        rows = self._rows[picture.split]
        rows.append(_row(picture, self._suffix))
        if len(rows) == _GROUP:
            self._flush(picture.split)

    def _flush(self, split: str) -> None:
        rows, done = self._rows[split], self._written[split]
        if not rows:
            return
        if done % PER_SHARD == 0:
            self._close(split)
            path = self._folder / f"{split}-{done // PER_SHARD:05d}.parquet"
            self._writers[split] = pq.ParquetWriter(
                path, self._schema, version="2.6", compression="snappy", use_dictionary=False,
                write_statistics=False, write_page_checksum=True,
            )  # fmt: skip
        self._writers[split].write_table(pa.Table.from_pylist(rows, self._schema))
        self._written[split] = done + len(rows)
        rows.clear()

    def _close(self, split: str) -> None:
        writer = self._writers.pop(split, None)
        if writer is not None:
            writer.close()

    def __enter__(self) -> ParquetShards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for split in SPLITS:
            if kind is None:
                self._flush(split)
            self._close(split)


class TarShards:
    """Writes ``webdataset/SPLIT-00000.tar`` and so on: ``KEY.png`` or ``KEY.jpg``, and ``KEY.json``."""

    def __init__(self, root: Path, config: CaptionsConfig) -> None:
        self._folder = root / "webdataset"
        self._folder.mkdir()
        self._suffix = _suffix(config)
        self._tars: dict[str, tarfile.TarFile] = {}
        self._written = dict.fromkeys(SPLITS, 0)

    def add(self, picture: Picture) -> None:
        """Append an image to its split."""
        split, done = picture.split, self._written[picture.split]
        if done % PER_SHARD == 0:
            if split in self._tars:
                self._tars.pop(split).close()
            path = self._folder / f"{split}-{done // PER_SHARD:05d}.tar"
            self._tars[split] = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        row = _row(picture, self._suffix)
        image = row.pop("image")["bytes"]
        row["facts"] = picture.view.facts.to_json()
        self._append(split, f"{picture.key}{self._suffix}", image)
        self._append(split, f"{picture.key}.json", json.dumps(row, separators=(",", ":")).encode())
        self._written[split] = done + 1

    def _append(self, split: str, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # time, owner and rights are the same for every file
        member.size = len(data)
        self._tars[split].addfile(member, io.BytesIO(data))

    def __enter__(self) -> TarShards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tar in self._tars.values():
            tar.close()


def _suffix(config: CaptionsConfig) -> str:
    return ".png" if config.image_format == "png" else ".jpg"


def _row(picture: Picture, suffix: str) -> dict[str, Any]:
    return {
        "key": picture.key,
        "suite": picture.suite,
        "task": picture.task,
        "camera": picture.view.camera,
        "instruction": picture.instruction,
        "scrambled": picture.scrambled,
        "image": {"bytes": picture.view.image, "path": picture.key + suffix},
        "pairs": [
            {
                "kind": pair.kind,
                "question": pair.question,
                "answer": pair.answer,
                "x": pair.point[0] if pair.point else None,
                "y": pair.point[1] if pair.point else None,
            }
            for pair in picture.pairs
        ],
        "facts": json.dumps(picture.view.facts.to_json(), separators=(",", ":")),
    }


def write_text(root: Path, texts: Sequence[Text]) -> None:
    """Write ``text/SPLIT-00000.parquet`` and ``text/SPLIT.jsonl``."""
    folder = root / "text"
    folder.mkdir()
    for split in SPLITS:
        rows = [asdict(text) for text in texts if text.split == split]
        if not rows:
            continue
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        schema = pa.schema(
            [
                (name, pa.int32() if name == "task" else pa.string())
                for name in ("text", "kind", "suite", "task", "split")
            ]
        )
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, folder / f"{split}-00000.parquet", version="2.6", write_page_checksum=True)
