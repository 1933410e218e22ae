"""Parquet in and out: fixed writer settings, and reading that names the file and column that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from foundry_bench.data.schema import IMAGE_TYPE
from foundry_bench.errors import FoundryError

REMAKE = "delete the dataset folder and make it again with `foundry-bench demos`"


def parquet_writer(sink: Any, arrow_schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with every setting fixed, so that equal tables give equal bytes.

    Encoded images do not compress and would bloat the footer's min/max, so they are stored plainly; page
    checksums let the reader tell a damaged file from a good one.
    """
    plain, small = [], []
    for field in arrow_schema:
        if field.type == IMAGE_TYPE:
            plain.append(f"{field.name}.bytes")
            small.append(f"{field.name}.path")
        elif pa.types.is_binary(field.type):
            plain.append(field.name)
        else:
            small.append(field.name + ".list.element" * _depth(field.type))
    return pq.ParquetWriter(
        sink,
        arrow_schema,
        version="2.6",
        compression={**dict.fromkeys(plain, "NONE"), **dict.fromkeys(small, "SNAPPY")},
        use_dictionary=small,
        write_statistics=small,
        write_page_checksum=True,
    )


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a missing or damaged ``path`` into a FoundryError."""
    try:
        yield
    except FileNotFoundError as error:
        raise FoundryError(f"{path}: is missing; {REMAKE}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FoundryError(f"{path}: truncated, damaged or not parquet ({reason}); {REMAKE}") from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file through a memory map, with page checksums verified where there are any.

    Raises:
        FoundryError: the file is missing, truncated or not parquet.
    """
    with parquet_errors(path):
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)


def check_columns(file: pq.ParquetFile, path: Path, names: Sequence[str]) -> None:
    """Raise FoundryError for the first of ``names`` that is no column of the file."""
    known = file.schema_arrow.names
    for name in names:
        if name not in known:
            has = ", ".join(known[:30])
            raise FoundryError(f"{path}: column {name!r} is missing, it has {has}; {REMAKE}")


def read_columns(
    file: pq.ParquetFile, path: Path, names: Sequence[str], group: int | None = None
) -> pa.Table:
    """Read columns, all of them or those of one row group.

    Raises:
        FoundryError: a column is missing, or the file is damaged.
    """
    check_columns(file, path, names)
    with parquet_errors(path):
        if group is None:
            return file.read(columns=list(names), use_threads=False)
        return file.read_row_group(group, columns=list(names), use_threads=False)


def vectors(table: pa.Table, name: str, width: int, path: Path) -> npt.NDArray[np.float32]:
    """A column of lists of ``width`` numbers (or of plain numbers for width 1) as (rows, width) float32.

    Raises:
        FoundryError: the column is of another type or width, or has gaps.
    """
    column = _whole(table, name, path)
    values = column
    if not _is_number(column.type):
        if not (_is_list(column.type) and _is_number(column.type.value_type)):
            raise FoundryError(f"{path}: column {name!r} is {column.type}, expected lists of {width} numbers")
        values = column.flatten()
    same_width = len(values) == len(column) * width
    if same_width and pa.types.is_list(column.type):
        same_width = bool((np.diff(column.offsets.to_numpy()) == width).all())
    if not same_width or values.null_count:
        raise FoundryError(f"{path}: column {name!r} does not hold {width} numbers in every row; {REMAKE}")
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False).reshape(-1, width), np.float32)


def integers(table: pa.Table, name: str, path: Path) -> npt.NDArray[np.int64]:
    """A column of whole numbers as (rows,) int64.

    Raises:
        FoundryError: the column is of another type or has gaps.
    """
    column = _whole(table, name, path)
    if not pa.types.is_integer(column.type):
        raise FoundryError(f"{path}: column {name!r} is {column.type}, expected whole numbers; {REMAKE}")
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def encoded_images(
    table: pa.Table, name: str, path: Path
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """A column of images as (offsets, data), not copied: image i is ``data[offsets[i] : offsets[i + 1]]``.

    Raises:
        FoundryError: the column does not hold encoded bytes in every row.
    """
    column = _whole(table, name, path)
    if pa.types.is_struct(column.type):
        index = column.type.get_field_index("bytes")
        column = column.flatten()[index] if index >= 0 else column
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)) or column.null_count:
        raise FoundryError(
            f"{path}: column {name!r} does not hold the bytes of an image in every row; {REMAKE}"
        )
    kind = np.int32 if pa.types.is_binary(column.type) else np.int64
    _, offsets, data = column.buffers()
    if len(column) == 0 or data is None:
        return np.zeros(len(column) + 1, np.int64), np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1]
    return bounds.astype(np.int64), np.frombuffer(data, np.uint8)


def _whole(table: pa.Table, name: str, path: Path) -> pa.Array:
    chunked = table.column(name)
    column = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if column.null_count:
        raise FoundryError(f"{path}: column {name!r} has {column.null_count} empty cells; {REMAKE}")
    return column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if _is_list(kind) else 0
