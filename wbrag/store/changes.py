"""New versions of a store: rows published, replaced, deleted, brought together; and what no version needs removed.

Each makes its files first and commits last; a change that finds another version current by then is made again on that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag.store import rows, vectors
from wbrag.store.files import StoreError
from wbrag.store.place import DATA, Facts, Place, Where, nothing_there, place_of
from wbrag.store.rows import Change, Piece
from wbrag.store.vectors import Spec
from wbrag.store.versions import DAY, Version, commit, current, kept, pins

if TYPE_CHECKING:
    import lance

#: What is wbrag's or Lance's to remove; what is called otherwise is left alone. Lance's own first version stays.
OURS = {
    f"{DATA}/data": r"\w+\.lance",
    f"{DATA}/_deletions": r"[\w-]+\.(arrow|bin)",
    f"{DATA}/_versions": r"d\d+\.manifest",
    f"{DATA}/_transactions": r"[1-9]\d*-[0-9a-f-]+\.txn",
    vectors.INDEX: r"[0-9a-f]{32}\.faiss",
    vectors.TEMPLATES: r"[0-9a-f]{64}\.faiss",
    "pieces": r"[0-9a-f-]+\.(json|npy)",
    "pins": r"\d+-[0-9a-f]{32}\.json",
}


class LiveError(StoreError):
    """An id that was to be published is live already."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is published: pieces that `write_piece` made, and how their vectors came about."""

    pieces: tuple[Piece, ...]
    spec: Spec
    encoder: str
    base: tuple[int, str] | None = None  # `versions.named` of the base that a write-back version belongs to


def write_piece(place: Place, table: pa.Table, spec: Spec) -> Piece:
    """Rows (`rows.with_vectors`) as a fragment, and beside it its index, which no version has yet."""
    xb, template = rows.vectors_of(table), vectors.read_template(place, spec)
    with ThreadPoolExecutor(1) as beside, place.scratch() as folder:
        fragment = beside.submit(rows.write_fragment, place, table)
        made = vectors.index_file(folder / "index", xb, spec, template, str(place))
        piece = fragment.result()
        name = vectors.index_name(piece.files, spec)
        place.put(name, folder / "index")
    return replace(piece, files={**piece.files, name: made})


def publish(where: Where, content: Content, note: dict[str, Any], upsert: bool = False) -> Version:
    """A new version with these rows more. An id that is live is refused, or with `upsert` its row is replaced.

    StoreError, with both values: an id twice, or live; another encoder, kind of index or dimension than the store's;
    a column of another type; nothing to publish.
    """
    place = place_of(where)
    ids = _new_ids(place, content.pieces)

    def change(parent: Version | None) -> Version | None:
        if not content.pieces:
            raise StoreError(f"{place}: nothing to publish")
        if parent is not None:
            require_same(place, parent, content.spec, content.encoder)
        made = Change(pieces=content.pieces)
        if parent is not None:
            data = rows.opened(place, parent)
            live = _live(data, ids)
            if len(live) and not upsert:
                raise LiveError(f"{place}: id {min(_ids(live))!r} is live in version {parent.version} already")
            made = _without(data, live, content.pieces)
        return _child(place, parent, made, content.spec, content.encoder, note, content)

    return commit(place, change)


def delete(where: Where, ids: Iterable[str], note: dict[str, Any]) -> Version:
    """A new version without these ids; what is deleted already is passed over. StoreError: an id that is in no row."""
    place = place_of(where)
    wanted = sorted(set(ids))

    def change(parent: Version | None) -> Version | None:
        if parent is None:
            raise nothing_there(place)
        data = rows.opened(place, parent)
        live = _live(data, wanted)
        known = {*_ids(live), *(_deleted(data) if len(live) < len(wanted) else ())}
        if unknown := set(wanted) - known:
            raise StoreError(f"{place}: version {parent.version} has no passage {min(unknown)!r}")
        return _child(place, parent, _without(data, live), parent.spec, parent.encoder, note) if len(live) else None

    return commit(place, change)


