"""One knowledge base of many runs: a run brings its units, follows up with others, takes them back or moves them.

    KB/base  KB/writeback    laid out as a run's, so that `KnowledgeBase.open(KB)` finds both

The base is a copy of the first run's; an update of a run brings it to the run's documents. Whatever changes is one new
version of the write-back store, which names its base. No passage or unit is encoded: vectors come with the rows.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wbrag.run.decided import decisions_of, hashes_of, what_is_said
from wbrag.run.folder import RunError, now, read_config, read_record
from wbrag.run.lease import LEASE, in_turn
from wbrag.schema import SEEN_BY
from wbrag.store import rows
from wbrag.store.changes import MovedOnError, copy_store, exchange, publish, write_piece
from wbrag.store.files import StoreError, make_folder
from wbrag.store.place import place_of
from wbrag.store.search import base_of
from wbrag.store.verify import diff
from wbrag.store.versions import Version, current, latest, named, noted, pair
from wbrag.units.access import seen_by_nobody
from wbrag.units.contributions import at_home, merged, shares
from wbrag.units.decisions import decided

Row = dict[str, Any]
RUNS = pa.field("runs", pa.list_(pa.struct([("run", pa.string()), ("example_ids", pa.list_(pa.string()))])))


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a run has in a knowledge base: `units`, of which `alone` no other run made; `elsewhere`: units that are not
    in it as their sources say something else there, or are absent; `versions` of its write-back store before and after.
    """

    run: str
    units: int
    alone: int
    elsewhere: int
    versions: tuple[int, int]

    def __str__(self) -> str:
        told = (
            f"{self.run}: {self.units:,} units, {self.alone:,} of it alone; v{self.versions[0]} -> v{self.versions[1]}"
        )
        return told + (f"; {self.elsewhere:,} left out, whose sources differ there" if self.elsewhere else "")


def run_name(run: Path) -> str:
    """What a knowledge base calls a run: its setting, and the hash of all that makes its result."""
    told, record = read_config(run), read_record(run / "run.json")
    return "-".join([*(str(told[key]["name"]) for key in ("benchmark", "method", "backbone")), str(record["hash"])])


def contribute(run: Path, kb: Path) -> Contribution:
    """Make a finished run's contribution to a knowledge base what the run has published last; a folder that holds none
    becomes one, of the run's base.

    StoreError where `kb` is not of the run's encoder, or a run's own folder; RunError where the run is not finished.
    """
    if not (run / "metrics.json").is_file():
        raise RunError(f"{run}: holds no trained knowledge base (no metrics.json)")
    if (kb / "run.json").exists():  # its units, which no run has brought, would all go
        raise StoreError(f"{kb}: is the folder of a run; give a folder of its own to what runs share")
    own = base_of(run)
    assert own is not None  # a finished run has one
    make_folder(kb)
    with in_turn(kb / LEASE):
        if latest(kb / "base") is None:
            copy_store(own, kb / "base")
        passages, brought = pair(own, run / "writeback")
        assert passages is not None
        here = current(kb / "base")
        if passages.encoder != here.encoder:
            raise StoreError(f"{kb}: encoder is {here.encoder!r}, that of {run} {passages.encoder!r}")
        table = rows.opened(run / "writeback", brought).to_table() if brought else None
        units = table.drop_columns([rows.VECTOR]).to_pylist() if table is not None else []
        ids = {key for unit in units for key in unit["source_ids"]}
        good = at_home(units, hashes_of(own, passages, ids), hashes_of(kb / "base", here, ids))
        versions = _changed(kb, run_name(run), good, table, (run / "writeback", brought))
        return _contribution(kb, run_name(run), len(units) - len(good), versions)


def withdraw(kb: Path, name: str) -> Contribution:
    """A knowledge base without what this run alone has brought. StoreError where it has brought nothing."""
    with in_turn(kb / LEASE):
        _known(kb, name)
        return _contribution(kb, name, 0, _changed(kb, name, [], None))


def move(kb: Path, name: str, run: Path, other: Path) -> tuple[Contribution, Contribution]:
    """Bring the contribution of `run`, which `kb` calls `name`, into another knowledge base, and then take it back."""
    if name != run_name(run):
        raise StoreError(f"{run}: is {run_name(run)}, not {name}")
    if kb.resolve() == other.resolve():
        raise StoreError(f"{other}: {name} is there already")
    _known(kb, name)
    brought = contribute(run, other)
    return withdraw(kb, name), brought


def contributions(kb: Path) -> dict[str, tuple[int, int]]:
    """For each run that brought units into a knowledge base how many, and how many of them it alone."""
    version = latest(kb / "writeback")
    return shares(_runs(rows.opened(kb / "writeback", version).to_table())) if version else {}


