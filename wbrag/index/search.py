"""Exact search over a base store and a write-back store, merged: D'_q = Top-K(R(q,K) u R(q,K_wb)) (paper, 3.1).

Every segment is searched by itself and one sort merges the lists. The order is total and stated: score descending;
of equal scores base before write-back, then the smaller row. So a store searched as many segments, or two stores
searched as one, give the same list, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wbrag.index.files import StoreError
from wbrag.index.live import dead_rows
from wbrag.index.manifest import Manifest, latest, read_manifest, require_same
from wbrag.index.segment import Segment, open_ref
from wbrag.index.storage import Store
from wbrag.index.vectors import exact_top, excluding, use_threads
from wbrag.schema import PASSAGE, Document, Source

if TYPE_CHECKING:
    import faiss


@dataclass(frozen=True)
class _Part:
    """One open segment of a pinned version, and the search parameters that hide its deleted rows."""

    source: Source
    segment: Segment
    parameters: faiss.SearchParameters | None


class KnowledgeBase:
    """A base store and, if there is one, a write-back store, each pinned to one version for the object's life.

    Open it where it is used (in a Ray actor: in the constructor); it holds memory maps and does not pickle.
    """

    def __init__(
        self,
        base: Store,
        writeback: Store | None = None,
        *,
        encoder: str = "",
        base_version: int = 0,
        writeback_version: int = 0,
        threads: int = 0,
    ) -> None:
        """Open these stores, folders or what `open_storage` gave; a write-back store that is absent or empty counts
        as no units.

        `encoder` is the fingerprint of whoever will encode the queries (empty: not checked); a version of 0 is the
        current one, a thread count of 0 every core. StoreError, with both values: nothing in base, a changed file,
        stores or queries of unlike encoders or dimensions.
        """
        use_threads(threads)
        pinned = _pin(base, base_version)
        if pinned is None:
            raise StoreError(f"{base}: no version was ever published there")
        self.base: Manifest = pinned
        self.writeback: Manifest | None = _pin(writeback, writeback_version) if writeback else None
        require_same(self.base, self.base.spec, encoder or self.base.encoder, "queries")
        self._parts = _open_parts(base, self.base, "base")
        if writeback and self.writeback:
            require_same(self.base, self.writeback.spec, self.writeback.encoder, str(writeback))
            self._parts += _open_parts(writeback, self.writeback, "writeback")

    @property
    def dimension(self) -> int:
        """d of the vectors and of the queries."""
        return self.base.spec.dimension

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder that made the vectors."""
        return self.base.encoder

    def search(self, xq: np.ndarray, k: int, writeback: bool = True) -> list[list[Document]]:
        """The k best documents of each query, best first; fewer where fewer are live.

        xq: (nq, d) unit-norm queries, float16 or float32. Scores are inner products, float32. `writeback=False`
        searches the base alone. ValueError for queries of another shape or that are not finite, and for k < 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        if xq.ndim != 2 or xq.shape[1] != self.dimension:
            raise ValueError(f"queries have shape {xq.shape}, not (nq, {self.dimension})")
        if not np.isfinite(xq).all():
            raise ValueError(f"query {np.flatnonzero(~np.isfinite(xq).all(axis=1))[0]} is not finite")
        parts = [part for part in self._parts if writeback or part.source == "base"]
        if not parts:  # all was deleted and compacted away
            return [[] for _ in xq]
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        return _documents(parts, *_fold([exact_top(part.segment.index, xq, k, part.parameters) for part in parts], k))


def _pin(store: Store, version: int) -> Manifest | None:
    return read_manifest(store, version) if version else latest(store)


def _open_parts(store: Store, manifest: Manifest, source: Source) -> list[_Part]:
    """The segments of a version in row order, each checked against the manifest."""
    dead = dead_rows(store, manifest)
    parts = []
    for ref in sorted(manifest.segments, key=lambda ref: ref.row_start):
        segment = open_ref(store, ref)
        require_same(manifest, segment.spec, segment.encoder, str(segment.path))
        local = dead[(dead >= ref.row_start) & (dead < ref.row_start + ref.rows)] - ref.row_start
        parts.append(_Part(source, segment, excluding(local)))
    return parts


def _fold(found: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge (scores, rows) of the parts, given in order of preference: scores, parts and rows, each (nq, <= k).

    A stable sort keeps equal scores in the order of parts and, within a part, of rows. Where nothing was left to
    find, the row is -1 and stands last.
    """
    D = np.concatenate([scores for scores, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    P = np.concatenate([np.full(rows.shape, part) for part, (_, rows) in enumerate(found)], axis=1)
    order = np.argsort(np.where(rows < 0, np.inf, -D), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(D, order, 1), np.take_along_axis(P, order, 1), np.take_along_axis(rows, order, 1)


def _documents(parts: list[_Part], D: np.ndarray, P: np.ndarray, rows: np.ndarray) -> list[list[Document]]:
    """The hits as documents; each part's passages are looked up once for all queries."""
    passage: dict[tuple[int, int], dict[str, str]] = {}
    for number, part in enumerate(parts):
        wanted = np.unique(rows[(P == number) & (rows >= 0)])
        if len(wanted):
            table = part.segment.passages.take(wanted).select(PASSAGE.names)
            passage.update(zip(((number, int(row)) for row in wanted), table.to_pylist(), strict=True))
    return [
        [
            Document(**passage[int(part), int(row)], score=float(score), source=parts[part].source)
            for score, part, row in zip(*hits, strict=True)
            if row >= 0
        ]
        for hits in zip(D, P, rows, strict=True)
    ]
