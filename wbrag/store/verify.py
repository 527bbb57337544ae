"""Is every byte of a store what was written? And what can be made again: every index, of the rows."""

from __future__ import annotations

from dataclasses import dataclass

from wbrag.schema import PASSAGE
from wbrag.store import rows, vectors
from wbrag.store.changes import index_of
from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.place import Facts, Place, Where, nothing_there, place_of
from wbrag.store.versions import Version, kept, numbers, read_version, record_name


def verify(where: Where, full: bool = False) -> list[str]:
    """Everything wrong with a store, one message each, with the file's name and both values; nothing: it is whole.

    All records and their chain; of every kept or pinned version that its files are there, with their sizes; `full`: and
    the sha256 of each (about 0.6 GB/s on one core). StoreError where there is no store.
    """
    place = place_of(where)
    there = numbers(place)
    if not there:
        raise nothing_there(place)
    faults = [fault for number in range(1, there[-1] + 1) if (fault := _broken(place, number))]
    if faults:
        return faults
    seen: set[tuple[str, Facts]] = set()
    for version in kept(place):
        new = [item for item in version.files.items() if item not in seen]
        faults += [fault for name, facts in new if (fault := _differs(place, name, facts, full))]
        seen.update(new)
    return faults


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
    """Make every damaged or missing index of a kept version again, of its rows; returns the files' names.

    StoreError, and nothing is replaced, where another file is damaged (bring it back from a backup), or where the index
    that was made again is not the one that was written.
    """
    place = place_of(where)
    damaged = {fault.partition(": ")[0].removeprefix(f"{place}/"): fault for fault in verify(place, full=True)}
    for name, fault in damaged.items():
        if not name.startswith(vectors.INDEX):
            raise StoreError(f"{fault}; only an index can be made again, bring this file back from a backup")
    made: list[str] = []
    for version in kept(place):
        made += _made_again(place, version, set(damaged) - set(made))
    return made


def _made_again(place: Place, version: Version, damaged: set[str]) -> list[str]:
    data, made = rows.opened(place, version), []
    for fragment in data.get_fragments():
        name = index_of(fragment.metadata.to_json(), version.files, version.spec)
        if name in damaged:
            template = vectors.read_template(place, version.spec)
            kept_rows = rows.all_vectors(data, fragment.metadata.id)
            found = vectors.write_index(place, name, kept_rows, version.spec, template)
            if found != version.files[name]:
                told = f"made again its (bytes, sha256) are {found}, the version says {version.files[name]}"
                raise StoreError(f"{place}/{name}: {told}")
            made.append(name)
    return made


@dataclass(frozen=True, slots=True)
class Diff:
    """What a later version has over an earlier one, as sorted ids."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]  # live in both with another title or text


def diff(where: Where, a: int, b: int) -> Diff:
    """The passages that are live in version `b` and not in `a`, in `a` and not in `b`, and in both but changed."""
    place = place_of(where)
    before, after = (_texts(place, read_version(place, number)) for number in (a, b))
    both = before.keys() & after.keys()
    return Diff(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(key for key in both if before[key] != after[key])),
    )


def _texts(place: Place, version: Version) -> dict[str, int]:
    """A hash of title and text for each live id."""
    found: dict[str, int] = {}
    for block in rows.blocks(rows.opened(place, version), PASSAGE.names):
        for row in block.to_pylist():
            found[row["id"]] = hash((row["title"], row["text"]))
    return found
