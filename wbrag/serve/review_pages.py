"""What the pages for review show and do: units with what bears on them, and what a person decides about them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Header, HTTPException
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wbrag.config import ConfigError
from wbrag.life import review
from wbrag.run.decided import decisions_of
from wbrag.run.folder import read_config, read_rows, setting_of, tables_now
from wbrag.schema import PASSAGE, PREDICTION, TRACE, UNIT
from wbrag.serve.doubts import KINDS, Doubt, doubts_of
from wbrag.serve.hits import Served
from wbrag.serve.run_pages import question_facts, run_routes
from wbrag.store.files import StoreError
from wbrag.store.rows import opened, rows_of
from wbrag.store.versions import current, pair
from wbrag.units.decisions import Decision
from wbrag.units.sentences import sentences, words

Row = dict[str, Any]
STATIC = Path(__file__).parent / "static"
#: A sentence of a source is evidence where a sentence of the unit has this part of its words.
EVIDENCE = 0.6
#: What is told of the example behind a unit.
GATES = "id question golden_answers reason closed_book_answer s_nr rag_answer s_rag delta".split()
GATES += ["document_scores", "kept_ranks", "fallback"]
Order = Literal["doubt", "title", "read", "better", "worse", "unit_tokens", "id"]
State = Literal["queue", "live", "accepted", "edited", "rejected", "all"]
Said = Annotated[str, StringConstraints(strip_whitespace=True, max_length=20_000)]


@dataclass
class Listed:
    """All units of a version, live or rejected, by id; `decided`: of each that something was decided about the key of
    the decision, and itself; `read`: of each the questions that read it.
    """

    version: int
    tables: Path
    units: dict[str, Row]
    decided: dict[str, tuple[str, Decision]]
    read: dict[str, list[Row]]
    doubts: dict[str, list[Doubt]] = field(default_factory=dict)

    def state(self, key: str) -> str:
        """What was decided about a unit, else "live"."""
        return self.decided[key][1].state if key in self.decided else "live"

    def line(self, key: str) -> Row:
        """A unit as a list shows it."""
        unit, read = self.units[key], self.read.get(key, [])
        told = {name: unit.get(name) for name in ("id", "title", "text", "form", "unit_tokens", "source_ids")}
        counts = {"read": len(read), "better": sum(q["change"] > 0 for q in read)}
        counts |= {"worse": sum(q["change"] < 0 for q in read)}
        state = self.state(key)
        doubts = [asdict(one) for one in self.doubts.get(key, []) if not one.other or one.other in self.units]
        return told | counts | {"state": state, "doubts": doubts, "open": state == "live" and bool(doubts)}


def page_of(name: str) -> HTMLResponse:
    """A page of static/: the head that all have, then its own."""
    return HTMLResponse("".join((STATIC / f"{part}.html").read_text(encoding="utf-8") for part in ("head", name)))


class Reviewed:
    """The units of a run's knowledge base as a person reviews them. It may be asked by several threads."""

    def __init__(self, served: Served) -> None:
        assert served.run is not None  # `app._reviewed`
        self.served, self.run, self.store = served, served.run, served.run / "writeback"
        self._lock, self._listed = threading.Lock(), None  # type: tuple[threading.Lock, Listed | None]

    def listed(self) -> Listed:
        """The units as they are now. Doubts are found once for each unit."""
        with self._lock:
            version = current(self.store)
            tables = tables_now(self.run)
            old = self._listed if self._listed and self._listed.tables == tables else None
            if old and old.version == version.version:
                return old
            known = decisions_of(self.store)
            data = opened(self.served.units, version)
            live = data.to_table(columns=[name for name in UNIT.names if name in data.schema.names]).to_pylist()
            units = {one.unit["id"]: one.unit for one in known.values() if one.state == "rejected"}
            units |= {row["id"]: row for row in live}
            decided = {one.unit["id"]: (key, one) for key, one in known.items()}
            made = Listed(version.version, tables, units, decided, old.read if old else _read(tables))
            made.doubts = (old.doubts if old else {}) | self._doubts(made, old.doubts if old else {})
            self._listed = made
            return made

    def _doubts(self, listed: Listed, known: dict[str, list[Doubt]]) -> dict[str, list[Doubt]]:
        """The doubts about the units that nothing is known of yet."""
        new = [unit for key, unit in listed.units.items() if key not in known]
        sources = self.passages({key for unit in new for key in unit["source_ids"] or ()})
        changes = {key: [one["change"] for one in read] for key, read in listed.read.items()}
        counts = {k: (len(some), sum(c > 0 for c in some), sum(c < 0 for c in some)) for k, some in changes.items()}
        return doubts_of(new, sources, counts)

    def passages(self, ids: set[str]) -> dict[str, Row]:
        """Passages of the pair's base, by id: an update that is not ended has a newer one."""
        base, _ = pair(self.served.base, self.store)
        assert base is not None  # there are units
        rows = rows_of(self.served.base, base, ids).drop_columns(["vector"]).to_pylist()
        return {row["id"]: row for row in rows}

    def unit(self, key: str) -> Row:
        """One unit with all that bears on it. HTTPException where there is none."""
        listed = self.listed()
        if key not in listed.units:
            raise HTTPException(404, f"there is no unit {key!r} in version {listed.version}")
        unit, said = listed.units[key], [words(one) for one in sentences(listed.units[key]["text"])]
        ids = list(unit["source_ids"] or [])
        there = self.passages(set(ids))
        chosen = pc.field("id").isin(pa.array(unit["example_ids"] or [], pa.string()))
        decision = listed.decided[key][1] if key in listed.decided else None
        return listed.line(key) | {
            "subject": unit["subject"],
            "doubt": unit["doubt"],
            "decision": {"state": decision.state, "why": decision.why, "at": decision.at} if decision else None,
            "sources": [_source(one, there.get(one), said) for one in ids],
            "examples": list(read_rows(listed.tables / "traces", TRACE, GATES, chosen)),
            "questions": sorted(listed.read.get(key, []), key=lambda one: (one["change"], one["id"])),
        }

    def page(self, state: State, kind: str, find: str, sort: Order, offset: int, limit: int) -> Row:
        """Some of the units, in order, with how many there are."""
        listed = self.listed()
        lines = [listed.line(key) for key in listed.units]
        counts = Counter(one["state"] for one in lines) + Counter(queue=sum(one["open"] for one in lines))
        kinds = Counter(doubt["kind"] for one in lines if one["open"] for doubt in one["doubts"])
        needles = find.casefold().split()
        some = [
            one
            for one in lines
            if (state == "all" or (one["open"] if state == "queue" else one["state"] == state))
            and (not kind or any(doubt["kind"] == kind for doubt in one["doubts"]))
            and all(needle in f"{one['id']} {one['title']} {one['text']}".casefold() for needle in needles)
        ]
        some.sort(key=lambda one: _place(one, sort))
        told = {"version": listed.version, "total": len(some), "counts": counts, "kinds": {k: kinds[k] for k in KINDS}}
        return told | {"units": some[offset : offset + limit]}

    def decide(self, key: str, what: str, said: Saying) -> Row:
        """Carry out a decision; the new version, and the unit's id in it. HTTPException where it cannot be."""
        listed = self.listed()
        first = listed.decided[key][0] if key in listed.decided else key
        try:
            match what:
                case "accept":
                    made = review.accept(self.store, key, said.why)
                case "reject":
                    made = review.reject(self.store, key, said.why)
                case "edit":
                    made = review.edit(self.store, self.served.base, key, said.title, said.text, said.why)
                case _:
                    made = review.restore(self.store, first, self.served.base)
        except (ConfigError, StoreError) as error:
            told = str(error).replace(f"{self.store}: ", "").replace(str(self.run.resolve()), self.run.name)
            raise HTTPException(409, told) from error
        self.served.kb.refresh()
        known = decisions_of(self.store)
        now = first if what == "restore" else known[first if first in known else key].unit["id"]
        return {"version": made.version, "id": now}


