"""Exact search over a base and the write-back store that belongs to it, merged: Top-K(R(q,K) u R(q,K_wb)) (3.1).

Every fragment is searched by itself and one sort merges the lists. The order is total: score descending; of equal
scores base before write-back, then by id. So how rows lie in fragments, in which order they came or whether they were
brought together changes nothing. By words, or both ways (`retrieval`), a store's ranks take the place of inner
products. What becomes of the two stores' lists: `wbrag.retrieval.merge`. Who may see a row (`wbrag.units.access`) is
decided here, inside the search, and nowhere after it.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag import config
from wbrag.retrieval.encoder import Encoder, open_encoder
from wbrag.retrieval.merge import beside, by_name, check_merge, check_retrieval, fused, linked, mentions, plain
from wbrag.retrieval.rerank import open_reranker
from wbrag.schema import PASSAGE, SEEN_BY, Document, Source
from wbrag.store import rows as stored
from wbrag.store.files import StoreError
from wbrag.store.fulltext import FullText
from wbrag.store.place import Place, Where, nothing_there, place_of
from wbrag.store.topk import Search, block_search, candidates, held_search
from wbrag.store.vectors import INDEX, codes_of, gpus, open_index, probed, search_parameters
from wbrag.store.verify import made_again
from wbrag.store.versions import Version, check_sizes, noted, noted_encoder, pair, read_version, reading
from wbrag.units.access import Label, may_see

log = logging.getLogger(__name__)

#: What a filter may be: SQL over the columns, or an Arrow expression.
Filter: TypeAlias = str | pc.Expression
#: Vectors that a batch is compared with at a time. FAISS scans a whole index for one query after the other; so cut, it
#: finds the vectors in the processor's cache for all queries but the first.
CACHE_BYTES = 2 << 20
#: Queries from which that is worth the copy of a block.
BATCH = 16
#: Of so many times k units those that the question names are taken: the nearest are often others.
NAMED = 4
#: Where ranks are fused, so many times k are looked at in each list; and so much deeper where few of them are visible.
DEEP, DEEPER = 4, 4
#: Queries whose units' mentions are looked up together.
LINKED = 32
#: So many readers' masks a store remembers: a byte a row each.
READERS = 16
DENSE = config.Retrieval()
#: Rows of one part, None: all of them.
Mask: TypeAlias = np.ndarray | None
#: What a store has of a query: scores and addresses.
Hits: TypeAlias = list[tuple[float, int]]
#: The mask of a part that is not of this shard.
_NOBODY = np.zeros(0, dtype=bool)
#: The number of each row's label, (rows,) int32, -1 for those that are deleted; and the labels so numbered.
Labelled: TypeAlias = tuple[np.ndarray, list[Label | None]]
#: FAISS's GPU indices, which all share the device's streams, are searched by one thread at a time.
_DEVICE = Lock()


@dataclass(slots=True)
class Part:
    """A fragment as it is searched; `live` is (rows,) bool, None where nothing was deleted."""

    number: int
    index: Any
    live: np.ndarray | None
    held: Search | None = None  # of what is live, on a device

    @property
    def rows(self) -> int:
        """How many are live."""
        return int(self.index.ntotal if self.live is None else self.live.sum())


class Store:
    """One version of a store, or a shard of it, open to be searched. A damaged or missing index is made again from the
    rows, and kept.
    """

    def __init__(
        self,
        place: Place,
        version: Version,
        source: Source,
        nprobe: int,
        block_bytes: int,
        shard: tuple[int, int] = (0, 1),
        retrieval: config.Retrieval = DENSE,
    ) -> None:
        """`nprobe` and all behind it: `KnowledgeBase`. StoreError: the first file that is absent, cut or of other
        rows.
        """
        self.place, self.version, self.source = place, version, source
        self.nprobe, self.block_bytes, self.flat = nprobe, block_bytes, version.spec.template is None
        check_sizes(place, version, [name for name in version.files if name.startswith(INDEX)])
        self.data = stored.opened(place, version)
        number, of = shard
        self.fragments = self.data.get_fragments()[number::of]
        self.parts = [self._part(fragment) for fragment in self.fragments]
        self.holds = self.flat and 2 * version.spec.dimension * sum(part.rows for part in self.parts) <= block_bytes
        # Threads that come at once may work out the same twice; what is put here is whole, and is never changed.
        self.kind, self.words = retrieval.kind, None if retrieval.kind == "dense" else FullText(place, version)
        self.reranker = open_reranker(retrieval.reranker) if retrieval.reranker else None
        self._passed: tuple[Filter, list[Mask]] | None = None
        self._known: dict[tuple[str, ...], Labelled] = {}
        self._readers: dict[frozenset[str], list[Mask]] = {}

    def _part(self, fragment: Any) -> Part:  # noqa: ANN401 - Lance's
        facts, spec = fragment.metadata, self.version.spec
        name = stored.index_of(facts, self.version.files, spec)
        told = self.version.files[name], (facts.physical_rows, spec.dimension)
        try:
            index = open_index(self.place, name, *told)
            some, vectors = probed(index)
            rows = self.data._take_rows([(facts.id << 32) | int(row) for row in some], columns=[stored.VECTOR])
            if len(rows) == len(some) and not np.array_equal(stored.vectors_of(rows), vectors):
                raise StoreError(f"{self.place}/{name}: its vectors are not those of the rows")
        except StoreError:
            made_again(self.place, self.version, fragment, name)
            index = open_index(self.place, name, *told)
        live = None
        if facts.num_deletions:
            table = fragment.scanner(columns=[], with_row_address=True).to_table()
            live = stored.mask_of(table, facts.id, facts.physical_rows)
        return Part(facts.id, index, live)

    def _visible(self, where: Filter | None, groups: Collection[str] | None, columns: pa.Schema) -> list[Mask]:
        """For each part the rows that are live, for which `where` is true, and that a reader with these groups sees
        (None: all). `columns`: those of both stores; one that this store has not is null in all its rows. ValueError
        for a filter that cannot be.
        """
        passing = [part.live for part in self.parts] if where is None else self._passing_masks(where, columns)
        if groups is None or SEEN_BY.name not in columns.names:
            return passing
        seen = self._seen_by(frozenset(groups))
        return [a if b is None else b if a is None else a & b for a, b in zip(passing, seen, strict=True)]

    def _passing_masks(self, where: Filter, columns: pa.Schema) -> list[Mask]:
        passed = self._passed
        if passed is None or passed[0] is not where:
            found = self._passing(where, columns)
            masks: list[Mask] = [stored.mask_of(found, part.number, part.index.ntotal) for part in self.parts]
            self._passed = passed = where, masks
        return passed[1]

    def _seen_by(self, groups: frozenset[str]) -> list[Mask]:
        """For each part the rows that a reader with these groups sees, (rows,) bool, None: all, deleted ones too."""
        known = groups & self._named  # others open nothing, and are not worth a mask
        if (masks := self._readers.get(known)) is None:
            told = [(codes, np.array([*(may_see(one, known) for one in some), False])) for codes, some in self.labels]
            masks = [None if seen[:-1].all() else seen[codes] for codes, seen in told]
            if len(self._readers) >= READERS:
                self._readers = {}
            self._readers[known] = masks
        return masks

    @cached_property
    def _named(self) -> frozenset[str]:
        clauses = (clause for _, some in self.labels for label in some for clause in label or ())
        return frozenset(group for clause in clauses for group in clause or ())

    @property
    def labels(self) -> list[Labelled]:
        """Those of each part, read once; in a store without labels all rows have None."""
        return [self._labels_of(*both) for both in zip(self.fragments, self.parts, strict=True)]

    def take_over(self, older: Store) -> None:
        """Know the labels of fragments that are as they were when an older version read them, so that nobody waits."""
        now = {_key(fragment) for fragment in self.fragments}
        self._known = {key: told for key, told in older._known.items() if key in now}

    def _labels_of(self, fragment: Any, part: Part) -> Labelled:  # noqa: ANN401 - Lance's
        if (found := self._known.get(key := _key(fragment))) is None:
            self._known[key] = found = self._read_labels(fragment, part)
        return found

    def _read_labels(self, fragment: Any, part: Part) -> Labelled:  # noqa: ANN401 - Lance's
        codes = np.full(part.index.ntotal, -1, dtype=np.int32)
        if SEEN_BY.name not in self.data.schema.names:
            return np.zeros_like(codes), [None]
        table = fragment.scanner(columns=[SEEN_BY.name], with_row_address=True).to_table()
        numbers, distinct = stored.coded(table[SEEN_BY.name])
        codes[table["_rowaddr"].to_numpy() & 0xFFFF_FFFF] = numbers
        return codes, distinct

    def _passing(self, where: Filter, columns: pa.Schema) -> pa.Table:
        """The addresses of the rows for which `where` is true."""
        try:
            return self.data.scanner(columns=[], filter=where, with_row_address=True).to_table()
        except (ValueError, OSError) as error:
            if set(columns.names) <= set(self.data.schema.names):
                raise ValueError(f"where: {where}: {error}") from error
        if isinstance(where, str):
            raise ValueError(f"where: {where!r} names columns that {self.place} lacks; give it as an Arrow expression")
        there = [name for name in self.data.schema.names if name != stored.VECTOR]
        table = self.data.scanner(columns=there, with_row_address=True).to_table()
        every = pa.schema([*(f for f in columns if f.name != stored.VECTOR), table.schema.field("_rowaddr")])
        try:
            return stored.filled(table, every).filter(where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"where: {where}: {error}") from error

    def best(
        self,
        xq: np.ndarray,
        questions: Sequence[str] | None,
        k: int,
        where: Filter | None,
        groups: Collection[str] | None,
        columns: pa.Schema,
    ) -> list[list[Document]]:
        """The k best rows for each query, by vector as `nearest`, by words, or by both: then their scores are those of
        `merge.fused`; with a reranker the best of more candidates, as it scores them. ValueError where words decide and
        only vectors were given.
        """
        if self.reranker:
            candidates = self._candidates(xq, questions, DEEP * k, where, groups, columns)
            asked = zip(_given(questions, "a reranker reads"), candidates, strict=True)
            return [self.reranker.best(question, some, k) for question, some in asked]
        return self._candidates(xq, questions, k, where, groups, columns)

    def _candidates(
        self,
        xq: np.ndarray,
        questions: Sequence[str] | None,
        k: int,
        where: Filter | None,
        groups: Collection[str] | None,
        columns: pa.Schema,
    ) -> list[list[Document]]:
        if self.words is None:
            return self.nearest(xq, k, where, groups, columns)
        questions = _given(questions, f"retrieval={self.kind} searches by")
        worded = [self._worded(self.words, question, DEEP * k, where, groups, columns) for question in questions]
        if self.kind == "bm25":
            return [fused([some], k) for some in worded]
        near = self.nearest(xq, DEEP * k, where, groups, columns)
        return [fused(lists, k) for lists in zip(near, worded, strict=True)]

    def _worded(
        self,
        words: FullText,
        question: str,
        n: int,
        where: Filter | None,
        groups: Collection[str] | None,
        columns: pa.Schema,
    ) -> list[Document]:
        """The n best rows by words of those `_visible`; asked for more until there are as many, or no more."""
        masks = {
            part.number: mask for part, mask in zip(self.parts, self._visible(where, groups, columns), strict=True)
        }

        def visible(address: int) -> bool:
            mask = masks.get(address >> 32, _NOBODY)
            return mask is None or bool(mask[address & 0xFFFF_FFFF] if len(mask) else False)

        asked, hits = n, words.best(question, n)
        while len(hits) == asked and sum(visible(address) for address, *_ in hits) < n:
            asked *= DEEPER
            hits = words.best(question, asked)
        found = [hit for hit in hits if visible(hit[0])][:n]
        passages = self._passages({address for address, *_ in found})
        told: dict[str, Any] = {"source": self.source, "version": self.version.version}
        return [Document(**passages[address], score=score, **told) for address, _, score in found]

    def _passages(self, addresses: Collection[int]) -> dict[int, dict[str, Any]]:
        """Rows by address: `take` counts live rows, and walks over the deletions before each of them."""
        wanted = sorted(addresses)
        rows = self.data._take_rows(wanted, columns=PASSAGE.names).to_pylist() if wanted else []
        return dict(zip(wanted, rows, strict=True))

    def nearest(
        self, xq: np.ndarray, k: int, where: Filter | None, groups: Collection[str] | None, columns: pa.Schema
    ) -> list[list[Document]]:
        """The k best rows, of those `_visible`, for each query (nq, d), best first; of equal scores by id. What a
        filter or labels leave is searched in all lists of an IVF index for queries that find fewer than k in `nprobe`.
        """
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        masks = self._visible(where, groups, columns)
        found = self._found(xq, masks, k, self.nprobe)
        if not (self.flat or (where is None and groups is None)):
            most = min(k, sum(_count(part, mask) for part, mask in zip(self.parts, masks, strict=True)))
            if short := [query for query, hits in enumerate(found) if len(hits) < most]:
                again = self._found(xq[short], masks, k, self.version.spec.nlist)
                for query, hits in zip(short, again, strict=True):
                    found[query] = hits
        passages = self._passages({address for hits in found for _, address in hits})
        best = [sorted(hits, key=lambda hit: (-hit[0], passages[hit[1]]["id"]))[:k] for hits in found]
        version = self.version.version
        return [
            [Document(**passages[at], score=score, source=self.source, version=version) for score, at in hits]
            for hits in best
        ]

    def _found(self, xq: np.ndarray, masks: Sequence[Mask], k: int, nprobe: int) -> list[Hits]:
        """For each query its k best rows, and all that tie with the last of these."""
        found: list[Hits] = [[] for _ in xq]
        with _DEVICE if self.block_bytes and gpus() else nullcontext():
            for part, mask in zip(self.parts, masks, strict=True):
                search = self._search(part, mask, len(xq), nprobe)
                for hits, more in zip(found, candidates(search, _count(part, mask), xq, k), strict=True):
                    hits += [(score, (part.number << 32) | row) for score, row in more]
        for hits in found:
            hits.sort(reverse=True)
        return [[hit for hit in hits if hit[0] >= hits[min(k, len(hits)) - 1][0]] for hits in found]

    def _search(self, part: Part, visible: Mask, nq: int, nprobe: int) -> Search:
        """How `nq` queries search the `visible` rows of a part: without a filter those of a flat index on a device, if
        the store fits there; else block by block, where that is faster than FAISS by itself.
        """
        if self.holds and visible is part.live:
            part.held = part.held or held_search(codes_of(part.index), visible)
            return part.held
        if self.flat and (self.block_bytes or nq >= BATCH):
            block_rows = max(1, (self.block_bytes or CACHE_BYTES) // (2 * self.version.spec.dimension))
            return block_search(codes_of(part.index), visible, block_rows, bool(self.block_bytes and gpus()))
        parameters = search_parameters(self.version.spec, visible, nprobe)
        return lambda xq, n: part.index.search(xq, n, params=parameters)


def _given(questions: Sequence[str] | None, who: str) -> Sequence[str]:
    if questions is None:
        raise ValueError(f"{who} words, and only the questions' vectors were given")
    return questions


def _key(fragment: Any) -> tuple[str, ...]:  # noqa: ANN401 - Lance's
    """What a fragment's live rows are told by: its files, and that of its deletions."""
    facts = fragment.metadata
    return *stored.data_files(facts), facts.deletion_file.path(facts.id) if facts.deletion_file else ""


