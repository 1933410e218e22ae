"""Documents of a corpus, in the order in which they are stored, read through Hugging Face ``datasets``.

Every document comes with a position: plain values from which reading goes on with that same document. So a
stream can stop anywhere and be taken up again by another process.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from foundry_bench.data.corpora.spec import ENDINGS, CorpusSpec
from foundry_bench.errors import FoundryError

Position = dict[str, Any] | None  # None: the start


class Documents(Protocol):
    """Texts that can be read again from any of them."""

    name: str

    def read(self, position: Position = None) -> Iterator[tuple[str, Position]]:
        """The documents from a position on, each with its own position."""
        ...


class TextDocuments:
    """Documents in memory."""

    def __init__(self, name: str, texts: Sequence[str]) -> None:
        self.name, self._texts = name, texts

    def read(self, position: Position = None) -> Iterator[tuple[str, Position]]:
        """See Documents.read."""
        for row in range(position["row"] if position else 0, len(self._texts)):
            yield self._texts[row], {"row": row}


class FileDocuments:
    """Documents of local files, one file after the other.

    Raises:
        FoundryError: while reading: a file is missing, truncated or not of the format, or has no such column;
            the file is named.
    """

    def __init__(
        self, name: str, files: Sequence[Path], kind: str, column: str, document: str = "document"
    ) -> None:
        self.name, self.files = name, list(files)
        self._kind, self._column, self._document = kind, "text" if kind == "text" else column, document

    def read(self, position: Position = None) -> Iterator[tuple[str, Position]]:
        """See Documents.read."""
        first, skipped = (position["file"], position["row"]) if position else (0, 0)
        for number in range(first, len(self.files)):
            path = self.files[number]
            row = skipped if number == first else 0
            for example in self._rows(path, row):
                text = text_of(example, self._column, str(path))
                if text:
                    yield text, {"file": number, "row": row}
                row += 1

    def _rows(self, path: Path, skipped: int) -> Iterator[dict[str, Any]]:
        if not path.is_file():
            raise FoundryError(f"{path}: no such file; give the corpus '{self.name}' files that are there")
        if path.stat().st_size == 0:
            return
        if self._kind == "webdataset":
            _check_tar(path)
        datasets = _datasets()
        options = {"sample_by": self._document} if self._kind == "text" else {}
        kind = "json" if self._kind == "jsonl" else self._kind
        where = f"{path}: truncated, damaged or not {self._kind}"
        with _blaming(where):
            if self._kind == "parquet" and pq.read_metadata(path).num_rows == 0:
                return  # the library takes a file without rows for a broken one
        # A stream of local files needs no cache; the library leaves a lock in it for every file.
        with _blaming(where), tempfile.TemporaryDirectory() as cache:
            stream = datasets.load_dataset(
                kind, data_files=[str(path)], split="train", streaming=True, cache_dir=cache, **options
            )
            yield from _examples(_narrowed(stream, self._column, str(path)).skip(skipped), where)


class HubDocuments:
    """Documents of a dataset on the Hugging Face hub, or in a folder that is laid out like one, streamed."""

    def __init__(self, spec: CorpusSpec) -> None:
        self.name, self._spec = spec.name, spec

    def read(self, position: Position = None) -> Iterator[tuple[str, Position]]:
        """See Documents.read."""
        spec = self._spec
        where = (
            f"{spec.path}: the dataset cannot be streamed from the hub; download it and give its files, or "
            f"check the id, subset={spec.subset or None} and split={spec.split} of corpora.{spec.name}"
        )
        with _blaming(where):
            stream = _datasets().load_dataset(
                spec.path, name=spec.subset or None, split=spec.split, streaming=True
            )
            stream = _narrowed(stream, spec.column, spec.path)
            if position:
                stream.load_state_dict(position["state"])
            state = position["state"] if position else _plain(stream.state_dict())
        for example in _examples(stream, where):
            text = text_of(example, spec.column, spec.path)
            if text:
                yield text, {"state": state}
            state = _plain(stream.state_dict())  # what comes after this example


def open_files(spec: CorpusSpec, root: Path | None = None) -> FileDocuments:
    """The documents of a corpus of local files, files in the order of their names.

    Args:
        spec: its ``path`` is a file, a glob or a folder.
        root: where a relative path starts; None: the working directory.

    Raises:
        FoundryError: there are no such files, they are of several formats, or of none that is known.
    """
    place = (root or Path()) / Path(spec.path).expanduser()
    if place.is_dir():
        wanted = ENDINGS[spec.format] if spec.format else tuple(sum(ENDINGS.values(), ()))
        files = sorted(file for file in place.rglob("*") if file.is_file() and file.name.endswith(wanted))
    elif place.is_file():
        files = [place]
    else:
        anchor = Path(place.anchor) if place.is_absolute() else Path()
        files = sorted(anchor.glob(str(place.relative_to(anchor) if place.is_absolute() else place)))
    if not files:
        raise FoundryError(
            f"corpora.{spec.name}.path={spec.path}: no files there; give a file, a glob or a folder, or "
            "format: hub for the id of a dataset"
        )
    kinds = {spec.format} if spec.format else {kind_of(file) for file in files}
    if len(kinds) > 1:
        raise FoundryError(
            f"corpora.{spec.name}.path={spec.path}: files of several formats ({', '.join(sorted(kinds))}); "
            "name one with format, or give a glob"
        )
    return FileDocuments(spec.name, files, kinds.pop(), spec.column, spec.document)


def kind_of(path: Path) -> str:
    """The format that a file's ending says; FoundryError for an unknown one."""
    for kind, endings in ENDINGS.items():
        if path.name.endswith(endings):
            return kind
    known = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise FoundryError(f"{path}: no format has this ending; name one with format, or use one of {known}")