class Saying(BaseModel):
    """What a person says with a decision."""

    model_config = ConfigDict(extra="forbid")
    why: Said = ""
    title: Said = ""
    text: Said = ""


def _read(tables: Path) -> dict[str, list[Row]]:
    """For each unit the test questions that read it, with what changed."""
    setting, found = setting_of(read_config(tables)), defaultdict[str, list[Row]](list)
    for row in read_rows(tables / "predictions", PREDICTION):
        told = question_facts(row, setting)
        for unit in told["units"]:
            found[unit["id"]].append(told)
    return dict(found)


def _source(key: str, row: Row | None, said: list[frozenset[str]]) -> Row:
    """A source with its sentences, those marked that a sentence of the unit is like; without any where it is gone."""
    if row is None:
        return {"id": key, "title": "", "labels": {}, "sentences": []}
    labels = {name: str(value) for name, value in row.items() if name not in PASSAGE.names and value}
    told = [{"text": one, "marked": _evidence(words(one), said)} for one in sentences(row["text"])]
    return {"id": key, "title": row["title"], "labels": labels, "sentences": told}


def _evidence(sentence: frozenset[str], said: list[frozenset[str]]) -> bool:
    """Whether a sentence of a source, as its words, is what one of the unit's sentences says, or most of it."""
    return any(len(sentence & one) >= EVIDENCE * len(sentence) for one in said)


