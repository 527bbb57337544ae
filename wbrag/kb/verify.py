"""Is every byte of a store what was written? And what can be made again: every index, of the rows."""

from __future__ import annotations

import hashlib

from wbrag.kb import rows, vectors
from wbrag.kb.changes import index_of
from wbrag.kb.place import Place, StoreError, nothing_there
from wbrag.kb.versions import Facts, Version, kept, numbers, read_version, record_name


def verify(place: Place, full: bool = False) -> list[str]:
    """Everything wrong with a store, one message each, with the file's name and both values; nothing: it is whole.

    All records and their chain; of every kept or pinned version that its files are there, with their sizes; `full`: and
    the sha256 of each (about 0.6 GB/s on one core). StoreError where there is no store.
    """
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
        found = hashlib.sha256(place.read(record_name(number - 1))).hexdigest() if number > 1 else None
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


def repair(place: Place) -> list[str]:
    """Make every damaged or missing index of a kept version again, of its rows; returns the files' names.

    StoreError, and nothing is replaced, where another file is damaged (bring it back from a backup), or where the index
    that was made again is not the one that was written.
    """
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
