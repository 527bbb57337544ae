"""Retrieval on Ray: R(q, K) over the base for all questions, the merged search once there is a write-back store, and
what methods search with while they answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from wbrag.config import Merge, TrainConfig, fingerprint
from wbrag.methods import searches
from wbrag.retrieval.encoder import Encoder
from wbrag.retrieval.encoding import Encoders, lent, threads_of
from wbrag.run.inputs import cache_of, search_identity
from wbrag.run.lookup import FILES, Keyed, Rows
from wbrag.run.shared import SharedRows, share
from wbrag.schema import DOCUMENT, EXAMPLE, KNOWN, Document, document_rows, documents_of
from wbrag.store.place import place_of
from wbrag.store.versions import named, read_version, reading

if TYPE_CHECKING:
    from wbrag.store.search import KnowledgeBase

#: Questions encoded and searched at once.
RETRIEVE_ROWS = 256
#: So many times these are shared as one file.
FILE_BATCHES = 4
#: Questions with their documents that are read at once.
READ_ROWS = 1024
#: So many times these are in memory while questions are brought into order, so that each file of shared rows is opened
#: once for all of them.
SORTED_BATCHES = 8
#: Vectors that lie on a GPU at once, at most: a larger index is searched block by block.
GPU_BLOCK_BYTES = 8 << 30
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
    """The stores that a search reads, and how; no `writeback`: the base alone; no versions: the current ones."""

    base: Path
    writeback: Path | None
    k: int
    merge: Merge
    nprobe: int
    versions: tuple[int, int] = (0, 0)

    def open(self, **how: Any) -> KnowledgeBase:  # noqa: ANN401 - as KnowledgeBase has it
        """The knowledge base; `how` as its other arguments."""
        from wbrag.store.search import KnowledgeBase

        own: dict[str, Any] = {"versions": self.versions, "merge": self.merge, "nprobe": self.nprobe}
        return KnowledgeBase(self.base, self.writeback, **own, **how)


def knowledge_of(
    cfg: TrainConfig, base: Path, writeback: Path | None = None, versions: tuple[int, int] = (0, 0)
) -> Knowledge:
    """The stores of a run, searched as it says."""
    return Knowledge(base, writeback, cfg.k, cfg.merge, cfg.index.nprobe, versions)


def retrieve_all(cfg: TrainConfig, questions: Rows, base: Path, encoders: Encoders | None = None) -> SharedRows:
    """R(q, K) of all questions (the column `question`) as rows of FOUND. What runs share is looked up, and only the
    rest is searched for, on `encoders` (their own without).

    Plain actors: a Ray Data plan with its reads, writes and sort starts a dozen processes more.
    """
    from ray.util import ActorPool

    with reading(base) as versions:
        record = read_version(place_of(base), versions[0])
        folder = cache_of(cfg) / f"retrieved-{fingerprint(named(record), cfg.k, search_identity(cfg.index))}"
        asked = SharedRows(folder, FOUND).missing(questions)
        if not len(asked):
            return SharedRows(folder, FOUND)
        stores, opening = knowledge_of(cfg, base, versions=versions), uuid4().hex
        sharers, gpu = cfg.cluster.encoders, bool(encoders and encoders.on_gpus)

        def ask(actor: Any, start: int) -> Any:  # noqa: ANN401 - Ray's handle and reference
            batch = asked.take(np.arange(start, min(start + RETRIEVE_ROWS, len(asked))), ["question"])
            return actor.apply.remote(retrieve_block, batch, stores, opening, sharers, gpu)

        with lent(cfg.encoder, cfg.cluster, encoders) as actors:
            found = ActorPool(actors).map(ask, list(range(0, len(asked), RETRIEVE_ROWS)))
            for first in found:  # a killed run has lost what is not yet a file
                share(folder, pa.concat_tables([first, *islice(found, FILE_BATCHES - 1)]))
    return SharedRows(folder, FOUND)


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
    encoder: Encoder, batch: pa.Table, stores: Knowledge, opening: str, sharers: int = 1, gpu: bool = False
) -> pa.Table:
    """The questions (column `question`) as rows of FOUND; `first_document` is its id, "" without any."""
    xq = encoder.encode_queries(batch["question"].to_pylist())
    found = _opened(opening, stores, encoder, sharers, gpu).search(xq, stores.k, writeback=False)
    vectors = pa.array([row.tobytes() for row in xq], VECTOR.type)
    first = [documents[0].id if documents else "" for documents in found]
    return pa.table([batch["question"], _column(found), vectors, pa.array(first, pa.string())], schema=FOUND)


@dataclass(frozen=True, slots=True)
class MethodSearch:
    """What generators search with: an encoder actor and the stores that it opens; two are one if `opening` is."""

    actor: Any = field(compare=False)
    stores: Knowledge = field(compare=False)
    opening: str

    async def search(self, queries: list[str], k: int, merged: Sequence[bool]) -> list[list[Document]]:
        """The k nearest documents of each query: of both stores where its flag is set, else of the base alone."""
        asked = (queries, k, merged, self.stores, self.opening)
        found: list[list[Document]] = await self.actor.apply.remote(search_block, *asked)
        return found


@contextmanager
def lent_search(
    cfg: TrainConfig, base: Path, writeback: Path | None = None, encoders: Encoders | None = None
) -> Iterator[MethodSearch | None]:
    """What generators search with during the block; None where the method does not search by itself.

    It is one encoder for all generators, on the CPU, where a handful of queries takes milliseconds: the engines may
    hold every GPU. So `encoders` serve where they are on the CPU themselves.
    """
    if not searches(cfg.method):
        yield None
        return
    on_cpu = replace(cfg.cluster, gpus=False, encoders=1 if cfg.cluster.gpus else cfg.cluster.encoders)
    lenders = None if encoders and encoders.on_gpus else encoders
    with reading(base, writeback) as versions, lent(cfg.encoder, on_cpu, lenders) as actors:
        yield MethodSearch(actors[0], knowledge_of(cfg, base, writeback, versions), uuid4().hex)


def search_block(
    encoder: Encoder, queries: list[str], k: int, merged: Sequence[bool], stores: Knowledge, opening: str
) -> list[list[Document]]:
    """As `MethodSearch.search`, where the encoder is."""
    xq = encoder.encode_queries(queries)
    return _opened(opening, stores, encoder).search(xq, k, merged, questions=queries)


@lru_cache(maxsize=1)
def _opened(opening: str, stores: Knowledge, encoder: Encoder, sharers: int = 1, gpu: bool = False) -> KnowledgeBase:
    """The stores, opened once for all calls that name this `opening`; a version is pinned, files are checked then."""
    from wbrag.store.topk import gpus

    block_bytes = _gpu_block_bytes() if gpu and gpus() else 0
    return stores.open(encoder=encoder, threads=threads_of(sharers), block_bytes=block_bytes)


def _gpu_block_bytes() -> int:
    """Half of what is free at most: an engine may have the rest, and the encoder needs the other half."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    return min(GPU_BLOCK_BYTES, free // 2)


class MergedDocuments:
    """Top-K(R(q, K) u R(q, K_wb)) of questions for which `retrieve` found R(q, K): no encoder is loaded, no base is
    searched again.
    """

    def __init__(self, stores: Knowledge) -> None:
        self.knowledge, self.k = stores.open(), stores.k

    def __call__(self, batch: pa.Table, leave_out: Sequence[frozenset[str]] | None = None) -> pa.Table:
        """The rows with a column `documents_writeback` in place of the vectors; `leave_out` as `KnowledgeBase.fold`."""
        vectors = b"".join(batch["vector"].to_pylist())
        xq = np.frombuffer(vectors, np.float16).reshape(len(batch), -1)
        passages = [documents_of(rows) for rows in batch["documents"].to_pylist()]
        found = self.knowledge.fold(xq, passages, self.k, leave_out, questions=batch["question"].to_pylist())
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
