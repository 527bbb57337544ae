"""A person's word on units: rejected, accepted, edited, brought back. Each is a new version of the write-back store,
whose note keeps all decisions, so that an update holds to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from wbrag.report.version import stamp_around
from wbrag.retrieval.encoder import open_encoder, passage_text
from wbrag.schema import PASSAGE, SEEN_BY, UNIT, unit_id
from wbrag.store import rows
from wbrag.store.changes import MovedOnError, exchange, write_piece
from wbrag.store.files import StoreError
from wbrag.store.place import Where, place_of
from wbrag.store.rows import Piece, rows_of
from wbrag.store.versions import Version, current, latest, noted, noted_encoder, pair, read_version
from wbrag.units.access import NOBODY
from wbrag.units.decisions import Decision

Decisions = dict[str, Decision]
#: What a decision makes of a store: the pieces that come, the ids that go, and the decisions from now on.
Change = tuple[list[Piece], list[str], Decisions]


def decisions_of(store: Where) -> Decisions:
    """What was decided about units of a store, by id; {} where there is no store, or nothing was decided."""
    version = latest(store)
    told = noted(place_of(store), version, "decisions") if version else {}
    return {key: Decision(**one) for key, one in told.items()}


def what_is_said(base: Where, decisions: Mapping[str, Decision]) -> dict[str, str]:
    """What the sources of edited units say now in the current version of a base, as a hash by id."""
    ids = {key for one in decisions.values() for key in one.sources}
    return said(base, current(base), ids) if ids else {}


def reject(store: Where, unit: str, why: str) -> Version:
    """A version without this unit, which no update brings back. StoreError where it is not live."""

    def change(version: Version, known: Decisions) -> Change:
        row = _unit(store, version, unit)
        return [], [unit], known | {unit: Decision("rejected", why, now(), row, {})}

    return _changed(store, change)


def accept(
    store: Where, unit: str, why: str = "", waiting: Mapping[str, Any] | None = None, base: Where | None = None
) -> Version:
    """A version that says that somebody found this unit good, and that has it where it was `waiting` for that (a row of
    `schema.UNIT`), seen as `restore` has it. StoreError where it is neither live nor waiting.
    """

    def change(version: Version, known: Decisions) -> Change:
        if len(rows_of(store, version, [unit])) or waiting is None:
            return [], [], known | {unit: Decision("accepted", why, now(), _unit(store, version, unit), {})}
        row = dict(waiting)
        labelled = row | {SEEN_BY.name: NOBODY} if SEEN_BY.name in rows.columns_of(store).names else row
        piece = _piece(store, version, _seen_now(store, base, _encoded(store, version, labelled)))
        return [piece], [], known | {unit: Decision("accepted", why, now(), row, {})}

    return _changed(store, change)


def restore(store: Where, unit: str, base: Where | None = None) -> Version:
    """A version with this unit as training wrote it, whatever was decided about it, and seen by whoever may see its
    sources in the `base` by now (without a base, where units have labels, by nobody until the next update). StoreError
    where nothing was decided, or no version that is kept holds it any more.
    """

    def change(version: Version, known: Decisions) -> Change:
        if unit not in known:
            raise StoreError(f"{store}: nothing was decided about unit {unit!r}")
        decision, left = known[unit], {key: one for key, one in known.items() if key != unit}
        gone = [decision.unit["id"]] if decision.state == "edited" else []
        there = rows_of(store, version, [unit])
        back = [] if len(there) else [_piece(store, version, _seen_now(store, base, _once_live(store, version, unit)))]
        return back, gone, left

    return _changed(store, change)


def edit(store: Where, base: Where, unit: str, title: str, text: str, why: str) -> Version:
    """A version in which this unit has another title and text, and so another id, until one of its sources changes.

    StoreError where it is not live, has no sources that are live, or is to become what is live already.
    """

    def change(version: Version, known: Decisions) -> Change:
        before = _unit(store, version, unit)
        made = before | {"title": title, "text": text, "form": "edited", "doubt": ""}
        made["id"] = unit_id(title, text, before["source_ids"])
        if len(rows_of(store, version, [made["id"]])):
            raise StoreError(f"{store}: unit {unit!r} would become {made['id']!r}, which is live")
        passages, _ = pair(base, store)
        assert passages is not None  # a write-back store names its base
        sources = said(base, passages, before["source_ids"])
        first = next((key for key, one in known.items() if one.state == "edited" and one.unit["id"] == unit), unit)
        decision = Decision("edited", why, now(), made, sources)
        return [_piece(store, version, _encoded(store, version, made))], [unit], known | {first: decision}

    return _changed(store, change)


def _changed(store: Where, change: Callable[[Version, Decisions], Change]) -> Version:
    place = place_of(store)
    while True:
        version = current(place)
        pieces, gone, known = change(version, decisions_of(place))
        note = {"made_by": "units", "decisions": {key: asdict(one) for key, one in known.items()}}
        try:
            made = exchange(place, version, pieces, pa.array(gone, pa.string()), note, version.base)
        except MovedOnError:
            continue
        stamp_around(place)
        return made


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
    if base and (passages := pair(base, store)[0]) and rows.has_labels(base, passages):
        labels = rows.labels_of(base, passages, row["source_ids"].to_pylist())
    return row.set_column(row.column_names.index(SEEN_BY.name), SEEN_BY, pa.array(labels, SEEN_BY.type))


def _once_live(store: Where, version: Version, unit: str) -> pa.Table:
    """The row of a unit, with its vector, in the newest version that has it."""
    place = place_of(store)
    for number in range(version.version, version.oldest - 1, -1):
        found = rows_of(place, read_version(place, number), [unit])
        if len(found):
            return found
    raise StoreError(f"{place}: no version that is kept has unit {unit!r}; the oldest is {version.oldest}")


def _piece(store: Where, version: Version, row: pa.Table) -> Piece:
    schema = rows.opened(place_of(store), version).schema
    return write_piece(place_of(store), rows.filled(row, schema), version.spec)


def _encoded(store: Where, version: Version, row: Mapping[str, Any]) -> pa.Table:
    """A unit with its vector, by the encoder that the store was made with."""
    place = place_of(store)
    if (told := noted_encoder(place, version)) is None:
        raise StoreError(f"{place}: no version says which encoder made it")
    encoder = open_encoder(told)
    if encoder.fingerprint != version.encoder:
        raise StoreError(
            f"{place}: encoder is {encoder.fingerprint!r}, version {version.version} has {version.encoder!r}"
        )
    schema = UNIT.append(SEEN_BY) if SEEN_BY.name in row else UNIT
    table = pa.Table.from_pylist([dict(row)], schema)
    vector = encoder.encode_passages([passage_text(row["title"], row["text"])])
    return rows.with_vectors(table, vector, rows.schema_in(place, version, schema, version.spec.dimension))


def said(base: Where, version: Version, ids: Collection[str]) -> dict[str, str]:
    """What these passages say in a version of a base, as a hash by id; those that are not live are not in it."""
    told = rows_of(base, version, ids).select(PASSAGE.names).to_pylist()
    return {one["id"]: hashlib.sha256(f"{one['title']}\n{one['text']}".encode()).hexdigest() for one in told}


def now() -> str:
    """The time, in UTC, as notes tell it."""
    return datetime.now(UTC).isoformat(" ", "seconds")
