"""What people have decided about the units of a store, as the notes of its versions keep it (`wbrag.life.review`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from wbrag.run import tombstones
from wbrag.schema import PASSAGE
from wbrag.store.place import Where, place_of
from wbrag.store.rows import rows_of
from wbrag.store.versions import Version, current, latest, noted
from wbrag.units.decisions import Decision

Decisions = dict[str, Decision]


def decisions_of(store: Where) -> Decisions:
    """What was decided about units of a store, by id; {} where there is no store, or nothing was decided."""
    version = latest(store)
    told = noted(place_of(store), version, "decisions") if version else {}
    return {key: Decision(**one) for key, one in told.items()}


def what_is_said(base: Where, decisions: Mapping[str, Decision]) -> dict[str, str]:
    """What the sources of edited units say now in the current version of a base, as a hash by id."""
    ids = {key for one in decisions.values() for key in one.sources}
    return hashes_of(base, current(base), ids) if ids else {}


def hashes_of(base: Where, version: Version, ids: Collection[str]) -> dict[str, str]:
    """What these passages say in a version of a base, as a hash by id; those that are not live are not in it."""
    told = rows_of(base, version, ids).select(PASSAGE.names).to_pylist()
    return {one["id"]: tombstones.said(one["title"], one["text"]) for one in told}
