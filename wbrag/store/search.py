"""Exact search over a base and the write-back store that belongs to it, merged: Top-K(R(q,K) u R(q,K_wb)) (3.1).

Every fragment is searched by itself and one sort merges the lists. The order is total: score descending; of equal
scores base before write-back, then by id. So how rows lie in fragments, in which order they came or whether they were
brought together changes nothing. What becomes of the two stores' lists: `wbrag.retrieval.merge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag import config
from wbrag.retrieval.encoder import Encoder, open_encoder
from wbrag.retrieval.merge import beside, by_name, check_merge, linked, mentions, plain
from wbrag.schema import PASSAGE, Document, Source
from wbrag.store import rows as stored
from wbrag.store.changes import index_of
from wbrag.store.files import StoreError
from wbrag.store.notes import noted_encoder, noted_merge
from wbrag.store.place import Place, Where, nothing_there, place_of
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
from wbrag.store.vectors import (
    Spec,
    codes_of,
    open_index,
    probed,
    read_template,
    search_parameters,
    use_threads,
    write_index,
)
from wbrag.store.versions import DAY, Version, check_sizes, latest, pinned, read_version

#: What `KnowledgeBase.table` returns.
HITS = pa.schema(
    [
        *(("query", pa.int64()), ("rank", pa.int32()), ("id", pa.string()), ("title", pa.string())),
        *(("text", pa.string()), ("score", pa.float32()), ("source", pa.string()), ("version", pa.int64())),
    ]
)
#: What a filter may be: SQL over the columns, or an Arrow expression.
Filter: TypeAlias = str | pc.Expression
#: Vectors that a batch is compared with at a time. FAISS scans a whole index for one query after the other; so cut, it
#: finds the vectors in the processor's cache for all queries but the first.
CACHE_BYTES = 2 << 20
#: Queries from which that is worth the copy of a block.
BATCH = 16
#: Of so many times k units those that the question names are taken: the nearest are often others.
NAMED = 4
#: Queries whose units' mentions are looked up together.
LINKED = 32


@dataclass(frozen=True, slots=True)
class Part:
    """A fragment as it is searched; `live` is (rows,) bool, None where nothing was deleted."""

    fragment: int
    index: Any
    live: np.ndarray | None

    def search(self, visible: np.ndarray | None, spec: Spec, nprobe: int, block_bytes: int) -> Search:
        """The search of the rows that are `visible` (rows,) bool, None: all. With `block_bytes` a flat one goes to the
        device, in blocks of so many bytes of vectors.
        """
        flat = spec.kind == "flat_fp16"

        def in_blocks(size: int, nearest: Nearest) -> Search:
            chosen = None if visible is None else np.flatnonzero(visible)
            return block_search(codes_of(self.index), chosen, max(1, size // (2 * spec.dimension)), nearest)

        def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
            if flat and block_bytes:
                return in_blocks(block_bytes, gpu_nearest if gpus() else cpu_nearest)(xq, n)
            if flat and len(xq) >= BATCH:
                return in_blocks(CACHE_BYTES, scan_nearest)(xq, n)
            D, found = self.index.search(xq, n, params=search_parameters(spec, visible, nprobe))
            return D, found

        return search

    def held(self, visible: np.ndarray | None) -> Search:
        """The same with all vectors on the device, to stay there as long as the search does."""
        chosen = None if visible is None else np.flatnonzero(visible)
        return warm_search(codes_of(self.index), chosen, gpu_hold if gpus() else cpu_hold)


class Store:
    """One version of a store, open to be searched: its fragments with their indices.

    A damaged or missing index is made again from the rows, and kept where the store may be written to.
    """

    def __init__(self, place: Place, version: Version, source: Source) -> None:
        """StoreError names the first file that is absent, cut, or whose index and rows differ after all."""
        self.place, self.version, self.source = place, version, source
        indices = {name for name in version.files if name.startswith("index/")}
        check_sizes(place, version, indices)
        self.data = stored.opened(place, version)
        self.parts = [self._part(fragment.metadata.to_json()) for fragment in self.data.get_fragments()]
        self._seen: tuple[Filter, dict[int, np.ndarray]] | None = None

    def _part(self, fragment: dict[str, Any]) -> Part:
        name, number = index_of(fragment, self.version.files, self.version.spec), int(fragment["id"])
        facts, spec = self.version.files[name], self.version.spec
        try:
            index = open_index(self.place, name, facts, spec, fragment["physical_rows"])
            self._probe(name, number, index)
        except StoreError:
            vectors = stored.all_vectors(self.data, number)
            made = write_index(self.place, name, vectors, spec, read_template(self.place, spec))
            if made != facts:
                told = f"{self.place}/{name}: made again from the rows it has (bytes, sha256) {made}, the version says"
                raise StoreError(f"{told} {facts}: the rows are damaged, verify names the file") from None
            index = open_index(self.place, name, facts, spec, fragment["physical_rows"])
        return Part(number, index, stored.live_rows(self.data, number))

    def _probe(self, name: str, number: int, index: Any) -> None:  # noqa: ANN401 - FAISS's
        """StoreError where a few rows of the index are not the data's."""
        places, vectors = probed(index)
        wanted = [(number << 32) | int(row) for row in places]
        found = self.data._take_rows(wanted, columns=[stored.VECTOR])
        if len(found) == len(places) and not np.array_equal(stored.vectors_of(found), vectors):
            raise StoreError(f"{self.place}/{name}: its vectors are not those of the rows")

    @property
    def rows(self) -> int:
        """Rows of all fragments, deleted ones too."""
        return sum(part.index.ntotal for part in self.parts)

    def visible(self, where: Filter | None, columns: pa.Schema) -> list[np.ndarray | None]:
        """For each part the rows that are live and for which `where` is true. `columns`: those that it may name; one
        that this store has not is null in all its rows. ValueError for a filter that cannot be.
        """
        if where is None:
            return [part.live for part in self.parts]
        if self._seen is None or not _same(self._seen[0], where):
            self._seen = where, self._matching(where, columns)
        return [self._seen[1][part.fragment] for part in self.parts]

    def _matching(self, where: Filter, columns: pa.Schema) -> dict[int, np.ndarray]:
        found = {part.fragment: np.zeros(part.index.ntotal, dtype=bool) for part in self.parts}
        try:
            table = self.data.scanner(columns=[], filter=where, with_row_address=True).to_table()
        except (ValueError, OSError) as error:
            if set(columns.names) <= set(self.data.schema.names):
                raise ValueError(f"where: {where}: {error}") from error
            table = self._padded(where, columns)
        at = stored.addresses(table)
        for number in np.unique(at >> 32).tolist():
            found[number][at[at >> 32 == number] & 0xFFFF_FFFF] = True
        return found

    def _padded(self, where: Filter, columns: pa.Schema) -> pa.Table:
        """The rows that match, where the filter names columns that only the other store has: null here."""
        if isinstance(where, str):
            raise ValueError(f"where: {where!r} names columns that {self.place} lacks; give it as an Arrow expression")
        names = [name for name in self.data.schema.names if name != stored.VECTOR]
        table = self.data.scanner(columns=names, with_row_address=True).to_table()
        for f in columns:
            if f.name not in table.column_names and f.name != stored.VECTOR:
                table = table.append_column(f, pa.nulls(len(table), f.type))
        try:
            return table.filter(where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"where: {where}: {error}") from error

    def nearest(self, searches: Sequence[Search], xq: np.ndarray, k: int) -> list[list[Document]]:
        """The k best rows for each query (nq, d) float32, best first; of equal scores by id."""
        if not self.parts:
            return [[] for _ in xq]
        found = [
            candidates(search, part.index.ntotal, xq, k) for part, search in zip(self.parts, searches, strict=True)
        ]
        wanted = [_cut([lists[q] for lists in found], k) for q in range(len(xq))]
        rows = self._passages(wanted)
        best = []
        for hits in wanted:
            scored = sorted(hits, key=lambda hit: (-hit[0], rows[hit[1:]]["id"]))[:k]
            best.append(
                [
                    Document(**rows[(part, row)], score=score, source=self.source, version=self.version.version)
                    for score, part, row in scored
                ]
            )
        return best

    def _passages(self, wanted: Sequence[Sequence[tuple[float, int, int]]]) -> dict[tuple[int, int], dict[str, Any]]:
        """id, title and text of the rows that any query found, each looked up once, by part and row."""
        places = sorted({(part, row) for hits in wanted for _, part, row in hits})
        addresses = [(self.parts[part].fragment << 32) | row for part, row in places]
        found = self.data._take_rows(addresses, columns=PASSAGE.names).to_pylist() if addresses else []
        return dict(zip(places, found, strict=True))

    def count(self, where: Filter, columns: pa.Schema) -> int:
        """How many live rows `where` is true for."""
        return sum(int(mask.sum()) for mask in self.visible(where, columns) if mask is not None)


