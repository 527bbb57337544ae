"""Passages withdrawn for good, and with them all that was made of them: no file of a run or of its cache says any more
what they said.

    tombstones -> versions without them -> tables -> reports -> cache -> old versions and deleted rows -> certificate

Nobody finds them once the versions are there, which comes first; each step passes over what is done, so that the same
call ends what a killed one began. A row is kept where it is known to be made of other passages only: whatever rests on
a unit or a request whose sources nobody knows any more goes too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from wbrag.config import ConfigError
from wbrag.life.update import OWN_BASE, own_base
from wbrag.methods import searches
from wbrag.report.run_report import write_report
from wbrag.run.decided import decisions_of, hashes_of
from wbrag.run.folder import (
    PURGES,
    QUESTIONS,
    UPDATES,
    load_config,
    now,
    read_record,
    tables_now,
    tables_of,
    updates_of,
    write_record,
    write_rows,
    write_text,
)
from wbrag.run.inputs import PASSAGES, cache_of
from wbrag.run.lease import LEASE, in_turn, leased, own_command
from wbrag.run.lookup import FILES
from wbrag.run.tombstones import Tombstones, bury, said, tombstones
from wbrag.store import rows
from wbrag.store.changes import MovedOnError, collect, compact, delete, exchange
from wbrag.store.files import StoreError
from wbrag.store.place import DATA, VERSIONS, place_of
from wbrag.store.search import base_of
from wbrag.store.versions import Version, current, holders, kept, latest, named, pair, paired, renoted, rollback

Row = dict[str, Any]
#: What a row becomes: itself, without what was purged, or None.
Change = Callable[[Row], Row | None]
#: The title of a purged document in a trace.
PURGED = "(purged)"
#: Text files of a run that quote documents, units and answers.
TOLD = ("report.md", "report.html", "units_sample.md", "harms.jsonl")
#: The lines of a log that quote nothing.
STAGE = re.compile(r"\S+ \S+ DEBUG wbrag\.run\.record: \w+ (begins|took [\d.]+ s)\n?")
READ_ROWS = 1024
#: How long readers of old versions are waited for: a server that follows looks every few seconds.
WAIT_SECONDS = 20.0


@dataclass(slots=True)
class Purge:
    """The purge of passages from one run, as its certificate has it: by id the hashes of what they said, the units that
    were made of them, the last update whose tables had them ("": the run's own), version numbers of base and write-back
    store before and after, and how much went, by kind.
    """

    passages: dict[str, list[str]]
    units: list[str]
    update: str
    versions: dict[str, list[int]]
    removed: dict[str, int] = field(default_factory=dict)
    at: str = field(default_factory=now)
    host: str = field(default_factory=socket.gethostname)
    command: str = field(default_factory=own_command)
    finished: str = ""

    def save(self, file: Path) -> None:
        """Write the certificate, whole or not at all."""
        write_record(file, asdict(self))


def purge(
    run: Path, ids: Sequence[str], everywhere: bool = False, force: bool = False, cache: Path | None = None
) -> dict[Path, Purge]:
    """Remove the passages of these ids, and what was made of them, from a finished run, from its cache (that of its
    settings where none is given) and, with `everywhere`, from all other runs of the cache that have them; returns what
    went from each run, by the file of its certificate. What was purged already is passed over.

    ConfigError where another process works on one of the runs, one is not finished, or others have the passages and
    are not to be touched. StoreError for an id that the base does not know, and, unless `force`, for files that a
    reader has pinned: by then nobody else finds the passages, and the same call goes on.
    """
    run = run.absolute()
    caches = [cache.absolute()] if cache else caches_of(run)
    with ExitStack() as held:
        _hold(run, held)
        sharing = list(others(run, caches, ids))
        if sharing and not everywhere:
            runs = f"{', '.join(map(str, sharing))}: have these passages too, and share a cache with {run}"
            raise ConfigError(f"{runs}; --everywhere purges them from all these runs")
        begun = {run: _begun(run, ids)}
        for other in sharing:
            _hold(other, held)
            begun[other] = _begun(other, [key for key in ids if key in contents(other, ids) or key in _open(other)])
        left = {one: found for one, found in begun.items() if not found[1].finished}
        for step in (hide, redact):
            for one, found in left.items():
                step(one, *found)
        away: dict[str, set[str]] = {}
        for told in dict(begun.values()).values():
            for key, hashes in told.passages.items():
                away.setdefault(key, set()).update(hashes)
        for folder in caches:
            empty_cache(folder, away, force)
        for kb in sorted({Path(cfg.kb) for one in left if (cfg := load_config(one)).kb}):
            purge_shared(kb, away, force)
        for one, found in left.items():
            cut(one, *found, force)
    return dict(begun.values())


def _hold(run: Path, held: ExitStack) -> None:
    """Take the lease of a run, and of its parts in which jobs work that do not hold that."""
    for folder in (run, run / "variants", *(run / "evaluations").glob("*/")):
        if folder.is_dir():
            held.enter_context(leased(folder))


def purge_shared(kb: Path, stones: Tombstones, force: bool) -> None:
    """The knowledge base that many runs bring their units to, without passages and what was made of them: no run that
    still has them brings these or such units again, as it has their tombstones.
    """
    ids, stores, note = set(stones), (kb / "base", kb / "writeback"), {"made_by": "purge", "at": now()}
    with in_turn(kb / LEASE):
        if latest(stores[0]):
            bury(kb, {**tombstones(kb), **stones})
            _withdrawn(stores, ids, note)
            _shrunk(kb, stores, ids, note, force)


def lift(run: Path, ids: Sequence[str]) -> None:
    """Let passages of these ids come back with the next update whose corpus has them. StoreError for one that was not
    purged.
    """
    run = run.absolute()
    with leased(run):
        stones = tombstones(run)
        if unknown := sorted(set(ids) - set(stones)):
            raise StoreError(f"{run}: {unknown[0]!r} was not purged")
        give_up_update(run)  # it may have been asked without them
        for where in (run, *(Path(kb) for kb in [load_config(run).kb] if kb)):
            bury(where, {key: told for key, told in tombstones(where).items() if key not in ids})


def caches_of(run: Path) -> list[Path]:
    """The folders of what a run shares with others: that of its settings, and those of its updates and evaluations."""
    folders = [run, *updates_of(run), *(run / "evaluations").glob("*/")]
    return sorted({cache_of(replace(load_config(one), run_dir=str(run))) for one in folders})


def others(run: Path, caches: Sequence[Path], ids: Sequence[str]) -> Iterator[Path]:
    """Other runs, beside this one or its caches, that share one of these and have a passage of this run's, told by id
    and content, or of which a purge of one was begun. ConfigError for one that is not finished.
    """
    own = contents(run, ids)
    wanted = {h for told in (*own.values(), *tombstones(run).values()) for h in told}
    for folder in sorted({one for beside in (run, *caches) for one in _runs_below(beside.parent)} - {run}):
        if not {*caches_of(folder), *(folder / "base").resolve().parents} & set(caches):
            continue
        if not (folder / "metrics.json").is_file():
            if not any((folder / name).exists() for name in (LEASE, "base", QUESTIONS, "traces", "predictions")):
                continue  # nobody works on it, and it failed before it read a passage
            raise ConfigError(f"{folder} shares a cache with {run} and is not finished: end or remove it, then purge")
        if _open(folder).keys() & set(ids) or any(h in wanted for told in contents(folder, ids).values() for h in told):
            yield folder


def _runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs in a folder, and in its folders; none within a run."""
    for path, inside, files in os.walk(folder):
        if {"run.json", "config.yaml"} <= set(files):
            yield Path(path)
            inside.clear()
        inside[:] = [name for name in inside if name not in (VERSIONS, DATA) and not name.startswith(".")]


def contents(run: Path, ids: Sequence[str]) -> dict[str, set[str]]:
    """The hashes of what the passages of these ids say in the versions of a run's base that are kept; {} of those that
    are in none.
    """
    base = base_of(run)
    return _contents(base, ids) if base else {}


def _contents(store: Path, ids: Iterable[str]) -> dict[str, set[str]]:
    found = defaultdict[str, set[str]](set)
    for version in kept(place_of(store)):
        for key, told in hashes_of(store, version, list(ids)).items():
            found[key].add(told)
    return found


def passages_of_files(run: Path, names: Sequence[str]) -> list[str]:
    """The ids of the passages that were cut out of these files (column `source`), in any version of a run's base that
    is kept: a purge that was cut short has taken them out of the last one. StoreError for a file that none is of.
    """
    base, wanted, found = base_of(run), pa.array(names, pa.string()), dict[str, set[str]]()
    for version in kept(place_of(base)) if base else ():
        data = rows.opened(base or run, version)
        if "source" in data.schema.names and data.schema.field("source").type == pa.string():
            of = data.to_table(columns=["id", "source"], filter=pc.field("source").isin(wanted))
            for row in of.to_pylist():
                found.setdefault(row["source"], set()).add(row["id"])
    if unknown := [name for name in names if name not in found]:
        raise StoreError(f"{base or run}: no version that is kept has a passage with the source {unknown[0]!r}")
    return sorted(set().union(*found.values()))


def _open(run: Path) -> dict[str, list[str]]:
    """The passages of a purge of a run that was begun and not ended."""
    return next((told.passages for _, told in _certificates(run)[-1:] if not told.finished), {})


def _certificates(run: Path) -> list[tuple[Path, Purge]]:
    return [(file, Purge(**read_record(file))) for file in sorted((run / PURGES).glob("*.json"))]


def _begun(run: Path, ids: Sequence[str]) -> tuple[Path, Purge]:
    """The certificate of a purge, with tombstones for its passages: a new one, that which was begun, or, where all of
    it is done, the last one. StoreError for an id that is not known.
    """
    if not (run / "metrics.json").is_file():
        raise ConfigError(f"{run} holds no trained knowledge base (no metrics.json)")
    done, stones, found = _certificates(run), tombstones(run), contents(run, ids)
    if unknown := sorted(set(ids) - found.keys() - stones.keys()):
        raise StoreError(f"{base_of(run)}: no version that is kept has passage {unknown[0]!r}")
    there = _open(run)
    if not found and not there:
        return next(one for one in reversed(done) if ids[0] in one[1].passages)
    file, told = done[-1] if there else (run / PURGES / f"{len(done) + 1:04d}.json", _new(run))
    told.passages |= {key: sorted({*hashes, *told.passages.get(key, [])}) for key, hashes in found.items()}
    told.units = sorted({*told.units, *Known.of(run, set(told.passages)).made})
    told.save(file)
    bury(run, stones | told.passages)
    return file, told


def _new(run: Path) -> Purge:
    """The certificate of a purge from a run as it is now."""
    base = base_of(run)
    assert base is not None  # a finished run has one
    shown = zip(("base", "writeback"), pair(base, run / "writeback"), strict=True)
    versions = {name: [one.version if one else 0] for name, one in shown}
    return Purge({}, [], next((folder.name for folder in reversed(updates_of(run))), ""), versions)


def hide(run: Path, file: Path, told: Purge) -> None:
    """A pair of new versions without the passages and the units that were made of them; of decisions about such units
    no version says anything any more. An update that was not ended is given up.
    """
    ids = set(told.passages)
    give_up_update(run)
    base, writeback = own_base(run), run / "writeback"
    note = {"made_by": "purge", "purge": file.stem, "at": told.at, "host": told.host, "purged": len(ids)}
    shown, _ = pair(base, writeback)
    assert shown is not None  # a finished run has a base
    if shown.version != current(base).version and file.stem != current(base).note.get("purge"):
        rollback(base, shown.version, note)  # it is ahead of the pair: an update was cut short, or the pair rolled back
    _withdrawn((base, writeback), ids, note)


def give_up_update(run: Path) -> None:
    """Remove what an update has made that was not ended."""
    done = updates_of(run)
    for folder in (run / UPDATES).glob("*"):
        if folder not in done:
            shutil.rmtree(folder)


def _withdrawn(stores: tuple[Path, Path], ids: set[str], note: Row) -> None:
    """New versions of base and write-back store as one pair, without the passages and what was made of them."""
    base, writeback = stores
    if live := rows.rows_of(base, current(base), ids)["id"].to_pylist():
        delete(base, live, note)
    made = named(current(base))
    while version := latest(writeback):
        gone = _made_of(writeback, version, ids)
        if not gone and version.base == made:
            renoted(writeback, lambda note: _undecided(note, ids))
            break
        known = {key: asdict(one) for key, one in decisions_of(writeback).items()}
        told = _undecided({**note, "decisions": known} if known else note, ids)
        with suppress(MovedOnError):
            exchange(writeback, version, [], pa.array(gone, pa.string()), told, made)


def _shrunk(folder: Path, stores: tuple[Path, Path], ids: set[str], note: Row, force: bool) -> int:
    """All stores in a folder without old versions and deleted rows, those of the pair as one; how many files went."""
    base, writeback = stores
    every = list(stores_below(folder))
    for store in every:
        if gone := _made_of(store, current(store), ids):
            delete(store, gone, note)
        compact(store, note, keep_rows=1)
    if latest(writeback):
        paired(writeback, current(base), note)
    refuse_readers(every, force, {store: current(store).version for store in every})
    return sum(len(collect(store, keep=1, grace=0)) for store in every)


def _made_of(store: Path, version: Version, ids: set[str]) -> list[str]:
    return [key for key, sources in _sources(store, version) if ids & sources]


def _undecided(note: Row, ids: set[str]) -> Row:
    """A version's note without decisions about units that were made of these passages."""
    if "decisions" not in note:
        return note
    told = note["decisions"].items()
    return {**note, "decisions": {k: one for k, one in told if not ids & {*one["unit"]["source_ids"], *one["sources"]}}}


def _sources(store: Path, version: Version) -> Iterator[tuple[str, set[str]]]:
    """The units of a version with their sources; none of a store of passages."""
    data = rows.opened(store, version)
    if "source_ids" in data.schema.names:
        for row in data.to_table(columns=["id", "source_ids"]).to_pylist():
            yield row["id"], set(row["source_ids"] or [])


def stores_below(folder: Path) -> Iterator[Path]:
    """The stores in a folder and its folders; links are not followed."""
    for path, inside, _ in os.walk(folder):
        if VERSIONS in inside and DATA in inside:
            yield Path(path)
            inside.clear()


def tables_below(folder: Path) -> list[Path]:
    """The Parquet files in a folder and its folders but for those of stores, and what a killed process left."""
    stores = set(stores_below(folder))
    files = [file for file in sorted(folder.rglob("*.parquet")) if not stores & set(file.parents)]
    return [file for file in files if not any(part.startswith(".tmp-") for part in file.relative_to(folder).parts)]


@dataclass(slots=True)
class Known:
    """What a run's tables and stores say of what was made of which passages: the units that were `made` of those that
    are purged; ids of `units` and `requests`, and hashes of the units' texts, that are known to be of others; the
    training `examples` that read a purged one.
    """

    ids: set[str]
    searched: bool = False  # the method searches while it answers, and nobody kept what it found
    made: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    requests: set[str] = field(default_factory=set)
    examples: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, run: Path, ids: set[str]) -> Known:
        """Gathered from all that there is of a run."""
        known = cls(ids, searches(load_config(run).method))
        for file in tables_below(run):
            known._read(file)
        for store in stores_below(run):
            place = place_of(store)
            for version in kept(place):
                known._units({"id": key, "source_ids": some} for key, some in _sources(store, version))
                known._units(one["unit"] for one in version.note.get("decisions", {}).values())
        known.units -= known.made
        return known

    def _read(self, file: Path) -> None:
        names = set(pq.read_schema(file).names)
        if "source_ids" in names:
            self._units(_rows(file, ["id", "title", "text", "source_ids"]))
        elif {"units", "left_out"} <= names:
            self._units(unit for row in _rows(file, ["units"]) for unit in row["units"] or [])
        elif "kept_ranks" in names:
            self._traces(_rows(file, ["id", "documents", "kept_ranks", "unit_id", "retrievals"]))
        elif "statements" in names:
            self.requests |= {row["id"] for row in _rows(file) if not self.asks(row)}

    def _units(self, units: Iterable[Mapping[str, Any]]) -> None:
        for unit in units:
            if self.ids & set(unit["source_ids"] or []):
                self.made.add(unit["id"])
            else:
                self.units.add(unit["id"])
                self.texts |= {said(unit["title"], unit["text"])} if "text" in unit else set()

    def _traces(self, traces: Iterable[Row]) -> None:
        for row in traces:
            if self.read(row["documents"]) or self._unseen(row):
                self.examples.add(row["id"])
            if row["unit_id"]:
                sources = {row["documents"][rank - 1]["id"] for rank in row["kept_ranks"] or []}
                (self.made if sources & self.ids else self.units).add(row["unit_id"])

    def read(self, documents: Iterable[Row] | None) -> bool:
        """Whether a purged passage, or what may be a unit of one, is among some documents."""
        return any(
            one["id"] not in self.units if one["source"] == "writeback" else one["id"] in self.ids
            for one in documents or []
        )

    def asks(self, row: Row) -> bool:
        """Whether a request (`schema.REQUEST`) quotes a purged passage."""
        return self.read(row["documents"]) or any(one["source"] in self.ids for one in row["statements"] or [])

    def change(self, file: Path, names: set[str]) -> Change | None:
        """What the rows of a table with these columns become; None where they quote nothing."""
        if names == {"id"}:
            noted = file.parent.name == "written"  # a checkpoint's: ids of requests name subjects
            return (lambda row: row if row["id"] in self.requests else None) if noted else None
        kinds: list[tuple[set[str], Change]] = [
            ({"documents_writeback"}, self._prediction),
            ({"kept_ranks"}, self._trace),
            ({"statements"}, lambda row: None if self.asks(row) else row),
            ({"units", "left_out"}, lambda row: row if row["id"] in self.requests else None),
            ({"source_ids"}, lambda row: None if self.ids & set(row["source_ids"] or []) else row),
            ({"request", "kind"}, self._left_out),
            ({"documents", "earlier"}, lambda row: None if self._earlier(row) else row),
            ({"documents"}, lambda row: row | {"documents": [d for d in row["documents"] or [] if not self.read([d])]}),
            ({"answer_base"}, lambda row: None if row["id"] in self.examples else row),
        ]
        return next((change for columns, change in kinds if columns <= names), None)

    def _prediction(self, row: Row) -> Row | None:
        read = [row.get(name) for name in ("documents", "documents_base", "documents_writeback")]
        return None if any(map(self.read, read)) or self._unseen(row) or self._unseen(row.get("known") or {}) else row

    def _earlier(self, row: Row) -> bool:
        before = row["earlier"] or {}
        return self.read(row["documents"]) or self.read(before.get("documents")) or self._unseen(before)

    def _unseen(self, row: Row) -> bool:
        """Whether an answer of a row may rest on documents that nobody kept."""
        return self.searched and any(value for name, value in row.items() if name.startswith("retrievals"))

    def _left_out(self, row: Row) -> Row | None:
        # It quotes what contradicts the unit (`wbrag.units.sift`); p1 is not p12.
        ends, reason = (" says:", ", of which"), row["reason"] or ""
        if any(f"passage {key}{end}" in reason for key in self.ids for end in ends):
            return None
        title, _, text = (row["text"] or "").partition("\n")
        return row if row["request"] in self.requests or said(title, text) in self.texts else None

    def _trace(self, row: Row) -> Row:
        """A trace without what was read of purged passages: which they were, and all scores and decisions, stay."""
        if not self.read(row["documents"]):
            return {**row, "rag_answer": None} if self._unseen(row) else row
        gone = [self.read([one]) for one in row["documents"]]
        quoted = any(gone[rank - 1] for rank in row["kept_ranks"] or [])
        texts = ("evidence", "unit_title", "unit_text") if quoted else ()
        made = {**row, **dict.fromkeys(("rag_answer", *texts))}
        documents = zip(row["documents"], gone, strict=True)
        made["documents"] = [{**one, "title": PURGED, "text": ""} if away else one for one, away in documents]
        if answers := row["document_answers"]:
            made["document_answers"] = ["" if away else told for told, away in zip(answers, gone, strict=False)]
        if row["status"] == "failed":
            made["reason"] = str(row["reason"]).partition(":")[0]
        return made


