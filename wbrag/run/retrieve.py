"""Retrieval on Ray: R(q, K) over the base for all questions, the merged search once there is a write-back store, and
what methods search with while they answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from wbrag.config import Retrieval, TrainConfig, fingerprint
from wbrag.methods import searches
from wbrag.retrieval.encoder import Encoder
from wbrag.retrieval.encoding import Encoders, left, lost, threads_of
from wbrag.retrieval.merge import best_of
from wbrag.run.inputs import cache_of, search_identity
from wbrag.run.lookup import FILES, Keyed, Rows, SharedRows, share
from wbrag.run.progress import watched
from wbrag.schema import DOCUMENT, EXAMPLE, KNOWN, Document, document_rows, documents_of
from wbrag.store.fulltext import FullText
from wbrag.store.place import place_of
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import gpus
from wbrag.store.versions import DAY, Version, named, pinned, read_version, reading

#: Questions encoded and searched at once.
RETRIEVE_ROWS = 256
#: So many times these are shared as one file.
FILE_BATCHES = 4
#: Questions with their documents that are read at once.
READ_ROWS = 1024
#: So many times these are in memory while questions are brought into order, so that each file of shared rows is opened
#: once for all of them.
SORTED_BATCHES = 8
#: Batches for each actor that are asked for before the first of them is taken.
AHEAD = 2
#: Encoded queries travel as bytes: float16 lists do not survive every Arrow and Parquet path, bytes do.
VECTOR = pa.field("vector", pa.binary())
#: Documents with 64-bit offsets: with 32 bits Arrow cannot bring more than 2 GiB of text into another order.
DOCUMENTS = pa.list_(pa.struct([f.with_type(pa.large_string()) if f.type == pa.string() else f for f in DOCUMENT]))
#: What is shared of a question.
FOUND = pa.schema([("question", pa.string()), ("documents", DOCUMENTS), VECTOR, ("first_document", pa.string())])
#: A question with what was found for it; `MergedDocuments` makes MERGED of it.
ASKED = pa.schema([*EXAMPLE, ("documents", DOCUMENTS), VECTOR])
MERGED = pa.schema([*EXAMPLE, ("documents", DOCUMENTS), ("documents_writeback", DOCUMENTS)])
#: What questions are ordered by.
ORDER = pa.schema([("first_document", pa.string()), ("id", pa.string())])


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The stores of a run, searched as it says; no `writeback`: the base alone; no versions: the current ones."""

    cfg: TrainConfig = field(hash=False)
    base: Path
    writeback: Path | None = None
    versions: tuple[int, int] = (0, 0)

    def open(self, **how: Any) -> KnowledgeBase:  # noqa: ANN401 - as KnowledgeBase has it
        """The knowledge base; `how` as its other arguments."""
        how |= {"merge": self.cfg.merge, "nprobe": self.cfg.index.nprobe, "retrieval": self.cfg.retrieval}
        return KnowledgeBase(self.base, self.writeback, versions=self.versions, **how)


def retrieve_all(cfg: TrainConfig, questions: Rows, base: Path, encoders: Encoders, number: int = 0) -> SharedRows:
    """R(q, K) of all questions (the column `question`) as rows of FOUND, in version `number` of the base (0: the
    current one). What runs share is looked up, and only the rest is searched for, on `encoders`, each of which holds a
    shard of the base.
    """
    with pinned(base, number, 7 * DAY) as record:
        folder = cache_of(cfg) / f"retrieved-{fingerprint(named(record), cfg.k, search_identity(cfg))}"
        asked = SharedRows(folder, FOUND).missing(questions)
        if len(asked):
            if cfg.retrieval.kind != "dense":
                FullText(place_of(base), record)  # once, and not by every actor
            search = searching(encoders, Knowledge(cfg, base, versions=(record.version, 0)), record)
            found = watched("retrieve", retrieved(search, asked), len(asked), len)
            for first in found:  # a killed run has lost what is not yet a file
                share(folder, pa.concat_tables([first, *islice(found, FILE_BATCHES - 1)]))
    return SharedRows(folder, FOUND)


