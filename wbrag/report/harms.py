"""The test questions that got worse with write-back, each with what was read and where that came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

from wbrag.report.evaluation import ANSWERS, SIDES, Setting, overlap_of
from wbrag.report.overlap import TrainingQuestions, holding, units_read
from wbrag.report.page import Block, Details, Heading, Table, Text

Row = Mapping[str, Any]
SHOWN = 20
WIDTH = 300
#: Whether documents held an answer, in words.
HELD = {None: "not known", True: "yes", False: "no"}


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
        before, after = (0.0 if row["error"] is not None else setting.score(row, side) for side in SIDES)
        if after < before:
            found.append(
                {
                    **{key: row[key] for key in ("id", "question", "golden_answers", *ANSWERS)},
                    **{"score_base": before, "score_writeback": after},
                    **{f"{side}_held_answer": _held_answer(row, side, setting) for side in SIDES},
                    "units": [_unit(document, known.get(document["id"], {})) for document in units_read(row)],
                    "overlap": overlap_of(row, training),
                }
            )
    return sorted(found, key=lambda harm: (harm["score_writeback"] - harm["score_base"], str(harm["id"])))


def _held_answer(row: Row, side: str, setting: Setting) -> bool | None:
    return None if setting.labels else bool(holding(row[f"documents_{side}"] or [], row["golden_answers"]))


def _unit(document: Row, known: Row) -> dict[str, Any]:
    told = {key: document[key] for key in ("id", "title", "text")}
    told |= {key: known.get(key) for key in ("form", "doubt", "example_ids")}
    return told | {"sources": [{"id": source} for source in known.get("source_ids", ())]}


def sources_of(found: Sequence[Row]) -> set[str]:
    """The ids of all passages that the units of some harms were made of."""
    return {source["id"] for source in _sources(found)}


def tell_sources(found: Sequence[Row], passages: Mapping[str, Row]) -> None:
    """Give the sources of the harms' units their title and text, None where `passages` do not have them."""
    for source in _sources(found):
        source |= {key: passages.get(source["id"], {}).get(key) for key in ("title", "text")}


def _sources(found: Sequence[Row]) -> Iterator[dict[str, Any]]:
    return (source for harm in found for unit in harm["units"] for source in unit["sources"])


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
    moved = " \u2192 ".join(_short(harm[f"answer_{side}"], 60) for side in SIDES)
    golden, closed = " | ".join(harm["golden_answers"]), _short(harm["answer_closed_book"])
    told = f"{harm['id']}; golden answers: {golden}; closed book {closed}; "
    told += f"overlap with training: {harm['overlap'] or 'not known'}"
    rows = (
        ("answer", *(_short(harm[f"answer_{side}"]) for side in SIDES)),
        ("score", *(f"{harm[f'score_{side}']:.2f}" for side in SIDES)),
        ("golden answer in the documents", *(HELD[harm[f"{side}_held_answer"]] for side in SIDES)),
    )
    table = Table(("", "base", "+ write-back"), rows, numbers=False)
    read = _read_table(harm["units"]) if harm["units"] else Text("No unit was read.")
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
