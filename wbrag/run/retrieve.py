"""Retrieval on Ray: R(q, K) over the base for all questions, and the merged search once there is a write-back store.

Also what methods search with while they answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from wbrag.config import Merge, TrainConfig
from wbrag.methods import searches
from wbrag.retrieval.encoder import Encoder
from wbrag.retrieval.encoding import Encoders, lent, threads_of
from wbrag.schema import DOCUMENT, KNOWN, Document, document_rows, documents_of
from wbrag.store.garbage import reading

if TYPE_CHECKING:
    from wbrag.store.search import KnowledgeBase

#: Questions encoded and searched at once.
RETRIEVE_ROWS = 256
#: Vectors that lie on a GPU at once, beside the encoder: a larger index is searched block by block.
GPU_BLOCK_BYTES = 8 << 30
#: Encoded queries travel as bytes: float16 lists do not survive every Arrow and Parquet path, bytes do.
VECTOR = pa.field("vector", pa.binary())


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The stores that a search reads, and how; no `writeback`: the base alone; a version of 0: the current one."""

    base: Path
    writeback: Path | None
    k: int
    merge: Merge
    nprobe: int
    versions: tuple[int, ...] = (0, 0)


def knowledge_of(
    cfg: TrainConfig, base: Path, writeback: Path | None = None, versions: tuple[int, ...] = (0, 0)
) -> Knowledge:
    """The stores of a run, searched as it says."""
    return Knowledge(base, writeback, cfg.k, cfg.merge, cfg.index.nprobe, versions)


def retrieved(cfg: TrainConfig, questions: pa.Table, base: Path, encoders: Encoders | None = None) -> pa.Table:
    """R(q, K) for all questions, in order, on `encoders` (their own without): the columns that `retrieve` adds.

    Plain actors: 150,000 questions with their documents are half a gigabyte here, and a Ray Data plan with its reads,
    writes and sort starts a dozen processes more.
    """
    from ray.util import ActorPool

    opening, cluster = uuid4().hex, cfg.cluster

    def ask(actor: Any, batch: pa.Table) -> Any:  # noqa: ANN401 - Ray's handle and reference
        return actor.apply.remote(retrieve, batch, stores, opening, cluster.encoders, cluster.gpus)

    batches = [questions.slice(start, RETRIEVE_ROWS) for start in range(0, len(questions), RETRIEVE_ROWS)]
    with reading(base, None) as versions, lent(cfg.encoder, cfg.cluster, encoders) as actors:
        stores = knowledge_of(cfg, base, versions=versions)
        return pa.concat_tables(ActorPool(actors).map(ask, batches))


def retrieve(
    encoder: Encoder, batch: pa.Table, stores: Knowledge, opening: str, sharers: int = 1, gpu: bool = False
) -> pa.Table:
    """The rows with `documents`, `first_document` (its id, "" without any) and `vector`, the encoded question."""
    xq = encoder.encode_queries(batch["question"].to_pylist())
    found = _opened(opening, stores, encoder.fingerprint, sharers, gpu).search(xq, stores.k, writeback=False)
    batch = batch.append_column(pa.field("documents", pa.list_(DOCUMENT)), _column(found))
    batch = batch.append_column(VECTOR, pa.array([row.tobytes() for row in xq], VECTOR.type))
    # Sorted by it, examples that share their first document stand side by side and share the engine's cache.
    first = [documents[0].id if documents else "" for documents in found]
    return batch.append_column("first_document", pa.array(first, pa.string()))


@dataclass(frozen=True, slots=True)
class Searcher:
    """What generators search with: an encoder actor and the stores that it opens; two are one if `opening` is."""

    actor: Any = field(compare=False)
    stores: Knowledge = field(compare=False)
    opening: str

    async def search(self, queries: list[str], k: int, merged: Sequence[bool]) -> list[list[Document]]:
        """The k nearest documents of each query: of both stores where its flag is set, else of the base alone."""
        found: list[list[Document]] = await self.actor.apply.remote(
            search, queries, k, merged, self.stores, self.opening
        )
        return found


