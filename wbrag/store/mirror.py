"""A store copied to another place: from a folder to S3 after a build, to a backup and back."""

from __future__ import annotations

import shutil

from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.lease import check_lease
from wbrag.store.live import dead_rows
from wbrag.store.manifest import Manifest, files_of, history, name_of, versions
from wbrag.store.segment import SEGMENT, verify_segment
from wbrag.store.storage import SEGMENTS, Storage, Store, read, storage_of


def mirror(source: Store, target: Store) -> list[int]:
    """Copy every version of `source` that `target` lacks; returns their numbers.

    Files come first, each checked against its sha256, then the manifests in order: doing it again after a crash copies
    the rest. Nothing is merged: StoreError when `target` has another version of the same number, or one that `source`
    lacks, or when a file of `source` is damaged.
    """
    old, new = storage_of(source), storage_of(target)
    manifests = history(old)
    there = set(versions(new))
    for manifest in manifests:
        name = name_of(manifest.version)
        if manifest.version in there and (found := read(new, name)) != (wanted := read(old, name)):
            both = f"{sha256_bytes(found)}, that of {old}/{name} {sha256_bytes(wanted)}"
            raise StoreError(f"{new}/{name}: another version of this number; its sha256 is {both}")
    newer = there - {manifest.version for manifest in manifests}
    if newer:
        raise StoreError(f"{new}: has version {min(newer)}, {old} has not")
    missing = [manifest for manifest in manifests if manifest.version not in there]
    for manifest in missing:
        if manifest.version >= missing[-1].oldest:
            _copy_files(old, new, manifest)
    for manifest in missing:
        check_lease(new, None)
        name = name_of(manifest.version)
        if not new.create(name, read(old, name)):
            raise StoreError(f"{new}/{name}: was published while {old} was copied")
    return [manifest.version for manifest in missing]


def _copy_files(old: Storage, new: Storage, manifest: Manifest) -> None:
    """Bring what a version stands on to the new place, where it is not there yet."""
    dead_rows(old, manifest)  # checks the tombstones
    for ref in manifest.segments:
        if new.size(f"{SEGMENTS}/{ref.id}/{SEGMENT}") is not None:
            new.touch(f"{SEGMENTS}/{ref.id}/{SEGMENT}")
            continue
        with new.scratch() as scratch:
            folder = scratch / ref.id
            folder.mkdir()
            for name in old.names(f"{SEGMENTS}/{ref.id}"):
                with old.open(f"{SEGMENTS}/{ref.id}/{name}") as content, (folder / name).open("wb") as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)
            verify_segment(folder, ref.sha256)
            new.add_segment(folder, ref.id)
    for name in files_of(manifest):
        if not name.startswith(SEGMENTS):
            new.create(name, read(old, name))  # there already: named after its content
