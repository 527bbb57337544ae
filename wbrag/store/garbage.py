"""Garbage collection: which versions are kept, which files nobody needs, and pins that keep files longer.

A file is removed only if no kept and no pinned version stands on it and it is older than the grace period. Why that is
safe beside running writers: a writer makes its files young (`commit` touches what it reuses), then looks for a lease,
then commits. The collector takes the lease, then looks at ages. So either the writer finds the lease and is refused, or
the collector finds the file young. What a crashed job left is unreferenced and goes the same way.
"""

from __future__ import annotations

import errno
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from wbrag.store.files import StoreError, dump_json, load_json
from wbrag.store.lease import leased
from wbrag.store.manifest import Manifest, commit, files_of, latest, name_of, read_manifest, versions
from wbrag.store.storage import SEGMENTS, Storage, Store, read, storage_of

DAY = 86_400.0
#: What a collector that dies leaves others to wait, and the most that one removal may take.
LEASE_SECONDS = 120.0
#: Names that wbrag gives; what is called otherwise is not ours to remove.
OURS = re.compile(r"\.tmp-[0-9a-f]{32}|\.build-[0-9a-f]{16}|[0-9a-f]{16}|\d{6,}-[0-9a-f]{64}\.npy|[0-9a-f]{64}\.faiss")
FOLDERS = (SEGMENTS, "tombstones", "templates", "manifests", "leases", "pins")


@contextmanager
def pinned(store: Store, version: int = 0, seconds: float = DAY) -> Iterator[Manifest]:
    """Keep the files of a version (0: the current one) until the end, or for `seconds` should the process die.

    For a job that opens the same version again and again over hours. StoreError when it is not kept any more.
    """
    at = storage_of(store)
    newest = latest(store)
    if newest is None:
        raise StoreError(f"{at}: no version was ever published there")
    version = version or newest.version
    pin = f"pins/{version:06d}-{uuid.uuid4().hex}.json"
    at.create(pin, dump_json({"version": version, "expires": time.time() + seconds}))
    try:
        newest = latest(store)  # again: a collector that did not see the pin has raised `oldest` by now
        if newest and version < newest.oldest:
            raise StoreError(f"{at}: version {version} is not kept any more; the oldest kept is {newest.oldest}")
        yield read_manifest(store, version)
    finally:
        at.remove(pin)


@contextmanager
def reading(*stores: Store | None, seconds: float = 7 * DAY) -> Iterator[tuple[int, ...]]:
    """The current versions of these stores, pinned for the block; 0 for a store that is None or empty.

    What actors open by number stays the same version for all of them, and after a restart. A store that this process
    may not write to is read without a pin.
    """
    with ExitStack() as stack:
        versions = []
        for store in stores:
            newest = latest(store) if store else None
            versions.append(newest.version if newest else 0)
            if store and newest:
                try:
                    stack.enter_context(pinned(store, newest.version, seconds))
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                        raise
        yield tuple(versions)


def collect_garbage(
    store: Store, grace_seconds: float = DAY, keep_versions: int = 0, dry_run: bool = False
) -> list[str]:
    """Remove what no kept version needs and is older than the grace period; returns the names, sorted.

    `keep_versions`: keep this many of the newest (0: all), and any that was current within the grace period; where
    that frees files, it is first committed as a new version's `oldest`. Manifests stay for ever. `dry_run` only tells.
    LeaseError while a job holds the store's lease.
    """
    at = storage_of(store)
    if dry_run:
        return _leftovers(at, _oldest(at, grace_seconds, keep_versions), grace_seconds)
    with leased(store, "garbage collection", LEASE_SECONDS) as lease:

        def change(parent: Manifest | None) -> Manifest | None:
            oldest = _oldest(at, grace_seconds, keep_versions)
            if parent is None or _needed(at, oldest) == _needed(at, parent.oldest):
                return None
            return replace(parent, oldest=oldest, restored_from=None, note={"made_by": "garbage collection"})

        oldest = commit(store, change, lease).oldest if versions(at) else 1
        names = _leftovers(at, oldest, grace_seconds)
        for name in names:
            lease.renew()  # refused when it was lost; so nothing is removed without it
            at.remove(name)
        return names


def _oldest(at: Storage, grace_seconds: float, keep_versions: int) -> int:
    """The oldest version to keep. A version was current within the grace period if its successor is younger."""
    newest = latest(at)
    if newest is None:
        return 1
    version = max(newest.oldest, newest.version - keep_versions + 1) if keep_versions else newest.oldest
    while version > newest.oldest and at.age(name_of(version)) < grace_seconds:
        version -= 1
    return version


def pins(store: Store) -> set[int]:
    """The versions that somebody has pinned and whose pin has not expired."""
    at = storage_of(store)
    found = set()
    for name in at.names("pins"):
        if not name.endswith(".json"):
            continue  # being written
        try:
            data = read(at, f"pins/{name}")
        except StoreError:
            continue  # released meanwhile
        pin = load_json(data, f"{at}/pins/{name}")
        if pin["expires"] > time.time():
            found.add(int(pin["version"]))
    return found


def _needed(at: Storage, oldest: int) -> set[str]:
    """The names that versions from `oldest` on, and pinned ones, stand on."""
    kept: Iterable[int] = [version for version in versions(at) if version >= oldest]
    return {name for version in {*kept, *pins(at)} for name in files_of(read_manifest(at, version))}


def _leftovers(at: Storage, oldest: int, grace_seconds: float) -> list[str]:
    """What lies in the store without being needed and is older than the grace period."""
    needed, alive = _needed(at, oldest), pins(at)
    found = []
    for folder in FOLDERS:
        for name in at.names(folder):
            path = f"{folder}/{name}"
            expired = folder == "pins" and name.endswith(".json") and int(name.partition("-")[0]) not in alive
            ours = OURS.fullmatch(name) is not None
            if (ours or expired) and path not in needed and at.age(path) >= grace_seconds:
                found.append(path)
    return sorted(found)