def retrieved(search: MethodSearch, questions: Rows) -> Iterator[pa.Table]:
    """Rows of FOUND for the questions (the column `question`), in order, batch by batch.

    Plain actors: a Ray Data plan with its reads, writes and sort starts a dozen processes more.
    """
    import ray

    def ask(batch: list[str]) -> Any:  # noqa: ANN401 - Ray's reference
        return search.ask(retrieve_block, batch, search.opening.stores.cfg.k)

    def found(batch: list[str], reference: Any) -> Any:  # noqa: ANN401 - Ray's reference and what it stands for
        while True:
            try:
                return ray.get(reference)
            except lost():
                search.regroup()
                reference = ask(batch)

    asked = deque[tuple[list[str], Any]]()  # in order
    for some in questions.batches(["question"], RETRIEVE_ROWS):
        batch = some["question"].to_pylist()
        asked.append((batch, ask(batch)))
        if len(asked) > AHEAD * len(search.actors):
            yield found(*asked.popleft())
    while asked:
        yield found(*asked.popleft())


def grouped(actors: Sequence[Any], fragments: int) -> list[list[Any]]:
    """The actors in groups whose members hold a base of so many fragments between them, each a shard: as few groups as
    leave nobody without a fragment.
    """
    count = ceil(len(actors) / max(1, fragments))
    return [list(actors[number::count]) for number in range(count)]


@dataclass(frozen=True, slots=True)
class Opening:
    """How the actors of a search open its stores, once for all calls with an equal one.

    `sharers`: actors that share a machine's cores; `gpu_share`: how much of its GPU's memory each may fill, 0.0 on
    CPUs; `shard`: the part of the base that one of a group holds (`KnowledgeBase`).
    """

    stores: Knowledge
    sharers: int = 1
    gpu_share: float = 0.0
    shard: tuple[int, int] = (0, 1)
    name: str = field(default_factory=lambda: uuid4().hex)


def in_order(examples: Rows, found: SharedRows) -> Iterator[pa.Table]:
    """The examples (schema EXAMPLE) with what was found for them (schema ASKED), ordered by first document and id,
    batch by batch.

    Side by side, examples that share their first document share the prefix of their prompts in the engine's cache.
    """
    places, keys = [np.empty(0, dtype=np.int64)], [ORDER.empty_table()]
    for some in examples.batches(["id", "question"]):
        places.append(found.known(some["question"]))
        first = found.table.take(places[-1], ["first_document"])
        keys.append(pa.table([*first.columns, some["id"]], schema=ORDER))
    at, every = np.concatenate(places), pa.concat_tables(keys).combine_chunks()
    order = np.asarray(pc.sort_indices(every, [(name, "ascending") for name in ORDER.names]), dtype=np.int64)
    del keys, every
    for start in range(0, len(order), SORTED_BATCHES * READ_ROWS):
        chosen = order[start : start + SORTED_BATCHES * READ_ROWS]
        columns = [*examples.take(chosen).columns, *found.table.take(at[chosen], ["documents", "vector"]).columns]
        rows = pa.table(columns, schema=ASKED)
        yield from (rows.slice(one, READ_ROWS) for one in range(0, len(rows), READ_ROWS))


def retrieve_block(
    encoder: Encoder,
    opening: Opening,
    questions: list[str],
    k: int,
    *found: Any,  # noqa: ANN401 - as _nearest
) -> pa.Table:
    """The questions as rows of FOUND; `first_document` is its id, "" without any. `found`: as `_nearest`."""
    xq, near = _nearest(encoder, opening, questions, k, found)
    vectors = pa.array([row.tobytes() for row in xq], VECTOR.type)
    first = [documents[0].id if documents else "" for documents in near]
    columns = [pa.array(questions, pa.string()), _column(near), vectors, pa.array(first, pa.string())]
    return pa.table(columns, schema=FOUND)


