"""Is every byte of a store what was written? And what can be made again: every index, of the rows."""

from __future__ import annotations

from typing import Any

from wbrag.schema import PASSAGE
from wbrag.store import rows, vectors
from wbrag.store.changes import index_of
from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.place import Facts, Place, Where, nothing_there, place_of
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
    faults = [fault for number in range(1, there[-1] + 1) if (fault := _broken(place, number))]
    if faults:
        return faults
    files = dict.fromkeys(item for version in kept(place) for item in version.files.items())  # each once, in order
    return [fault for name, facts in files if (fault := _differs(place, name, facts, full))]


def _broken(place: Place, number: int) -> str:
    """What is wrong with the record of a version, or with what it says of the one before it."""
    try:
        version = read_version(place, number)
        found = sha256_bytes(place.read(record_name(number - 1))) if number > 1 else None
    except StoreError as error:
        return str(error)
    if found == version.parent:
        return ""
    return f"{place}/{record_name(number - 1)}: sha256 is {found}, version {number} says {version.parent}"


def _differs(place: Place, name: str, facts: Facts, full: bool) -> str:
    size = place.size(name)
    if size != facts[0]:
        found = "no such file" if size is None else f"has {size:,} bytes, was written with {facts[0]:,}"
        return f"{place}/{name}: {found}"
    if full and (sha := place.facts(name)[1]) != facts[1]:
        return f"{place}/{name}: sha256 is {sha}, was written with {facts[1]}"
    return ""


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
    for version in kept(place):
        for fragment in rows.opened(place, version).get_fragments():
            name = index_of(fragment.metadata.to_json(), version.files, version.spec)
            if name in damaged and name not in made:
                made_again(place, version, fragment, name)
                made.append(name)
    return made


def made_again(place: Place, version: Version, fragment: Any, name: str) -> None:  # noqa: ANN401 - Lance's
    """Put the index of a fragment there once more, made of its rows. StoreError, and what is there stays, where that is
    not the one that was written: the rows are damaged.
    """
    spec, told = version.spec, version.files[name]
    xb, template = rows.all_vectors(fragment), vectors.read_template(place, spec)
    with place.scratch() as folder:
        found = vectors.index_file(folder / "index", xb, spec, template, f"{place}/{name}")
        if found != told:
            both = f"made again from the rows it has (bytes, sha256) {found}, the version says {told}"
            raise StoreError(f"{place}/{name}: {both}: the rows are damaged, verify names the file")
        place.put(name, folder / "index")


def diff(where: Where, a: int, b: int) -> dict[str, list[str]]:
    """What version `b` has over `a`, as sorted ids: `added`, `removed`, `changed` (with another title or text)."""
    place = place_of(where)
    before, after = (_texts(place, read_version(place, number)) for number in (a, b))
    changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    return {"added": sorted(added), "removed": sorted(removed), "changed": sorted(changed)}


def _texts(place: Place, version: Version) -> dict[str, int]:
    """A hash of title and text for each live id."""
    found: dict[str, int] = {}
    for block in rows.blocks(rows.opened(place, version), PASSAGE.names):
        for row in block.to_pylist():
            found[row["id"]] = hash((row["title"], row["text"]))
    return found
