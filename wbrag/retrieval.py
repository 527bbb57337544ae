"""Retrieval on Ray: R(q, K) over the base for all questions, and the merged search once there is a write-back store.

Also the actor that methods search with while they answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from wbrag.config import Merge, TrainConfig
from wbrag.methods import searches
from wbrag.schema import DOCUMENT, KNOWN, Document, document_rows

#: Times an encoder that died is started again before the run gives up.
MAX_RESTARTS = 10
#: Questions encoded and searched at once.
RETRIEVE_ROWS = 256
#: Vectors that lie on a GPU at once, beside the encoder: a larger index is searched block by block.
GPU_BLOCK_BYTES = 8 << 30
#: Encoded queries travel as bytes: float16 lists do not survive every Arrow and Parquet path, bytes do.
VECTOR = pa.field("vector", pa.binary())


def retrieved(cfg: TrainConfig, questions: pa.Table, base: Path) -> pa.Table:
    """R(q, K) for all questions, in order, over `cluster.encoders` actors: the columns that a `Retriever` adds.

    Plain actors: 150,000 questions with their documents are half a gigabyte here, and a Ray Data plan with its reads,
    writes and sort starts a dozen processes more.
    """
    import ray
    from ray.util import ActorPool

    from wbrag.index.garbage import reading

    device = {"num_gpus": 1} if cfg.cluster.gpus else {"num_cpus": 1}
    actor: Any = ray.remote(Retriever).options(max_restarts=MAX_RESTARTS, max_task_retries=-1, **device)
    batches = [questions.slice(start, RETRIEVE_ROWS) for start in range(0, len(questions), RETRIEVE_ROWS)]
    with reading(base) as versions:
        actors = [actor.remote(cfg, base, *versions) for _ in range(cfg.cluster.encoders)]
        try:
            return pa.concat_tables(ActorPool(actors).map(lambda a, batch: a.retrieve.remote(batch), batches))
        finally:
            for handle in actors:
                ray.kill(handle)


@contextmanager
def searcher(cfg: TrainConfig, base: Path, writeback: Path | None = None) -> Iterator[Any]:
    """The actor that generators search with during the block; None where the method does not search by itself.

    There is one for all generators. It runs on the CPU, where a handful of queries takes milliseconds: the engines may
    hold every GPU. It takes no logical CPU, of which a resumed plan needs all there are.
    """
    if not searches(cfg.method):
        yield None
        return
    import ray

    from wbrag.index.garbage import reading

    actor: Any = ray.remote(Searcher).options(max_restarts=MAX_RESTARTS, max_task_retries=-1, num_cpus=0)
    with reading(base, writeback) as versions:
        handle = actor.remote(cfg, base, writeback, versions)
        try:
            yield handle
        finally:
            ray.kill(handle)


class Searcher:
    """Queries to documents: an encoder, the base store and, if there is one, the write-back store; `versions` of both,
    0: the current one.
    """

    def __init__(
        self, cfg: TrainConfig, base: Path, writeback: Path | None = None, versions: tuple[int, ...] = (0, 0)
    ) -> None:
        from wbrag.encoder import open_encoder
        from wbrag.index.search import KnowledgeBase

        threads = len(os.sched_getaffinity(0))
        self.encoder = open_encoder(cfg.encoder, device="cpu", threads=threads)
        self.knowledge = KnowledgeBase(
            base,
            writeback,
            encoder=self.encoder.fingerprint,
            base_version=versions[0],
            writeback_version=versions[1],
            threads=threads,
            merge=cfg.merge,
            nprobe=cfg.index.nprobe,
        )

    def search(self, queries: list[str], k: int, merged: Sequence[bool]) -> list[list[Document]]:
        """The k nearest documents of each query: of both stores where its flag is set, else of the base alone."""
        return self.knowledge.search(self.encoder.encode_queries(queries), k, merged)


class Retriever:
    """R(q, K) for batches of questions: an encoder and a version of the base store, 0: the current one."""

    def __init__(self, cfg: TrainConfig, base: Path, version: int = 0) -> None:
        from wbrag.encoder import open_encoder
        from wbrag.index.search import KnowledgeBase
        from wbrag.index.topk import gpus

        threads = max(1, len(os.sched_getaffinity(0)) // cfg.cluster.encoders)
        self.encoder = open_encoder(cfg.encoder, device="cuda" if cfg.cluster.gpus else "cpu", threads=threads)
        self.knowledge = KnowledgeBase(
            base,
            encoder=self.encoder.fingerprint,
            base_version=version,
            threads=threads,
            nprobe=cfg.index.nprobe,
            block_bytes=GPU_BLOCK_BYTES if cfg.cluster.gpus and gpus() else 0,
        )
        self.k = cfg.k

    def retrieve(self, batch: pa.Table) -> pa.Table:
        """The rows with `documents`, `first_document` (its id, "" without any) and `vector`, the encoded question."""
        xq = self.encoder.encode_queries(batch["question"].to_pylist())
        found = self.knowledge.search(xq, self.k, writeback=False)
        batch = batch.append_column(pa.field("documents", pa.list_(DOCUMENT)), _column(found))
        batch = batch.append_column(VECTOR, pa.array([row.tobytes() for row in xq], VECTOR.type))
        # Sorted by it, examples that share their first document stand side by side and share the engine's cache.
        first = [documents[0].id if documents else "" for documents in found]
        return batch.append_column("first_document", pa.array(first, pa.string()))


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The stores that a merged search reads, and how; `versions` of base and write-back, 0: the current one."""

    base: Path
    writeback: Path
    k: int
    merge: Merge
    nprobe: int
    versions: tuple[int, ...] = (0, 0)


class MergedRetriever:
    """Top-K(R(q, K) u R(q, K_wb)) of questions that a `Retriever` encoded; no encoder is loaded."""

    def __init__(self, stores: Knowledge) -> None:
        from wbrag.index.search import KnowledgeBase

        self.knowledge = KnowledgeBase(
            stores.base,
            stores.writeback,
            base_version=stores.versions[0],
            writeback_version=stores.versions[1],
            merge=stores.merge,
            nprobe=stores.nprobe,
        )
        self.k = stores.k

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows with a column `documents_writeback` in place of the vectors."""
        vectors = b"".join(batch["vector"].to_pylist())
        found = self.knowledge.search(np.frombuffer(vectors, np.float16).reshape(len(batch), -1), self.k)
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
