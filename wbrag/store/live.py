"""Which passages are live in a version: look-up by id, the rows deleted so far, what differs between two versions."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag.schema import PASSAGE
from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.manifest import Manifest, read_manifest
from wbrag.store.passages import PassageFile
from wbrag.store.segment import passages_of
from wbrag.store.storage import Store, read, storage_of


class Live:
    """Look-up of the live passages of one version by id; `manifest=None` is the version before the first."""

    def __init__(self, store: Store, manifest: Manifest | None) -> None:
        self.refs = sorted(manifest.segments, key=lambda ref: ref.row_start) if manifest else []
        self.dead = dead_rows(store, manifest) if manifest else np.zeros(0, dtype=np.int64)
        self.files: list[PassageFile] = [passages_of(store, ref) for ref in self.refs]

    def rows(self, ids: pa.ChunkedArray) -> np.ndarray:
        """The row of each id, (n,) int64, given once each; -1 where it is not live."""
        found = np.full(len(ids), -1, dtype=np.int64)
        for ref, file in zip(self.refs, self.files, strict=True):
            local = places(ids, file.ids())
            hit = (local >= 0) & ~np.isin(local + ref.row_start, self.dead)
            found[hit] = local[hit] + ref.row_start
        return found

    def all_rows(self) -> np.ndarray:
        """Every live row, (n,) int64, rising."""
        ranges = [np.arange(ref.row_start, ref.row_start + ref.rows) for ref in self.refs]
        rows: np.ndarray = np.concatenate([np.zeros(0, dtype=np.int64), *ranges])
        alive: np.ndarray = rows[~np.isin(rows, self.dead)]
        return alive

    def ids(self) -> pa.ChunkedArray:
        """The id of every live row, in order of rows."""
        chunks: list[pa.Array] = []
        for ref, file in zip(self.refs, self.files, strict=True):
            alive = ~np.isin(np.arange(ref.row_start, ref.row_start + ref.rows), self.dead)
            chunks += file.ids().filter(pa.array(alive)).chunks
        return pa.chunked_array(chunks, type=pa.string())

    def take(self, rows: np.ndarray) -> pa.Table:
        """id, title and text of these rows (n,), in the order asked for; each must lie in a segment."""
        tables, places = [PASSAGE.empty_table()], []
        for ref, file in zip(self.refs, self.files, strict=True):
            here = np.flatnonzero((rows >= ref.row_start) & (rows < ref.row_start + ref.rows))
            if len(here):
                tables.append(file.take(rows[here] - ref.row_start).select(PASSAGE.names))
                places.append(here)
        order = np.argsort(np.concatenate([np.zeros(0, dtype=np.int64), *places]))
        return pa.concat_tables(tables).take(pa.array(order))

    def check_text(self, rows: np.ndarray, passages: pa.Table, where: str) -> None:
        """StoreError, with both, where a passage (id, title, text) differs from the one at its row (-1: none)."""
        here = np.flatnonzero(rows >= 0)
        live, given = self.take(rows[here]), passages.take(pa.array(here)).select(PASSAGE.names)
        differing = np.flatnonzero(~_equal_text(live, given))
        if len(differing):
            both = [table.slice(int(differing[0]), 1).to_pylist()[0] for table in (live, given)]
            raise StoreError(f"{where}: an id is live with another text: live {both[0]}, given {both[1]}")


def places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Where each of `ids` stands in `among`, (n,) int64, -1 where it does not; no id is twice in either.

    The shorter of the two becomes the hash table: thousands of new ids are looked up beside millions that are there.
    """
    if len(ids) >= len(among):
        return np.asarray(pc.fill_null(pc.index_in(ids, value_set=among.combine_chunks()), -1).to_numpy(), np.int64)
    found = np.full(len(ids), -1, dtype=np.int64)
    given = pc.index_in(among, value_set=ids.combine_chunks())
    found[given.drop_null().to_numpy()] = np.flatnonzero(given.is_valid().to_numpy())
    return found


def dead_rows(store: Store, manifest: Manifest) -> np.ndarray:
    """The deleted rows of a version, sorted (n,) int64; StoreError names the file when its sha256 is not its name's."""
    if manifest.tombstones is None:
        return np.zeros(0, dtype=np.int64)
    at, name = storage_of(store), f"tombstones/{manifest.tombstones}"
    data = read(at, name)
    fault = tombstone_fault(f"{at}/{name}", manifest.tombstones, sha256_bytes(data))
    if fault:
        raise StoreError(fault)
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def tombstone_fault(where: str, name: str, sha256: str) -> str:
    """What is wrong with a tombstones file of this content, or nothing."""
    expected = name.partition("-")[2].removesuffix(".npy")
    return f"{where}: sha256 is {sha256}, its name says {expected}" if sha256 != expected else ""


@dataclass(frozen=True, slots=True)
class Diff:
    """What a later version has over an earlier one, as ids in order of rows."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]  # live in both with another title or text


def diff(store: Store, a: int, b: int) -> Diff:
    """The passages that are live in version `b` and not in `a`, in `a` and not in `b`, and in both but changed."""
    before, after = (Live(store, read_manifest(store, version)) for version in (a, b))
    ids = {a: before.ids(), b: after.ids()}
    then, now = before.rows(ids[b]), after.rows(ids[a])
    both = np.flatnonzero((then >= 0) & (then != after.all_rows()))  # one row number is one passage: not to be read
    same = _equal_text(before.take(then[both]), after.take(after.all_rows()[both]))
    return Diff(
        tuple(ids[b].filter(pa.array(then < 0)).to_pylist()),
        tuple(ids[a].filter(pa.array(now < 0)).to_pylist()),
        tuple(ids[b].take(pa.array(both[~same])).to_pylist()),
    )


def _equal_text(one: pa.Table, other: pa.Table) -> np.ndarray:
    same = pc.and_(pc.equal(one["title"], other["title"]), pc.equal(one["text"], other["text"]))
    return np.asarray(same.to_numpy(), dtype=bool)
