"""New versions of a store: rows published, replaced, deleted, brought together; and what no version needs removed.

Each makes its files first and commits last; a change that finds another version current by then is made again on that.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from wbrag.store import rows, vectors
from wbrag.store.files import StoreError, move_into_place, scratch_folder
from wbrag.store.fulltext import FOLDER as FULLTEXT
from wbrag.store.fulltext import fulltext_name
from wbrag.store.place import DATA, Place, Where, place_of
from wbrag.store.rows import Piece
from wbrag.store.vectors import Spec
from wbrag.store.versions import DAY, PIN, Version, commit, current, kept, pinned, pins

if TYPE_CHECKING:
    import lance
    from lance.fragment import FragmentMetadata

#: What is wbrag's or Lance's to remove; what is called otherwise is left alone. Lance's own first version stays.
OURS = {
    f"{DATA}/data": r"\w+\.lance",
    f"{DATA}/_deletions": r"[\w-]+\.(arrow|bin)",
    f"{DATA}/_versions": r"d\d+\.manifest",
    f"{DATA}/_transactions": r"[1-9]\d*-[0-9a-f-]+\.txn",
    vectors.INDEX: r"[0-9a-f]{32}\.faiss",
    vectors.TEMPLATES: r"[0-9a-f]{64}\.faiss",
    "pieces": r"[0-9a-f-]+\.npy",
    "pins": PIN,
}


class LiveError(StoreError):
    """An id that was to be published is live already."""


class MovedOnError(StoreError):
    """A version that a change was made for is not the current one any more."""


def write_piece(place: Place, table: pa.Table, spec: Spec, gpu: bool = False) -> Piece:
    """Rows (`rows.with_vectors`) as one fragment, and beside it its index, which no version has yet; `gpu` as
    `vectors.index_file`.
    """
    from lance.fragment import write_fragments

    options, size = place.lance_options, max(1, len(table))
    with place.scratch() as folder, ThreadPoolExecutor(1) as beside:
        index = beside.submit(vectors.index_file, place, folder / "index", rows.vectors_of(table), spec, gpu)
        # "overwrite": columns are numbered by their place in this schema, not by Lance's newest version
        (fragment,) = write_fragments(
            table, place.data, table.schema, mode="overwrite", max_rows_per_file=size, storage_options=options
        )
        files = {name: place.facts(name) for name in rows.data_files(fragment)}
        name = rows.index_of(fragment, files, spec)
        files[name] = index.result()
        place.put(name, folder / "index")
    return Piece(fragment, table.schema, files)


def publish(
    where: Where,
    pieces: Sequence[Piece],
    spec: Spec,
    encoder: str,
    note: dict[str, Any],
    base: tuple[int, str] | None = None,
    upsert: bool = False,
) -> Version:
    """A new version with these pieces more, whose vectors an encoder of this fingerprint made; `base`: what a version
    of units belongs to (`versions.named`). An id that is live is refused, or with `upsert` its row is replaced.

    StoreError, with both values: an id twice, or live; another encoder, kind of index or dimension than the store's;
    columns that others published meanwhile; nothing to publish.
    """
    place = place_of(where)
    if not pieces:
        raise StoreError(f"{place}: nothing to publish")
    ids = _ids(place, pieces)

    def change(parent: Version) -> Version:
        if encoder != parent.encoder:
            raise StoreError(f"{place}: encoder is {encoder!r}, version {parent.version} has {parent.encoder!r}")
        if spec != parent.spec:
            raise StoreError(f"{place}: index is {spec}, version {parent.version} has {parent.spec}")
        of = replace(parent, base=base)
        if not parent.version:
            return _child(place, of, note, pieces)
        data = rows.opened(place, parent)
        live = _live(data, ids)
        if len(live) and not upsert:
            raise LiveError(f"{place}: id {min(live['id'].to_pylist())!r} is live in version {parent.version} already")
        return _child(place, of, note, pieces, *_without(data, live))

    return commit(place, change, Version(0, 0, 0, spec, encoder, {}))


def exchange(
    where: Where,
    of: Version,
    pieces: Sequence[Piece],
    gone: pa.Array,
    note: dict[str, Any],
    base: tuple[int, str] | None = None,
) -> Version:
    """A new version in which the ids of these pieces have the pieces' rows, whether they were live or not, and the ids
    `gone` (strings) have none; all else is as in `of`. MovedOnError where that is not the current version any more.
    """
    place = place_of(where)
    out = pa.concat_arrays([_ids(place, pieces), gone.cast(pa.string())])

    def change(parent: Version) -> Version:
        if parent.version != of.version:
            raise MovedOnError(
                f"{place}: version {parent.version} was published meanwhile, this is made for {of.version}"
            )
        data = rows.opened(place, parent)
        return _child(place, replace(parent, base=base), note, pieces, *_without(data, _live(data, out)))

    return commit(place, change)


def copy_store(store: Path, target: Path) -> None:
    """A store of its own with all that is in another one: files are never changed in place, so those on one file system
    are linked. Whole or not at all; one that is there already stays.
    """

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:  # another file system, or one without links
            shutil.copy2(source, copy)

    with pinned(store), scratch_folder(target.absolute().parent) as scratch:
        shutil.copytree(store, scratch / "store", copy_function=link, ignore=shutil.ignore_patterns("pins", ".tmp-*"))
        move_into_place(scratch / "store", target.absolute())


def delete(where: Where, ids: Iterable[str], note: dict[str, Any]) -> Version:
    """A new version without these ids; what is deleted already is passed over. StoreError: an id that is in no row."""
    place, wanted = place_of(where), pa.array(sorted(set(ids)), pa.string())

    def change(parent: Version) -> Version | None:
        data = rows.opened(place, parent)
        live = _live(data, wanted)
        if len(live) < len(wanted):
            known = {*live["id"].to_pylist(), *_deleted(data)}
            if unknown := set(wanted.to_pylist()) - known:
                raise StoreError(f"{place}: version {parent.version} has no passage {min(unknown)!r}")
        return _child(place, parent, note, (), *_without(data, live)) if len(live) else None

    return commit(place, change)


def compact(where: Where, note: dict[str, Any], keep_rows: int = 100_000, most: int = 1_000_000) -> Version:
    """What is live in fewer fragments without the deleted rows, as a new version; searches find the same.

    A fragment of at least `keep_rows` rows of which none is deleted stays as it is; neighbours of all others become
    fragments of at most `most` rows. Memory: the rows of one of these.
    """
    place = place_of(where)

    def change(parent: Version) -> Version | None:
        there = {f.metadata.id: f for f in rows.opened(place, parent).get_fragments()}
        told = [(number, f.metadata.physical_rows, f.metadata.num_deletions) for number, f in there.items()]
        runs = to_join(told, keep_rows, most)
        runs = [run for run in runs if len(run) > 1 or there[run[0]].metadata.num_deletions]
        tables = (pa.concat_tables([there[number].to_table() for number in run]) for run in runs)
        pieces = [write_piece(place, table, parent.spec) for table in tables]
        return _child(place, parent, note, pieces, [number for run in runs for number in run]) if runs else None

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
    place, newest = place_of(where), current(where)
    oldest = max(newest.oldest, newest.version - keep + 1) if keep else newest.oldest
    if not dry_run and _needed(place, oldest) < _needed(place, newest.oldest):

        def change(parent: Version) -> Version | None:
            if parent.oldest >= oldest:
                return None
            return replace(parent, oldest=oldest, restored_from=None, note={"made_by": "clean-up"})

        oldest = commit(place, change).oldest
    elif not dry_run:
        oldest = newest.oldest  # the versions before may be pinned still, as no record says otherwise
    there = [
        f"{folder}/{name}" for folder, ours in OURS.items() for name in place.names(folder) if re.fullmatch(ours, name)
    ]
    # After the files were listed: a pin that has come since is no leftover, and what it pins is needed.
    needed, found = _needed(place, oldest) | {f"pins/{name}" for name in pins(place)}, []
    for path in there:
        if path not in needed and (told := place.stat(path)) and time.time() - told[1] >= grace:
            found.append(path)
    for path in found if not dry_run else []:
        place.remove(path)
    words = {fulltext_name(version) for version in kept(place, oldest)}
    folders = [f"{FULLTEXT}/{name}" for name in ([] if place.remote else place.names(FULLTEXT)) if name not in words]
    for path in folders if not dry_run else []:
        shutil.rmtree(Path(place.root, path))
    return sorted([*found, *folders])


def _needed(place: Place, oldest: int) -> set[str]:
    return {name for version in kept(place, oldest) for name in version.files}


def _child(
    place: Place,
    parent: Version,
    note: dict[str, Any],
    pieces: Sequence[Piece],
    gone: Sequence[int] = (),
    thinned: Sequence[FragmentMetadata] = (),
) -> Version:
    """The version that a change (`rows.committed`) makes of its parent; its number comes with the commit."""
    data = rows.committed(place, parent, pieces, gone, thinned)
    known = {**parent.files, **{name: facts for piece in pieces for name, facts in piece.files.items()}}
    names = [f"{DATA}/_versions/d{data.version}.manifest"]
    names += [vectors.template_name(parent.spec)] if parent.spec.template else []
    for facts in (fragment.metadata for fragment in data.get_fragments()):
        names += [*rows.data_files(facts), rows.index_of(facts, known, parent.spec)]
        names += [f"{DATA}/{deleted.path(facts.id)}"] if (deleted := facts.deletion_file) else []
    files = {name: known.get(name) or place.facts(name) for name in names}
    return replace(parent, lance=int(data.version), rows=data.count_rows(), files=files, restored_from=None, note=note)


def _ids(place: Place, pieces: Sequence[Piece]) -> pa.Array:
    """The ids of pieces; StoreError for one that is there twice."""
    from lance.file import LanceFileReader

    found: list[pa.Array] = []
    for name in [name for piece in pieces for name in rows.data_files(piece.fragment)]:
        reader = LanceFileReader(f"{place}/{name}", storage_options=place.lance_options, columns=["id"])
        found += reader.read_all(batch_size=65_536).to_table()["id"].chunks
    ids = pa.chunked_array(found, pa.string())
    rows.check_ids(ids, f"{place}: what is to be published")
    return ids.combine_chunks()


def _live(data: lance.LanceDataset, ids: pa.Array) -> pa.Table:
    """Those of the ids that are live, with the addresses of their rows."""
    table = data.scanner(columns=["id"], with_row_address=True).to_table()
    return table.filter(pc.is_in(table["id"], value_set=ids))


def _deleted(data: lance.LanceDataset) -> set[str]:
    """The ids of rows that are deleted and not yet gone."""
    found: set[str] = set()
    for fragment in data.get_fragments():
        if fragment.metadata.num_deletions:
            table = fragment.scanner(columns=["id"], with_row_id=True, include_deleted_rows=True).to_table()
            found.update(table.filter(pc.is_null(table["_rowid"]))["id"].to_pylist())
    return found


def _without(data: lance.LanceDataset, live: pa.Table) -> tuple[list[int], list[FragmentMetadata]]:
    """The fragments that are gone, and those with more rows deleted, once these rows (`_live`) are."""
    addresses = live["_rowaddr"].to_numpy()
    gone: list[int] = []
    thinned: list[FragmentMetadata] = []
    for fragment in data.get_fragments():
        here = addresses[addresses >> 32 == fragment.fragment_id] & 0xFFFF_FFFF
        if len(here):
            if (left := fragment.delete_rows(here)) is None:
                gone.append(fragment.fragment_id)
            else:
                thinned.append(left)
    return gone, thinned