def _known(kb: Path, name: str) -> None:
    if name not in (known := contributions(kb)):
        raise StoreError(f"{kb}: no run {name!r} brought units; there are {', '.join(known) or 'none'}")


def _contribution(kb: Path, name: str, elsewhere: int, versions: tuple[int, int]) -> Contribution:
    units, alone = contributions(kb).get(name, (0, 0))
    return Contribution(name, units, alone, elsewhere, versions)


def _changed(
    kb: Path, name: str, units: Sequence[Row], table: pa.Table | None, of: tuple[Path, Version | None] = (Path(), None)
) -> tuple[int, int]:
    """Publish what a contribution makes of a knowledge base; versions before and after. `table`: the rows of the units
    with their vectors; `of`: the store that they come from, whose notes a first version takes over.
    """
    store, base = kb / "writeback", current(kb / "base")
    while True:
        before = latest(store)
        live = rows.opened(store, before).to_table() if before else None
        there = _sound(_runs(live) if live is not None else [], kb, before, base)
        decisions = decisions_of(store)
        made, _ = decided(merged(there, name, units), decisions, what_is_said(kb / "base", decisions))
        known = {row["id"]: row for row in [*there, *units]}  # an edited unit lies in the decision without its runs
        wanted = [row if "runs" in row else known[row["id"]] for row in made if row["id"] in known]
        wanted = _labelled(wanted, kb / "base", base)
        note = {"made_by": "contribute", "at": now(), "host": socket.gethostname(), "run": name}
        try:
            return _published(store, before, wanted, [one for one in (live, table) if one is not None], note, base, of)
        except MovedOnError:  # somebody decided about a unit meanwhile
            continue


def _labelled(units: list[Row], where: Path, base: Version) -> list[Row]:
    """The units with who may see them as this base labels their sources, whatever the run that brought them says, and
    without those that nobody may; as they are where it has no labels.
    """
    if not rows.has_labels(where, base):
        return units
    labels = rows.labels_of(where, base, [unit["source_ids"] for unit in units])
    told = zip(units, labels, strict=True)
    return [unit | {SEEN_BY.name: label} for unit, label in told if not seen_by_nobody(label)]


def _published(
    store: Path,
    before: Version | None,
    wanted: Sequence[Row],
    known: Sequence[pa.Table],
    note: Row,
    base: Version,
    of: tuple[Path, Version | None],
) -> tuple[int, int]:
    there = {row["id"]: row for row in _runs(known[0])} if before else {}
    new = [row for row in wanted if row["id"] not in there or any(there[row["id"]].get(key) != row[key] for key in row)]
    gone = pa.array(sorted(there.keys() - {row["id"] for row in wanted}), pa.string())
    place, number = place_of(store), before.version if before else 0
    if before and not new and not len(gone) and before.base == named(base):
        return number, number
    source = of[1] or before
    if (not new and not before) or source is None:
        return 0, 0
    pieces = [write_piece(place, _with_vectors(new, known, store, before, source), source.spec)] if new else []
    if before:
        return number, exchange(store, before, pieces, gone, note, named(base)).version
    kept = {key: noted(place_of(of[0]), source, key) for key in ("encoder", "merge", "retrieval")}
    return 0, publish(store, pieces, source.spec, source.encoder, note | kept, named(base)).version


def _with_vectors(
    new: Sequence[Row], known: Sequence[pa.Table], store: Path, before: Version | None, source: Version
) -> pa.Table:
    """These units as rows of the store, with the vectors that the known rows of their ids have."""
    there = pa.concat_tables([table.select(["id", rows.VECTOR]) for table in reversed(known)])
    vectors = rows.vectors_of(there.take(pc.index_in(pa.array([row["id"] for row in new]), there["id"])))
    kinds = {f.name: f for table in known for f in table.schema if f.name != rows.VECTOR} | {"runs": RUNS}
    kinds |= {SEEN_BY.name: SEEN_BY} if SEEN_BY.name in new[0] else {}
    schema = rows.schema_in(place_of(store), before, pa.schema(list(kinds.values())), source.spec.dimension)
    told = pa.Table.from_pylist([dict(row) for row in new], pa.schema([f for f in schema if f.name != rows.VECTOR]))
    return rows.with_vectors(told, vectors, schema)


def _sound(live: list[Row], kb: Path, before: Version | None, base: Version) -> list[Row]:
    """Those of the live units whose sources say in this version of the base what they said when units last came."""
    if before is None or before.base is None or before.base == named(base):
        return live
    told = diff(kb / "base", before.base[0], base.version)
    changed = {*told["removed"], *told["changed"]}
    return [row for row in live if changed.isdisjoint(row["source_ids"])]


def _runs(table: pa.Table) -> list[Row]:
    others = [field for field in table.schema if field.name not in (rows.VECTOR, RUNS.name)]
    found: list[Row] = rows.filled(table, pa.schema([*others, RUNS])).to_pylist()
    return found
