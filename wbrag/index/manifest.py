"""The versions of a store: numbered, immutable JSON manifests over immutable segments.

The highest number is the current version; there is no pointer file. Creating `manifests/<N+1>.json` exclusively is the
only commit point: before it the old version is current and what was written is unreferenced, after it the new one is.
A manifest carries the sha256 of its own content, of its parent and of each segment.json, so that the newest manifest
proves every byte of the store. It holds no clock and no host name: the same work gives the same manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag.index.files import StoreError, create_exclusive, dump_json, read_json, sha256_bytes, sha256_file
from wbrag.index.passages import PassageFile, check_ids, conform
from wbrag.index.segment import PASSAGES, Segment, segments_folder, write_segment
from wbrag.index.vectors import Spec, check_vectors, rows_of, spec_of
from wbrag.schema import PASSAGE

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """A segment as a version uses it: its rows are row_start .. row_start + rows - 1 of the store."""

    id: str
    row_start: int
    rows: int
    sha256: str  # of segment.json


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of a store."""

    version: int
    parent: str | None  # sha256 of the file of version - 1
    spec: Spec
    encoder: str  # fingerprint; one per store
    segments: tuple[SegmentRef, ...]
    next_row: int  # never falls, so that a row number means one passage for ever
    tombstones: str | None = None  # file in tombstones/, named <version>-<sha256 of the file>.npy
    restored_from: int | None = None
    note: dict[str, Any] = field(default_factory=dict)


def path_of(store: Path, version: int) -> Path:
    """The file of a version."""
    return store / "manifests" / f"{version:06d}.json"


def latest(store: Path) -> Manifest | None:
    """The current version of a store; None when nothing was ever published there."""
    numbers = [int(file.stem) for file in (store / "manifests").glob("*.json") if file.stem.isdigit()]
    return read_manifest(store, max(numbers)) if numbers else None


def read_manifest(store: Path, version: int) -> Manifest:
    """One version. StoreError, naming the file and both values: absent, changed, or of a schema not known here."""
    file = path_of(store, version)
    if not file.is_file():
        raise StoreError(f"{file}: no such version")
    content = read_json(file)
    if content.get("schema") != SCHEMA_VERSION:
        raise StoreError(f"{file}: schema is {content.get('schema')}, this wbrag reads {SCHEMA_VERSION}; upgrade wbrag")
    expected = content.pop("sha256", None)
    actual = sha256_bytes(dump_json(content))
    if actual != expected or content["version"] != version:
        found = f"version {content.get('version')} with sha256 {actual}"
        raise StoreError(f"{file}: holds {found}, not version {version} with {expected}")
    del content["schema"]
    segments = tuple(SegmentRef(**ref) for ref in content.pop("segments"))
    return Manifest(**{**content, "spec": Spec(**content["spec"]), "segments": segments})


def verify_chain(store: Path) -> None:
    """Check that each version names the sha256 of the one before it; StoreError names the first file that does not."""
    newest = latest(store)
    for version in range(newest.version if newest else 0, 0, -1):
        expected = read_manifest(store, version).parent
        file = path_of(store, version - 1)
        actual = sha256_file(file) if file.is_file() else None
        if actual != expected:
            raise StoreError(f"{file}: sha256 is {actual}, version {version} says {expected}")


def commit(store: Path, change: Callable[[Manifest | None], Manifest | None]) -> Manifest:
    """Publish the version that `change` makes of the current one (None: there is none yet), and return it.

    `change` returns None when nothing is to do; then the current version stays and is returned. It is asked again
    with the newer version whenever another publisher came first, so it may not keep what it computed from the old one.
    Version, parent hash and `next_row` are checked or set here. StoreError when an empty store would stay empty.
    """
    while True:
        parent = latest(store)
        child = change(parent)
        if child is None:
            if parent is None:
                raise StoreError(f"{store}: nothing to publish, and no version is there")
            return parent
        child = _numbered(store, parent, child)
        if create_exclusive(path_of(store, child.version), _to_json(child)):
            return child


def extended(parent: Manifest | None, segment: Segment, note: dict[str, Any]) -> Manifest:
    """The version that has this segment after the parent's; StoreError when spec or encoder differ, with both."""
    if parent is None:
        ref = SegmentRef(segment.id, 0, segment.rows, segment.sha256)
        return Manifest(0, None, segment.spec, segment.encoder, (ref,), segment.rows, note=note)
    require_same(parent, segment.spec, segment.encoder, str(segment.path))
    ref = SegmentRef(segment.id, parent.next_row, segment.rows, segment.sha256)
    return replace(
        parent, segments=(*parent.segments, ref), next_row=ref.row_start + ref.rows, restored_from=None, note=note
    )


def require_same(manifest: Manifest, spec: Spec, encoder: str, where: str) -> None:
    """StoreError with both values when vectors of this spec and encoder cannot stand beside the manifest's."""
    if encoder != manifest.encoder:
        raise StoreError(f"{where}: encoder is {encoder!r}, version {manifest.version} has {manifest.encoder!r}")
    if spec != manifest.spec:
        raise StoreError(f"{where}: spec is {spec}, version {manifest.version} has {manifest.spec}")


