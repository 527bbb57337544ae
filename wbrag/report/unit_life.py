"""A unit as a person judges it: its text beside its sources, what the gates said of its examples, who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wbrag import schema
from wbrag.report.evaluation import Setting
from wbrag.run.folder import read_config, read_rows, setting_of
from wbrag.store.rows import rows_of
from wbrag.store.versions import current
from wbrag.units.decisions import Decision
from wbrag.units.sentences import sentences, words

Row = Mapping[str, Any]
WIDTH, MARK = 100, ">> "


def readers(run: Path) -> dict[str, tuple[int, int, int]]:
    """For each unit that test questions read: how many, how many of them got better with write-back, and worse."""
    setting = setting_of(read_config(run))
    found: dict[str, tuple[int, int, int]] = {}
    for row in read_rows(run / "predictions", schema.PREDICTION):
        change = setting.score(row, "writeback") - setting.score(row, "base")
        for document in row["documents_writeback"] or []:
            if document["source"] == "writeback":
                read, better, worse = found.get(document["id"], (0, 0, 0))
                found[document["id"]] = read + 1, better + (change > 0), worse + (change < 0)
    return found


def unit_line(unit: Row, read: tuple[int, int, int]) -> str:
    """A unit in one line: id, its `readers`, title and text."""
    told = f"read by {read[0]}, +{read[1]} -{read[2]}" if read[0] else "not read"
    text = shorten(f"{unit['title']}: {unit['text']}", WIDTH, placeholder=" ...")
    return f"{unit['id']}  {told:<20}  {text}"


def unit_life(
    unit: Row, run: Path, base: Path, setting: Setting, decisions: Mapping[str, Decision]
) -> tuple[dict[str, Any], list[str]]:
    """One unit (a row of `schema.UNIT`, or what the store has of it) with all that bears on it: as data, and as lines
    for a person.
    """
    ids = list(unit.get("source_ids") or [])
    sources = {row["id"]: row for row in rows_of(base, current(base), ids).drop_columns(["vector"]).to_pylist()}
    chosen = pc.field("id").isin(pa.array(unit.get("example_ids") or [], pa.string()))
    examples = list(read_rows(run / "traces", schema.TRACE, ("id", "question", "reason"), chosen))
    read = [
        row
        for row in read_rows(run / "predictions", schema.PREDICTION)
        if any(document["id"] == unit["id"] for document in row["documents_writeback"] or [])
    ]
    decision = next((one for key, one in decisions.items() if unit["id"] in (key, one.unit["id"])), None)
    said = [words(sentence) for sentence in sentences(unit["text"])]
    lines = [unit["id"], unit["title"], *wrap(unit["text"], WIDTH), ""]
    lines += [f"{decision.state} {decision.at}: {decision.why}", ""] if decision else []
    for key in ids:
        lines += _source(key, sources.get(key), said)
    lines += [f"example {row['id']}: {row['question']}  {row['reason']}" for row in examples]
    for row in read:
        before, after = (f"{row[f'answer_{side}']!r} {setting.score(row, side):.2f}" for side in ("base", "writeback"))
        lines.append(f"read by {row['id']}: {row['question']}  {before} -> {after}")
    data = {"unit": dict(unit), "sources": sources, "examples": examples, "decision": decision and asdict(decision)}
    return data | {"readers": [row["id"] for row in read]}, lines


def _source(key: str, row: Row | None, said: list[frozenset[str]]) -> list[str]:
    """A source with the sentences marked that stand in the unit."""
    if row is None:
        return [f"source {key}: is not in the base any more", ""]
    labels = ", ".join(f"{name} {value}" for name, value in row.items() if name not in schema.PASSAGE.names and value)
    told = [f"source {key}: {row['title']}" + (f" ({labels})" if labels else "")]
    for sentence in sentences(row["text"]):
        mark = MARK if words(sentence) in said else " " * len(MARK)
        told += [f"{mark}{line}" for line in wrap(sentence, WIDTH)]
    return [*told, ""]
