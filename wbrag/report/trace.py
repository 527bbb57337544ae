"""The life of one example or unit of a run, as text: `wbrag trace RUN ID`, `wbrag units show RUN ID`.

A training example: what the model knew, what retrieval brought, what the gates decided and by which numbers, the unit
that was written, and which test questions found that unit. A test question: its answers and documents before and after.
A unit: its text beside its sources, what the gates said of its examples, who reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from itertools import chain, islice, repeat
from pathlib import Path
from shutil import get_terminal_size
from textwrap import shorten, wrap
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wbrag import schema
from wbrag.report.evaluation import SIDES, Setting
from wbrag.report.overlap import holding, units_read
from wbrag.report.tables import quoted
from wbrag.run.folder import RunError, read_config, read_rows, read_traces, setting_of, unit_rows
from wbrag.store.rows import rows_of
from wbrag.store.versions import current
from wbrag.units.decisions import Decision
from wbrag.units.sentences import sentences, words

Row = Mapping[str, Any]
#: A label and the paragraphs beside it; a label that begins with a new line stands after an empty one.
Entry = tuple[str, Sequence[str | None]]
INDENT = 16
ROOM = 108 - INDENT
READERS_SHOWN = 3
TITLE = 44
#: Of a unit: the width of its lines, and what marks the sentences of a source that stand in it.
WIDTH, MARK = 100, ">> "
#: The lives that a report shows, and why; where there is no example of the one kind, one of the next.
SHOWN = (
    {"fixed": "Kept; its unit was read for a test question that write-back fixed.", "kept": "Kept."},
    {"gated": "Gated out."},
    {"worse": "A test question that got worse with write-back.", "failed": "Failed."},
)


def life(run: Path, asked: str) -> str:
    """The life of one example of a run folder, given by its id or its question, word for word. RunError names the file
    that cannot be read, or ids that exist.
    """
    setting = setting_of(read_config(run))
    predictions = list(read_rows(run / "predictions", schema.PREDICTION))
    trained = read_rows(run / "traces", schema.TRACE, ("id", "question"), pc.field("question") == asked)
    ids = (row["id"] for row in chain(trained, predictions) if row["question"] == asked)
    return lives(run, [next(ids, asked)], setting, predictions)[0]


def lives(run: Path, ids: Sequence[str], setting: Setting, predictions: Sequence[Row]) -> list[str]:
    """The lives of these ids of a run, read from its tables but for its `predictions`."""
    traces = {row["id"]: row for row in reversed(list(read_traces(run, schema.TRACE.names, ids)))}
    tested = {row["id"]: row for row in reversed(predictions) if row["id"] in ids}
    if unknown := [key for key in ids if key not in traces and key not in tested]:
        tables = (("traces", schema.TRACE), ("predictions", schema.PREDICTION))
        known = [row["id"] for name, table in tables for row in islice(read_rows(run / name, table, ("id",)), 2)]
        some = f"there are, for instance, {', '.join(known[:3])}"
        there = some if known else "it has no traces and no predictions yet"
        raise RunError(f"{run}: no example {unknown[0]!r} in this run; {there}")
    told = {key: example_life(trace, predictions, setting) for key, trace in traces.items()}
    read = {one["id"] for row in tested.values() for one in row["documents_writeback"] or []}
    units = unit_rows(run, ("id", "example_ids")) if read else ()
    writers = {unit["id"]: unit["example_ids"] for unit in units if unit["id"] in read}
    return [told[key] if key in told else question_life(tested[key], writers, setting) for key in ids]


def lives_to_show(traces: Iterable[Row], predictions: Sequence[Row], setting: Setting) -> list[tuple[str, str]]:
    """Up to three (caption, id), one for each kind of `SHOWN`; the lowest id is taken, not the most beautiful."""
    read = {document["id"] for row in predictions for document in row["documents_writeback"] or []}
    first: dict[str, str] = {}
    writer: dict[str, str] = {}
    for row in traces:
        first[row["status"]] = min(first.get(row["status"], row["id"]), row["id"])
        if row["unit_id"] in read:
            writer[row["unit_id"]] = min(writer.get(row["unit_id"], row["id"]), row["id"])
    for row in predictions:
        units = [document["id"] for document in row["documents_writeback"] or [] if document["id"] in writer]
        if units and row["error"] is None:
            before, after = (setting.score(row, side) for side in SIDES)
            if after > before:
                first.setdefault("fixed", writer[units[0]])
            elif after < before:
                first.setdefault("worse", row["id"])
    there = ([(told, first[key]) for key, told in kind.items() if key in first] for kind in SHOWN)
    return [found[0] for found in there if found]


def example_life(trace: Row, predictions: Iterable[Row], setting: Setting) -> str:
    """A training example (a row of `schema.TRACE`), with those of the predictions that read its unit."""
    gate, _, document = (trace["reason"] or "").partition("; ")
    failed, unit = trace["status"] == "failed", trace["unit_id"]
    entries: list[Entry] = [
        ("\nClosed book", [_scored(trace["closed_book_answer"], "s_nr", trace["s_nr"])]),
        ("Retrieved", _document_lines(trace["documents"])),
        ("With documents", [_scored(trace["rag_answer"], "s_rag", trace["s_rag"], trace["retrievals"])]),
        ("Delta", [] if trace["delta"] is None else [f"s_rag - s_nr = {trace['delta']:+.2f}"]),
        ("Utility gate", [] if failed else [gate]),
        ("\nEach alone", _alone_lines(trace)),
        ("Failed", [trace["reason"]]) if failed else ("Document gate", [document]),
    ]
    if unit:
        source, tokens = trace["source_tokens"], trace["unit_tokens"]
        ratio = f", {source / tokens:.1f} to 1" if tokens else ""
        about = [f"{unit}  ({source} -> {tokens} tokens{ratio})", trace["unit_title"], trace["unit_text"]]
        entries += [("\nEvidence", (trace["evidence"] or "").splitlines()), ("\nKnowledge unit", about)]
        entries += [("\nFound by", _reader_lines(unit, predictions, setting))]
    return _told(trace, f"training example, {trace['status']}", setting, [*entries, _cost(trace)])


def question_life(prediction: Row, writers: Mapping[str, Sequence[str]], setting: Setting) -> str:
    """A test question (a row of `schema.PREDICTION`); `writers`: unit id -> ids of the examples behind it."""
    if prediction["error"] is not None:
        return _told(prediction, "test question", setting, [("\nFailed", [prediction["error"]])])
    entries: list[Entry] = [("\nClosed book", [_measured(prediction, "closed_book", setting)])]
    for label, side in (("\nBase", "base"), ("\n+ write-back", "writeback")):
        documents, retrievals = prediction[f"documents_{side}"], prediction[f"retrievals_{side}"]
        units = [document["id"] for document in documents if document["id"] in writers]
        written = [f"{unit} was written {_from(writers[unit])}" for unit in units]
        told = _measured(prediction, side, setting, retrievals)
        entries += [(label, [told]), ("", [*_document_lines(documents), *written])]
    return _told(prediction, "test question", setting, [*entries, _cost(prediction)])


def _told(row: Row, what: str, setting: Setting, entries: Iterable[Entry]) -> str:
    lines = [f"{row['id']}: {what} ({setting.benchmark}, {setting.method}, {setting.backbone})"]
    asked = ("\nQuestion", [row["question"]]), ("Golden answers", [" | ".join(row["golden_answers"])])
    for label, paragraphs in (*asked, *entries):
        margins = chain([label.ljust(INDENT + label.count("\n"))], repeat(" " * INDENT))
        # A table row keeps its columns: what textwrap would squeeze or break is left alone while it fits.
        told = ([text] if len(text) <= ROOM and "\n" not in text else wrap(text, ROOM) for text in paragraphs if text)
        lines += [f"{margin}{line}".rstrip() for margin, line in zip(margins, chain(*told), strict=False)]
    return "\n".join(lines)


def _from(examples: Sequence[str]) -> str:
    if not examples:
        return "because the evidence of training examples mentions its subject"
    more = f" and {len(examples) - READERS_SHOWN} more" if len(examples) > READERS_SHOWN else ""
    return f"from training example{'s' * (len(examples) > 1)} {', '.join(examples[:READERS_SHOWN])}{more}"


def rank_of(ids: Set[str], documents: Sequence[Row] | None) -> int:
    """1-based rank of the first document that has one of these ids, 0 where there is none."""
    return next((rank for rank, document in enumerate(documents or [], 1) if document["id"] in ids), 0)


def _scored(answer: str | None, symbol: str, value: float | None, retrievals: int | None = None) -> str:
    told = quoted(answer) if value is None else f"{quoted(answer)}  {symbol} = {value:.2f}"
    return f"{told}  after {counted(retrievals, 'retrieval')} of the method's own" if retrievals else told


def _measured(prediction: Row, answer: str, setting: Setting, retrievals: int | None = None) -> str:
    return _scored(prediction[f"answer_{answer}"], setting.metric, setting.score(prediction, answer), retrievals)


def _document_lines(documents: Sequence[Row] | None) -> list[str]:
    if not documents:
        return ["no document"]
    width = max(len(document["id"]) for document in documents)
    lines = [f"rank   score  source     {'id':<{width}}  title"]
    for rank, document in enumerate(documents, 1):
        title = shorten(document["title"] or document["text"], TITLE, placeholder=" ...")
        where = f"{document['source']:<9}  {document['id']:<{width}}"
        lines.append(f"{rank:>4}  {document['score']:6.3f}  {where}  {title}")
    return lines


def _alone_lines(trace: Row) -> list[str]:
    told = zip(trace["document_answers"] or [], trace["document_scores"] or [], strict=True)
    lines = []
    for rank, (answer, s_j) in enumerate(told, 1):
        gate = "kept" if rank in (trace["kept_ranks"] or []) else "-"
        lines.append(f"{rank:>4}  {s_j:4.2f}  {s_j - trace['s_nr']:+10.2f}  {gate:<4}  {quoted(answer)}")
    return ["rank   s_j  s_j - s_nr  gate  answer with this document alone", *lines] if lines else []


def _reader_lines(unit: str, predictions: Iterable[Row], setting: Setting) -> list[str]:
    """How many questions that did not fail read the unit, and of some, the most changed first, what became of them."""
    found = []
    for row in predictions:
        if row["error"] is None and (rank := rank_of({unit}, row["documents_writeback"])):
            found.append((-abs(setting.score(row, "writeback") - setting.score(row, "base")), row["id"], rank, row))
    if not found:
        return ["no test question"]
    lines = [counted(len(found), "test question") + (":" if len(found) <= READERS_SHOWN else ", among them:")]
    for _, key, rank, row in sorted(found, key=lambda one: one[:2])[:READERS_SHOWN]:
        ranks = f"this unit none -> {rank}"
        if not setting.labels:
            sides = [row[f"documents_{side}"] or [] for side in SIDES]
            held = (
                {one["id"] for one in holding(documents, row["golden_answers"], setting.language)}
                for documents in sides
            )
            before, after = (rank_of(ids, documents) or "none" for ids, documents in zip(held, sides, strict=True))
            ranks += f", first document with a golden answer {before} -> {after}"
        answers = "  ->  ".join(_measured(row, side, setting) for side in SIDES)
        lines += [f"{key}: {row['question']}", f"  answer  {answers}", f"  rank    {ranks}"]
    return lines


def _cost(row: Row) -> Entry:
    saved = f" ({row['calls_saved']} saved)" if row.get("calls_saved") else ""
    tokens = f"{row['prompt_tokens'] or 0:,} prompt + {row['completion_tokens'] or 0:,} completion tokens"
    seconds = f", {row['seconds']:.2f} s" if row.get("seconds") is not None else ""
    return "\nCost", [f"{counted(row['calls'] or 0, 'call')}{saved}, {tokens}{seconds}"]


def counted(number: int, noun: str) -> str:
    """So many of them, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def readers(run: Path) -> dict[str, tuple[int, int, int]]:
    """For each unit that test questions read: how many, how many of them got better with write-back, and worse."""
    setting = setting_of(read_config(run))
    found: dict[str, tuple[int, int, int]] = {}
    for row in read_rows(run / "predictions", schema.PREDICTION):
        change = setting.score(row, "writeback") - setting.score(row, "base")
        for unit in units_read(row):
            read, better, worse = found.get(unit["id"], (0, 0, 0))
            found[unit["id"]] = read + 1, better + (change > 0), worse + (change < 0)
    return found


