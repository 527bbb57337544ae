"""A store's new version, built on Ray: passages -> fp16 vectors -> FAISS shards -> one segment -> one manifest.

The passages are first written as the segment's own Parquet file. Its row groups are the units of work: an encoder
actor turns group g into a file of vectors, a shard task reads a run of those files, one task merges the shards in row
order and publishes. Neither passages nor vectors pass through the driver or Ray's object store, and since a group is
always encoded whole, the bytes do not depend on how many actors or shards there are. The store must lie on a file
system that every node sees; while it is built it takes three times the index there.

A build that was killed goes on where it stopped when it is asked for again: the staged passages, every encoded row
group, the template and every shard lie in a scratch folder named by what they are made from (`resume`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag import config
from wbrag.retrieval.encoder import Encoder, passage_text
from wbrag.retrieval.encoding import Encoders, lent
from wbrag.store.files import StoreError, sha256_file
from wbrag.store.lease import Lease, leased
from wbrag.store.live import Live
from wbrag.store.manifest import Manifest, commit, latest, name_of
from wbrag.store.notes import encoder_note
from wbrag.store.passages import ROW_GROUP, PassageFile, check_ids, conform, parquet_files, write_passages
from wbrag.store.publish import publish_segment
from wbrag.store.resume import finish, finished, resumable_folder
from wbrag.store.segment import PASSAGES, VECTORS, seal, segments_folder
from wbrag.store.storage import storage_of
from wbrag.store.template import TRAINING_ROWS, read_template, template_name, train_template
from wbrag.store.vectors import Spec, check_index, merge_vectors, spec_of, write_vectors

READ_ROWS = 16_384
#: Row groups of a shard at most, so that writing an IVF shard of 768 dimensions takes less than 1 GB.
SHARD_GROUPS = 256
#: What a build that dies leaves other writers to wait.
LEASE_SECONDS = 120.0


def build_store(
    passages: Path,
    store: Path,
    encoder: config.Encoder,
    index: config.Index,
    cluster: config.Cluster,
    note: dict[str, Any],
    encoders: Encoders | None = None,
) -> Manifest:
    """Encode the passages and publish them in `store` as one new version; returns the version that holds them.

    `passages`: a Parquet file, or a folder of them in order of name, with id, title, text and any provenance columns;
    their order is the row order. Ids that are live already are skipped; when all are, the current version is returned.
    The version's note is `note` and the encoder's settings. `ray.init` is the caller's, and so are `encoders`, actors
    that hold this encoder; without them the build starts its own. StoreError, naming file and row: null or duplicate
    ids, null text, no passage at all, an id that is live with another text, another encoder, kind of index or dimension
    than the store's, another process at the same work. LeaseError: another job writes to the store. ConfigError: more
    lists than rows.
    """
    import ray

    passages, store = passages.resolve(), store.resolve()
    check_index(index)
    parent = latest(store)
    if parent and parent.spec.kind != index.kind:
        raise StoreError(f"{store}: index.kind is {index.kind!r}, version {parent.version} has {parent.spec.kind!r}")
    name = ray.get(ray.remote(_identity).remote(passages, store, parent, encoder, index))
    # The holder is named by its work, so that a killed build's lease goes at once to whoever does the same again; the
    # folder comes first, since a build that is alive must not lose its lease to its double.
    with (
        resumable_folder(segments_folder(store), name) as scratch,
        leased(store, f"build {name}", LEASE_SECONDS) as lease,
    ):
        groups = ray.get(ray.remote(_stage).remote(passages, store, scratch, parent))
        if not groups:
            return commit(store, lambda _: None)
        with lent(encoder, cluster, encoders) as handles:
            dimension, fingerprint = _encode(scratch, groups, handles, parent.encoder if parent else "")
        vectors = [_vectors_file(scratch, fingerprint, group) for group in range(groups)]
        spec = ray.get(ray.remote(_spec).remote(store, scratch, vectors, parent, index, dimension))
        cuts = np.array_split(np.arange(groups), min(max(index.shards, -(-groups // SHARD_GROUPS)), groups))
        shard = ray.remote(_write_shard)
        shards = ray.get([shard.remote(store, scratch, vectors[cut[0] : cut[-1] + 1], spec) for cut in cuts])
        note = {**note, **encoder_note(encoder)}
        merge = ray.remote(_merge).remote(store, scratch, shards, spec, fingerprint, note, lease)
        manifest: Manifest = ray.get(merge)
        return manifest


def _identity(
    passages: Path, store: Path, parent: Manifest | None, encoder: config.Encoder, index: config.Index
) -> str:
    """A hash of all that decides what a build makes, but for the contents of the encoder's model."""
    before = sha256_file(store / name_of(parent.version)) if parent else ""
    sources = [sha256_file(file) for file in parquet_files(passages)]
    return config.fingerprint(sources, before, encoder_note(encoder), index.kind, index.nlist)