@dataclass(slots=True, unsafe_hash=True)
class MethodSearch:
    """What is searched with, before questions are answered and by methods meanwhile: encoder actors in groups
    (`grouped`) for a base of so many fragments, which requests go round, and how they open the stores; two are one if
    `opening` is.
    """

    actors: Sequence[Any] = field(compare=False)
    fragments: int = field(compare=False)
    opening: Opening
    groups: list[list[Any]] = field(init=False, compare=False)
    asked: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        self.groups = grouped(self.actors, self.fragments)

    def regroup(self) -> None:
        """An actor was lost: those that are left hold the base between them, once there are some."""
        self.groups = grouped(left(self.actors), self.fragments)

    def ask(self, work: Callable[..., Any], questions: list[str], k: int, *more: object) -> Any:  # noqa: ANN401
        """Ray's reference to what `work` (`retrieve_block` or `search_block`) makes of these questions in a group.

        Its members take turns in encoding, and in bringing together what each of them finds in its shard; vectors and
        lists go from one to the other. One that is alone does all of it in one call.
        """
        turn, number = divmod(self.asked, len(self.groups))
        self.asked, group = self.asked + 1, self.groups[number]
        shards = [replace(self.opening, shard=(part, len(group))) for part in range(len(group))]
        first, own = group[turn % len(group)], shards[turn % len(group)]
        found: list[Any] = []
        if len(group) > 1:
            xq = first.apply.remote(Encoder.encode_queries, questions)
            held = zip(group, shards, strict=True)
            found = [xq, *(actor.apply.remote(search_shard, shard, xq, questions, k) for actor, shard in held)]
        return first.apply.remote(work, own, questions, k, *more, *found)

    async def search(self, queries: list[str], k: int, merged: Sequence[bool]) -> list[list[Document]]:
        """The k nearest documents of each query: of both stores where its flag is set, else of the base alone."""
        while True:
            try:
                found: list[list[Document]] = await self.ask(search_block, queries, k, merged)
                return found
            except lost():
                await asyncio.to_thread(self.regroup)


def searching(encoders: Encoders, stores: Knowledge, base: Version) -> MethodSearch:
    """A search of these stores, the base in this version, on encoders, which are started."""
    actors = encoders.start()
    # Ranks by words, and a reranker's candidates, are of all fragments.
    shards = base.fragments if stores.cfg.retrieval == Retrieval() else 1
    return MethodSearch(actors, shards, Opening(stores, encoders.sharers, encoders.gpu_share))


@contextmanager
def lent_search(
    cfg: TrainConfig, encoders: Encoders, base: Path, writeback: Path | None = None
) -> Iterator[MethodSearch | None]:
    """What generators search with during the block; None where the method does not search by itself.

    All of `encoders` serve all generators, on GPUs too. But where they take turns with the engines, which then may hold
    every GPU, as many others do on CPUs, spread over the nodes.
    """
    if not searches(cfg.method):
        yield None
        return
    lenders = Encoders(cfg.encoder, cfg.cluster) if encoders.make_room else encoders
    with reading(base, writeback) as versions, ExitStack() as ended:
        if lenders is not encoders:
            ended.callback(lenders.stop)
        record = read_version(place_of(base), versions[0])
        yield searching(lenders, Knowledge(cfg, base, writeback, versions), record)


def search_block(
    encoder: Encoder,
    opening: Opening,
    queries: list[str],
    k: int,
    merged: Sequence[bool],
    *found: Any,  # noqa: ANN401 - as _nearest
) -> list[list[Document]]:
    """As `MethodSearch.search`, where the encoder is; `found`: as `_nearest`."""
    xq, near = _nearest(encoder, opening, queries, k, found)
    return _opened(opening, encoder).fold(xq, near, k, merged, questions=queries)


