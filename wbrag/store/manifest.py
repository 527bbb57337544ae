"""The versions of a store: numbered, immutable JSON manifests over immutable segments.

The highest number is the current version; there is no pointer file. Creating `manifests/<N+1>.json` exclusively is the
only commit point: before it the old version is current and what was written is unreferenced, after it the new one is.
A manifest carries the sha256 of its own content, of its parent and of each segment.json, so that the newest manifest
proves every byte of the store. It holds no clock and no host name: the same work gives the same manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wbrag.store.files import StoreError, dump_json, load_json, sha256_bytes
from wbrag.store.lease import Lease, check_lease
from wbrag.store.storage import SEGMENTS, Storage, Store, read, sha256_of, storage_of
from wbrag.store.vectors import Spec

#: 2 brought `oldest`. One version back is read, so that a store need not be rewritten when wbrag is upgraded.
SCHEMA_VERSION = 2
READABLE = (1, 2)


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
    oldest: int = 1  # versions before it are not kept: garbage collection may have removed their files
    note: dict[str, Any] = field(default_factory=dict)


def name_of(version: int) -> str:
    """The file of a version."""
    return f"manifests/{version:06d}.json"


def versions(store: Store) -> list[int]:
    """The numbers of all versions, rising."""
    stems = [name.partition(".")[0] for name in storage_of(store).names("manifests") if name.endswith(".json")]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def latest(store: Store) -> Manifest | None:
    """The current version of a store; None when nothing was ever published there."""
    numbers = versions(store)
    return read_manifest(store, numbers[-1]) if numbers else None


def history(store: Store) -> list[Manifest]:
    """Every version from the first to the current one."""
    return [read_manifest(store, version) for version in versions(store)]


def read_manifest(store: Store, version: int) -> Manifest:
    """One version. StoreError, naming the file and both values: absent, changed, or of a schema not known here."""
    at = storage_of(store)
    file = f"{at}/{name_of(version)}"
    content = load_json(read(at, name_of(version)), file)
    schema = content.pop("schema", None)
    if schema not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise StoreError(f"{file}: schema is {schema}, this wbrag reads {known}; upgrade wbrag")
    expected = content.pop("sha256", None)
    actual = sha256_bytes(dump_json({"schema": schema, **content}))
    if actual != expected or content["version"] != version:
        found = f"version {content.get('version')} with sha256 {actual}"
        raise StoreError(f"{file}: holds {found}, not version {version} with {expected}")
    segments = tuple(SegmentRef(**ref) for ref in content.pop("segments"))
    return Manifest(**{**content, "spec": Spec(**content["spec"]), "segments": segments})


def verify_chain(store: Store) -> None:
    """Check that each version names the sha256 of the one before it; StoreError names the first file that does not."""
    at = storage_of(store)
    newest = latest(store)
    for version in range(newest.version if newest else 0, 0, -1):
        fault = broken_link(at, read_manifest(store, version))
        if fault:
            raise StoreError(fault)


def broken_link(at: Storage, manifest: Manifest) -> str:
    """What is wrong with the version before this one, or nothing."""
    before = name_of(manifest.version - 1)
    actual = sha256_of(at, before)
    if actual == (manifest.parent or "no file"):
        return ""
    return f"{at}/{before}: sha256 is {actual}, version {manifest.version} says {manifest.parent}"


def commit(store: Store, change: Callable[[Manifest | None], Manifest | None], lease: Lease | None = None) -> Manifest:
    """Publish the version that `change` makes of the current one (None: there is none yet), and return it.

    `change` returns None when nothing is to do; then the current version stays and is returned. It is asked again
    with the newer version whenever another publisher came first, so it may not keep what it computed from the old one.
    Version, parent hash and row numbers are checked or set here. StoreError when an empty store would stay empty or
    a file of the new version is absent; LeaseError when somebody else holds the store's lease or `lease` was lost.
    """
    at = storage_of(store)
    while True:
        parent = latest(store)
        child = change(parent)
        if child is None:
            if parent is None:
                raise StoreError(f"{at}: nothing to publish, and no version is there")
            return parent
        child = _numbered(at, parent, child)
        _touch(at, parent, child)
        check_lease(at, lease)
        if at.create(name_of(child.version), _to_json(child)):
            return child


def require_same(manifest: Manifest, spec: Spec, encoder: str, where: str) -> None:
    """StoreError with both values when vectors of this spec and encoder cannot stand beside the manifest's."""
    if encoder != manifest.encoder:
        raise StoreError(f"{where}: encoder is {encoder!r}, version {manifest.version} has {manifest.encoder!r}")
    if spec != manifest.spec:
        raise StoreError(f"{where}: spec is {spec}, version {manifest.version} has {manifest.spec}")


def check_rows(manifest: Manifest, where: str) -> None:
    """StoreError when two segments share a row number or one lies at or past `next_row`."""
    row = 0
    for ref in sorted(manifest.segments, key=lambda ref: ref.row_start):
        if ref.row_start < row:
            raise StoreError(f"{where}: segment {ref.id} starts at row {ref.row_start}, the one before ends at {row}")
        row = ref.row_start + ref.rows
    if row > manifest.next_row:
        raise StoreError(f"{where}: segments end at row {row}, next_row is {manifest.next_row}")


def files_of(manifest: Manifest) -> set[str]:
    """The names a version stands on: segment folders, tombstones, the template of trained vectors."""
    names = {f"{SEGMENTS}/{ref.id}" for ref in manifest.segments}
    if manifest.tombstones:
        names.add(f"tombstones/{manifest.tombstones}")
    if manifest.spec.template:
        names.add(f"templates/{manifest.spec.template}.faiss")
    return names


def _numbered(at: Storage, parent: Manifest | None, child: Manifest) -> Manifest:
    """The child with its number and its parent's hash; a row number given twice is refused."""
    child = replace(child, version=parent.version + 1 if parent else 1)
    where = f"{at}/{name_of(child.version)}"
    for name in ("next_row", "oldest") if parent else ():
        if getattr(child, name) < getattr(parent, name):
            raise StoreError(f"{where}: {name} would fall from {getattr(parent, name)} to {getattr(child, name)}")
    check_rows(child, where)
    if parent is None:
        return replace(child, parent=None)
    return replace(child, parent=sha256_of(at, name_of(parent.version)))


def _touch(at: Storage, parent: Manifest | None, child: Manifest) -> None:
    """Make what is new to the child look new: garbage collection leaves young files alone (see garbage.py)."""
    for name in sorted(files_of(child) - (files_of(parent) if parent else set())):
        file = f"{name}/segment.json" if name.startswith(SEGMENTS) else name
        try:
            at.touch(file)
        except FileNotFoundError as error:
            raise StoreError(f"{at}/{file}: no such file; version {child.version} needs it") from error


def _to_json(manifest: Manifest) -> bytes:
    content = {"schema": SCHEMA_VERSION, **asdict(manifest)}
    return dump_json({**content, "sha256": sha256_bytes(dump_json(content))})
