"""Small text corpora on disk, in every format."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = [f"Document {number} says that {number} bowls stand on {number * 7} plates." for number in range(40)]


def encode(texts: list[str]) -> list[list[int]]:
    """A tokenizer of bytes: what a packed corpus says can be read off."""
    return [list(text.encode()) for text in texts]


END = 256


def decode(tokens: Sequence[int]) -> str:
    """Text of bytes; the end token is a bar."""
    return "".join("|" if token == END else chr(token) for token in tokens)


def write_jsonl(path: Path, texts: Sequence[str] = TEXTS, column: str = "text") -> Path:
    """One object a line; compressed where the name says so."""
    content = "".join(json.dumps({column: text, "number": row}) + "\n" for row, text in enumerate(texts))
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def write_parquet(path: Path, texts: Sequence[str] = TEXTS, column: str = "text") -> Path:
    """Several row groups."""
    table = pa.table({"number": list(range(len(texts))), column: pa.array(list(texts), pa.string())})
    pq.write_table(table, path, row_group_size=7)
    return path


def write_tar(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """A WebDataset shard: KEY.txt, and KEY.json with a list of captions."""
    with tarfile.open(path, "w") as tar:
        for row, text in enumerate(texts):
            captions = json.dumps({"captions": [text, f"again {row}"]})
            for suffix, content in (("txt", text), ("syn.json", captions)):
                data = content.encode()
                member = tarfile.TarInfo(f"{row:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path
