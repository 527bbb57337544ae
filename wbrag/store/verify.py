"""Is every byte of a store what was written? And what to do where vectors are not: encode the passages again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from wbrag.retrieval.encoder import passage_text
from wbrag.store.files import StoreError, sha256_file
from wbrag.store.garbage import pins
from wbrag.store.live import tombstone_fault
from wbrag.store.manifest import Manifest, SegmentRef, broken_link, check_rows, name_of, read_manifest, versions
from wbrag.store.passages import PassageFile
from wbrag.store.segment import PASSAGES, VECTORS, facts_of, segment_faults
from wbrag.store.storage import SEGMENTS, Storage, Store, sha256_of, storage_of
from wbrag.store.template import read_template
from wbrag.store.vectors import Spec, write_vectors

Encode = Callable[[list[str]], np.ndarray]


def verify(store: Store, full: bool = False) -> list[str]:
    """Everything wrong with a store, one message each, with the file's name and both values; nothing: it is whole.

    All manifests and their chain; of every kept or pinned version the row numbers, tombstones, templates, segment.json
    and sizes. `full`: also the sha256 of every file and Parquet's page checksums (about 0.6 GB/s on one core).
    """
    at = storage_of(store)
    faults: list[str] = []
    manifests: list[Manifest] = []
    for version in range(1, max(versions(at), default=0) + 1):
        try:
            manifests.append(read_manifest(at, version))
        except StoreError as error:
            faults.append(str(error))
    faults += filter(None, (broken_link(at, manifest) for manifest in manifests))
    seen: set[object] = set()
    for manifest in _kept(at, manifests):
        faults += _version_faults(at, manifest, full, seen)
    return list(dict.fromkeys(faults))


def _kept(at: Storage, manifests: list[Manifest]) -> list[Manifest]:
    oldest = max((manifest.oldest for manifest in manifests), default=1)
    alive = pins(at)
    return [manifest for manifest in manifests if manifest.version >= oldest or manifest.version in alive]


def _version_faults(at: Storage, manifest: Manifest, full: bool, seen: set[object]) -> Iterator[str]:
    """What is wrong with the files of one version that other versions (`seen`) do not have."""
    try:
        check_rows(manifest, f"{at}/{name_of(manifest.version)}")
    except StoreError as error:
        yield str(error)
    if manifest.tombstones and manifest.tombstones not in seen:
        file = f"tombstones/{manifest.tombstones}"
        yield from filter(None, [tombstone_fault(f"{at}/{file}", manifest.tombstones, sha256_of(at, file))])
    template = manifest.spec.template
    if template and template not in seen and (actual := sha256_of(at, f"templates/{template}.faiss")) != template:
        yield f"{at}/templates/{template}.faiss: sha256 is {actual}, its name says {template}"
    for ref in manifest.segments:
        if (ref.id, ref.sha256) not in seen:
            yield from (fault for _, fault in segment_faults(at, f"{SEGMENTS}/{ref.id}", ref.sha256, full=full))
        seen.add((ref.id, ref.sha256))
    seen |= {manifest.tombstones, template}


def repair(store: Store, encode: Encode, fingerprint: str) -> list[str]:
    """Rebuild every damaged or missing vectors file of a kept version from its passages; returns the files' names.

    `encode` is the encoder's `encode_passages`, `fingerprint` its fingerprint. It is given the passages of one row
    group at a time, as a build gives them, so that the new file is the old one byte for byte. StoreError, and nothing
    is replaced: another encoder; a damaged segment.json or passages file (bring it back from a backup); a new file with
    another sha256 than segment.json says, with both values.
    """
    at = storage_of(store)
    refs = {ref.id: ref for m in _kept(at, [read_manifest(at, v) for v in versions(at)]) for ref in m.segments}
    rebuilt = []
    for ref in refs.values():
        folder = f"{SEGMENTS}/{ref.id}"
        faults = list(segment_faults(at, folder, ref.sha256, full=True))
        for name, fault in faults:
            if name != VECTORS:
                raise StoreError(f"{fault}; only {VECTORS} can be made again, bring this file back from a backup")
        if faults:
            _rebuild(at, ref, encode, fingerprint)
            rebuilt.append(f"{folder}/{VECTORS}")
    return rebuilt


def _rebuild(at: Storage, ref: SegmentRef, encode: Encode, fingerprint: str) -> None:
    facts, _ = facts_of(at, f"{SEGMENTS}/{ref.id}", ref.sha256)
    where = f"{at}/{SEGMENTS}/{ref.id}/{VECTORS}"
    if fingerprint != facts["encoder"]:
        raise StoreError(f"{where}: was made by encoder {facts['encoder']!r}, not by {fingerprint!r}")
    with at.scratch() as scratch:
        with at.open(f"{SEGMENTS}/{ref.id}/{PASSAGES}") as source, (scratch / PASSAGES).open("wb") as copy:
            shutil.copyfileobj(source, copy)
        blocks = _encoded(scratch / PASSAGES, encode)
        spec = Spec(**facts["spec"])
        write_vectors(scratch / VECTORS, blocks, spec, read_template(at, spec))
        expected, actual = facts["files"][VECTORS]["sha256"], sha256_file(scratch / VECTORS)
        if actual != expected:
            raise StoreError(f"{where}: made again, its sha256 is {actual}, segment.json says {expected}")
        at.put(f"{SEGMENTS}/{ref.id}/{VECTORS}", scratch / VECTORS)


def _encoded(path: Path, encode: Encode) -> Iterator[np.ndarray]:
    passages = PassageFile(path)
    for group in range(passages.file.num_row_groups):
        table = passages.group(group)
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        yield encode([passage_text(title, text) for title, text in zip(titles, texts, strict=True)])
