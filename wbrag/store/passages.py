"""The passages of a segment as one Parquet file: row i is the passage of label i; provenance columns travel along."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbrag.schema import PASSAGE
from wbrag.store.files import StoreError

#: Rows of a row group: the unit of look-up and of encoding. Part of the format: another value, other bytes.
ROW_GROUP = 1024


class PassageFile:
    """Look-up by row in a passages file; the last 128 row groups stay in memory (100 MB of 100-word passages)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _naming(str(path)):
            self.file = pq.ParquetFile(path, page_checksum_verification=True)
        self.rows: int = self.file.metadata.num_rows
        self._lock = threading.Lock()  # a ParquetFile serves one thread at a time
        self.group = functools.lru_cache(maxsize=128)(self._read_group)

    def _read_group(self, group: int) -> pa.Table:
        with self._lock, _naming(str(self.path)):
            return self.file.read_row_group(group)

    def ids(self) -> pa.ChunkedArray:
        """The id of every row."""
        with self._lock, _naming(str(self.path)):
            return self.file.read(columns=["id"])["id"]

    def take(self, rows: np.ndarray) -> pa.Table:
        """The passages of these rows (n,), in the order asked for; only the row groups that hold them are read."""
        groups, place = np.unique(rows // ROW_GROUP, return_inverse=True)
        order = np.argsort(place, kind="stable")
        cuts = np.split(rows[order] % ROW_GROUP, np.cumsum(np.bincount(place))[:-1])
        # Group by group: of chunks put together first, Arrow copies every text.
        tables = [self.group(int(group)).take(pa.array(here)) for group, here in zip(groups, cuts, strict=True)]
        return pa.concat_tables(tables).take(pa.array(np.argsort(order)))


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Turn what Parquet says of a damaged file, which does not name it, into a StoreError that does."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: Parquet cannot read it: {error}") from error


def check_pages(file: BinaryIO, where: str) -> list[str]:
    """Read every page of a passages file and compare it with its checksum: what is wrong, or nothing."""
    try:
        with _naming(where):
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group)
    except StoreError as error:
        return [str(error)]
    return []


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files of a folder, by name, or the one file given; StoreError when there is none."""
    files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    if not files:
        raise StoreError(f"{source}: no Parquet file there")
    return files


def conform(table: pa.Table, where: str, row_start: int = 0) -> pa.Table:
    """id, title, text as strings without nulls, then all other columns as they are.

    StoreError names `where`, the column and the row; `row_start` is the number of the table's first row there.
    """
    for name in PASSAGE.names:
        if name not in table.column_names:
            raise StoreError(f"{where}: no column {name!r} among {table.column_names}")
        if table[name].null_count:
            row = row_start + int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise StoreError(f"{where}: row {row}: {name} is null")
    others = [field for field in table.schema.remove_metadata() if field.name not in PASSAGE.names]
    columns = [table[name].cast(pa.string()) for name in PASSAGE.names]
    return pa.table([*columns, *(table[field.name] for field in others)], schema=pa.schema([*PASSAGE, *others]))


def check_ids(ids: pa.ChunkedArray, where: str) -> None:
    """Refuse (StoreError) an id that stands in two rows, naming it and both."""
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        value = repeated[0]["values"]
        first, second = np.flatnonzero(pc.equal(ids, value).to_numpy())[:2]
        raise StoreError(f"{where}: id {value.as_py()!r} stands in row {first} and in row {second}")


def write_passages(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write conforming tables as one Parquet file and return its rows; the bytes do not depend on how rows came in."""
    rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for group in _row_groups(tables):
            if writer is None:
                writer = pq.ParquetWriter(path, group.schema, compression="zstd", write_page_checksum=True)
            writer.write_table(group, row_group_size=ROW_GROUP)
            rows += len(group)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows as contiguous tables of ROW_GROUP rows (Parquet's page borders follow Arrow's chunk borders)."""
    pending: pa.Table | None = None
    for table in tables:
        pending = table if pending is None else pa.concat_tables([pending, table])
        while len(pending) >= ROW_GROUP:
            yield pending.slice(0, ROW_GROUP).combine_chunks()
            pending = pending.slice(ROW_GROUP)
    if pending is not None and len(pending):
        yield pending.combine_chunks()