@contextmanager
def searcher(
    cfg: TrainConfig, base: Path, writeback: Path | None = None, encoders: Encoders | None = None
) -> Iterator[Searcher | None]:
    """What generators search with during the block; None where the method does not search by itself.

    It is one encoder for all generators, on the CPU, where a handful of queries takes milliseconds: the engines may
    hold every GPU. So `encoders` serve where they are on the CPU themselves.
    """
    if not searches(cfg.method):
        yield None
        return
    on_cpu = replace(cfg.cluster, gpus=False, encoders=1 if cfg.cluster.gpus else cfg.cluster.encoders)
    lenders = None if cfg.cluster.gpus else encoders
    with reading(base, writeback) as versions, lent(cfg.encoder, on_cpu, lenders) as actors:
        yield Searcher(actors[0], knowledge_of(cfg, base, writeback, versions), uuid4().hex)


def search(
    encoder: Encoder, queries: list[str], k: int, merged: Sequence[bool], stores: Knowledge, opening: str
) -> list[list[Document]]:
    """As `Searcher.search`, where the encoder is."""
    return _opened(opening, stores, encoder.fingerprint).search(
        encoder.encode_queries(queries), k, merged, questions=queries
    )


@lru_cache(maxsize=1)
def _opened(opening: str, stores: Knowledge, encoder: str, sharers: int = 1, gpu: bool = False) -> KnowledgeBase:
    """The stores, opened once for all calls that name this `opening`; a version is pinned, files are checked then."""
    from wbrag.store.search import KnowledgeBase
    from wbrag.store.topk import gpus

    block_bytes = GPU_BLOCK_BYTES if gpu and gpus() else 0
    return KnowledgeBase(
        stores.base,
        stores.writeback,
        encoder=encoder,
        base_version=stores.versions[0],
        writeback_version=stores.versions[1],
        threads=threads_of(sharers),
        merge=stores.merge,
        nprobe=stores.nprobe,
        block_bytes=block_bytes,
    )


class MergedRetriever:
    """Top-K(R(q, K) u R(q, K_wb)) of questions for which `retrieve` found R(q, K): no encoder is loaded, no base is
    searched again.
    """

    def __init__(self, stores: Knowledge) -> None:
        from wbrag.store.search import KnowledgeBase

        self.knowledge = KnowledgeBase(
            stores.base,
            stores.writeback,
            base_version=stores.versions[0],
            writeback_version=stores.versions[1],
            merge=stores.merge,
            nprobe=stores.nprobe,
        )
        self.k = stores.k

    def __call__(self, batch: pa.Table, leave_out: Sequence[frozenset[str]] | None = None) -> pa.Table:
        """The rows with a column `documents_writeback` in place of the vectors; `leave_out` as `KnowledgeBase.fold`."""
        vectors = b"".join(batch["vector"].to_pylist())
        xq = np.frombuffer(vectors, np.float16).reshape(len(batch), -1)
        passages = [documents_of(rows) for rows in batch["documents"].to_pylist()]
        found = self.knowledge.fold(xq, passages, self.k, leave_out, questions=batch["question"].to_pylist())
        batch = batch.append_column(pa.field("documents_writeback", pa.list_(DOCUMENT)), _column(found))
        return batch.drop_columns(["vector"])


class KnownAnswers:
    """Answers that an earlier run gave to the same questions: `schema.KNOWN` by the question's id.

    `table` is a Parquet file, or a folder of them, with the column `id` and any of the columns of `schema.KNOWN`.
    """

    def __init__(self, table: Path) -> None:
        there = ds.dataset(table, format="parquet")
        columns = [field.name for field in KNOWN if field.name in there.schema.names]
        rows = there.to_table(columns=["id", *columns]).to_pylist()
        self.answers = {row["id"]: {name: row[name] for name in columns} for row in rows}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows with a column `known`; null for a question that is not in the table."""
        known = [self.answers.get(key) for key in batch["id"].to_pylist()]
        return batch.append_column(pa.field("known", KNOWN), pa.array(known, KNOWN))


def _column(found: list[Any]) -> pa.Array:
    return pa.array([document_rows(documents) for documents in found], pa.list_(DOCUMENT))
