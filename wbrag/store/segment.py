"""One immutable segment: a folder `segments/<id>/` of vectors, passages and the proof that they are unchanged.

`vectors.faiss` and `passages.parquet` hold the rows, `segment.json` the spec, the encoder's fingerprint, size and
sha256 of both files and a hash of 16 probe rows. The id is a hash of all that, and nothing inside says which rows of
a store the segment holds: a publisher who lost a race commits the same folder again. FAISS and Parquet load most
flipped bits without complaint (measured), which is why the hashes exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from wbrag.store.files import StoreError, dump_json, load_json, sha256_bytes, sha256_file, write_durable
from wbrag.store.manifest import SegmentRef
from wbrag.store.passages import PassageFile, check_ids, check_pages, conform, write_passages
from wbrag.store.storage import SEGMENTS, LocalStorage, Storage, Store, read, sha256_of, storage_of
from wbrag.store.template import read_template
from wbrag.store.vectors import Spec, check_vectors, faiss_version, open_vectors, stored, write_vectors

if TYPE_CHECKING:
    import faiss

SCHEMA_VERSION = 1
VECTORS, PASSAGES, SEGMENT = "vectors.faiss", "passages.parquet", "segment.json"
PROBES = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """An open segment: its facts, its memory-mapped FAISS index and its passages."""

    path: Path
    rows: int
    spec: Spec
    encoder: str  # fingerprint
    sha256: str  # of segment.json
    index: faiss.Index = field(repr=False)
    passages: PassageFile = field(repr=False)

    @property
    def id(self) -> str:
        """16 hex digits: the hash of spec, encoder fingerprint and both data files."""
        return self.path.name


def segments_folder(store: Path) -> Path:
    """Where a store in a folder keeps its segments."""
    return store / SEGMENTS


def write_segment(
    store: Store, vectors: np.ndarray, passages: pa.Table, spec: Spec, encoder_fingerprint: str
) -> Segment:
    """Write row i of `vectors` (n, d) float16 and row i of `passages` (id, title, text, provenance) as a segment.

    Writing the same again changes nothing. StoreError, naming row and values: not unit norm, not finite, another
    dimension than the spec's, another number of passages, a null, an id twice, no row at all.
    """
    where = f"{store}: new segment"
    check_vectors(vectors, where)
    if len(vectors) != len(passages) or not len(vectors):
        raise StoreError(f"{where}: {len(vectors)} vectors for {len(passages)} passages")
    with storage_of(store).scratch() as scratch:
        folder = scratch / "segment"
        folder.mkdir()
        write_vectors(folder / VECTORS, [vectors], spec, read_template(store, spec))
        write_passages(folder / PASSAGES, [conform(passages, where)])
        return seal(store, folder, spec, encoder_fingerprint)


def seal(store: Store, folder: Path, spec: Spec, encoder_fingerprint: str) -> Segment:
    """Make a segment of a folder that holds just the two data files: write segment.json, rename to its id, open it.

    `folder` lies in the store's `scratch()`. StoreError when the files differ in rows, when an id stands twice, or
    when the same segment is in the store already, damaged.
    """
    index, passages = open_vectors(folder / VECTORS, spec), PassageFile(folder / PASSAGES)
    if index.ntotal != passages.rows:
        raise StoreError(f"{folder}: {index.ntotal} vectors for {passages.rows} passages")
    check_ids(passages.ids(), str(folder / PASSAGES))
    files = {name: _fact(folder / name) for name in (VECTORS, PASSAGES)}
    identity = {"spec": asdict(spec), "encoder": encoder_fingerprint, "files": files}
    probes = sorted({int(row) for row in np.linspace(0, index.ntotal - 1, PROBES)})
    facts = {
        "schema": SCHEMA_VERSION,
        "rows": index.ntotal,
        "faiss": faiss_version(),
        "probes": {"rows": probes, "sha256": _probe_hash(index, probes)},
        **identity,
    }
    write_durable(folder / SEGMENT, dump_json(facts))
    at, segment = storage_of(store), sha256_bytes(dump_json(identity))[:16]
    if at.size(f"{SEGMENTS}/{segment}/{SEGMENT}") is not None:
        for _, fault in segment_faults(at, f"{SEGMENTS}/{segment}", full=True):
            raise StoreError(fault)
    return open_segment(at.add_segment(folder, segment))


def open_ref(store: Store, ref: SegmentRef) -> Segment:
    """`open_segment` for a segment as a version names it; one from an object store is mapped from the local cache."""
    return open_segment(storage_of(store).segment(ref.id, ref.sha256, verify_segment), ref.sha256)


def passages_of(store: Store, ref: SegmentRef) -> PassageFile:
    """The passages of a segment alone."""
    return PassageFile(storage_of(store).segment(ref.id, ref.sha256, verify_segment) / PASSAGES)


def open_segment(path: Path, sha256: str = "") -> Segment:
    """Open a segment and check what is cheap: size of each file, rows, type, dimension, metric, codec, probe rows.

    `sha256`, where given, is what segment.json must hash to. StoreError names the file and both values.
    """
    facts, found = facts_of(LocalStorage(path.parent), path.name, sha256)
    for name, fact in facts["files"].items():
        size = (path / name).stat().st_size if (path / name).is_file() else "no file"
        if size != fact["bytes"]:
            raise StoreError(f"{path / name}: size is {size}, segment.json says {fact['bytes']}")
    spec = Spec(**facts["spec"])
    index = open_vectors(path / VECTORS, spec)
    passages = PassageFile(path / PASSAGES)
    for name, rows in ((VECTORS, index.ntotal), (PASSAGES, passages.rows)):
        if rows != facts["rows"]:
            raise StoreError(f"{path / name}: {rows} rows, segment.json says {facts['rows']}")
    probe = _probe_hash(index, facts["probes"]["rows"])
    if probe != facts["probes"]["sha256"]:
        raise StoreError(f"{path / VECTORS}: probe rows hash to {probe}, segment.json says {facts['probes']['sha256']}")
    return Segment(path, facts["rows"], spec, facts["encoder"], found, index, passages)


def verify_segment(path: Path, sha256: str = "") -> None:
    """Hash every byte of a segment; StoreError names the first file that changed, with expected and actual sha256."""
    for _, fault in segment_faults(LocalStorage(path.parent), path.name, sha256, full=True):
        raise StoreError(fault)


def segment_faults(at: Storage, folder: str, sha256: str = "", *, full: bool) -> Iterator[tuple[str, str]]:
    """Everything wrong with the segment in a folder of a storage: file name, then message with both values.

    Not `full`: segment.json and the sizes of the other files; `full`: also their sha256 and Parquet's page checksums.
    """
    try:
        facts, _ = facts_of(at, folder, sha256)
    except StoreError as error:
        yield SEGMENT, str(error)
        return
    for name, fact in facts["files"].items():
        file = f"{folder}/{name}"
        size = at.size(file)
        if size != fact["bytes"]:
            found = "no file" if size is None else size
            yield name, f"{at}/{file}: size is {found}, segment.json says {fact['bytes']} with sha256 {fact['sha256']}"
        elif full and (actual := sha256_of(at, file)) != fact["sha256"]:
            yield name, f"{at}/{file}: sha256 is {actual}, segment.json says {fact['sha256']}"
        elif full and name == PASSAGES:
            with at.open(file) as stream:
                yield from ((name, fault) for fault in check_pages(stream, f"{at}/{file}"))
    expected = sha256_bytes(dump_json({name: facts[name] for name in ("spec", "encoder", "files")}))[:16]
    if Path(folder).name != expected:
        yield SEGMENT, f"{at}/{folder}/{SEGMENT}: describes segment {expected}, the folder's name is another"


def facts_of(at: Storage, folder: str, sha256: str = "") -> tuple[dict[str, Any], str]:
    """segment.json and its sha256, checked against `sha256` unless that is empty."""
    file = f"{folder}/{SEGMENT}"
    if at.size(file) is None:
        raise StoreError(f"{at}/{file}: no such file; the manifest says sha256 {sha256 or 'nothing'}")
    data = read(at, file)
    found = sha256_bytes(data)
    if sha256 and found != sha256:
        raise StoreError(f"{at}/{file}: sha256 is {found}, the manifest says {sha256}")
    facts = load_json(data, f"{at}/{file}")
    if facts.get("schema") != SCHEMA_VERSION:
        raise StoreError(
            f"{at}/{file}: schema is {facts.get('schema')}, this wbrag reads {SCHEMA_VERSION}; upgrade wbrag"
        )
    return facts, found


def _fact(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _probe_hash(index: faiss.Index, rows: list[int]) -> str:
    return sha256_bytes(stored(index, np.array(rows, dtype=np.int64)).tobytes())
