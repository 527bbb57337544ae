"""The test questions that got worse or better with write-back, each with what was read and where that came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np

from wbrag.report.evaluation import ANSWERS, SIDES, Answers
from wbrag.report.overlap import units_read
from wbrag.report.page import Block, Cases, Details, Heading, Table, Text
from wbrag.report.tables import quoted

Row = Mapping[str, Any]
#: In Markdown.
SHOWN = 20
WIDTH = 300
#: Whether documents held an answer, in words.
HELD = {None: "not known", True: "yes", False: "no"}


def harms(
    predictions: Sequence[Row], answers: Answers, units: Iterable[Row], better: bool = False
) -> list[dict[str, Any]]:
    """The questions whose primary score fell, or rose where `better`, the greatest change first, of equal ones in order
    of id.

    Each with its golden answers, the three answers, both scores, `overlap` (`evaluation.overlap_of`), whether base and
    write-back documents held a golden answer (None where answers are labels) and the units that were read: their text,
    the examples behind them and the ids of their `sources`, none where `units` (`schema.UNIT`) do not know them.
    """
    changed = np.flatnonzero(answers["gain"] > 0 if better else answers["gain"] < 0)
    read = {unit["id"] for i in changed for unit in units_read(predictions[i])}
    known = {unit["id"]: unit for unit in units if unit["id"] in read}
    found = []
    for i in changed:
        row = predictions[i]
        held = {side: answers[f"retrieval_recall_{side}"][i] for side in SIDES}
        found.append(
            {
                **{key: row[key] for key in ("id", "question", "golden_answers", *ANSWERS)},
                **{f"score_{side}": float(answers["scores"][i, 0, j]) for j, side in enumerate(SIDES, 1)},
                **{f"{side}_held_answer": None if np.isnan(told) else bool(told) for side, told in held.items()},
                "units": [_unit(document, known.get(document["id"], {})) for document in units_read(row)],
                "overlap": answers["overlap"][i],
            }
        )
    return sorted(found, key=lambda harm: (-abs(harm["score_writeback"] - harm["score_base"]), str(harm["id"])))


def _unit(document: Row, known: Row) -> dict[str, Any]:
    told = {key: document[key] for key in ("id", "title", "text")}
    told |= {key: known.get(key) for key in ("form", "doubt", "example_ids")}
    return told | {"sources": [{"id": source} for source in known.get("source_ids", ())]}


def sources_of(found: Sequence[Row]) -> list[dict[str, Any]]:
    """The sources of all units that some harms read, to be given title and text once the passages are at hand."""
    return [source for harm in found for unit in harm["units"] for source in unit["sources"]]


def harm_blocks(found: Sequence[Row], questions: int, better: bool = False) -> list[Block]:
    """All harms that were found among so many test questions, or all that got `better`, one to a line that opens."""
    heading, scored = Heading(f"Questions that got {'better' if better else 'worse'}"), "higher" if better else "lower"
    if not found:
        return [heading, Text(f"None of {questions:,} test questions scores {scored} with write-back.")]
    unseen = sum(harm["overlap"] == "none" for harm in found)
    unread = sum(not harm["units"] for harm in found)
    told = f"{len(found):,} of {questions:,} test questions score {scored} with write-back, {unseen:,} of them without "
    told += f"overlap with training; {unread:,} of them had read no unit."
    told += "" if better else " All are in harms.jsonl too."
    return [heading, Text(told), Cases(tuple(map(_shown, found)), SHOWN)]


def _shown(harm: Row) -> Details:
    moved = " \u2192 ".join(quoted(harm[f"answer_{side}"]) for side in SIDES)
    golden, closed = " | ".join(harm["golden_answers"]), quoted(harm["answer_closed_book"], WIDTH)
    told = f"{harm['id']}; golden answers: {golden}; closed book {closed}; "
    told += f"overlap with training: {harm['overlap'] or 'not known'}"
    rows = (
        ("answer", *(quoted(harm[f"answer_{side}"], WIDTH) for side in SIDES)),
        ("score", *(f"{harm[f'score_{side}']:.2f}" for side in SIDES)),
        ("golden answer in the documents", *(HELD[harm[f"{side}_held_answer"]] for side in SIDES)),
    )
    table = Table(("", "base", "+ write-back"), rows, numbers=False)
    read = _read_table(harm["units"]) if harm["units"] else Text("No unit was read.")
    return Details(f"{harm['question']} {moved}", (Text(told, "note"), table, read), f"case-{harm['id']}")


def _read_table(units: Sequence[Row]) -> Table:
    rows: list[tuple[str, str]] = []
    strong = []
    for unit in units:
        strong.append(len(rows))
        rows.append((f"unit {unit['id']}", f"{unit['title']}: {unit['text']}"))
        for source in unit["sources"]:
            told = f"{source['title']}: {shorten(source['text'], WIDTH)}" if source["text"] else "not at hand"
            rows.append((f"its source {source['id']}", told))
    return Table(("read", "title and text"), tuple(rows), frozenset(strong), numbers=False)
