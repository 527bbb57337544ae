"""One open segment of a pinned version: which of its rows can be seen, how it is searched, what its rows say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from wbrag.schema import PASSAGE, Source
from wbrag.store.segment import Segment
from wbrag.store.topk import (
    Nearest,
    Search,
    block_search,
    cpu_hold,
    cpu_nearest,
    gpu_hold,
    gpu_nearest,
    gpus,
    scan_nearest,
    warm_search,
)
from wbrag.store.vectors import codes_of, search_parameters

#: Vectors that a batch is compared with at a time. FAISS scans a whole index for one query after the other; so cut, it
#: finds the vectors in the processor's cache for all queries but the first.
CACHE_BYTES = 2 << 20
#: Queries from which that is worth the copy of a block.
BATCH = 16


@dataclass(frozen=True)
class Part:
    """A segment as a knowledge base searches it; `live` is (rows,) bool, None where nothing was deleted."""

    source: Source
    version: int
    segment: Segment
    live: np.ndarray | None
    _filtered: list[tuple[pc.Expression, np.ndarray]] = field(
        default_factory=list
    )  # the last filter, what it lets through
    _warm: list[tuple[pc.Expression | None, Search]] = field(default_factory=list)  # the same on the device

    @property
    def schema(self) -> pa.Schema:
        """The columns of its passages."""
        return self.segment.passages.file.schema_arrow

    def search(
        self, where: pc.Expression | None, columns: pa.Schema, nprobe: int, block_bytes: int, warm: bool = False
    ) -> Search:
        """The search of the rows that are live and for which `where` is true.

        `columns` are those `where` may name; one that this segment has not is null in all its rows. With `block_bytes`
        a flat segment goes to the device: once, to stay there, if `warm`, else for every search in blocks of at most so
        many bytes of vectors.
        """
        index, spec, visible = self.segment.index, self.segment.spec, self._visible(where, columns)
        flat = spec.kind == "flat_fp16"

        def in_blocks(block_bytes: int, nearest: Nearest) -> Search:
            rows = None if visible is None else np.flatnonzero(visible)
            return block_search(codes_of(index), rows, max(1, block_bytes // (2 * spec.dimension)), nearest)

        if block_bytes and flat and warm:
            return self._held(where, codes_of(index), visible)
        if block_bytes and flat:
            return in_blocks(block_bytes, gpu_nearest if gpus() else cpu_nearest)

        def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
            if flat and len(xq) >= BATCH:
                return in_blocks(CACHE_BYTES, scan_nearest)(xq, n)
            D, rows = index.search(xq, n, params=search_parameters(spec, visible, nprobe))
            return D, rows

        return search

    def count(self, where: pc.Expression, columns: pa.Schema) -> int:
        """How many live rows `where` is true for."""
        visible = self._visible(where, columns)
        return self.segment.rows if visible is None else int(visible.sum())

    def _held(self, where: pc.Expression | None, codes: np.ndarray, visible: np.ndarray | None) -> Search:
        if not self._warm or not _same(self._warm[0][0], where):
            rows = None if visible is None else np.flatnonzero(visible)
            self._warm[:] = [(where, warm_search(codes, rows, gpu_hold if gpus() else cpu_hold))]
        return self._warm[0][1]

    def passages(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """id, title and text of these rows."""
        found: list[dict[str, Any]] = self.segment.passages.take(rows).select(PASSAGE.names).to_pylist()
        return found

    def _visible(self, where: pc.Expression | None, columns: pa.Schema) -> np.ndarray | None:
        if where is None:
            return self.live
        if not self._filtered or not _same(self._filtered[0][0], where):
            self._filtered[:] = [(where, self._matches(where, columns))]
        matches = self._filtered[0][1]
        return matches if self.live is None else matches & self.live

    def _matches(self, where: pc.Expression, columns: pa.Schema) -> np.ndarray:
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = ds.ParquetFileFormat(default_fragment_scan_options=options)
        table = ds.dataset(self.segment.passages.path, schema=columns, format=form).to_table(columns={"true": where})
        return np.asarray(pc.fill_null(table["true"], False).to_numpy())


def _same(one: pc.Expression | None, other: pc.Expression | None) -> bool:
    """Whether two filters are equal; as text, two long lists of values are the same that differ in their middle."""
    return other is None if one is None else other is not None and bool(one.equals(other))