def _rows(file: Path, columns: list[str] | None = None) -> Iterator[Row]:
    for batch in pq.ParquetFile(file).iter_batches(READ_ROWS, columns=columns):
        yield from batch.to_pylist()


def changed(file: Path, change: Change) -> int:
    """Write a Parquet file with its rows as `change` makes them, if that is another one; how many are."""
    schema = pq.read_schema(file)
    count = sum(change(row) != row for row in _rows(file))
    if count:
        kept = (made for row in _rows(file) if (made := change(row)) is not None)
        write_rows(file, schema, tables_of(kept, schema))
    return count


def redact(run: Path, file: Path, told: Purge) -> None:
    """The run's tables, reports and logs without what they quote."""
    known = Known.of(run, set(told.passages))
    known.units -= set(told.units)
    tables = tables_below(run)
    for table in sorted(tables, key=lambda one: "requests" in one.name):  # what tells of the others comes last
        change = known.change(table, set(pq.read_schema(table).names))
        if change and (count := changed(table, change)):
            kind = table.name if (table.parent / "run.json").exists() else table.parent.name
            told.removed[kind] = told.removed.get(kind, 0) + count
            told.save(file)
    marks = [json.dumps(json.dumps(key, ensure_ascii=False), ensure_ascii=False)[1:-1] for key in told.passages]
    _lines_kept(run.rglob("log.txt"), lambda line: bool(STAGE.fullmatch(line)))
    _lines_kept(run.rglob("quarantine.jsonl"), lambda line: not any(mark in line for mark in marks))
    for folder in {report.parent for name in TOLD for report in run.rglob(name)}:
        if any(pq.read_metadata(table).num_rows for table in folder.glob("predictions/*.parquet")):
            (folder / "units_sample.md").unlink(missing_ok=True)  # where no unit is left none is written
            write_report(folder)
        else:
            for name in TOLD:
                (folder / name).unlink(missing_ok=True)
    _leftovers(run)


