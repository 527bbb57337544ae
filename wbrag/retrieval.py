"""Retrieval on Ray: R(q, K) over the base for all questions, and the merged search once there is a write-back store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from wbrag.config import TrainConfig
from wbrag.schema import DOCUMENT, KNOWN, document_rows

#: Times an encoder that died is started again before the run gives up.
MAX_RESTARTS = 10
#: Questions encoded and searched at once.
RETRIEVE_ROWS = 256
#: Encoded queries travel as bytes: float16 lists do not survive every Arrow and Parquet path, bytes do.
VECTOR = pa.field("vector", pa.binary())


def retrieved(cfg: TrainConfig, questions: pa.Table, base: Path) -> pa.Table:
    """R(q, K) for all questions, in order, over `cluster.encoders` actors: the columns that a `Retriever` adds.

    Plain actors: 150,000 questions with their documents are half a gigabyte here, and a Ray Data plan with its reads,
    writes and sort starts a dozen processes more.
    """
    import ray
    from ray.util import ActorPool

    device = {"num_gpus": 1} if cfg.cluster.gpus else {"num_cpus": 1}
    actor: Any = ray.remote(Retriever).options(max_restarts=MAX_RESTARTS, max_task_retries=-1, **device)
    actors = [actor.remote(cfg, base) for _ in range(cfg.cluster.encoders)]
    batches = [questions.slice(start, RETRIEVE_ROWS) for start in range(0, len(questions), RETRIEVE_ROWS)]
    try:
        return pa.concat_tables(ActorPool(actors).map(lambda a, batch: a.retrieve.remote(batch), batches))
    finally:
        for handle in actors:
            ray.kill(handle)


class Retriever:
    """R(q, K) for batches of questions: an encoder and the base store."""

    def __init__(self, cfg: TrainConfig, base: Path) -> None:
        from wbrag.encoder import open_encoder
        from wbrag.index.search import KnowledgeBase

        threads = max(1, len(os.sched_getaffinity(0)) // cfg.cluster.encoders)
        self.encoder = open_encoder(cfg.encoder, device="cuda" if cfg.cluster.gpus else "cpu", threads=threads)
        self.knowledge = KnowledgeBase(base, encoder=self.encoder.fingerprint, threads=threads)
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


class MergedRetriever:
    """Top-K(R(q, K) u R(q, K_wb)) of questions that a `Retriever` encoded; no encoder is loaded."""

    def __init__(self, base: Path, writeback: Path, k: int) -> None:
        from wbrag.index.search import KnowledgeBase

        self.knowledge = KnowledgeBase(base, writeback)
        self.k = k

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
