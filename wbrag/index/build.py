"""A store's new version, built on Ray: passages -> fp16 vectors -> FAISS shards -> one segment -> one manifest.

The passages are first written as the segment's own Parquet file. Its row groups are the units of work: an encoder
actor turns group g into `vectors/<g>.npy`, a shard task reads a run of those files, one task merges the shards in row
order and publishes. Neither passages nor vectors pass through the driver or Ray's object store, and since a group is
always encoded whole, the bytes do not depend on how many actors or shards there are. The store must lie on a file
system that every node sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag import config
from wbrag.encoder import open_encoder, passage_text
from wbrag.index.files import StoreError, scratch_folder
from wbrag.index.live import Live
from wbrag.index.manifest import Manifest, commit, latest
from wbrag.index.passages import ROW_GROUP, PassageFile, check_ids, conform, parquet_files, write_passages
from wbrag.index.publish import publish_segment
from wbrag.index.segment import PASSAGES, VECTORS, seal, segments_folder
from wbrag.index.vectors import Spec, merge_vectors, spec_of, write_vectors

READ_ROWS = 16_384


def build_store(
    passages: Path,
    store: Path,
    encoder: config.Encoder,
    index: config.Index,
    cluster: config.Cluster,
    note: dict[str, Any],
) -> Manifest:
    """Encode the passages and publish them in `store` as one new version; returns the version that holds them.

    `passages`: a Parquet file, or a folder of them in order of name, with id, title, text and any provenance columns;
    their order is the row order. Ids that are live already are skipped; when all are, the current version is returned.
    `ray.init` is the caller's. StoreError, naming file and row: null or duplicate ids, null text, no passage at all,
    an id that is live with another text, another encoder or dimension than the store's.
    """
    import ray

    passages, store = passages.resolve(), store.resolve()
    spec_of(index.kind, encoder.dimension)  # an unknown kind is refused before any work
    with scratch_folder(segments_folder(store)) as scratch:
        for name in ("segment", "vectors", "shards"):
            (scratch / name).mkdir()
        parent = latest(store)
        groups = ray.get(ray.remote(_stage).remote(passages, store, scratch, parent))
        if not groups:
            return commit(store, lambda _: None)
        dimension, fingerprint = _encode(scratch, groups, encoder, cluster, parent.encoder if parent else "")
        spec = spec_of(index.kind, dimension)
        cuts = np.array_split(np.arange(groups), min(max(index.shards, 1), groups))
        shard = ray.remote(_write_shard)
        shards = ray.get([shard.remote(scratch, int(cut[0]), int(cut[-1]) + 1, spec) for cut in cuts])
        merge = ray.remote(_merge).remote(store, scratch, shards, spec, fingerprint, note)
        manifest: Manifest = ray.get(merge)
        return manifest


def _stage(source: Path, store: Path, scratch: Path, parent: Manifest | None) -> int:
    """Write the passages of `source` that are not live in `parent` to the new segment; returns its row groups."""
    files = parquet_files(source)
    chunks = [chunk for table in _read(files) for chunk in table["id"].chunks]
    ids = pa.chunked_array(chunks, type=pa.string())
    if not len(ids):
        raise StoreError(f"{source}: no passages")
    check_ids(ids, str(source))
    live = Live(store, parent)
    rows = live.rows(ids)

    def new() -> Iterator[pa.Table]:
        done = 0
        for table in _read(files):
            here = rows[done : done + len(table)]
            live.check_text(here, table, str(source))
            yield table.filter(pa.array(here < 0))
            done += len(table)

    return -(-write_passages(scratch / "segment" / PASSAGES, new()) // ROW_GROUP)


def _read(files: list[Path]) -> Iterator[pa.Table]:
    """The rows of all files in order, checked, as tables of at most READ_ROWS rows; one schema for all."""
    schema: pa.Schema | None = None
    for file in files:
        row = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=READ_ROWS):
            table = conform(pa.Table.from_batches([batch]), str(file), row)
            schema = schema or table.schema
            if table.schema != schema:
                raise StoreError(f"{file}: columns are {table.schema.names}, those of {files[0]} {schema.names}")
            row += len(table)
            yield table


def _encode(
    scratch: Path, groups: int, encoder: config.Encoder, cluster: config.Cluster, expected: str
) -> tuple[int, str]:
    """Encode every row group into its file, on `cluster.encoders` actors; returns dimension and fingerprint."""
    import ray.data

    # Replays are harmless: a group's file is the result, the row is only its receipt.
    receipts = (
        ray.data.from_items([{"group": group} for group in range(groups)])
        .map_batches(
            _GroupEncoder,
            fn_constructor_args=(encoder, scratch, cluster.encoders, cluster.gpus, expected),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=cluster.encoders),
            num_cpus=None if cluster.gpus else 1,  # never both: Ray 2.60 calls that experimental
            num_gpus=1 if cluster.gpus else None,
        )
        .take_all()
    )
    made = {(receipt["dimension"], receipt["fingerprint"]) for receipt in receipts}
    if len(made) != 1:
        raise StoreError(f"{scratch}: encoder actors disagree: {sorted(made)}")
    return made.pop()


class _GroupEncoder:
    """A Ray Data actor: row groups of the staged passages in, one .npy of (rows, d) float16 per group out."""

    def __init__(self, encoder: config.Encoder, scratch: Path, encoders: int, gpu: bool, expected: str) -> None:
        # Ray gives an actor one OpenMP thread unless told otherwise; here the actors share the machine's cores.
        threads = max(1, len(os.sched_getaffinity(0)) // encoders)
        self.encoder = open_encoder(encoder, device="cuda" if gpu else "cpu", threads=threads)
        self.scratch = scratch
        self.expected = expected
        self.passages = PassageFile(scratch / "segment" / PASSAGES)

    def __call__(self, batch: pa.Table) -> pa.Table:
        fingerprint = self.encoder.fingerprint
        if self.expected and fingerprint != self.expected:
            raise StoreError(f"encoder is {fingerprint!r}, the store's current version has {self.expected!r}")
        for group in batch["group"].to_pylist():
            table = self.passages.group(group)
            titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
            vectors = self.encoder.encode_passages([passage_text(*pair) for pair in zip(titles, texts, strict=True)])
            file = _vectors_file(self.scratch, group)
            partial = file.with_suffix(f".{os.getpid()}.tmp")
            with partial.open("wb") as stream:
                np.save(stream, vectors)
            os.replace(partial, file)
        return batch.append_column("dimension", pa.array([self.encoder.dimension] * len(batch))).append_column(
            "fingerprint", pa.array([fingerprint] * len(batch))
        )


def _vectors_file(scratch: Path, group: int) -> Path:
    return scratch / "vectors" / f"{group:08d}.npy"


def _write_shard(scratch: Path, first: int, stop: int, spec: Spec) -> Path:
    """One FAISS file of the row groups first .. stop - 1."""
    path = scratch / "shards" / f"{first:08d}.faiss"
    write_vectors(path, (np.load(_vectors_file(scratch, group)) for group in range(first, stop)), spec)
    return path


def _merge(
    store: Path,
    scratch: Path,
    shards: list[Path],
    spec: Spec,
    fingerprint: str,
    note: dict[str, Any],
) -> Manifest:
    """Merge the shards in row order, seal the segment and publish it."""
    merge_vectors(scratch / "segment" / VECTORS, shards, spec)
    segment = seal(store, scratch / "segment", spec, fingerprint)
    return publish_segment(store, segment, note)
