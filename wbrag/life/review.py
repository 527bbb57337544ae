"""A person's word on units: rejected, accepted, edited, brought back. Each is a new version of the write-back store,
whose note keeps all decisions, so that an update holds to them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wbrag.report.version import stamp_around
from wbrag.retrieval.encoder import passage_text
from wbrag.run.decided import Decisions, decisions_of, hashes_of
from wbrag.run.folder import now
from wbrag.run.lease import leased
from wbrag.schema import SEEN_BY, UNIT, unit_id
from wbrag.store import rows
from wbrag.store.changes import MovedOnError, exchange, publish, write_piece
from wbrag.store.files import StoreError
from wbrag.store.place import Where, place_of
from wbrag.store.rows import Piece, rows_of
from wbrag.store.vectors import spec_of
from wbrag.store.versions import (
    Version,
    current,
    encoder_note,
    latest,
    named,
    noted_encoder,
    opened_encoder,
    pair,
    read_version,
)
from wbrag.units.access import NOBODY
from wbrag.units.decisions import Decision

#: What a decision makes of a store: the pieces that come, the ids that go, and the decisions from now on.
Change = tuple[list[Piece], list[str], Decisions]
#: Threads of this process decide one after the other; other processes are held off by the run's lease.
_TURN = threading.Lock()


def reject(store: Where, unit: str, why: str) -> Version:
    """A version without this unit, which no update brings back. StoreError where it is not live."""

    def change(version: Version, known: Decisions) -> Change:
        row = _unit(store, version, unit)
        return [], [unit], known | {unit: Decision("rejected", why, now(), row, {})}

    return _changed(store, change)


def accept(
    store: Where,
    unit: str,
    why: str = "",
    waiting: Mapping[str, Any] | None = None,
    base: Where | None = None,
    how: Mapping[str, Any] | None = None,
) -> Version:
    """A version that says that somebody found this unit good, and that has it where it was `waiting` for that (a row of
    `schema.UNIT`), seen as `restore` has it. Where all units waited it is the first of its store, whose note says `how`
    it is searched beside the `base`. StoreError where it is neither live nor waiting.
    """
    if latest(store) is None:
        if not (waiting and base):
            raise StoreError(f"{store}: has no units yet, and {unit!r} is none of those that wait")
        with _alone(store):
            return _first(store, base, waiting, why, how or {})

    def change(version: Version, known: Decisions) -> Change:
        if len(rows_of(store, version, [unit])) or waiting is None:
            return [], [], known | {unit: Decision("accepted", why, now(), _unit(store, version, unit), {})}
        row = dict(waiting)
        labelled = row | {SEEN_BY.name: NOBODY} if SEEN_BY.name in rows.opened(store).schema.names else row
        piece = _piece(store, version, _seen_now(store, base, _encoded(store, version, labelled)))
        return [piece], [], known | {unit: Decision("accepted", why, now(), row, {})}

    return _changed(store, change)


def restore(store: Where, unit: str, base: Where | None = None, waits: bool = False) -> Version:
    """A version with this unit as training wrote it, whatever was decided about it, and seen by whoever may see its
    sources in the `base` by now (without a base, where units have labels, by nobody until the next update); or without
    it, where it `waits` for a person. StoreError where nothing was decided, or no version that is kept holds it any
    more.
    """

    def change(version: Version, known: Decisions) -> Change:
        if unit not in known:
            raise StoreError(f"{store}: nothing was decided about unit {unit!r}")
        decision, left = known[unit], {key: one for key, one in known.items() if key != unit}
        gone = [decision.unit["id"]] if decision.state == "edited" else []
        if waits:
            return [], [unit, *gone], left
        if len(rows_of(store, version, [unit])):
            return [], gone, left
        return [_piece(store, version, _seen_now(store, base, _newest_with(store, version, unit)[1]))], gone, left

    return _changed(store, change)


def edit(store: Where, base: Where, unit: str, title: str, text: str, why: str) -> Version:
    """A version in which this unit has another title and text, and so another id, until one of its sources changes.

    StoreError where it is not live, has no sources that are live, or is to become what is live already.
    """

    def change(version: Version, known: Decisions) -> Change:
        before = _unit(store, version, unit)
        made = before | {"title": title, "text": text, "form": "edited", "doubt": ""}
        made["id"] = unit_id(title, text, before["source_ids"])
        first = next((key for key, one in known.items() if one.state == "edited" and one.unit["id"] == unit), unit)
        if len(rows_of(store, version, [made["id"]])):
            raise StoreError(f"{store}: unit {unit!r} would become {made['id']!r}, which is live")
        if made["id"] == first:
            raise StoreError(f"{store}: that is what unit {first!r} said before it was edited; restore it")
        passages, _ = pair(base, store)
        assert passages is not None  # a write-back store names its base
        sources = hashes_of(base, passages, before["source_ids"])
        decision = Decision("edited", why, now(), made, sources)
        return [_piece(store, version, _encoded(store, version, made))], [unit], known | {first: decision}

    return _changed(store, change)


@contextmanager
def _alone(store: Where) -> Iterator[None]:
    """The run around a store, on which no job and nobody else works in the block; ConfigError names who does."""
    place = place_of(store)
    folder = None if place.remote else Path(place.root).resolve()
    with _TURN, leased(folder.parent) if folder and folder.name == "writeback" else nullcontext():
        yield


def _changed(store: Where, change: Callable[[Version, Decisions], Change]) -> Version:
    place = place_of(store)
    current(place)  # before anything is made there
    with _alone(store):
        while True:
            version = current(place)
            pieces, gone, known = change(version, decisions_of(place))
            note = {"made_by": "units", "decisions": {key: asdict(one) for key, one in known.items()}}
            try:
                made = exchange(place, version, pieces, pa.array(gone, pa.string()), note, version.base)
            except MovedOnError:  # `wbrag kb` takes no lease
                continue
            stamp_around(place)
            return made


def _first(store: Where, base: Where, unit: Mapping[str, Any], why: str, how: Mapping[str, Any]) -> Version:
    """The first version of a store of units: with this one, which somebody accepted."""
    place, passages = place_of(store), current(base)
    labelled = rows.has_labels(base, passages)
    row = {**unit, SEEN_BY.name: rows.labels_of(base, passages, [unit["source_ids"]])[0]} if labelled else dict(unit)
    vector, schema = _vector(base, passages, row), UNIT.append(SEEN_BY) if labelled else UNIT
    spec, encoder = spec_of("flat_fp16", passages.spec.dimension), noted_encoder(place_of(base), passages)
    assert encoder is not None  # `_vector` has asked it
    made = rows.schema_in(place, None, schema, spec.dimension)
    piece = write_piece(place, rows.with_vectors(pa.Table.from_pylist([row], schema), vector, made), spec)
    decided = {unit["id"]: asdict(Decision("accepted", why, now(), dict(unit), {}))}
    note = {"made_by": "units", **encoder_note(encoder), **how, "decisions": decided}
    return publish(place, [piece], spec, passages.encoder, note, named(passages))


def _unit(store: Where, version: Version, unit: str) -> dict[str, Any]:
    """A live unit, as a row of `schema.UNIT`."""
    found = rows_of(store, version, [unit])
    if not len(found):
        raise StoreError(f"{store}: version {version.version} has no unit {unit!r}")
    label = [SEEN_BY.name] if SEEN_BY.name in found.column_names else []
    row: dict[str, Any] = found.select([*UNIT.names, *label]).to_pylist()[0]
    return row


def _seen_now(store: Where, base: Where | None, row: pa.Table) -> pa.Table:
    """The row of a unit with who may see it by now: what it says may be older than its sources' labels."""
    if SEEN_BY.name not in row.column_names:
        return row
    labels = [NOBODY]
    passages = pair(base, store)[0] if base else None
    if base and passages and rows.has_labels(base, passages):
        labels = rows.labels_of(base, passages, row["source_ids"].to_pylist())
    return row.set_column(row.column_names.index(SEEN_BY.name), SEEN_BY, pa.array(labels, SEEN_BY.type))


