"""The versions of a store: numbered records, each of which says what it stands on.

The highest number is the current version. Creating `versions/<N+1>.json` exclusively is the only commit: before it the
old version is current and what was written is unreferenced, after it the new one is. A version of a write-back store
names a version of the base: the two are one pair. Why so: docs/adr/0011-the-store-is-lance.md.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from wbrag import config
from wbrag.retrieval.encoder import Encoder
from wbrag.retrieval.encoding import open_encoder
from wbrag.store.files import StoreError, dump_json, sha256_bytes
from wbrag.store.place import VERSIONS, Facts, Place, Where, nothing_there, place_of
from wbrag.store.vectors import INDEX, Spec

SCHEMA = 1
DAY = 86_400.0
#: What a pin is called: its version, the second at which it expires, and what tells it apart.
PIN = r"(\d+)-(\d+)-[0-9a-f]{32}"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a store. `lance` is the Lance version of its rows, `files` what it stands on, by name."""

    version: int  # 0: before the first
    lance: int
    rows: int
    spec: Spec
    encoder: str  # fingerprint; one per store
    files: dict[str, Facts] = field(hash=False)
    parent: str | None = None  # sha256 of the record of version - 1
    restored_from: int | None = None
    base: tuple[int, str] | None = None  # of a write-back store: the base's version and its record's sha256
    oldest: int = 1  # versions before it are not kept: clean-up may have removed their files
    note: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def fragments(self) -> int:
        """How many its rows lie in: each has an index file of its own."""
        return sum(name.startswith(f"{INDEX}/") for name in self.files)


def record_name(version: int) -> str:
    """The file of a version."""
    return f"{VERSIONS}/{version:06d}.json"


def numbers(place: Place) -> list[int]:
    """The numbers of all versions, rising."""
    return sorted(int(name[:-5]) for name in place.names(VERSIONS) if re.fullmatch(r"\d+\.json", name))


def latest(where: Where) -> Version | None:
    """The current version of a store; None where nothing was ever published."""
    place = place_of(where)
    found = numbers(place)
    return read_version(place, found[-1]) if found else None


def current(where: Where) -> Version:
    """The current version; StoreError, saying what is there instead, where there is none."""
    if (found := latest(where)) is None:
        raise nothing_there(place_of(where))
    return found


def history(where: Where) -> list[Version]:
    """Every version from the first to the current one."""
    place = place_of(where)
    return [read_version(place, number) for number in numbers(place)]


def read_version(place: Place, number: int) -> Version:
    """One version. StoreError, naming the file and both values: absent, changed, of a schema that is not known here."""
    file, data = f"{place}/{record_name(number)}", place.read(record_name(number))
    try:
        content = dict(json.loads(data))
        told = content.pop("sha256")
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{file}: is no record of a version: {error!r}") from error
    if content.get("schema") != SCHEMA:
        raise StoreError(f"{file}: schema is {content.get('schema')}, this wbrag reads {SCHEMA}; upgrade wbrag")
    found = sha256_bytes(dump_json(content))
    if found != told or dump_json({**content, "sha256": told}) != data or content["version"] != number:
        holds = f"holds version {content.get('version')} with sha256 {found}"
        raise StoreError(f"{file}: {holds}, not {number} with {told}")
    del content["schema"]
    content["files"] = {name: (size, sha) for name, (size, sha) in content["files"].items()}
    content["base"] = tuple(content["base"]) if content["base"] else None
    return Version(**{**content, "spec": Spec(**content["spec"])})


def record_of(version: Version) -> bytes:
    """The bytes of a version's file."""
    told = {one.name: getattr(version, one.name) for one in fields(version)}  # asdict would copy every file's facts
    content = {"schema": SCHEMA, **told, "spec": asdict(version.spec)}
    return dump_json({**content, "sha256": sha256_bytes(dump_json(content))})


def named(version: Version) -> tuple[int, str]:
    """What a version of a write-back store says of the base that it belongs to."""
    return version.version, sha256_bytes(record_of(version))


def commit(where: Where, change: Callable[[Version], Version | None], first: Version | None = None) -> Version:
    """Publish the version that `change` makes of the current one, or of `first` where there is none, and return it.

    `change` returns None where nothing is to do; then the current version is returned. It is asked again, with the
    newer version, whenever another writer came first. StoreError: no version and no `first`, or, with its name, a file
    new to the version that is not there.
    """
    place = place_of(where)
    while True:
        if (parent := latest(place) or first) is None:
            raise nothing_there(place)
        if (made := change(parent)) is None:
            return parent
        told = named(parent)[1] if parent.version else None
        child = replace(made, version=parent.version + 1, parent=told)
        check_sizes(place, child, parent.files)
        if place.create(record_name(child.version), record_of(child)):
            return child


def check_sizes(place: Place, version: Version, known: Collection[str] = ()) -> None:
    """StoreError for the first file of a version, other than those `known`, that is absent or of another size."""
    for name, facts in version.files.items():
        if name not in known and (fault := place.fault(name, facts)):
            raise StoreError(f"{fault}; version {version.version} needs it")


def rollback(where: Where, number: int, note: dict[str, Any]) -> Version:
    """A new version with the content of an old one. StoreError where that one is not kept any more."""
    place = place_of(where)

    def change(parent: Version) -> Version:
        if not parent.oldest <= number <= parent.version:
            there = f"kept are {parent.oldest} to {parent.version}"
            raise StoreError(f"{place}: version {number} is not there to go back to; {there}")
        return replace(read_version(place, number), restored_from=number, oldest=parent.oldest, note=note)

    return commit(place, change)