def _lines_kept(files: Iterable[Path], keeps: Callable[[str], bool]) -> None:
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(left := list(filter(keeps, lines))) < len(lines):
            write_text(file, "".join(left))


def _leftovers(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for path in list(folder.rglob(".tmp-*")):  # no other name: a folder of runs may hold a person's own hidden files
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def empty_cache(cache: Path, passages: Tombstones, force: bool) -> None:
    """Remove from the cache the corpora, base indices and retrieved documents that hold the passages: they can be made
    again. StoreError for a base that is pinned, unless `force`.
    """
    ids, wanted = set(passages), {one for hashes in passages.values() for one in hashes}
    away = [folder for folder in cache.glob("corpus-*/") if _in_corpus(folder / PASSAGES, ids)]
    away += [folder for folder in cache.glob("retrieved-*/") if _retrieved(folder, ids)]
    for store in sorted(cache.glob("index-*/")):
        with in_turn(Path(f"{store}.lock")):
            if not latest(store) or any(h in wanted for told in _contents(store, ids).values() for h in told):
                refuse_readers([store], force)
                away.append(store)
    for folder in away:
        os.rename(folder, gone := folder.with_name(f".tmp-{folder.name}"))
        shutil.rmtree(gone)
    _leftovers(cache)


def _in_corpus(file: Path, ids: set[str]) -> bool:
    """Whether passages are in a corpus of the cache, or it is not known."""
    return not file.exists() or ds.dataset(file).count_rows(filter=pc.field("id").isin(list(ids))) > 0


def _retrieved(folder: Path, ids: set[str]) -> bool:
    for file in folder.glob(FILES):
        for batch in ds.dataset(file, format="ipc").to_batches(columns=["documents"]):
            found = pc.struct_field(pc.list_flatten(batch["documents"]), "id")
            if pc.any(pc.is_in(found, value_set=pa.array(ids, found.type))).as_py():
                return True
    return False


def refuse_readers(stores: Iterable[Path], force: bool, but: Mapping[Path, int] | None = None) -> None:
    """StoreError, naming who it is, where a reader has pinned a version `but` this one, and does not go on from it
    within WAIT_SECONDS, as one that follows does; with `force` its pins are removed.
    """
    until = time.monotonic() + WAIT_SECONDS
    for store in stores:
        place, kept = place_of(store), (but or {}).get(store, 0)
        while found := {pin: who for pin, who in holders(place).items() if int(pin.partition("-")[0]) != kept}:
            if force or time.monotonic() >= until:
                break
            time.sleep(0.5)
        if found and not force:
            told = f"{store} is read by {', '.join(sorted(set(found.values())))}"
            how = "nobody else finds the passages any more, but their bytes stay until it closes or refreshes"
            raise StoreError(f"{told}: {how}; then the same command goes on, with --force it does not wait")
        living = set() if force else set(holders(place))
        for name in (one for one in place.names("pins") if one not in living):
            place.remove(f"pins/{name}")


def cut(run: Path, file: Path, told: Purge, force: bool) -> None:
    """The stores of a run without old versions and deleted rows, and the certificate of what went."""
    stores = run / OWN_BASE, run / "writeback"
    note = {"made_by": "purge", "purge": file.stem, "at": told.at, "host": told.host}
    files = _shrunk(run, stores, set(told.passages), note, force) + told.removed.get("files of stores", 0)
    for store, (name, before) in zip(stores, told.versions.items(), strict=True):
        after = latest(store)
        told.versions[name] = [before[0], after.version if after else 0]
    told.removed |= {"files of stores": files, "passages": len(told.passages), "units": len(told.units)}
    told.finished = now()
    told.save(file)


def beyond(run: Path) -> list[str]:
    """What a purge does not reach, and a person has to see to."""
    cfg = load_config(tables_now(run))
    asked = cfg.benchmark.train, cfg.benchmark.test
    return [
        f"the corpus file, {cfg.corpus}: updates pass the passages over, a new training reads them"
        if cfg.corpus
        else "",
        f"the store that was given as base, {cfg.base}: wbrag kb delete, compact and gc --keep 1" if cfg.base else "",
        f"question files, with their golden answers: {', '.join(filter(None, asked))}, and those of evaluations",
        "what was made elsewhere: exports, reports of comparisons and sweeps, copies and clones of a store, knowledge "
        "bases that units were brought to by wbrag kb contribute, what a killed session of Ray left in its folder",
        "runs of the same cache that lie neither beside this one nor beside the cache",
        "backups and snapshots, earlier versions of objects in S3, and blocks that a disk has not written over",
        "what closed-book answers and units of other passages say by themselves",
    ]