def candidates(search: Search, rows: int, xq: np.ndarray, k: int) -> list[list[tuple[float, int]]]:
    """For each query the (score, row) that may be among its k best of `rows`: k of them, and all whose score is that of
    the last of these. FAISS leaves open which of equal scores it keeps; a query whose tie reaches past what was fetched
    is asked again for twice as much.
    """
    k, fetch = min(k, rows), min(k + 1, rows)
    found: list[list[tuple[float, int]]] = [[] for _ in xq]
    asked = np.arange(len(xq))
    while len(asked):
        D, I = search(xq[asked], fetch)  # noqa: E741 - FAISS's names
        open_end = (D[:, -1] == D[:, k - 1]) & (I[:, -1] >= 0) & (fetch < rows)
        for at in np.flatnonzero(~open_end):
            least = D[at, k - 1] if I[at, k - 1] >= 0 else -np.inf
            hits = zip(D[at].tolist(), I[at].tolist(), strict=True)
            found[asked[at]] = [(score, row) for score, row in hits if row >= 0 and score >= least]
        asked, fetch = asked[open_end], min(2 * fetch, rows)
    return found


def _cut(lists: Sequence[Sequence[tuple[float, int]]], k: int) -> list[tuple[float, int, int]]:
    """Of the candidates of all parts those that may be among the k best: (score, part, row)."""
    hits = [(score, part, row) for part, some in enumerate(lists) for score, row in some]
    if len(hits) <= k:
        return hits
    least = sorted((hit[0] for hit in hits), reverse=True)[k - 1]
    return [hit for hit in hits if hit[0] >= least]