def publish(
    store: Path, vectors: np.ndarray, passages: pa.Table, encoder_fingerprint: str, note: dict[str, Any]
) -> Manifest:
    """Add passages (id, title, text, provenance) with their vectors (n, d) float16 to a store as one new version.

    Passages whose id is live already are skipped, so publishing twice is publishing once. StoreError for what
    `write_segment` refuses, for an id that is live with another text, for another encoder or dimension.
    """
    where = f"{store}: passages to publish"
    check_vectors(vectors, where)
    if len(vectors) != len(passages):
        raise StoreError(f"{where}: {len(vectors)} vectors for {len(passages)} passages")
    passages = conform(passages, where)
    check_ids(passages["id"], where)
    parent = latest(store)
    spec = replace(parent.spec, dimension=vectors.shape[1]) if parent else spec_of("flat_fp16", vectors.shape[1])
    if parent:
        require_same(parent, spec, encoder_fingerprint, where)
    live = Live(store, parent)
    rows = live.rows(passages["id"])
    live.check_text(rows, passages, where)
    new = rows < 0
    if not new.any():
        return commit(store, lambda _: None)
    segment = write_segment(store, vectors[new], passages.filter(pa.array(new)), spec, encoder_fingerprint)
    return publish_segment(store, segment, note)


def publish_segment(store: Path, segment: Segment, note: dict[str, Any]) -> Manifest:
    """Add a written segment to a store as one new version, leaving out rows whose ids went live meanwhile."""

    def change(parent: Manifest | None) -> Manifest | None:
        live = Live(store, parent)
        rows = live.rows(segment.passages.ids())
        new = np.flatnonzero(rows < 0)
        if len(new) == segment.rows:
            return extended(parent, segment, note)
        live.check_text(rows, segment.passages.take(np.arange(segment.rows)), str(segment.path))
        if not len(new):
            return None
        vectors, passages = rows_of(segment.index, new), segment.passages.take(new)
        return extended(parent, write_segment(store, vectors, passages, segment.spec, segment.encoder), note)

    return commit(store, change)


class Live:
    """Look-up of the live passages of one version by id; `manifest=None` is the version before the first."""

    def __init__(self, store: Path, manifest: Manifest | None) -> None:
        self.refs = manifest.segments if manifest else ()
        self.dead = dead_rows(store, manifest) if manifest else np.zeros(0, dtype=np.int64)
        self.files = [PassageFile(segments_folder(store) / ref.id / PASSAGES) for ref in self.refs]

    def rows(self, ids: pa.ChunkedArray) -> np.ndarray:
        """The row of each id, (n,) int64; -1 where it is not live."""
        found = np.full(len(ids), -1, dtype=np.int64)
        for ref, file in zip(self.refs, self.files, strict=True):
            known = file.ids().combine_chunks()
            local = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy().astype(np.int64)
            hit = (local >= 0) & ~np.isin(local + ref.row_start, self.dead)
            found[hit] = local[hit] + ref.row_start
        return found

    def check_text(self, rows: np.ndarray, passages: pa.Table, where: str) -> None:
        """StoreError, with both, where a passage (id, title, text) differs from the one at its row (-1: none)."""
        for ref, file in zip(self.refs, self.files, strict=True):
            here = np.flatnonzero((rows >= ref.row_start) & (rows < ref.row_start + ref.rows))
            if not len(here):
                continue
            live = file.take(rows[here] - ref.row_start).select(PASSAGE.names)
            given = passages.take(pa.array(here)).select(PASSAGE.names)
            same = pc.and_(pc.equal(live["title"], given["title"]), pc.equal(live["text"], given["text"]))
            if not pc.all(same).as_py():
                row = int(np.flatnonzero(~same.to_numpy())[0])
                both = [table.slice(row, 1).to_pylist()[0] for table in (live, given)]
                raise StoreError(f"{where}: an id is live with another text: live {both[0]}, given {both[1]}")


def dead_rows(store: Path, manifest: Manifest) -> np.ndarray:
    """The deleted rows of a version, sorted (n,) int64; StoreError names the file when its sha256 is not its name's."""
    if manifest.tombstones is None:
        return np.zeros(0, dtype=np.int64)
    file = store / "tombstones" / manifest.tombstones
    expected = file.stem.partition("-")[2]
    actual = sha256_file(file) if file.is_file() else "no file"
    if actual != expected:
        raise StoreError(f"{file}: sha256 is {actual}, its name says {expected}")
    return np.asarray(np.load(file, allow_pickle=False))


def _numbered(store: Path, parent: Manifest | None, child: Manifest) -> Manifest:
    """The child with its number and its parent's hash; a row number given twice is refused."""
    if parent is None:
        return replace(child, version=1, parent=None)
    if child.next_row < parent.next_row:
        raise StoreError(f"{store}: next_row would fall from {parent.next_row} to {child.next_row}")
    return replace(child, version=parent.version + 1, parent=sha256_bytes(_to_json(parent)))


def _to_json(manifest: Manifest) -> bytes:
    content = {"schema": SCHEMA_VERSION, **asdict(manifest)}
    return dump_json({**content, "sha256": sha256_bytes(dump_json(content))})