def _stage(source: Path, store: Path, scratch: Path, parent: Manifest | None) -> int:
    """Write the passages of `source` that are not live in `parent` as the new segment's; returns their row groups."""
    staged = scratch / PASSAGES
    if not finished(staged):
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

        if (rows >= 0).all():
            return sum(0 for _ in new())  # nothing to write, all to check
        finish(staged, lambda path: write_passages(path, new()))
    return -(-PassageFile(staged).rows // ROW_GROUP)


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


def _encode(scratch: Path, groups: int, encoders: list[Any], expected: str) -> tuple[int, str]:
    """Encode every row group into its file, on these actors; returns dimension and fingerprint."""
    from ray.util import ActorPool

    # Replays are harmless: a group's file is the result, what comes back is only its receipt.
    def encode(actor: Any, group: int) -> Any:  # noqa: ANN401 - Ray's handle and reference
        return actor.apply.remote(_encode_group, scratch, expected, group)

    made = set(ActorPool(encoders).map_unordered(encode, list(range(groups))))
    if len(made) != 1:
        raise StoreError(f"{scratch}: encoder actors disagree: {sorted(made)}")
    dimension, fingerprint = made.pop()
    return dimension, fingerprint


def _encode_group(encoder: Encoder, scratch: Path, expected: str, group: int) -> tuple[int, str]:
    """Write a row group of the staged passages as .npy, (rows, d) float16; returns d and the encoder's fingerprint."""
    if expected and encoder.fingerprint != expected:
        raise StoreError(f"encoder is {encoder.fingerprint!r}, the store's current version has {expected!r}")

    def write(path: Path) -> None:
        table = PassageFile(scratch / PASSAGES).group(group)
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        vectors = encoder.encode_passages([passage_text(*pair) for pair in zip(titles, texts, strict=True)])
        with path.open("wb") as stream:
            np.save(stream, vectors)

    finish(_vectors_file(scratch, encoder.fingerprint, group), write)
    return encoder.dimension, encoder.fingerprint


def _vectors_file(scratch: Path, fingerprint: str, group: int) -> Path:
    return scratch / f"vectors-{config.fingerprint(fingerprint)}" / f"{group:08d}.npy"


def _spec(
    store: Path, scratch: Path, vectors: list[Path], parent: Manifest | None, index: config.Index, dimension: int
) -> Spec:
    """How the new segment is stored: the store's own way, else what `index` says, its template trained and stored."""
    if parent and parent.spec.kind == index.kind:
        return parent.spec
    if index.kind == "flat_fp16":
        return spec_of(index.kind, dimension)

    def train(path: Path) -> None:
        path.write_bytes(train_template(_sample(vectors, index.nlist * TRAINING_ROWS), index.nlist))

    template = finish(scratch / f"template-{vectors[0].parent.name}.faiss", train).read_bytes()
    spec = spec_of(index.kind, dimension, template, index.nlist)
    storage_of(store).create(template_name(str(spec.template)), template)
    return spec


def _sample(vectors: list[Path], rows: int) -> np.ndarray:
    """At most `rows` vectors of these row groups, evenly spread; one file is open at a time."""
    total = (len(vectors) - 1) * ROW_GROUP + len(np.load(vectors[-1], mmap_mode="r"))
    chosen = np.unique(np.linspace(0, total - 1, min(rows, total)).astype(np.int64))
    groups, firsts = np.unique(chosen // ROW_GROUP, return_index=True)
    cuts = np.split(chosen % ROW_GROUP, firsts[1:])
    return np.concatenate([np.load(vectors[group])[here] for group, here in zip(groups, cuts, strict=True)])


def _write_shard(store: Path, scratch: Path, vectors: list[Path], spec: Spec) -> Path:
    """One FAISS file of these row groups; the template is checked against its sha256 before FAISS sees it."""
    name = f"{config.fingerprint(spec, [file.name for file in vectors], vectors[0].parent.name)}.faiss"

    def write(path: Path) -> None:
        write_vectors(path, (np.load(file) for file in vectors), spec, read_template(store, spec))

    return finish(scratch / "shards" / name, write)


def _merge(
    store: Path, scratch: Path, shards: list[Path], spec: Spec, fingerprint: str, note: dict[str, Any], lease: Lease
) -> Manifest:
    """Merge the shards in row order, seal the segment and publish it."""
    folder = scratch / "segment"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed build left
    folder.mkdir()
    merge_vectors(folder / VECTORS, shards, spec, read_template(store, spec))
    os.link(scratch / PASSAGES, folder / PASSAGES)
    return publish_segment(store, seal(store, folder, spec, fingerprint), note, lease)
