"""Is every byte of a store what was written? And what can be made again: every index, of the rows."""

from __future__ import annotations

from typing import Any

from wbrag.schema import PASSAGE
from wbrag.store import rows, vectors
from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.place import Place, Where, nothing_there, place_of
from wbrag.store.versions import Version, kept, numbers, read_version, record_name


def verify(where: Where, full: bool = False) -> list[str]:
    """Everything wrong with a store, one message each, with the file's name and both values; nothing: it is whole. All
    records and their chain; of every kept or pinned version that its files are there, with their sizes; `full`: and the
    sha256 of each (about 0.6 GB/s on one core). StoreError where there is no store.
    """
    place = place_of(where)
    there = numbers(place)
    if not there:
        raise nothing_there(place)
    faults = []
    for number in range(1, there[-1] + 1):
        try:
            told = read_version(place, number).parent
            found = sha256_bytes(place.read(record_name(number - 1))) if number > 1 else None
        except StoreError as error:
            faults.append(str(error))
            continue
        if found != told:
            faults.append(f"{place}/{record_name(number - 1)}: sha256 is {found}, version {number} says {told}")
    if faults:
        return faults
    files = dict.fromkeys(item for version in kept(place) for item in version.files.items())  # each once, in order
    return [fault for name, facts in files if (fault := place.fault(name, facts, full))]


def repair(where: Where) -> list[str]:
    """Make every damaged or missing index of a kept version again, of its rows; returns the files' names. StoreError,
    and nothing is replaced, where another file is damaged.
    """
    place = place_of(where)
    damaged = {fault.partition(": ")[0].removeprefix(f"{place}/"): fault for fault in verify(place, full=True)}
    for name, fault in damaged.items():
        if not name.startswith(vectors.INDEX):
            raise StoreError(f"{fault}; only an index can be made again, bring this file back from a backup")
    made: list[str] = []
    for version in kept(place) if damaged else ():
        for fragment in rows.opened(place, version).get_fragments():
            name = rows.index_of(fragment.metadata, version.files, version.spec)
            if name in damaged and name not in made:
                made_again(place, version, fragment, name)
                made.append(name)
    return made


def made_again(place: Place, version: Version, fragment: Any, name: str) -> None:  # noqa: ANN401 - Lance's
    """Put the index of a fragment there once more, made of its rows. StoreError, and what is there stays, where that is
    not the one that was written: the rows are damaged; and where it cannot be written.
    """
    try:
        with place.scratch() as folder:
            found = vectors.index_file(place, folder / "index", rows.all_vectors(fragment), version.spec)
            if found != version.files[name]:
                both = f"made again from the rows it has (bytes, sha256) {found}, the version says"
                raise StoreError(
                    f"{place}/{name}: {both} {version.files[name]}: the rows are damaged, verify names the file"
                )
            place.put(name, folder / "index")
    except OSError as error:
        told = f"is damaged or missing, and cannot be made again here ({error}); wbrag kb repair {place}"
        raise StoreError(f"{place}/{name}: {told}, by somebody who may write there, mends it") from error


def diff(where: Where, a: int, b: int) -> dict[str, list[str]]:
    """What version `b` has over `a`, as sorted ids: `added`, `removed`, `changed` (with another title or text)."""
    before, after = (_texts(place_of(where), number) for number in (a, b))
    changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    return {"added": sorted(added), "removed": sorted(removed), "changed": sorted(changed)}


def _texts(place: Place, number: int) -> dict[str, int]:
    """A hash of title and text for each id that is live in a version."""
    blocks = rows.blocks(rows.opened(place, read_version(place, number)), PASSAGE.names)
    return {row["id"]: hash((row["title"], row["text"])) for block in blocks for row in block.to_pylist()}