def unit_line(unit: Row, read: tuple[int, int, int]) -> str:
    """A unit in one line: id, its `readers`, title and text."""
    told = f"read by {read[0]}, +{read[1]} -{read[2]}" if read[0] else "not read"
    text = shorten(f"{unit['title']}: {unit['text']}", WIDTH, placeholder=" ...")
    return f"{unit['id']}  {told:<20}  {text}"


def unit_life(
    unit: Row, run: Path, base: Path, setting: Setting, decisions: Mapping[str, Decision], state: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """One unit (a row of `schema.UNIT`, or what the store has of it) with all that bears on it: as data, and as lines
    for a person. `state`: what became of one that is not live.
    """
    ids = list(unit.get("source_ids") or [])
    sources = {row["id"]: row for row in rows_of(base, current(base), ids).drop_columns(["vector"]).to_pylist()}
    chosen = pc.field("id").isin(pa.array(unit.get("example_ids") or [], pa.string()))
    examples = list(read_rows(run / "traces", schema.TRACE, ("id", "question", "reason"), chosen))
    asked = read_rows(run / "predictions", schema.PREDICTION)
    read = [row for row in asked if rank_of({unit["id"]}, row["documents_writeback"])]
    decision = next((one for key, one in decisions.items() if unit["id"] in (key, one.unit["id"])), None)
    said = [words(sentence) for sentence in sentences(unit["text"])]
    width = min(WIDTH, get_terminal_size((WIDTH, 0)).columns)
    lines = [unit["id"], *wrap(unit["title"], width), *wrap(unit["text"], width), ""]
    lines += [*wrap(state, width), ""] if state else []
    lines += [*wrap(f"{decision.state} {decision.at}: {decision.why}", width), ""] if decision else []
    for key in ids:
        lines += _source(key, sources.get(key), said, width)
    for row in examples:
        lines += wrap(f"example {row['id']}: {row['question']}  {row['reason']}", width, subsequent_indent="  ")
    for row in read:
        before, after = (f"{row[f'answer_{side}']!r} {setting.score(row, side):.2f}" for side in SIDES)
        told = f"read by {row['id']}: {row['question']}  {before} -> {after}"
        lines += wrap(told, width, subsequent_indent="  ")
    data: dict[str, Any] = {"unit": dict(unit), "state": state or "live", "sources": sources, "examples": examples}
    data |= {"decision": decision and asdict(decision), "readers": [row["id"] for row in read]}
    return data, lines


def _source(key: str, row: Row | None, said: list[frozenset[str]], width: int) -> list[str]:
    """A source with the sentences marked that stand in the unit."""
    if row is None:
        return [f"source {key}: is not in the base any more", ""]
    labels = ", ".join(f"{name} {value}" for name, value in row.items() if name not in schema.PASSAGE.names and value)
    head = f"source {key}: {row['title']}" + (f" ({labels})" if labels else "")
    told = wrap(head, width, subsequent_indent="  ")
    for sentence in sentences(row["text"]):
        mark = MARK if words(sentence) in said else " " * len(MARK)
        told += [f"{mark}{line}" for line in wrap(sentence, width - len(MARK))]
    return [*told, ""]