def search_shard(
    encoder: Encoder, opening: Opening, xq: np.ndarray, questions: list[str], k: int
) -> list[list[Document]]:
    """The k best passages of each question, whose vectors are (nq, d), in the actor's shard of the base."""
    return _opened(opening, encoder).search(xq, k, writeback=False, questions=questions)


def _nearest(
    encoder: Encoder, opening: Opening, questions: list[str], k: int, found: Sequence[Any]
) -> tuple[np.ndarray, list[list[Document]]]:
    """The questions' vectors, and R(q, K): of the whole base, which is here, or of what was `found` in a group, the
    vectors and then what each of its members found in its shard.
    """
    if not found:
        xq = encoder.encode_queries(questions)
        return xq, search_shard(encoder, opening, xq, questions, k)
    xq, *shards = found
    return xq, [best_of(lists, k) for lists in zip(*shards, strict=True)]


@lru_cache(maxsize=1)
def _opened(opening: Opening, encoder: Encoder) -> KnowledgeBase:
    """The stores, opened once; a version is pinned, files are checked then."""
    _opened.cache_clear()  # first, so that what the last one holds of a GPU is free
    block_bytes = _gpu_bytes(opening.gpu_share) if opening.gpu_share and gpus() else 0
    how: dict[str, Any] = {"block_bytes": block_bytes, "shard": opening.shard}
    return opening.stores.open(encoder=encoder, threads=threads_of(opening.sharers), **how)


def _gpu_bytes(share: float) -> int:
    """What vectors may take of the GPU: half of what is free now, and of an encoder's share of it; the other half is
    for encoding and for what FAISS works with.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(min(free, share * total) / 2)


class MergedDocuments:
    """Top-K(R(q, K) u R(q, K_wb)) of questions for which `retrieve` found R(q, K): no encoder is loaded, no base is
    searched again.
    """

    def __init__(self, stores: Knowledge) -> None:
        self.knowledge, self.k = stores.open(), stores.cfg.k

    def __call__(self, batch: pa.Table, leave_out: Sequence[frozenset[str]] | None = None) -> pa.Table:
        """The rows with a column `documents_writeback` in place of the vectors; `leave_out` as `KnowledgeBase.fold`."""
        vectors = b"".join(batch["vector"].to_pylist())
        xq = np.frombuffer(vectors, np.float16).reshape(len(batch), -1)
        passages = [documents_of(rows) for rows in batch["documents"].to_pylist()]
        questions = batch["question"].to_pylist()
        found = self.knowledge.fold(xq, passages, self.k, questions=questions, leave_out=leave_out)
        batch = batch.append_column(pa.field("documents_writeback", DOCUMENTS), _column(found))
        return batch.drop_columns(["vector"])


class KnownAnswers:
    """Answers that an earlier run gave to the same questions, as `schema.KNOWN`.

    `table`, with any of the columns of `schema.KNOWN`, is a Parquet file or a folder of them, in which a question is
    found by its id, or a folder of what runs share, in which it is found by its text.
    """

    def __init__(self, table: Path) -> None:
        key, kind = ("question", "ipc") if (files := sorted(table.glob(FILES))) else ("id", "parquet")
        there = ds.dataset(table, format=kind)
        self.columns = [field.name for field in KNOWN if field.name in there.schema.names]
        schema = pa.schema([there.schema.field(name) for name in (key, *self.columns)])
        parts = files or there.to_table(columns=schema.names).combine_chunks().to_batches()
        self.answers = Keyed(Rows.of(parts, schema), key)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows with a column `known`; null for a question that is not in the table."""
        places = self.answers.find(batch[self.answers.key])
        answers = iter(self.answers.table.take(places[places >= 0], self.columns).to_pylist())
        known = [next(answers) if there else None for there in places >= 0]
        return batch.append_column(pa.field("known", KNOWN), pa.array(known, KNOWN))


def _column(found: list[Any]) -> pa.Array:
    return pa.array([document_rows(documents) for documents in found], DOCUMENTS)