def compact(where: Where, note: dict[str, Any], keep_rows: int = 100_000, most: int = 1_000_000) -> Version:
    """What is live in fewer fragments without the deleted rows, as a new version; searches find the same.

    A fragment of at least `keep_rows` rows of which none is deleted stays as it is; neighbours of all others become
    fragments of at most `most` rows. Memory: the rows of one of these.
    """
    place = place_of(where)

    def change(parent: Version | None) -> Version | None:
        if parent is None:
            raise nothing_there(place)
        data = rows.opened(place, parent)
        told = [(f.metadata.id, f.metadata.physical_rows, f.metadata.num_deletions) for f in data.get_fragments()]
        dead = {number: count for number, _, count in told}
        runs = [run for run in to_join(told, keep_rows, most) if len(run) > 1 or dead[run[0]]]
        pieces = [write_piece(place, _table(data, run), parent.spec) for run in runs]
        gone = tuple(number for run in runs for number in run)
        made = Change(gone, (), tuple(pieces))
        return _child(place, parent, made, parent.spec, parent.encoder, note) if runs else None

    return commit(place, change)


def to_join(fragments: Sequence[tuple[int, int, int]], keep_rows: int, most: int) -> list[list[int]]:
    """Which of the fragments (number, rows, rows deleted), in order, are written anew, and which of them as one."""
    runs: list[list[int]] = []
    room = 0
    for number, count, dead in fragments:
        if count >= keep_rows and not dead:
            room = 0
        elif runs and count - dead <= room:
            runs[-1].append(number)
            room -= count - dead
        else:
            runs.append([number])
            room = most - (count - dead)
    return runs


def collect(where: Where, keep: int = 0, grace: float = DAY, dry_run: bool = False) -> list[str]:
    """Remove what no kept version needs and is older than `grace` seconds; returns the names, sorted.

    `keep`: so many of the newest versions are kept (0: all); where that frees files it is first committed as a new
    version's `oldest`. Records of versions stay for ever. `dry_run` only tells. A writer's files are young: with a
    grace of 0 nobody may write meanwhile.
    """
    place = place_of(where)
    newest = current(place)
    oldest = max(newest.oldest, newest.version - keep + 1) if keep else newest.oldest
    if not dry_run and _needed(place, oldest) < _needed(place, newest.oldest):

        def change(parent: Version | None) -> Version | None:
            if parent is None or parent.oldest >= oldest:
                return None
            return replace(parent, oldest=oldest, restored_from=None, note={"made_by": "clean-up"})

        oldest = commit(place, change).oldest
    names = _leftovers(place, oldest, grace)
    for name in names if not dry_run else []:
        place.remove(name)
    return names


def _needed(place: Place, oldest: int) -> set[str]:
    alive = pins(place)
    there = [version for version in kept(place) if version.version >= oldest or version.version in alive]
    templates = {vectors.template_name(version.spec) for version in there if version.spec.template}
    return {name for version in there for name in version.files} | templates


def _leftovers(place: Place, oldest: int, grace: float) -> list[str]:
    needed, alive, found = _needed(place, oldest), pins(place), []
    for folder, ours in OURS.items():
        for name in place.names(folder):
            path = f"{folder}/{name}"
            held = path in needed or (folder == "pins" and int(name.partition("-")[0]) in alive)
            if re.fullmatch(ours, name) and not held and place.age(path) >= grace:
                found.append(path)
    return sorted(found)


def require_same(place: Place, version: Version, spec: Spec, encoder: str) -> None:
    """StoreError with both values when vectors of this spec and encoder cannot stand in this store."""
    if encoder != version.encoder:
        raise StoreError(f"{place}: encoder is {encoder!r}, version {version.version} has {version.encoder!r}")
    if spec != version.spec:
        raise StoreError(f"{place}: index is {spec}, version {version.version} has {version.spec}")