class KnowledgeBase:
    """A pair of versions, a base's and, if there is one, a write-back store's, for the object's life.

    Open it where it is used (in a Ray actor: in the constructor); it holds memory maps and does not pickle. `refresh`
    goes to the newest pair, `close` lets clean-up have this one's files.
    """

    def __init__(
        self,
        base: Where,
        writeback: Where | None = None,
        *,
        encoder: str = "",
        versions: tuple[int, int] = (0, 0),
        threads: int = 0,
        merge: config.Merge | None = None,
        nprobe: int = config.Index.nprobe,
        block_bytes: int = 0,
    ) -> None:
        """Open these stores; a write-back store that is absent or empty counts as no units.

        `encoder` is the fingerprint of whoever will encode the queries (empty: not checked); `versions` are those of
        base and write-back, 0: the newest, and of the base the one that the write-back version belongs to. Given ones
        are pinned by the caller (`versions.reading`), as an actor that is killed would leave its pins behind. `merge`:
        the policy, that of the write-back version's note by default; `nprobe`: lists that an IVF base looks into;
        `block_bytes`: what of flat vectors may lie on the GPU (if FAISS has one): all if they fit, else block by block,
        0: the CPU searches them where they are mapped. StoreError, with both values: nothing in base, a changed file,
        stores or queries of unlike encoders or dimensions.
        """
        use_threads(threads)
        self._places = place_of(base), place_of(writeback) if writeback else None
        self._asked, self._merge = (encoder, nprobe, block_bytes), merge
        self._given: Encoder | None = None
        self._held = ExitStack()
        self._open(versions)

    @classmethod
    def open(
        cls,
        path: Where,
        *,
        encoder: Encoder | None = None,
        merge: config.Merge | None = None,
        nprobe: int = config.Index.nprobe,
    ) -> KnowledgeBase:
        """The knowledge base in a folder: `base/` and `writeback/` in it, as a run leaves them, or one store.

        Questions are encoded by `encoder`, or by the one that the versions' notes name; it is loaded with the first
        question and refused (StoreError) when its fingerprint is not the stores'.
        """
        where = place_of(path)
        stores: tuple[Place, Place | None] = where, None
        if base := None if where.remote else base_of(Path(where.root)):
            stores = place_of(base), place_of(Path(where.root, "writeback"))
        made = cls(*stores, encoder=encoder.fingerprint if encoder else "", merge=merge, nprobe=nprobe)
        made._given = encoder
        return made

    def _open(self, numbers: tuple[int, int]) -> None:
        base, writeback = self._places
        other = _version(writeback, numbers[1]) if writeback else None
        number = numbers[0] or (other.base[0] if other and other.base else 0)
        mine = _version(base, number)
        if mine is None:
            raise nothing_there(base)
        _comparable(base, mine, mine, self._asked[0] or mine.encoder, "queries")
        if not numbers[0]:
            self._held.enter_context(pinned(base, mine.version, 7 * DAY))
        stores = [Store(base, mine, "base")]
        if writeback and other:
            _comparable(base, mine, other, other.encoder, str(writeback))
            if not numbers[1]:
                self._held.enter_context(pinned(writeback, other.version, 7 * DAY))
            stores.append(Store(writeback, other, "writeback"))
        self._stores: dict[Source, Store] = {store.source: store for store in stores}
        self._columns = pa.unify_schemas([store.data.schema for store in stores])
        self.base, self.writeback = mine, other
        told = noted_merge(writeback, other) if writeback and other else config.Merge()
        self.merge = self._merge or told
        check_merge(self.merge)
        self._warm: dict[tuple[Source, int], tuple[Filter | None, Search]] = {}

    def refresh(self) -> bool:
        """Go to the newest pair; whether there was a newer one. Nobody may be searching meanwhile."""
        base, writeback = self._places
        newest = (latest(base), latest(writeback) if writeback else None)
        if newest[1] == self.writeback and (self.writeback or newest[0] == self.base):
            return False
        held, self._held = self._held, ExitStack()
        self._open((0, 0))
        held.close()
        return True

    def close(self) -> None:
        """Let the files of this pair go; what is open stays readable until they are removed."""
        self._held.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dimension(self) -> int:
        """d of the vectors and of the queries."""
        return self.base.spec.dimension

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder that made the vectors."""
        return self.base.encoder

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = self._given
        if encoder is None:
            told = noted_encoder(self._places[0], self.base)
            if told is None:
                raise StoreError(f"{self._places[0]}: no version says which encoder made it; give one to open")
            encoder = open_encoder(told)
        _comparable(self._places[0], self.base, self.base, encoder.fingerprint, "queries")
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

    def search(
        self,
        queries: np.ndarray | Sequence[str],
        k: int,
        writeback: bool | Sequence[bool] = True,
        where: Filter | None = None,
        questions: Sequence[str] | None = None,
    ) -> list[list[Document]]:
        """The k best documents of each query, best first; fewer where fewer are live. With `merge.policy=beside` the k
        best passages, and before them the units that may stand beside them.

        queries: (nq, d) unit-norm vectors, float16 or float32, or nq questions, which are then encoded. Scores are
        inner products, float32. `questions`: the words of `queries` that are vectors, for `merge.reach`.
        `writeback=False` searches the base alone; a list switches it query by query. `where`: SQL or an Arrow
        expression over the passages' columns; only rows for which it is true are searched (a column that one of the
        stores lacks is null there). ValueError: queries of another shape or not finite, k < 1, a filter that cannot be.
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

    def search_one(self, question: str, k: int, writeback: bool = True, where: Filter | None = None) -> list[Document]:
        """The k best documents of one question; otherwise as `search`."""
        return self.search([question], k, writeback, where)[0]

    def table(
        self,
        queries: np.ndarray | Sequence[str],
        k: int,
        writeback: bool | Sequence[bool] = True,
        where: Filter | None = None,
    ) -> pa.Table:
        """The same as one Arrow table (HITS): a row per hit with its query's number, rank from 1, and store version."""
        rows = [
            {"query": query, "rank": rank, **asdict(document)}
            for query, documents in enumerate(self.search(queries, k, writeback, where))
            for rank, document in enumerate(documents, 1)
        ]
        return pa.Table.from_pylist(rows, HITS)

    def fold(
        self,
        xq: np.ndarray,
        passages: Sequence[Sequence[Document]],
        k: int,
        leave_out: Sequence[frozenset[str]] | None = None,
        where: Filter | None = None,
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
        where: Filter | None,
    ) -> list[list[Document]]:
        """All units, nearest first, whose title is mentioned in those that any of the queries `found`."""
        titles = sorted(frozenset().union(*map(mentions, found)))
        units = self._stores.get("writeback")
        if not titles or units is None:
            return [[] for _ in found]
        there = pc.field("title").isin(pa.array(titles, pa.string()))
        if isinstance(where, str):
            quoted = ", ".join("'" + title.replace("'", "''") + "'" for title in titles)
            both: Filter = f"({where}) AND title IN ({quoted})"
        else:
            both = there if where is None else there & where
        count = units.count(both, self._columns)
        return self._units(xq, count, without, both) if count else [[] for _ in found]

    def _units(
        self, xq: np.ndarray, k: int, without: Sequence[frozenset[str]], where: Filter | None
    ) -> list[list[Document]]:
        """The k best units of each query but those it is to do `without`."""
        found = self._top("writeback", xq, k + max(map(len, without), default=0), where)
        return [[u for u in hits if u.id not in ids][:k] for hits, ids in zip(found, without, strict=True)]

    def _top(self, source: Source, xq: np.ndarray, k: int, where: Filter | None) -> list[list[Document]]:
        store = self._stores.get(source)
        if store is None:
            return [[] for _ in xq]
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        return store.nearest(self._searches(store, where), xq, k)

    def _searches(self, store: Store, where: Filter | None) -> list[Search]:
        """How each fragment is searched; flat ones that fit on the device stay there while the filter is the same."""
        _, nprobe, block_bytes = self._asked
        spec = store.version.spec
        rows = sum(one.rows for one in self._stores.values())
        warm = spec.kind == "flat_fp16" and 0 < 2 * spec.dimension * rows <= block_bytes
        masks = store.visible(where, self._columns)
        if not warm:
            return [part.search(mask, spec, nprobe, block_bytes) for part, mask in zip(store.parts, masks, strict=True)]
        made = []
        for part, mask in zip(store.parts, masks, strict=True):
            key = (store.source, part.fragment)
            if key not in self._warm or not _same(self._warm[key][0], where):
                self._warm[key] = where, part.held(mask)
            made.append(self._warm[key][1])
        return made


