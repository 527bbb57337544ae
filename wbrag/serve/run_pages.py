"""Runs as the pages show them: their results, and question by question what write-back, or another run, changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import Field

from wbrag.report.evaluation import Setting
from wbrag.report.overlap import units_read
from wbrag.report.tables import interval
from wbrag.run.folder import RunError, read_config, read_predictions, read_record, setting_of
from wbrag.serve.hits import LOG

Row = dict[str, Any]
#: Where runs lie, seen from the folder around a run.
RUNS = ("*", "*/updates/*", "*/evaluations/*", "*/variants/*")
RESULT = ("metric", "n", "closed_book", "base", "writeback", "gain")


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has answered test questions: where it lies, and what a list tells of it."""

    folder: Path
    told: Row


def runs_near(run: Path) -> dict[str, Run]:
    """The runs in the folder around a run, itself among them, by their path in there."""
    around = run.absolute().parent
    files = (file for pattern in RUNS for file in around.glob(f"{pattern}/metrics.json"))
    folders = sorted(file.parent for file in files if (file.parent / "predictions").is_dir())
    found = {}
    for one in folders:
        name = one.relative_to(around).as_posix()
        try:
            found[name] = Run(one, _told(name, one))
        except RunError as error:  # of a neighbour's; this run is shown all the same
            LOG.warning("not shown: %s", error)
    return found


def _told(name: str, folder: Path) -> Row:
    setting, metrics = setting_of(read_config(folder)), read_record(folder / "metrics.json")
    about = {"name": name, "benchmark": setting.benchmark, "method": setting.method, "backbone": setting.backbone}
    unseen = metrics.get("splits", {}).get("none")
    told = {"all": metrics["results"][0], "without_overlap": unseen[0] if unseen else None}
    return about | {
        key: {one: row.get(one) for one in RESULT} | {"interval": interval(row)} if row else None
        for key, row in told.items()
    }


def question_facts(row: Mapping[str, Any], setting: Setting) -> Row:
    """A prediction in short: both answers and scores, the change, and the units that were read with their ranks."""
    before, after = (setting.score(row, side) for side in ("base", "writeback"))
    ranks = {one["id"]: rank for rank, one in enumerate(row["documents_writeback"] or [], 1)}
    units = [{"id": one["id"], "title": one["title"], "rank": ranks[one["id"]]} for one in units_read(row)]
    told = {key: row[key] for key in ("id", "question", "golden_answers", "answer_base", "answer_writeback")}
    return told | {"score_base": before, "score_writeback": after, "change": after - before, "units": units}


def changed(runs: Mapping[str, Run], a: str, b: str, change: str, find: str, offset: int, limit: int) -> Row:
    """The test questions of run `a` without and with write-back, or with it in runs `a` and `b`; those that got
    "better" or "worse", the greatest change first, or "all", whose text holds `find`. RunError: no such run.
    """
    for name in filter(None, (a, b)):
        if name not in runs:
            raise RunError(f"there is no run {name!r}; there are {', '.join(runs)}")
    rows = _side(runs[a].folder)
    if b:
        other = _side(runs[b].folder)
        rows = {key: _beside(row, other[key]) for key, row in rows.items() if key in other}
    told = [row for row in rows.values() if find.casefold() in f"{row['id']} {row['question']}".casefold()]
    counts = Counter(_kind(row) for row in told)
    some = sorted((row for row in told if change in ("all", _kind(row))), key=lambda r: (-abs(r["change"]), r["id"]))
    return {"total": len(some), "counts": counts, "questions": some[offset : offset + limit]}


def _side(folder: Path) -> dict[str, Row]:
    setting = setting_of(read_config(folder))
    return {str(row["id"]): question_facts(row, setting) for row in read_predictions(folder)}


def _beside(one: Row, other: Row) -> Row:
    before = {"answer_base": one["answer_writeback"], "score_base": one["score_writeback"]}
    return other | before | {"change": other["score_writeback"] - one["score_writeback"]}


def _kind(row: Row) -> str:
    return "better" if row["change"] > 0 else "worse" if row["change"] < 0 else "same"


def run_routes(run: Path) -> APIRouter:
    """What the page's script asks for about the runs around this one."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/review/api/runs")
    def runs() -> Row:
        return {"runs": [one.told for one in runs_near(run).values()], "own": run.name}

    @routes.get("/review/api/questions")
    def questions(
        a: str,
        b: str = "",
        change: Literal["better", "worse", "same", "all"] = "all",
        find: Annotated[str, Field(max_length=1000)] = "",
        offset: Annotated[int, Field(ge=0)] = 0,
        limit: Annotated[int, Field(ge=1, le=500)] = 20,
    ) -> Row:
        try:
            return changed(runs_near(run), a, b, change, find, offset, limit)
        except RunError as error:
            raise HTTPException(404, str(error)) from error

    return routes