def paired(where: Where, base: Version, note: dict[str, Any]) -> Version:
    """A new version of a write-back store with the content of the current one, beside another version of the base."""

    def change(parent: Version) -> Version | None:
        if parent.base == named(base):
            return None
        return replace(parent, base=named(base), restored_from=None, note=note)

    return commit(where, change)


def renoted(where: Where, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the records of a folder's versions anew with what `change` makes of their notes, the oldest first, and each
    with the hash of the one before as it is now. Cut short, the same call goes on.
    """
    place, parent = place_of(where), None
    for number in numbers(place):
        before = read_version(place, number)
        made = replace(before, note=change(before.note), parent=parent)
        if made != before:
            with place.scratch() as folder:
                (folder / "record").write_bytes(record_of(made))
                place.put(record_name(number), folder / "record")
        parent = named(made)[1]


@contextmanager
def pinned(where: Where, number: int = 0, seconds: float = DAY) -> Iterator[Version]:
    """Keep the files of a version (0: the current one) from clean-up until the end, or for `seconds` should the process
    die. A store that this process may not write to is read without a pin. StoreError where the version is not kept.
    """
    place = place_of(where)
    if not place.remote:  # a run's base is a link, which may lead elsewhere by the time that the pin goes
        place = Place(os.path.realpath(place.root))
    version = read_version(place, number) if number else current(place)
    pin = f"pins/{version.version:06d}-{int(time.time() + seconds)}-{uuid.uuid4().hex}"
    try:
        place.create(pin, dump_json({"host": socket.gethostname(), "pid": os.getpid()}))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield version
        return
    try:
        newest = current(place)  # again: a clean-up that did not see the pin has raised `oldest` by now
        if version.version < newest.oldest:
            raise StoreError(f"{place}: version {version.version} is not kept any more; the oldest is {newest.oldest}")
        yield version
    finally:
        place.remove(pin)


def pair(base: Where, writeback: Where | None) -> tuple[Version | None, Version | None]:
    """The current versions of base and write-back store, the base's as the other names it; None where there is none."""
    units = latest(writeback) if writeback else None
    return read_version(place_of(base), units.base[0]) if units and units.base else latest(base), units


@contextmanager
def reading(base: Where, writeback: Where | None = None) -> Iterator[tuple[int, int]]:
    """The numbers of the current `pair`, pinned for the block, 0 where there is none: what actors open by number stays
    the same version for all of them, and after a restart.
    """
    passages, units = pair(base, writeback)
    with ExitStack() as stack:
        for where, version in ((writeback, units), (base, passages)):
            if where and version:
                stack.enter_context(pinned(where, version.version, 7 * DAY))
        yield passages.version if passages else 0, units.version if units else 0


def pins(place: Place) -> dict[str, int]:
    """The versions that somebody has pinned, by the pin's name; those that have expired are left out."""
    told = {name: pin for name in place.names("pins") if (pin := re.fullmatch(PIN, name))}
    return {name: int(pin[1]) for name, pin in told.items() if int(pin[2]) > time.time()}


def holders(place: Place) -> dict[str, str]:
    """Who has pinned a version, by the pin's name; a process of this host that is gone has let go."""
    found: dict[str, str] = {}
    for name, version in pins(place).items():
        try:
            told = json.loads(place.read(f"pins/{name}") or b"{}")
        except StoreError:  # it was let go of at this moment
            continue
        if told.get("host") != socket.gethostname() or _runs(told["pid"]):
            who = f"process {told['pid']} on {told['host']}" if told else "somebody"
            found[name] = f"{who} (version {version})"
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def kept(place: Place, oldest: int = 0) -> list[Version]:
    """The versions whose files stay: from `oldest` on (0: what the current version says), and pinned ones."""
    oldest, pinned_too = oldest or current(place).oldest, pins(place).values()
    return [read_version(place, number) for number in numbers(place) if number >= oldest or number in pinned_too]


def encoder_note(encoder: config.Encoder) -> dict[str, Any]:
    """The part of a version's note that names its encoder: all settings but the speed."""
    return {"encoder": {key: value for key, value in asdict(encoder).items() if key != "batch_size"}}


def noted_encoder(place: Place, version: Version) -> config.Encoder | None:
    """The encoder that a version was made with; None where no note names one."""
    told = noted(place, version, "encoder")
    return config.Encoder(**told) if told else None


def opened_encoder(place: Place, version: Version) -> Encoder:
    """The encoder that a version was made with, open. StoreError where no note names one, or it is another by now."""
    if (told := noted_encoder(place, version)) is None:
        raise StoreError(f"{place}: no version says which encoder made it, so nothing can be encoded for it")
    encoder = open_encoder(told)
    check_encoder("what its note names", encoder.fingerprint, place, version)
    return encoder


def check_encoder(who: str, encoder: str, place: Place, version: Version) -> None:
    """StoreError, with both, where scores of vectors of this encoder do not compare with those of a version."""
    if encoder != version.encoder:
        raise StoreError(f"{who}: encoder is {encoder!r}, version {version.version} of {place} has {version.encoder!r}")


def noted(place: Place, version: Version, key: str) -> dict[str, Any]:
    """What the newest version up to this one with such a note says (rollback writes its own); {} where none has."""
    for number in range(version.version, 0, -1):
        note = version.note if number == version.version else read_version(place, number).note
        if key in note:
            return dict(note[key])
    return {}