def last_live(store: Where, unit: str) -> tuple[dict[str, Any], Version]:
    """A unit that is not live any more (a row of `schema.UNIT`), and the version from which on it is not. StoreError
    where no version that is kept has it.
    """
    version = current(store)
    number, found = _newest_with(store, version, unit)
    row: dict[str, Any] = found.select(UNIT.names).to_pylist()[0]
    return row, read_version(place_of(store), min(number + 1, version.version))


def _newest_with(store: Where, version: Version, unit: str) -> tuple[int, pa.Table]:
    """The newest version up to this one that has a unit, by number, and the unit's row there, with its vector."""
    place = place_of(store)
    for number in range(version.version, version.oldest - 1, -1):
        found = rows_of(place, read_version(place, number), [unit])
        if len(found):
            return number, found
    raise StoreError(f"{place}: no version that is kept has unit {unit!r}; the oldest is {version.oldest}")


def _piece(store: Where, version: Version, row: pa.Table) -> Piece:
    schema = rows.opened(store, version).schema
    return write_piece(place_of(store), rows.filled(row, schema), version.spec)


def _encoded(store: Where, version: Version, row: Mapping[str, Any]) -> pa.Table:
    """A unit with its vector, by the encoder that the store was made with."""
    schema = UNIT.append(SEEN_BY) if SEEN_BY.name in row else UNIT
    made = rows.schema_in(place_of(store), version, schema, version.spec.dimension)
    return rows.with_vectors(pa.Table.from_pylist([dict(row)], schema), _vector(store, version, row), made)


def _vector(store: Where, version: Version, unit: Mapping[str, Any]) -> np.ndarray:
    """The vector of a unit, (1, d), by the encoder that a version of a store was made with."""
    place = place_of(store)
    return opened_encoder(place, version).encode_passages([passage_text(unit["title"], unit["text"])])