def _child(
    place: Place,
    parent: Version | None,
    change: Change,
    spec: Spec,
    encoder: str,
    note: dict[str, Any],
    content: Content | None = None,
) -> Version:
    """The version that a change makes of its parent; its number comes with the commit."""
    lance, files = rows.committed(place, parent, change)
    data = rows.at(place, lance)
    files |= index_facts(data, files, spec, [*(parent.files.items() if parent else ()), *_facts_of(change.pieces)])
    if spec.template:
        name = vectors.template_name(spec)
        files[name] = parent.files[name] if parent else place.facts(name)
    base = content.base if content else parent.base if parent else None
    oldest = parent.oldest if parent else 1
    return Version(0, lance, data.count_rows(), spec, encoder, files, base=base, oldest=oldest, note=note)


def index_facts(
    data: lance.LanceDataset, files: dict[str, Facts], spec: Spec, known: Iterable[tuple[str, Facts]]
) -> dict[str, Facts]:
    """The index files of the fragments, of those `known`."""
    there, found = dict(known), {}
    for fragment in data.get_fragments():
        name = index_of(fragment.metadata.to_json(), files, spec)
        found[name] = there[name]
    return found


def index_of(fragment: dict[str, Any], files: dict[str, Facts], spec: Spec) -> str:
    """The name of the index over a fragment of a version that stands on `files`."""
    names = [f"{DATA}/data/{file['path']}" for file in fragment["files"]]
    return vectors.index_name({name: files[name] for name in names}, spec)


def _facts_of(pieces: Sequence[Piece]) -> list[tuple[str, Facts]]:
    return [item for piece in pieces for item in piece.files.items()]


def _new_ids(place: Place, pieces: Sequence[Piece]) -> list[str]:
    """The ids of pieces; StoreError for one that is there twice."""
    if not pieces:
        return []
    from lance.file import LanceFileReader

    ids: list[str] = []
    for piece in pieces:
        for file in piece.fragment["files"]:
            path = f"{place.data}/data/{file['path']}"
            reader = LanceFileReader(path, storage_options=place.lance_options, columns=["id"])
            ids += reader.read_all(batch_size=65_536).to_table().column("id").to_pylist()
    counts = pc.value_counts(pa.array(ids, pa.string()))
    twice = [one["values"] for one in counts.to_pylist() if one["counts"] > 1] if len(counts) < len(ids) else []
    if twice:
        raise StoreError(f"{place}: id {min(twice)!r} would be published twice")
    return ids


def _live(data: lance.LanceDataset, ids: Sequence[str]) -> pa.Table:
    """Those of the ids that are live, with the addresses of their rows."""
    table = data.scanner(columns=["id"], with_row_address=True).to_table()
    return table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))


def _ids(table: pa.Table) -> list[str]:
    found: list[str] = table["id"].to_pylist()
    return found


def _deleted(data: lance.LanceDataset) -> set[str]:
    """The ids of rows that are deleted and not yet gone."""
    found: set[str] = set()
    for fragment in data.get_fragments():
        if fragment.metadata.num_deletions:
            table = fragment.scanner(columns=["id"], with_row_id=True, include_deleted_rows=True).to_table()
            found |= set(_ids(table.filter(pc.is_null(table["_rowid"]))))
    return found


def _without(data: lance.LanceDataset, live: pa.Table, pieces: tuple[Piece, ...] = ()) -> Change:
    """The change that deletes these rows (`_live`), each fragment at once, and adds the pieces."""
    numbers = rows.addresses(live) >> 32
    gone, thinned = [], []
    for number in np.unique(numbers).tolist():
        here = _ids(live.filter(pa.array(numbers == number)))
        quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in here)
        fragment = data.get_fragment(number)
        assert fragment is not None
        told = fragment.delete(f"id IN ({quoted})")
        if told is None:
            gone.append(number)
        else:
            thinned.append(told.to_json())
    return Change(tuple(gone), tuple(thinned), pieces)


def _table(data: lance.LanceDataset, fragments: Sequence[int]) -> pa.Table:
    """The live rows of some fragments, in order."""
    wanted = set(fragments)
    return pa.concat_tables([one.to_table() for one in data.get_fragments() if one.metadata.id in wanted])