def text_of(example: dict[str, Any], column: str, where: str) -> str:
    """The text of a row; empty where the row has none.

    Raises:
        FoundryError: there is no such column, or it holds something else than text.
    """
    value: Any = example
    for depth, part in enumerate(column.split("/")):
        if isinstance(value, bytes | str) and depth:  # JSON that was not decoded
            value = _decoded(value, where, column)
        if value is None and depth:
            return ""
        if not isinstance(value, dict) or part not in value:
            has = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__
            raise FoundryError(
                f"{where}: column '{column}' is missing (there: {has}); name the column with the text "
                "(corpora.NAME.column)"
            )
        value = value[part]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value).strip()
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FoundryError(
            f"{where}: column '{column}' holds {type(value).__name__}, not text; name another column"
        )
    return value.strip()


def _check_tar(path: Path) -> None:
    """FoundryError where a tar file does not end as one does: readers take what is there for all of it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        if file.read() != bytes(1024):
            raise FoundryError(f"{path}: truncated, damaged or not webdataset (its end is missing)")


def _decoded(value: bytes | str, where: str, column: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise FoundryError(f"{where}: column '{column}' is no JSON ({error}); name another column") from error


def _narrowed(stream: Any, column: str, where: str) -> Any:
    """Only the column that is read, where the columns are known: images beside it are not decoded."""
    top = column.split("/")[0]
    names = stream.column_names
    if names is None:
        return stream
    if top not in names:
        raise FoundryError(
            f"{where}: column '{top}' is missing (there: {', '.join(sorted(names))}); name the column with "
            "the text (corpora.NAME.column)"
        )
    return stream.select_columns([top])


def _examples(stream: Any, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a stream; what goes wrong on the way is a FoundryError."""
    rows = iter(stream)
    while True:
        with _blaming(where):
            try:
                example = next(rows)
            except StopIteration:
                return
        yield example


class _blaming:  # noqa: N801 - used as a context manager, like a function
    """Turns whatever ``datasets`` and what is below it raise into a FoundryError that says where."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, FoundryError):
            cause = error
            while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
                cause = cause.__cause__
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
            raise FoundryError(f"{self._where} ({reason})") from error


def _plain(state: Any) -> Any:
    """A copy of a stream's state that JSON gives back as it is."""
    return json.loads(json.dumps(state))


def _datasets() -> Any:
    """The library, imported when it is needed; what it would report is reported by us."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    return datasets
