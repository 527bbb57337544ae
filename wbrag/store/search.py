"""Exact search over a base and the write-back store that belongs to it, merged: Top-K(R(q,K) u R(q,K_wb)) (3.1).

Every fragment is searched by itself and one sort merges the lists. The order is total: score descending; of equal
scores base before write-back, then by id. So how rows lie in fragments, in which order they came or whether they were
brought together changes nothing. By words, or both ways (`retrieval`), a store's ranks take the place of inner
products. What becomes of the two stores' lists: `wbrag.retrieval.merge`. Who may see a row (`wbrag.units.access`) is
decided here, inside the search, and nowhere after it.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag import config
from wbrag.retrieval.encoder import Encoder
from wbrag.retrieval.encoding import threads_of
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
from wbrag.store.versions import Version, check_encoder, check_sizes, noted, opened_encoder, pair, read_version, reading
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
#: Rows of one part, None: all of them.
Mask: TypeAlias = np.ndarray | None
#: What a store has of a query: scores and addresses.
Hits: TypeAlias = list[tuple[float, int]]
#: The number of each row's label, (rows,) int32, -1 for those that are deleted; and the labels so numbered.
Labelled: TypeAlias = tuple[np.ndarray, list[Label | None]]
#: FAISS's GPU indices, which all share the device's streams, are searched by one thread at a time.
_DEVICE = Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is asked of a pair: (nq, d) finite vectors, the `questions` in words (None: not given), which rows count
    (`where`, `groups`: `KnowledgeBase.search`), and the columns of both stores.
    """

    xq: np.ndarray
    questions: Sequence[str] | None
    where: Filter | None
    groups: Collection[str] | None
    columns: pa.Schema

    def some(self, queries: np.ndarray | slice) -> Asked:
        """The same of some of the queries."""
        words = None if self.questions is None else np.array(self.questions, dtype=object)[queries].tolist()
        return replace(self, xq=self.xq[queries], questions=words)

    def words(self, who: str) -> Sequence[str]:
        """The questions; ValueError, naming who wants them, where only vectors were given."""
        if self.questions is None:
            raise ValueError(f"{who} words, and only the questions' vectors were given")
        return self.questions


