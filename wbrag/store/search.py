"""Exact search over a base store and a write-back store, merged: D'_q = Top-K(R(q,K) u R(q,K_wb)) (paper, 3.1).

Every segment is searched by itself and one sort merges the lists. The order is total and stated: score descending;
of equal scores base before write-back, then the smaller row. So a store searched as many segments, or two stores
searched as one, give the same list, ties included. What becomes of the two stores' lists: `wbrag.retrieval.merge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag import config
from wbrag.retrieval.encoder import Encoder, open_encoder
from wbrag.retrieval.merge import beside, by_name, check_merge, linked, mentions, plain
from wbrag.schema import Document, Source
from wbrag.store.files import StoreError
from wbrag.store.live import dead_rows
from wbrag.store.manifest import Manifest, latest, read_manifest, require_same
from wbrag.store.notes import noted_encoder, noted_merge
from wbrag.store.part import Part
from wbrag.store.ranking import top
from wbrag.store.segment import open_ref
from wbrag.store.storage import Store
from wbrag.store.vectors import use_threads

#: What `KnowledgeBase.table` returns.
HITS = pa.schema(
    [
        *(("query", pa.int64()), ("rank", pa.int32()), ("id", pa.string()), ("title", pa.string())),
        *(("text", pa.string()), ("score", pa.float32()), ("source", pa.string()), ("version", pa.int64())),
    ]
)

#: Of so many times k units those that the question names are taken: the nearest are often others.
NAMED = 4
#: Queries whose units' mentions are looked up together.
LINKED = 32


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
        merge: config.Merge | None = None,
        nprobe: int = config.Index.nprobe,
        block_bytes: int = 0,
    ) -> None:
        """Open these stores, folders or what `open_storage` gave; a write-back store that is absent or empty counts
        as no units.

        `encoder` is the fingerprint of whoever will encode the queries (empty: not checked); a version of 0 is the
        current one, a thread count of 0 every core. `merge`: the policy, plain by default; `nprobe`: lists that an IVF
        base looks into; `block_bytes`: what of flat segments may lie on the GPU (if FAISS has one): all of them stay
        there if they fit, else they go there in blocks, 0: they stay mapped and the CPU searches them. StoreError, with
        both values: nothing in base, a changed file, stores or queries of unlike encoders or dimensions.
        """
        use_threads(threads)
        self.merge = merge or config.Merge()
        check_merge(self.merge)
        pinned = _pin(base, base_version)
        if pinned is None:
            raise StoreError(f"{base}: no version was ever published there")
        self.base: Manifest = pinned
        self.writeback: Manifest | None = _pin(writeback, writeback_version) if writeback else None
        _require_comparable(self.base, self.base, encoder or self.base.encoder, "queries")
        self._parts = _open_parts(base, self.base, "base")
        if writeback and self.writeback:
            _require_comparable(self.base, self.writeback, self.writeback.encoder, str(writeback))
            self._parts += _open_parts(writeback, self.writeback, "writeback")
        self._columns = pa.unify_schemas([part.schema for part in self._parts]) if self._parts else HITS
        rows = sum(part.segment.rows for part in self._parts)
        self._how = (nprobe, block_bytes, 2 * self.dimension * rows <= block_bytes)
        self._stores = (writeback, base)
        self._given: Encoder | None = None

    @classmethod
    def open(
        cls,
        path: Store | str,
        *,
        encoder: Encoder | None = None,
        merge: config.Merge | None = None,
        nprobe: int = config.Index.nprobe,
    ) -> KnowledgeBase:
        """The knowledge base in a folder: `base/` and `writeback/` in it, as a run leaves them, or one store.

        Questions are encoded by `encoder`, or by the one that the stores' versions name in their note; it is loaded
        with the first question and refused (StoreError) when its fingerprint is not the stores'. Units are merged as
        the version of `writeback/` says that they were measured, unless `merge` says otherwise.
        """
        where: Store = Path(path) if isinstance(path, str) else path
        stores: tuple[Store, Store | None] = where, None
        if isinstance(where, Path) and (where / "base").is_dir():
            stores = where / "base", where / "writeback"
        merge = merge or (noted_merge(stores[1]) if stores[1] else None)
        made = cls(*stores, encoder=encoder.fingerprint if encoder else "", merge=merge, nprobe=nprobe)
        made._given = encoder
        return made

    @property
    def dimension(self) -> int:
        """d of the vectors and of the queries."""
        return self.base.spec.dimension

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder that made the vectors."""
        return self.base.encoder

    def search(
        self,
        queries: np.ndarray | Sequence[str],
        k: int,
        writeback: bool | Sequence[bool] = True,
        where: pc.Expression | None = None,
        questions: Sequence[str] | None = None,
    ) -> list[list[Document]]:
        """The k best documents of each query, best first; fewer where fewer are live. With `merge.policy=beside` the k
        best passages, and before them the units that may stand beside them.

        queries: (nq, d) unit-norm vectors, float16 or float32, or nq questions, which are then encoded. Scores are
        inner products, float32. `questions`: the words of `queries` that are vectors, for `merge.reach`.
        `writeback=False` searches the base alone; a list switches it query by query. `where`:
        an Arrow expression over the passages' columns; only rows for which it is true are searched (a column that a
        segment lacks is null there). ValueError for queries of another shape or that are not finite, for k < 1 and for
        a column that no segment has.
        """
        xq = self._encoded(queries)
        self._check(xq, k)
        switched = np.asarray(writeback, dtype=bool)
        switched = np.full(len(xq), switched) if switched.ndim == 0 else switched
        if switched.shape != (len(xq),):
            raise ValueError(f"writeback has shape {switched.shape} for {len(xq)} queries")
        found = self._top("base", xq, k, where)
        asked = questions if isinstance(queries, np.ndarray) else queries
        if not len(on := np.flatnonzero(switched)):
            return found
        texts = None if asked is None else [asked[query] for query in on]
        folded = self.fold(xq[on], [found[query] for query in on], k, where=where, questions=texts)
        for query, documents in zip(on, folded, strict=True):
            found[query] = documents
        return found

    def search_one(
        self, question: str, k: int, writeback: bool = True, where: pc.Expression | None = None
    ) -> list[Document]:
        """The k best documents of one question; otherwise as `search`."""
        return self.search([question], k, writeback, where)[0]

    def table(
        self,
        queries: np.ndarray | Sequence[str],
        k: int,
        writeback: bool | Sequence[bool] = True,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """The same as one Arrow table (HITS): a row per hit with its query's number, rank from 1, and store version."""
        rows = [
            {"query": query, "rank": rank, **asdict(document)}
            for query, documents in enumerate(self.search(queries, k, writeback, where))
            for rank, document in enumerate(documents, 1)
        ]
        return pa.Table.from_pylist(rows, HITS)

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = self._given
        if encoder is None:
            noted = noted_encoder([store for store in self._stores if store])
            if noted is None:
                raise StoreError(f"{self._stores[-1]}: no version says which encoder made it; give one to open")
            encoder = open_encoder(noted)
        _require_comparable(self.base, self.base, encoder.fingerprint, "queries")
        return encoder

    def _encoded(self, queries: np.ndarray | Sequence[str]) -> np.ndarray:
        if isinstance(queries, np.ndarray):
            return queries
        if isinstance(queries, str):
            raise ValueError("queries is one string; search_one takes one question, search a list of them")
        return self._encoder.encode_queries(list(queries))

    def _check(self, xq: np.ndarray, k: int) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        if xq.ndim != 2 or xq.shape[1] != self.dimension:
            raise ValueError(f"queries have shape {xq.shape}, not (nq, {self.dimension})")
        if not np.isfinite(xq).all():
            raise ValueError(f"query {np.flatnonzero(~np.isfinite(xq).all(axis=1))[0]} is not finite")

    def fold(
        self,
        xq: np.ndarray,
        passages: Sequence[Sequence[Document]],
        k: int,
        leave_out: Sequence[frozenset[str]] | None = None,
        where: pc.Expression | None = None,
        questions: Sequence[str] | None = None,
    ) -> list[list[Document]]:
        """As `search`, where the k best passages of each query are known already: only write-back is searched.

        `leave_out`: query by query, ids of units that are to be as if they were not there. ValueError where
        `merge.reach` needs `questions` and they are not given.
        """
        if by_name(self.merge) and questions is None:
            told = "asks which titles stand in the questions, and only their vectors were given"
            raise ValueError(f"merge.reach={self.merge.reach} {told}")
        without = leave_out or [frozenset()] * len(xq)
        count = NAMED * k if by_name(self.merge) else k
        units = self._units(xq, count, without, where)
        if self.merge.policy == "plain":
            return [plain(*lists, k) for lists in zip(passages, units, strict=True)]
        texts = questions or [""] * len(xq)
        found = [
            beside(near, some, k, self.merge, text) for near, some, text in zip(passages, units, texts, strict=True)
        ]
        if self.merge.reach == "linked":
            for at in range(0, len(xq), LINKED):  # a few at a time: each finds the units that any of them mentions
                some = slice(at, at + LINKED)
                more = self._mentioned(xq[some], found[some], without[some], where)
                lists = zip(passages[some], found[some], more, strict=True)
                found[some] = [linked(near, first, others, k, self.merge) for near, first, others in lists]
        return [[*some, *near] for some, near in zip(found, passages, strict=True)]

    def _mentioned(
        self,
        xq: np.ndarray,
        found: Sequence[Sequence[Document]],
        without: Sequence[frozenset[str]],
        where: pc.Expression | None,
    ) -> list[list[Document]]:
        """All units, nearest first, whose title is mentioned in those that any of the queries `found`."""
        titles = frozenset().union(*map(mentions, found))
        there = pc.field("title").isin(pa.array(sorted(titles), pa.string()))
        there = there if where is None else there & where
        units = [part for part in self._parts if part.source == "writeback"] if titles else []
        count = sum(part.count(there, self._columns) for part in units)
        return self._units(xq, count, without, there) if count else [[] for _ in found]

    def _units(
        self, xq: np.ndarray, k: int, without: Sequence[frozenset[str]], where: pc.Expression | None
    ) -> list[list[Document]]:
        """The k best units of each query but those it is to do `without`."""
        found = self._top("writeback", xq, k + max(map(len, without), default=0), where)
        return [[u for u in hits if u.id not in ids][:k] for hits, ids in zip(found, without, strict=True)]

    def _top(self, source: Source, xq: np.ndarray, k: int, where: pc.Expression | None) -> list[list[Document]]:
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        parts = [part for part in self._parts if part.source == source]
        return top(parts, [part.search(where, self._columns, *self._how) for part in parts], xq, k)


def _pin(store: Store, version: int) -> Manifest | None:
    return read_manifest(store, version) if version else latest(store)


def _require_comparable(base: Manifest, other: Manifest, encoder: str, where: str) -> None:
    """StoreError with both values when scores of `other`, or of queries of `encoder`, do not compare with the base's.

    A flat write-back beside an IVF base is fine: both hold the same codes.
    """
    if encoder != base.encoder:
        raise StoreError(f"{where}: encoder is {encoder!r}, version {base.version} has {base.encoder!r}")
    if other.spec.space != base.spec.space:
        raise StoreError(f"{where}: spec is {other.spec}, version {base.version} has {base.spec}")


def _open_parts(store: Store, manifest: Manifest, source: Source) -> list[Part]:
    """The segments of a version in row order, each checked against the manifest."""
    dead = dead_rows(store, manifest)
    parts = []
    for ref in sorted(manifest.segments, key=lambda ref: ref.row_start):
        segment = open_ref(store, ref)
        require_same(manifest, segment.spec, segment.encoder, str(segment.path))
        local = dead[(dead >= ref.row_start) & (dead < ref.row_start + ref.rows)] - ref.row_start
        live = np.ones(ref.rows, dtype=bool)
        live[local] = False
        parts.append(Part(source, manifest.version, segment, live if len(local) else None))
    return parts
