"""What an update need not ask again: rows of a run's earlier tables whose inputs are all what they were.

A row is what a generator made of its inputs. Of equal inputs it would make the same again, so a table of rows that stay
and of rows that are asked anew is that of a run from nothing. Inputs are compared by value: a question with its golden
answers, its documents with their texts and scores, a request for a unit with its statements.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from wbrag.methods import searches
from wbrag.run.actors import WORKS, Stage
from wbrag.run.folder import write_rows
from wbrag.run.retrieve import ASKED, MERGED, READ_ROWS, KnownAnswers, MergedDocuments
from wbrag.schema import EARLIER, KNOWN, REQUEST

Row = Mapping[str, Any]

#: The file of a table with the rows that stay.
REUSED = "reused.parquet"
_EXAMPLE = ("question", "golden_answers", "metadata")


@dataclass(frozen=True, slots=True)
class Compared:
    """How rows of a table are compared: the columns of what is to be asked, and of the earlier inputs, which lie in the
    table itself or in the file `inputs`; which earlier rows may stay at all (`sound`); the columns that count searches
    of the method's own, whose results nobody kept. `left`: the schema of what is to be asked after all.
    """

    asked: tuple[str, ...]
    earlier: tuple[str, ...]
    sound: pc.Expression
    left: pa.Schema
    inputs: str = ""
    retrievals: tuple[str, ...] = ()


_NOT_FAILED = pc.field("status") != "failed"
_REQUEST = tuple(name for name in REQUEST.names if name != "id")
_ANSWERED = Compared(
    asked=(*_EXAMPLE, "documents", "documents_writeback"),
    earlier=(*_EXAMPLE, "documents_base", "documents_writeback"),
    sound=pc.field("error").is_null(),
    left=MERGED,
    retrievals=("retrievals_base", "retrievals_writeback"),
)
#: By the work of a stage (`actors.WORKS`).
COMPARED = {
    "train": Compared(
        asked=(*_EXAMPLE, "documents"),
        earlier=(*_EXAMPLE, "documents"),
        sound=_NOT_FAILED,
        left=ASKED.append(pa.field("earlier", EARLIER)),
        retrievals=("retrievals",),
    ),
    "write": Compared(_REQUEST, _REQUEST, _NOT_FAILED, REQUEST, "requests.parquet"),
    "validate": _ANSWERED,
    "predict": replace(_ANSWERED, left=MERGED.append(pa.field("known", KNOWN))),
}


def reuse(stage: Stage, source: Path, before: Path, table: Path) -> tuple[Stage, Path]:
    """Put the rows that stay into the folder `table`; returns the stage and the source of what is left to be asked,
    with what is known of it.

    `before`: the folder of the earlier tables, of which one has the name of `table`.
    """
    how, earlier = COMPARED[stage.work], before / table.name
    left = asked_of(table)
    if not left.exists():
        known = digests(how, earlier, before / how.inputs if how.inputs else earlier, searches(stage.cfg.method))
        same, rest = parted(source, how, known, MergedDocuments(stage.knowledge) if stage.knowledge else None)
        if same:
            schema = WORKS[stage.work][1]
            rows = (some.cast(schema) for some in _batches(earlier, schema.names, _of(same)))
            write_rows(table / REUSED, schema, rows)
        told = _told(stage, earlier, rest)
        write_rows(left, how.left, (rows.select(how.left.names).cast(how.left) for rows in told))
    return (replace(stage, knowledge=None, known=None) if stage.work == "predict" else stage), left


def asked_of(table: Path) -> Path:
    """The file of the rows that are left to be asked, of a table of an update; written last."""
    return table.parent / f"{table.name}_asked.parquet"


def reused(table: Path) -> list[Path]:
    """The file of the rows that stay, if there are any and it is known which do not."""
    return list(table.glob(REUSED)) if asked_of(table).exists() else []


def digests(how: Compared, table: Path, inputs: Path, searched: bool) -> dict[str, bytes]:
    """For each id of an earlier table whose row may stay, the digest of its inputs. `searched`: the method searches
    while it answers, and a row for which it did depends on more than its documents.
    """
    where = how.sound
    for name in how.retrievals if searched else ():
        where &= pc.field(name).is_null() | (pc.field(name) == 0)
    sound = {key for rows in _batches(table, ["id"], where) for key in rows["id"].to_pylist()}
    found: dict[str, bytes] = {}
    for rows in _batches(inputs, ["id", *how.earlier], _of(sound)):
        found |= zip(rows["id"].to_pylist(), map(digest, rows.select(how.earlier).to_pylist()), strict=True)
    return found


def parted(
    source: Path, how: Compared, known: Mapping[str, bytes], merged: MergedDocuments | None
) -> tuple[list[str], list[pa.Table]]:
    """The ids of those rows of a source whose inputs are `known`, and the other rows; all gain `merged` documents."""
    same: list[str] = []
    rest: list[pa.Table] = []
    for rows in _batches(source):
        rows = merged(rows) if merged else rows
        told = zip(rows["id"].to_pylist(), rows.select(how.asked).to_pylist(), strict=True)
        stays = [known.get(key) == digest(row) for key, row in told]
        same += rows["id"].filter(pa.array(stays, pa.bool_())).to_pylist()
        rest.append(rows.filter(pc.invert(pa.array(stays, pa.bool_()))))
    return same, rest


def digest(row: Row) -> bytes:
    """16 bytes that tell rows apart by their values in order, whatever the columns are called; of documents by id,
    title, text and score.
    """
    told = [
        [(d["id"], d["title"], d["text"], d["score"]) for d in value] if name.startswith("documents") else value
        for name, value in row.items()
    ]
    return hashlib.blake2b(json.dumps(told, ensure_ascii=False).encode(), digest_size=16).digest()


def _told(stage: Stage, earlier: Path, rest: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """The rows that are left, with what is known of each in a column `earlier` or `known`."""
    ids = {key for rows in rest for key in rows["id"].to_pylist()}
    match stage.work:
        case "train":
            of = _rows_of(earlier, ids, [*_EXAMPLE, *(one.name for one in EARLIER)])
            for rows in rest:
                told = [_unless_changed(row, of.get(row["id"])) for row in rows.select(["id", *_EXAMPLE]).to_pylist()]
                yield rows.append_column(pa.field("earlier", EARLIER), pa.array(told, EARLIER))
        case "predict":
            of = _rows_of(earlier, ids, [*_EXAMPLE, "documents_base", *(one.name for one in KNOWN), "error"])
            shared = KnownAnswers(stage.known) if stage.known else None
            for rows in rest:
                closed = shared(rows)["known"].to_pylist() if shared else [None] * len(rows)
                asked = zip(rows.select(["id", *_EXAMPLE, "documents"]).to_pylist(), closed, strict=True)
                told = [_answers(row, of.get(row["id"]), one, searches(stage.cfg.method)) for row, one in asked]
                yield rows.append_column(pa.field("known", KNOWN), pa.array(told, KNOWN))
        case _:
            yield from rest


def _unless_changed(row: Row, earlier: Row | None) -> Row | None:
    """What became of an example earlier; None where its question or its golden answers were others."""
    if earlier is None or any(row[name] != earlier[name] for name in _EXAMPLE):
        return None
    return {one.name: earlier[one.name] for one in EARLIER}


def _answers(row: Row, earlier: Row | None, closed: Row | None, searched: bool) -> Row | None:
    """The answers of a test question that still hold, of those that an earlier run and any run (`closed`) gave."""
    told = dict(closed or {})
    if earlier and earlier["error"] is None and earlier["question"] == row["question"]:
        told["answer_closed_book"] = earlier["answer_closed_book"]
        alike = digest({"documents": row["documents"]}) == digest({"documents": earlier["documents_base"]})
        if alike and not (searched and earlier["retrievals_base"]):
            told |= {one.name: earlier[one.name] for one in KNOWN}
    return told or None


def _rows_of(table: Path, ids: Collection[str], columns: Sequence[str]) -> dict[str, Row]:
    return {row["id"]: row for some in _batches(table, ["id", *columns], _of(ids)) for row in some.to_pylist()}


def _of(ids: Collection[str]) -> pc.Expression:
    return pc.field("id").isin(pa.array(ids, pa.string()))


def _batches(
    table: Path, columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """Rows of a Parquet file, or of those in a folder, none where it is not there; these columns, in order."""
    for file in sorted(table.glob("*.parquet")) if table.is_dir() else [table] if table.exists() else []:
        part = ds.dataset(file, format="parquet")
        for batch in part.to_batches(columns=columns, filter=where, batch_size=READ_ROWS):
            yield pa.Table.from_batches([batch])