def base_of(run: Path) -> Path | None:
    """The base store of a run's folder: where its link leads, or, as a run may have been moved with its cache, of that
    name in `cache/` beside it; None where the folder has none. StoreError for a link that leads nowhere.
    """
    link = run / "base"
    if link.is_dir() or not link.is_symlink():
        return link if link.is_dir() else None
    beside = run.absolute().parent / "cache" / link.readlink().name
    if not beside.is_dir():
        told = f"leads to {link.readlink()}, which is not there, and neither is {beside}"
        raise StoreError(f"{link}: {told}; put the base back, or link to where it is")
    return beside


def _version(place: Place, number: int) -> Version | None:
    return read_version(place, number) if number else latest(place)


def _comparable(place: Place, base: Version, other: Version, encoder: str, where: str) -> None:
    """StoreError with both values when scores of `other`, or of queries of `encoder`, do not compare with the base's.

    A flat write-back beside an IVF base is fine: both hold the same codes.
    """
    if encoder != base.encoder:
        raise StoreError(f"{where}: encoder is {encoder!r}, version {base.version} of {place} has {base.encoder!r}")
    if other.spec.space != base.spec.space:
        raise StoreError(f"{where}: index is {other.spec}, version {base.version} of {place} has {base.spec}")


def _same(one: Filter | None, other: Filter | None) -> bool:
    """Whether two filters are equal; as text, two long expressions are the same that differ in their middle."""
    if isinstance(one, str) or isinstance(other, str) or one is None or other is None:
        return type(one) is type(other) and one == other
    return bool(one.equals(other))