def _count(part: Part, mask: Mask) -> int:
    return int(part.index.ntotal if mask is None else mask.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A pair of versions, open: all that a search reads, from its beginning to its end. Nothing of it ever changes;
    `pins` keep its files from clean-up.
    """

    base: Version
    writeback: Version | None
    stores: dict[Source, Store]
    columns: pa.Schema  # of both
    merge: config.Merge
    pins: ExitStack

    def fold_some(
        self,
        xq: np.ndarray,
        passages: Sequence[list[Document]],
        k: int,
        writeback: bool | Sequence[bool],
        where: Filter | None,
        questions: Sequence[str] | None,
        groups: Collection[str] | None,
    ) -> list[list[Document]]:
        """`KnowledgeBase.fold_some`."""
        switched = np.asarray(writeback, dtype=bool)
        if switched.shape not in ((), (len(xq),)):
            raise ValueError(f"writeback has shape {switched.shape} for {len(xq)} queries")
        found = list(passages)
        if len(on := np.flatnonzero(np.broadcast_to(switched, len(xq)))):
            texts = None if questions is None else [questions[query] for query in on]
            folded = self.fold(xq[on], [found[query] for query in on], k, None, where, texts, groups)
            for query, documents in zip(on, folded, strict=True):
                found[query] = documents
        return found

    def fold(
        self,
        xq: np.ndarray,
        passages: Sequence[Sequence[Document]],
        k: int,
        leave_out: Sequence[frozenset[str]] | None,
        where: Filter | None,
        questions: Sequence[str] | None,
        groups: Collection[str] | None,
    ) -> list[list[Document]]:
        """`KnowledgeBase.fold`."""
        if "writeback" not in self.stores:
            return [list(near) for near in passages]
        if by_name(self.merge) and questions is None:
            told = "asks which titles stand in the questions, and only their vectors were given"
            raise ValueError(f"merge.reach={self.merge.reach} {told}")
        without, texts = leave_out or [frozenset()] * len(xq), questions or [""] * len(xq)
        units = self._units(xq, questions, NAMED * k if by_name(self.merge) else k, without, where, groups)
        if self.merge.policy == "plain":
            return [plain(*lists, k) for lists in zip(passages, units, strict=True)]
        found = [
            beside(near, some, k, self.merge, text) for near, some, text in zip(passages, units, texts, strict=True)
        ]
        if self.merge.reach == "linked":
            for at in range(0, len(xq), LINKED):  # a few at a time: each finds the units that any of them mentions
                some = slice(at, at + LINKED)
                more = self._mentioned(xq[some], found[some], without[some], where, groups)
                lists = zip(passages[some], found[some], more, strict=True)
                found[some] = [linked(near, first, others, k, self.merge) for near, first, others in lists]
        return [[*some, *near] for some, near in zip(found, passages, strict=True)]

    def _mentioned(
        self,
        xq: np.ndarray,
        found: Sequence[Sequence[Document]],
        without: Sequence[frozenset[str]],
        where: Filter | None,
        groups: Collection[str] | None,
    ) -> list[list[Document]]:
        """All units, nearest first, whose title is mentioned in those that any of the queries `found`."""
        titles = sorted(frozenset().union(*map(mentions, found)))
        if not titles:
            return [[] for _ in found]
        if isinstance(where, str):
            quoted = ", ".join("'" + title.replace("'", "''") + "'" for title in titles)
            both: Filter = f"({where}) AND title IN ({quoted})"
        else:
            there = pc.field("title").isin(pa.array(titles, pa.string()))
            both = there if where is None else there & where
        store = self.stores["writeback"]
        units = store.nearest(xq, store.version.rows, both, groups, self.columns)
        return [[unit for unit in some if unit.id not in ids] for some, ids in zip(units, without, strict=True)]

    def _units(
        self,
        xq: np.ndarray,
        questions: Sequence[str] | None,
        k: int,
        without: Sequence[frozenset[str]],
        where: Filter | None,
        groups: Collection[str] | None,
    ) -> list[list[Document]]:
        """The k best units of each query but those it is to do `without`."""
        fetched = k + max(map(len, without), default=0)
        found = self.stores["writeback"].best(xq, questions, fetched, where, groups, self.columns)
        return [[u for u in hits if u.id not in ids][:k] for hits, ids in zip(found, without, strict=True)]


class KnowledgeBase(AbstractContextManager["KnowledgeBase"]):
    """A pair of versions, open until `refresh` or `close`. It maps files and does not pickle: actors open their own.
    Threads may search in it at once, and while one of them refreshes it: each search reads one pair.
    """

    def __init__(
        self,
        base: Where,
        writeback: Where | None = None,
        *,
        encoder: Encoder | None = None,
        versions: tuple[int, int] = (0, 0),
        threads: int = 0,
        merge: config.Merge | None = None,
        nprobe: int = config.Index.nprobe,
        block_bytes: int = 0,
        shard: tuple[int, int] = (0, 1),
        follow: float = 0.0,
        retrieval: config.Retrieval | None = None,
    ) -> None:
        """Open these stores; a write-back store that is absent or empty counts as no units.

        `encoder`: who encodes the queries, or encoded them; by default, when the first question is asked, the one that
        the versions' notes name. `versions`: the pair that the caller has pinned (`versions.reading`), as an actor that
        is killed would leave its pins behind; by default the current one, pinned. `threads`: FAISS's for a search,
        0: every core; `merge`: the policy, that of the write-back version's note by default; `nprobe`: lists that an
        IVF base looks into; `block_bytes`: what of a store's flat vectors may lie on the GPU (if FAISS has one): all if
        they fit, else block by block, 0: none. `shard` (i, n): of the base only every n-th fragment from number i on;
        what the n shards find alone, `merge.best_of` makes into what all find. `follow`: seconds after which a thread
        refreshes it, again and again until `close`; 0: nobody does. What went wrong the last time is logged, once, and
        is `follow_error` (else None); the pair that is open goes on to serve. `retrieval`: how rows are found, as the
        write-back version's note says by default; ranks by words, and candidates of a reranker, are those of a whole
        base, not of a shard. StoreError, with both values: nothing in base, a changed file, stores or queries of unlike
        encoders. ValueError: `follow` with `versions`.
        """
        if follow and any(versions):
            raise ValueError(f"follow={follow} with versions={versions}: what stays at a pair follows none")
        self._threads = threads or len(os.sched_getaffinity(0))  # a Ray actor would get one otherwise
        self._places = place_of(base), place_of(writeback) if writeback else None
        self._given, self._merge, self._device, self._shard = encoder, merge, (nprobe, block_bytes), shard
        self._retrieval = retrieval
        self._swap, self._refreshing, self._encoding, self._closed = Lock(), Lock(), Lock(), Event()
        self.follow_error: Exception | None = None
        self._pair = self._opened(versions)
        self._users = Counter([self._pair])  # searches in each pair, and one more for that which is current
        if follow:
            told = weakref.ref(self), self._closed, follow
            Thread(target=_follow, args=told, name=f"follow {self._places[0]}", daemon=True).start()

    @classmethod
    def open(cls, path: Where, **how: Any) -> KnowledgeBase:  # noqa: ANN401 - as the constructor has it
        """The knowledge base in a folder: `base/` and `writeback/` in it, as a run leaves them, or one store."""
        where = place_of(path)
        if base := None if where.remote else base_of(Path(where.root)):
            return cls(base, Path(where.root, "writeback"), **how)
        return cls(where, **how)

    @property
    def base(self) -> Version:
        """The version of the base that is open now."""
        return self._pair.base

    @property
    def writeback(self) -> Version | None:
        """The version of the write-back store that is open now, None without units."""
        return self._pair.writeback

    @property
    def merge(self) -> config.Merge:
        """How the lists of the two are merged."""
        return self._pair.merge

    def _opened(self, numbers: tuple[int, int] = (0, 0)) -> Pair:
        """This pair (0: no store), or the current one, which is then pinned."""
        place, writeback = self._places
        units: Version | None = None
        with ExitStack() as held:
            if not any(numbers):
                numbers = held.enter_context(reading(place, writeback))
            if not numbers[0]:
                raise nothing_there(place)
            base, merge = read_version(place, numbers[0]), config.Merge()
            if self._given:
                _check_encoder("queries", self._given.fingerprint, place, base)
            retrieval, stores = config.Retrieval(), dict[Source, Store]()
            if writeback and numbers[1]:
                units = read_version(writeback, numbers[1])
                _check_encoder(str(writeback), units.encoder, place, base)
                retrieval = self._retrieval or config.Retrieval(**noted(writeback, units, "retrieval"))
                stores["writeback"] = Store(writeback, units, "writeback", *self._device, retrieval=retrieval)
                merge = config.Merge(**noted(writeback, units, "merge"))
            retrieval = self._retrieval or retrieval
            check_retrieval(retrieval)
            stores["base"] = Store(place, base, "base", *self._device, self._shard, retrieval)
            merge = self._merge or merge
            check_merge(merge)
            columns = pa.unify_schemas([store.data.schema for store in stores.values()])
            return Pair(base, units, stores, columns, merge, held.pop_all())

    def refresh(self) -> bool:
        """Go to the newest pair; whether there was a newer one. Searches meanwhile end in the pair that they began in,
        which is let go after the last of them. Where the newest cannot be opened, the error says why, and the pair that
        is open stays. StoreError also once it is closed.
        """
        with self._refreshing:
            if self._closed.is_set():
                raise StoreError(f"{self._places[0]}: this knowledge base is closed; open it again")
            if pair(*self._places) == (self.base, self.writeback):
                return False
            newest = self._opened()
            for source, store in newest.stores.items():
                if older := self._pair.stores.get(source):
                    store.take_over(older)
            with self._swap:
                before, self._pair = self._pair, newest
                self._users[newest] = 1
            self._let_go(before)
            return True

    def close(self) -> None:
        """Let the files of this pair go, once no search reads them; what is open stays readable until they are removed.
        Nothing follows any more.
        """
        with self._refreshing:
            if not self._closed.is_set():
                self._closed.set()
                self._let_go(self._pair)

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Pair]:
        """The pair that is current now, for the block, whatever becomes current meanwhile."""
        import faiss

        faiss.omp_set_num_threads(self._threads)  # of the thread that asks
        with self._swap:
            found = self._pair
            self._users[found] += 1
        try:
            yield found
        finally:
            self._let_go(found)

    def _let_go(self, of: Pair) -> None:
        """One user less; after the last one, clean-up may have the files."""
        with self._swap:
            self._users[of] -= 1
            if unused := not self._users[of]:
                del self._users[of]
        if unused:
            try:
                of.pins.close()
            except (OSError, StoreError) as error:  # no reason to lose what was found
                log.warning("%s: a pin stays until it expires: %s", self._places[0], error)

    @cached_property
    def _encoder(self) -> Encoder:
        if self._given:
            return self._given
        if (told := noted_encoder(self._places[0], self.base)) is None:
            raise StoreError(f"{self._places[0]}: no version says which encoder made it; give one to open")
        encoder = open_encoder(told)
        _check_encoder("queries", encoder.fingerprint, self._places[0], self.base)
        return encoder

    def _vectors(self, queries: np.ndarray | Sequence[str], d: int) -> np.ndarray:
        """The queries as (nq, d) finite vectors, or ValueError."""
        if isinstance(queries, str):
            raise ValueError("queries is one string; search_one takes one question, search a list of them")
        if isinstance(queries, np.ndarray):
            xq = queries
        else:
            with self._encoding:  # a tokenizer is not for two threads at once
                xq = self._encoder.encode_queries(list(queries))
        if xq.ndim != 2 or xq.shape[1] != d:
            raise ValueError(f"queries have shape {xq.shape}, not (nq, {d})")
        if not (finite := np.isfinite(xq).all(axis=1)).all():
            raise ValueError(f"query {np.flatnonzero(~finite)[0]} is not finite")
        return xq

    def search(
        self,
        queries: np.ndarray | Sequence[str],
        k: int,
        writeback: bool | Sequence[bool] = True,
        where: Filter | None = None,
        questions: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> list[list[Document]]:
        """The k best documents of each query, best first; fewer where fewer are live. With `merge.policy=beside` the k
        best passages, and before them the units that may stand beside them.

        queries: (nq, d) unit-norm vectors, float16 or float32, or nq questions, which are then encoded. Scores are
        inner products, float32. `questions`: the words of `queries` that are vectors, for `merge.reach`.
        `writeback=False` searches the base alone; a list switches it query by query. `where`: SQL or an Arrow
        expression over the passages' columns; only rows for which it is true are searched (a column that one of the
        stores lacks is null there). `groups`: those of the reader, who is shown what may be seen with them
        (`wbrag.units.access`), [] what everybody may see; None: all, for a caller that is trusted. A pair of which
        neither store has labels is seen by everybody; in any other, a row without one by nobody. ValueError: queries of
        another shape or not finite, k < 1, a filter that cannot be, groups in one text.
        """
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        check_groups(groups)
        with self._reading() as now:
            xq = self._vectors(queries, now.base.spec.dimension)
            asked = questions if isinstance(queries, np.ndarray) else queries
            passages = now.stores["base"].best(xq, asked, k, where, groups, now.columns)
            return now.fold_some(xq, passages, k, writeback, where, asked, groups)

    def search_one(
        self,
        question: str,
        k: int,
        writeback: bool = True,
        where: Filter | None = None,
        groups: Sequence[str] | None = None,
    ) -> list[Document]:
        """The k best documents of one question; otherwise as `search`."""
        return self.search([question], k, writeback, where, groups=groups)[0]

    def fold_some(
        self,
        xq: np.ndarray,
        passages: Sequence[list[Document]],
        k: int,
        writeback: bool | Sequence[bool],
        where: Filter | None = None,
        questions: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> list[list[Document]]:
        """`fold` for the queries that `writeback` switches on, as in `search`; the others keep their passages."""
        check_groups(groups)
        with self._reading() as now:
            return now.fold_some(xq, passages, k, writeback, where, questions, groups)

    def fold(
        self,
        xq: np.ndarray,
        passages: Sequence[Sequence[Document]],
        k: int,
        leave_out: Sequence[frozenset[str]] | None = None,
        where: Filter | None = None,
        questions: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> list[list[Document]]:
        """As `search`, where the k best passages of each query are known already, and such that the reader may see:
        only write-back is searched.

        `leave_out`: query by query, ids of units that are to be as if they were not there. ValueError where
        `merge.reach` needs `questions` and they are not given.
        """
        check_groups(groups)
        with self._reading() as now:
            return now.fold(xq, passages, k, leave_out, where, questions, groups)

    def _follow_once(self) -> None:
        try:
            self.refresh()
            self.follow_error = None
        except Exception as error:  # whatever it is, there is a pair that serves
            if not self._closed.is_set() and str(error) != str(self.follow_error):
                log.warning("%s: stays at the pair that is open: %s", self._places[0], error)
            self.follow_error = error


def _follow(of: weakref.ref[KnowledgeBase], closed: Event, seconds: float) -> None:
    """Refresh a knowledge base until it is closed, or nobody has it any more."""
    while not closed.wait(seconds) and (knowledge := of()) is not None:
        knowledge._follow_once()
        del knowledge


def check_groups(groups: Sequence[str] | None) -> None:
    """ValueError for groups that are one text, or no texts."""
    if isinstance(groups, str) or not all(isinstance(group, str) for group in groups or ()):
        raise ValueError(f"groups is {groups!r}; give a list of texts, [] for what everybody may see")


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


def _check_encoder(who: str, encoder: str, place: Place, base: Version) -> None:
    """StoreError, with both, where scores of vectors or queries of this encoder do not compare with the base's."""
    if encoder != base.encoder:
        raise StoreError(f"{who}: encoder is {encoder!r}, version {base.version} of {place} has {base.encoder!r}")