@dataclass(slots=True)
class Part:
    """A fragment of this number as it is searched; `live` is (rows,) bool, None where nothing was deleted."""

    number: int
    fragment: Any
    index: Any
    live: Mask
    held: Search | None = None  # of what is live, on a device

    def count(self, mask: Mask) -> int:
        """How many of its rows these are."""
        return int(self.index.ntotal if mask is None else mask.sum())


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
        shard: tuple[int, int],
        retrieval: config.Retrieval,
    ) -> None:
        """`nprobe` and all behind it: `KnowledgeBase`. StoreError: the first file that is absent, cut or of other
        rows.
        """
        self.place, self.version, self.source = place, version, source
        self.nprobe, self.block_bytes, self.flat = nprobe, block_bytes, version.spec.template is None
        check_sizes(place, version, [name for name in version.files if name.startswith(INDEX)])
        self.data = stored.opened(place, version)
        self.own: list[str] = []  # the columns that documents have beside those of PASSAGE
        number, of = shard
        self.parts = [self._part(fragment) for fragment in self.data.get_fragments()[number::of]]
        rows = sum(part.count(part.live) for part in self.parts)
        self.holds = self.flat and 2 * version.spec.dimension * rows <= block_bytes
        # Threads that come at once may work out the same twice; what is put here is whole, and is never changed.
        self.kind, self.full_text = retrieval.kind, None if retrieval.kind == "dense" else FullText(place, version)
        self.reranker = open_reranker(retrieval.reranker) if retrieval.reranker else None
        self._passed: tuple[Filter, list[Mask]] | None = None
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
        return Part(facts.id, fragment, index, live)

    def _visible(self, asked: Asked) -> list[Mask]:
        """For each part the rows that are live, for which `where` is true, and that a reader with these groups sees
        (None: all). A column that this store lacks is null in all its rows. ValueError for a filter that cannot be.
        """
        passing = [part.live for part in self.parts]
        if asked.where is not None:
            passing = self._passing(asked.where, asked.columns)
        if asked.groups is None or SEEN_BY.name not in asked.columns.names:
            return passing
        seen = self._seen_by(frozenset(asked.groups))
        return [a if b is None else b if a is None else a & b for a, b in zip(passing, seen, strict=True)]

    def _passing(self, where: Filter, columns: pa.Schema) -> list[Mask]:
        if (passed := self._passed) is None or passed[0] is not where:
            found = self._rows_where(where, columns)
            passed = where, [stored.mask_of(found, part.number, part.index.ntotal) for part in self.parts]
            self._passed = passed
        return passed[1]

    def _rows_where(self, where: Filter, columns: pa.Schema) -> pa.Table:
        """The addresses of the rows for which `where` is true."""
        try:
            return self.data.scanner(columns=[], filter=where, with_row_address=True).to_table()
        except (ValueError, OSError, pa.ArrowNotImplementedError) as error:
            if isinstance(where, str) or set(columns.names) <= set(self.data.schema.names):
                raise self._misfit(where, columns, error) from error
        there = [name for name in self.data.schema.names if name != stored.VECTOR]
        table = self.data.scanner(columns=there, with_row_address=True).to_table()
        every = pa.schema([*(f for f in columns if f.name != stored.VECTOR), table.schema.field("_rowaddr")])
        try:
            return stored.filled(table, every).filter(where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._misfit(where, columns, error) from error

    def _misfit(self, where: Filter, columns: pa.Schema, error: Exception) -> ValueError:
        """What to say of a filter that cannot be, with the columns that there are. (Lance itself says "No field named
        year" of a year that is compared with a text.)
        """
        sql, own = isinstance(where, str), self.data.schema.names
        unread = re.search(r"sql parser error: (.*?)\)", str(error))
        of = f" of {self.place}" if sql else ""
        told = f"is no SQL ({unread[1]}); columns are " if unread else f"does not fit the columns{of}: "
        there = [f"{f.name} ({f.type})" for f in columns if f.name != stored.VECTOR and (f.name in own or not sql)]
        others = (name for name in columns.names if sql and name not in own and re.search(rf"\b{name}\b", str(where)))
        other = next((f"; {name} is the other store's; give it as an Arrow expression" for name in others), "")
        return ValueError(f"where: {repr(where) if sql else where} {told}{', '.join(there)}{other}")

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

    @cached_property
    def labels(self) -> list[Labelled]:
        """Those of each part, read once; in a store without labels all rows have None."""
        return [self._labels_of(part) for part in self.parts]

    def _labels_of(self, part: Part) -> Labelled:
        codes = np.full(part.index.ntotal, -1, dtype=np.int32)
        if SEEN_BY.name not in self.data.schema.names:
            return np.zeros_like(codes), [None]
        table = part.fragment.scanner(columns=[SEEN_BY.name], with_row_address=True).to_table()
        numbers, distinct = stored.coded(table[SEEN_BY.name])
        codes[table["_rowaddr"].to_numpy() & 0xFFFF_FFFF] = numbers
        return codes, distinct

    def take_over(self, older: Store) -> None:
        """Read the labels now if an older version has read its own, so that nobody waits; those of fragments that are
        as they were are taken from there.
        """
        if "labels" in vars(older):
            known = dict(zip(map(_key, older.parts), older.labels, strict=True))
            self.labels = [known.get(_key(part)) or self._labels_of(part) for part in self.parts]

    def best(self, asked: Asked, k: int) -> list[list[Document]]:
        """The k best rows for each query, by vector as `nearest`, by words, or by both: then their scores are those of
        `merge.fused`; with a reranker the best of more candidates, as it scores them. ValueError where words decide and
        only vectors were given.
        """
        if self.reranker is None:
            return self._ranked(asked, k)
        candidates = zip(asked.words("a reranker reads"), self._ranked(asked, DEEP * k), strict=True)
        return [self.reranker.best(question, some, k) for question, some in candidates]

    def _ranked(self, asked: Asked, k: int) -> list[list[Document]]:
        if self.full_text is None:
            return self.nearest(asked, k)
        questions = asked.words(f"retrieval={self.kind} searches by")
        masks = dict(zip([part.number for part in self.parts], self._visible(asked), strict=True))
        hits = [self._worded(self.full_text, question, DEEP * k, masks) for question in questions]
        lists = [self._documents(hits, DEEP * k)]
        if self.kind == "hybrid":
            lists.insert(0, self.nearest(asked, DEEP * k))
        return [fused(some, k) for some in zip(*lists, strict=True)]

    def _worded(self, full_text: FullText, question: str, n: int, masks: Mapping[int, Mask]) -> Hits:
        """The n best rows by words of those that `masks` lets through; asked for more until there are as many, or no
        more.
        """

        def visible(address: int) -> bool:
            part = address >> 32  # not among them where it is of another shard
            return part in masks and ((mask := masks[part]) is None or bool(mask[address & 0xFFFF_FFFF]))

        fetch, hits = n, full_text.best(question, n)
        while len(hits) == fetch and sum(visible(address) for address, *_ in hits) < n:
            fetch *= DEEPER
            hits = full_text.best(question, fetch)
        return [(score, address) for address, _, score in hits if visible(address)][:n]

    def nearest(self, asked: Asked, k: int) -> list[list[Document]]:
        """The k best rows, of those `_visible`, for each query, best first; of equal scores by id. What a filter or
        labels leave is searched in all lists of an IVF index for queries that find fewer than k in `nprobe`.
        """
        xq = np.ascontiguousarray(asked.xq, dtype=np.float32)
        masks = self._visible(asked)
        found = self._found(xq, masks, k, self.nprobe)
        if not (self.flat or (asked.where is None and asked.groups is None)):
            most = min(k, sum(part.count(mask) for part, mask in zip(self.parts, masks, strict=True)))
            if short := [query for query, hits in enumerate(found) if len(hits) < most]:
                again = self._found(xq[short], masks, k, self.version.spec.nlist)
                for query, hits in zip(short, again, strict=True):
                    found[query] = hits
        return self._documents(found, k)

    def _documents(self, found: Sequence[Hits], k: int) -> list[list[Document]]:
        """The k best of what each query found, best first; of equal scores by id."""
        wanted = sorted({address for hits in found for _, address in hits})
        # By address: `take` counts live rows, and walks over the deletions before each of them.
        rows = self.data._take_rows(wanted, columns=[*PASSAGE.names, *self.own]).to_pylist() if wanted else []
        there: dict[int, dict[str, Any]] = dict(zip(wanted, rows, strict=True))
        for row in rows if self.own else ():
            row["columns"] = {name: value for name in self.own if (value := row.pop(name)) is not None}
        best = [sorted(hits, key=lambda hit: (-hit[0], there[hit[1]]["id"]))[:k] for hits in found]
        version = self.version.version
        return [
            [Document(**there[at], score=score, source=self.source, version=version) for score, at in hits]
            for hits in best
        ]

    def _found(self, xq: np.ndarray, masks: Sequence[Mask], k: int, nprobe: int) -> list[Hits]:
        """For each query its k best rows, and all that tie with the last of these."""
        found: list[Hits] = [[] for _ in xq]
        with _DEVICE if self.block_bytes and gpus() else nullcontext():
            for part, mask in zip(self.parts, masks, strict=True):
                search = self._search(part, mask, len(xq), nprobe)
                for hits, more in zip(found, candidates(search, part.count(mask), xq, k), strict=True):
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


def _key(part: Part) -> tuple[str, ...]:
    """What a fragment's live rows are told by: its files, and that of its deletions."""
    facts = part.fragment.metadata
    return *stored.data_files(facts), facts.deletion_file.path(facts.id) if facts.deletion_file else ""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Pair:
    """A pair of versions, open: all that a search reads, from its beginning to its end. Nothing of it ever changes. The
    pins that keep its files from clean-up go with it.
    """

    stores: dict[Source, Store]
    columns: pa.Schema  # of both
    merge: config.Merge

    def fold(
        self,
        asked: Asked,
        passages: Sequence[Sequence[Document]],
        k: int,
        writeback: bool | Sequence[bool],
        leave_out: Sequence[frozenset[str]] | None = None,
    ) -> list[list[Document]]:
        """`KnowledgeBase.fold`."""
        count = len(asked.xq)
        if (switched := np.asarray(writeback, dtype=bool)).shape not in ((), (count,)):
            raise ValueError(f"writeback has shape {switched.shape} for {count} queries")
        found, without = [list(near) for near in passages], leave_out or [frozenset()] * count
        on = np.flatnonzero(np.broadcast_to(switched, count))
        if "writeback" in self.stores and len(on):
            given = asked.some(on), [found[query] for query in on], [without[query] for query in on]
            for query, documents in zip(on, self._merged(*given, k), strict=True):
                found[query] = documents
        return found

    def _merged(
        self, asked: Asked, passages: list[list[Document]], without: list[frozenset[str]], k: int
    ) -> list[list[Document]]:
        if by_name(self.merge):
            asked.words(f"merge.reach={self.merge.reach} asks which titles stand in the questions'")
        n = NAMED * k if by_name(self.merge) else k
        near = self.stores["writeback"].best(asked, n + max(map(len, without)))
        units = [[unit for unit in some if unit.id not in ids][:n] for some, ids in zip(near, without, strict=True)]
        if self.merge.policy == "plain":
            return [plain(*lists, k) for lists in zip(passages, units, strict=True)]
        texts = asked.questions or [""] * len(units)
        found = [
            beside(here, some, k, self.merge, text) for here, some, text in zip(passages, units, texts, strict=True)
        ]
        if self.merge.reach == "linked":
            for at in range(0, len(units), LINKED):  # a few at a time: each finds the units that any of them mentions
                some = slice(at, at + LINKED)
                more = self._mentioned(asked.some(some), found[some], without[some])
                lists = zip(passages[some], found[some], more, strict=True)
                found[some] = [linked(here, first, others, k, self.merge) for here, first, others in lists]
        return [[*before, *here] for before, here in zip(found, passages, strict=True)]

    def _mentioned(
        self, asked: Asked, found: Sequence[Sequence[Document]], without: Sequence[frozenset[str]]
    ) -> list[list[Document]]:
        """All units, nearest first, whose title is mentioned in those that any of the queries `found`."""
        titles = sorted(frozenset().union(*map(mentions, found)))
        if not titles:
            return [[] for _ in found]
        if isinstance(asked.where, str):
            quoted = ", ".join("'" + title.replace("'", "''") + "'" for title in titles)
            both: Filter = f"({asked.where}) AND title IN ({quoted})"
        else:
            there = pc.field("title").isin(pa.array(titles, pa.string()))
            both = there if asked.where is None else there & asked.where
        store = self.stores["writeback"]
        units = store.nearest(replace(asked, where=both), store.version.rows)
        return [[unit for unit in some if unit.id not in ids] for some, ids in zip(units, without, strict=True)]


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
        columns: bool = False,
    ) -> None:
        """Open these stores; a write-back store that is absent or empty counts as no units.

        `encoder`: who encodes the queries, or encoded them; by default, when the first question is asked, the one that
        the versions' notes name. `versions`: the pair that the caller has pinned (`versions.reading`), as an actor that
        is killed would leave its pins behind; by default the current one, pinned. `threads`: FAISS's for a search, 0:
        every core; `merge`: the policy, that of the write-back version's note by default; `nprobe`: lists that an IVF
        base looks into; `block_bytes`: what of a store's flat vectors may lie on the GPU (if FAISS has one): all if
        they fit, else block by block, 0: none. `shard` (i, n): of the base only every n-th fragment from number i on;
        what the n shards find alone, `merge.best_of` makes into what all find. `follow`: seconds after which a thread
        refreshes it, again and again until `close`; 0: nobody does. What went wrong the last time is logged, once, and
        is `follow_error` (else None); the pair that is open goes on to serve. `retrieval`: how rows are found, as the
        write-back version's note says by default; ranks by words, and candidates of a reranker, are those of a whole
        base, not of a shard. `columns`: passages come with the other keys of their corpus. StoreError, with both
        values: nothing in base, a changed file, stores or queries of unlike encoders. ValueError: `follow` with
        `versions`.
        """
        if follow and any(versions):
            raise ValueError(f"follow={follow} with versions={versions}: what stays at a pair follows none")
        self._threads = threads or threads_of(1)  # a Ray actor would get one otherwise
        self._places = place_of(base), place_of(writeback) if writeback else None
        self._given, self._merge, self._device, self._shard = encoder, merge, (nprobe, block_bytes), shard
        self._retrieval, self._columns = retrieval, columns
        self._refreshing, self._encoding, self._closed = Lock(), Lock(), Event()
        self.follow_error: Exception | None = None
        self._pair = self._opened(versions)
        if follow:
            told = weakref.ref(self), self._closed, follow
            Thread(target=_follow, args=told, name=f"follow {self._places[0]}", daemon=True).start()

    @classmethod
    def open(cls, path: Where, **how: Any) -> KnowledgeBase:  # noqa: ANN401 - as the constructor has it
        """The knowledge base in a folder: `base/` and `writeback/` in it, as a run leaves them, or one store."""
        return cls(*stores_of(path), **how)

    @property
    def base(self) -> Version:
        """The version of the base that is open now."""
        return self._pair.stores["base"].version

    @property
    def writeback(self) -> Version | None:
        """The version of the write-back store that is open now, None without units."""
        units = self._pair.stores.get("writeback")
        return units.version if units else None

    @property
    def merge(self) -> config.Merge:
        """How the lists of the two are merged."""
        return self._pair.merge

    def _opened(self, numbers: tuple[int, int] = (0, 0)) -> Pair:
        """This pair (0: no store), or the current one, which is then pinned."""
        place, writeback = self._places
        with ExitStack() as held:
            if not any(numbers):
                numbers = held.enter_context(reading(place, writeback))
            if not numbers[0]:
                raise nothing_there(place)
            base, units = read_version(place, numbers[0]), None
            if self._given:
                check_encoder("queries", self._given.fingerprint, place, base)
            merge, retrieval, stores = config.Merge(), config.Retrieval(), dict[Source, Store]()
            if writeback and numbers[1]:
                units = read_version(writeback, numbers[1])
                check_encoder(str(writeback), units.encoder, place, base)
                merge = config.Merge(**noted(writeback, units, "merge"))
                retrieval = config.Retrieval(**noted(writeback, units, "retrieval"))
            merge, retrieval = self._merge or merge, self._retrieval or retrieval
            check_merge(merge)
            check_retrieval(retrieval)
            stores["base"] = Store(place, base, "base", *self._device, self._shard, retrieval)
            if self._columns:
                never = {*PASSAGE.names, stored.VECTOR, SEEN_BY.name}
                stores["base"].own = [name for name in stores["base"].data.schema.names if name not in never]
            if writeback and units:
                stores["writeback"] = Store(writeback, units, "writeback", *self._device, (0, 1), retrieval)
            columns = pa.unify_schemas([store.data.schema for store in stores.values()])
            opened = Pair(stores, columns, merge)
            weakref.finalize(opened, _let_go, held.pop_all(), place).atexit = False  # after the last search in it
            return opened

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
            self._pair = newest
            return True

    def close(self) -> None:
        """Let the files of this pair go, once no search reads them; what is open stays readable until they are removed.
        Nothing follows any more.
        """
        with self._refreshing:
            if not self._closed.is_set():
                self._closed.set()
                self._pair = replace(self._pair)  # the same without pins

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _encoder(self) -> Encoder:
        return self._given or opened_encoder(self._places[0], self.base)

    def _asked(
        self,
        of: Pair,
        queries: np.ndarray | Sequence[str],
        questions: Sequence[str] | None,
        where: Filter | None,
        groups: Sequence[str] | None,
    ) -> Asked:
        """What is asked of a pair; ValueError for what nobody can search for."""
        import faiss

        faiss.omp_set_num_threads(self._threads)  # of the thread that asks
        check_groups(groups)
        if isinstance(queries, str):
            raise ValueError("queries is one string; search_one takes one question, search a list of them")
        if isinstance(queries, np.ndarray):
            xq = queries
        else:
            questions = queries
            with self._encoding:  # a tokenizer is not for two threads at once
                xq = self._encoder.encode_queries(list(queries))
        if xq.ndim != 2 or xq.shape[1] != (d := of.stores["base"].version.spec.dimension):
            raise ValueError(f"queries have shape {xq.shape}, not (nq, {d})")
        if not (finite := np.isfinite(xq).all(axis=1)).all():
            raise ValueError(f"query {np.flatnonzero(~finite)[0]} is not finite")
        return Asked(xq, questions, where, groups, of.columns)

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
        now = self._pair  # to the end, whatever becomes current meanwhile
        asked = self._asked(now, queries, questions, where, groups)
        return now.fold(asked, now.stores["base"].best(asked, k), k, writeback)

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

    def fold(
        self,
        xq: np.ndarray,
        passages: Sequence[Sequence[Document]],
        k: int,
        writeback: bool | Sequence[bool] = True,
        where: Filter | None = None,
        questions: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        leave_out: Sequence[frozenset[str]] | None = None,
    ) -> list[list[Document]]:
        """As `search`, where the k best passages of each query are known already, and such that the reader may see:
        only write-back is searched. `leave_out`: query by query, ids of units that are to be as if they were not there.
        """
        now = self._pair
        return now.fold(self._asked(now, xq, questions, where, groups), passages, k, writeback, leave_out)


