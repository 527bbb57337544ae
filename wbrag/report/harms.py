"""The test questions that got worse with write-back, each with what was read and where that came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from wbrag.metrics import score
from wbrag.report.evaluation import ANSWERS, Setting, holding, overlap_of
from wbrag.report.overlap import TrainingQuestions
from wbrag.report.page import Block, Details, Heading, Table, Text

Row = Mapping[str, Any]
SHOWN = 20
WIDTH = 300


def harms(
    predictions: Sequence[Row], setting: Setting, units: Sequence[Row], training: TrainingQuestions | None = None
) -> list[dict[str, Any]]:
    """The questions whose primary score fell, the greatest fall first, of equal ones in order of id.

    Each with its golden answers, the three answers, both scores, `overlap` (`evaluation.overlap_of`), whether base and
    write-back documents held a golden answer (None where answers are labels) and the units that were read: their text,
    the examples behind them and the ids of their `sources`, none where `units` (`schema.UNIT`) do not know them.
    """
    known = {unit["id"]: unit for unit in units}
    found = []
    for row in predictions:
        if row["error"] is not None:
            continue
        before, after = (
            score(setting.metric, row[f"answer_{side}"], row["golden_answers"], setting.labels)
            for side in ("base", "writeback")
        )
        if after < before:
            found.append(_harm(row, setting, known, (before, after)) | {"overlap": overlap_of(row, training)})
    return sorted(found, key=lambda harm: (harm["score_writeback"] - harm["score_base"], str(harm["id"])))


def _harm(row: Row, setting: Setting, known: Mapping[str, Row], scores: tuple[float, float]) -> dict[str, Any]:
    held = {
        f"{side}_held_answer": None if setting.labels else bool(holding(row[f"documents_{side}"] or [], row))
        for side in ("base", "writeback")
    }
    read = [document for document in row["documents_writeback"] or [] if document["source"] == "writeback"]
    units = [
        {
            **{key: document[key] for key in ("id", "title", "text")},
            **{key: known.get(document["id"], {}).get(key) for key in ("form", "doubt", "example_ids")},
            "sources": [{"id": source} for source in known.get(document["id"], {}).get("source_ids", ())],
        }
        for document in read
    ]
    told = {key: row[key] for key in ("id", "question", "golden_answers", *ANSWERS)}
    return {**told, "score_base": scores[0], "score_writeback": scores[1], **held, "units": units}


def sources_of(found: Sequence[Row]) -> set[str]:
    """The ids of all passages that the units of some harms were made of."""
    return {source["id"] for harm in found for unit in harm["units"] for source in unit["sources"]}


def tell_sources(found: Sequence[Row], passages: Mapping[str, Row]) -> None:
    """Give the sources of the harms' units their title and text, None where `passages` do not have them."""
    for source in (source for harm in found for unit in harm["units"] for source in unit["sources"]):
        source |= {key: passages.get(source["id"], {}).get(key) for key in ("title", "text")}


def harm_blocks(found: Sequence[Row], questions: int) -> list[Block]:
    """The first harms of all that were found among so many test questions, one to a line that opens."""
    heading = Heading("Questions that got worse")
    if not found:
        return [heading, Text(f"None of {questions:,} test questions scores lower with write-back.")]
    unseen = sum(harm["overlap"] == "none" for harm in found)
    unread = sum(not harm["units"] for harm in found)
    told = f"{len(found):,} of {questions:,} test questions score lower with write-back, {unseen:,} of them without "
    told += f"overlap with training; {unread:,} of them had read no unit. All are in harms.jsonl"
    told += f", the first {SHOWN} here." if len(found) > SHOWN else "."
    return [heading, Text(told), *(_shown(harm) for harm in found[:SHOWN])]


def _shown(harm: Row) -> Details:
    golden = " | ".join(harm["golden_answers"])
    moved = f"{_short(harm['answer_base'], 60)} \u2192 {_short(harm['answer_writeback'], 60)}"
    rows = (
        ("answer", _short(harm["answer_base"]), _short(harm["answer_writeback"])),
        ("score", f"{harm['score_base']:.2f}", f"{harm['score_writeback']:.2f}"),
        ("golden answer in the documents", _held(harm["base_held_answer"]), _held(harm["writeback_held_answer"])),
    )
    closed = f"closed book {_short(harm['answer_closed_book'])}"
    told = f"{harm['id']}; golden answers: {golden}; {closed}; overlap with training: {harm['overlap'] or 'not known'}"
    read = _read_table(harm["units"]) if harm["units"] else Text("No unit was read.")
    table = Table(("", "base", "+ write-back"), rows, numbers=False)
    return Details(f"{harm['question']} {moved}", (Text(told, "note"), table, read))


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


def _short(answer: str | None, width: int = WIDTH) -> str:
    return "not asked" if answer is None else f'"{shorten(answer, width)}"'


def _held(held: bool | None) -> str:
    return "not known" if held is None else "yes" if held else "no"