def _place(line: Row, sort: Order) -> tuple[Any, ...]:
    kinds = [list(KINDS).index(doubt["kind"]) for doubt in line["doubts"]]
    match sort:
        case "doubt":
            return (not line["open"], min(kinds, default=len(KINDS)), -len(kinds), line["id"])
        case "title" | "id":
            return (line[sort].casefold(), line["id"])
        case _:
            return (-(line[sort] or 0), line["id"])


def review_routes(reviewed: Reviewed, key: str) -> APIRouter:
    """The page, and what its script asks for. Whoever writes has to send the token that the page was told."""
    routes = APIRouter(include_in_schema=False)
    token = hmac.new(key.encode() or secrets.token_bytes(32), b"wbrag review", hashlib.sha256).hexdigest()

    @routes.get("/review")
    async def page() -> HTMLResponse:
        return page_of("review")

    @routes.get("/review/api/session")
    def session() -> Row:
        return {"token": token, "run": reviewed.run.name, "kinds": KINDS, "version": reviewed.listed().version}

    @routes.get("/review/api/units")
    def units(
        state: State = "queue",
        kind: str = "",
        find: Annotated[str, Field(max_length=1000)] = "",
        sort: Order = "doubt",
        offset: Annotated[int, Field(ge=0)] = 0,
        limit: Annotated[int, Field(ge=1, le=500)] = 50,
    ) -> Row:
        return reviewed.page(state, kind, find, sort, offset, limit)

    @routes.get("/review/api/units/{unit}")
    def unit(unit: str) -> Row:
        return reviewed.unit(unit)

    _deciding(routes, reviewed, token)
    routes.include_router(run_routes(reviewed.run))
    return routes


def _deciding(routes: APIRouter, reviewed: Reviewed, token: str) -> None:
    @routes.post("/review/api/units/{unit}/{what}")
    def decide(
        unit: str,
        what: Literal["accept", "reject", "edit", "restore"],
        said: Saying,
        x_csrf_token: Annotated[str, Header()] = "",
    ) -> Row:
        if not hmac.compare_digest(x_csrf_token.encode(), token.encode()):
            raise HTTPException(403, "the page is of an earlier start of this server; load it again")
        if what in ("reject", "edit") and not said.why:
            raise HTTPException(422, f"why: to {what} a unit takes a reason, for whoever asks later")
        if what == "edit" and not (said.title and said.text):
            raise HTTPException(422, "title, text: an edited unit needs both")
        return reviewed.decide(unit, what, said)