def _follow(of: weakref.ref[KnowledgeBase], closed: Event, seconds: float) -> None:
    """Refresh a knowledge base until it is closed, or nobody has it any more."""
    while not closed.wait(seconds) and (knowledge := of()) is not None:
        try:
            knowledge.refresh()
            knowledge.follow_error = None
        except Exception as error:  # whatever it is, there is a pair that serves
            if not closed.is_set() and str(error) != str(knowledge.follow_error):
                log.warning("%s: stays at the pair that is open: %s", knowledge._places[0], error)
            knowledge.follow_error = error
        del knowledge


def _let_go(pins: ExitStack, place: Place) -> None:
    """Clean-up may have the files."""
    try:
        pins.close()
    except (OSError, StoreError) as error:  # no reason to lose what was found
        log.warning("%s: a pin stays until it expires: %s", place, error)


def check_groups(groups: Sequence[str] | None) -> None:
    """ValueError for groups that are one text, or no texts."""
    if isinstance(groups, str) or not all(isinstance(group, str) for group in groups or ()):
        raise ValueError(f"groups is {groups!r}; give a list of texts, [] for what everybody may see")


def stores_of(where: Where) -> list[Place]:
    """The stores that a path means: of a run's folder its base and its write-back, else the one store there."""
    place = place_of(where)
    base = None if place.remote else base_of(Path(place.root))
    return [place_of(base), place_of(f"{place}/writeback")] if base else [place]


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
