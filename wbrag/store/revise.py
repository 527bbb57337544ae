"""What makes a version of those before it: rollback, deletion, compaction. Each is one commit, and doing it twice is
doing it once.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.lease import Lease
from wbrag.store.live import Live, dead_rows
from wbrag.store.manifest import Manifest, SegmentRef, commit, read_manifest
from wbrag.store.passages import write_passages
from wbrag.store.segment import PASSAGES, VECTORS, Segment, open_ref, passages_of, seal
from wbrag.store.storage import Storage, Store, storage_of
from wbrag.store.template import read_template
from wbrag.store.vectors import rows_of, write_vectors

#: Rows that compaction holds in memory at once, beside the index it builds.
BLOCK = 16_384


def rollback(store: Store, version: int, note: dict[str, Any], lease: Lease | None = None) -> Manifest:
    """Make what was live in `version` live again, as a new version. Nothing to do when it is already.

    StoreError: no such version, one that is not kept any more, or one of its files damaged.
    """

    def change(parent: Manifest | None) -> Manifest | None:
        target = read_manifest(store, version)
        if parent is None or version < parent.oldest:
            kept = f"{parent.oldest} to {parent.version}" if parent else "none"
            raise StoreError(f"{store}: version {version} is not kept any more; there are {kept}")
        if (target.segments, target.tombstones) == (parent.segments, parent.tombstones):
            return None
        dead_rows(store, target)
        for ref in target.segments:
            open_ref(store, ref)
        return replace(target, next_row=parent.next_row, oldest=parent.oldest, restored_from=version, note=note)

    return commit(store, change, lease)


def delete(store: Store, ids: Sequence[str], note: dict[str, Any], lease: Lease | None = None) -> Manifest:
    """Delete the passages with these ids, as a new version; those deleted already are skipped.

    StoreError names the first id that no segment of the current version has. The bytes stay on disk until no kept
    version needs them: `compact`, then `collect_garbage`.
    """
    wanted = pa.chunked_array([pa.array(list(dict.fromkeys(ids)), type=pa.string())])

    def rows(parent: Manifest) -> np.ndarray:
        found = Live(store, parent).rows(wanted)
        known = found >= 0
        for ref in parent.segments if not known.all() else ():
            known |= pc.is_in(wanted, value_set=passages_of(store, ref).ids().combine_chunks()).to_numpy()
        if not known.all():
            unknown = wanted[int(np.flatnonzero(~known)[0])].as_py()
            raise StoreError(f"{store}: version {parent.version} has no passage {unknown!r}")
        return found[found >= 0]

    return commit(store, lambda parent: _bury(store, parent, rows(parent), note) if parent else None, lease)


def delete_rows(store: Store, rows: np.ndarray, note: dict[str, Any], lease: Lease | None = None) -> Manifest:
    """Delete these rows (n,), as a new version; those deleted already are skipped.

    StoreError names the first row that lies in no segment of the current version.
    """

    def change(parent: Manifest | None) -> Manifest | None:
        if parent is None:
            return None
        inside = np.zeros(len(rows), dtype=bool)
        for ref in parent.segments:
            inside |= (rows >= ref.row_start) & (rows < ref.row_start + ref.rows)
        if not inside.all():
            raise StoreError(f"{store}: version {parent.version} has no row {rows[~inside][0]}")
        return _bury(store, parent, rows, note)

    return commit(store, change, lease)


def _bury(store: Store, parent: Manifest, rows: np.ndarray, note: dict[str, Any]) -> Manifest | None:
    """The version in which these rows are dead too; None when they are already."""
    before = dead_rows(store, parent)
    dead = np.union1d(before, rows).astype(np.int64)
    if len(dead) == len(before):
        return None
    stream = io.BytesIO()
    np.save(stream, dead)
    name = f"{parent.version + 1:06d}-{sha256_bytes(stream.getvalue())}.npy"
    storage_of(store).create(f"tombstones/{name}", stream.getvalue())  # there already: with the same content
    return replace(parent, tombstones=name, restored_from=None, note=note)


def compact(store: Store, note: dict[str, Any], keep_rows: int = 100_000, lease: Lease | None = None) -> Manifest:
    """Write what is live into fewer segments without the deleted rows, as a new version; searches find the same.

    A segment of at least `keep_rows` rows of which none is deleted stays as it is; neighbours of all others are merged
    where their columns are the same. Every passage gets a new row number, the order stays. Memory: the index of the
    largest new segment.
    """

    def change(parent: Manifest | None) -> Manifest | None:
        if parent is None:
            return None
        dead = dead_rows(store, parent)
        runs = _runs(store, parent, dead, keep_rows)
        if all(_stays(run, dead) for run in runs):
            return None
        refs, row = [], parent.next_row
        for run in runs:
            made = run[0] if _stays(run, dead) else _merged(storage_of(store), parent, run, dead)
            if made is not None:
                refs.append(SegmentRef(made.id, row, made.rows, made.sha256))
                row += made.rows
        return replace(parent, segments=tuple(refs), next_row=row, tombstones=None, restored_from=None, note=note)

    return commit(store, change, lease)


def _runs(store: Store, manifest: Manifest, dead: np.ndarray, keep_rows: int) -> list[list[SegmentRef]]:
    """The segments in order of rows, those together that are to become one."""
    runs: list[list[SegmentRef]] = []
    columns: pa.Schema | None = None  # of the run that may go on
    for ref in sorted(manifest.segments, key=lambda ref: ref.row_start):
        stays = ref.rows >= keep_rows and _stays([ref], dead)
        here = None if stays else passages_of(store, ref).file.schema_arrow
        if here is not None and here == columns:
            runs[-1].append(ref)
        else:
            runs.append([ref])
        columns = here
    return runs


def _stays(run: list[SegmentRef], dead: np.ndarray) -> bool:
    """Whether the run is one segment without a deleted row."""
    return len(run) == 1 and len(_local(run[0], dead)) == 0


def _local(ref: SegmentRef, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that lie in a segment, counted from its start."""
    return rows[(rows >= ref.row_start) & (rows < ref.row_start + ref.rows)] - ref.row_start


def _merged(at: Storage, manifest: Manifest, run: list[SegmentRef], dead: np.ndarray) -> Segment | None:
    """One segment of the live rows of several; None when there are none."""
    parts = [(open_ref(at, ref), np.setdiff1d(np.arange(ref.rows), _local(ref, dead))) for ref in run]
    blocks = [(part, rows[i : i + BLOCK]) for part, rows in parts for i in range(0, len(rows), BLOCK)]
    if not blocks:
        return None
    with at.scratch() as scratch:
        folder = scratch / "segment"
        folder.mkdir()
        vectors = (rows_of(part.index, rows) for part, rows in blocks)
        write_vectors(folder / VECTORS, vectors, manifest.spec, read_template(at, manifest.spec))
        write_passages(folder / PASSAGES, (part.passages.take(rows) for part, rows in blocks))
        return seal(at, folder, manifest.spec, manifest.encoder)
