"""The life of one example of a run, as text: `python -m wbrag.report.trace RUN ID`.

A training example: what the model knew, what retrieval brought, what the gates decided and by which numbers, the unit
that was written, and which test questions found that unit. A test question: its answers and documents before and after.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from wbrag import schema
from wbrag.report.evaluation import SIDES, Setting
from wbrag.report.overlap import holding
from wbrag.run.folder import RunError, read_config, read_rows, read_traces, read_units, setting_of

Row = Mapping[str, Any]
#: A label and the paragraphs beside it; a label that begins with a new line stands after an empty one.
Entry = tuple[str, Sequence[str | None]]
WIDTH = 108
INDENT = 16
READERS_SHOWN = 3
TITLE = 44


class UnknownExample(LookupError):
    """An id that is neither a training example nor a test question of the run."""


def life(run: Path, example_id: str) -> str:
    """The life of one id of a run folder. Raises UnknownExample (with ids that exist) and RunError (with the file)."""
    return lives(run, [example_id], setting_of(read_config(run)))[0]


def lives(run: Path, ids: Sequence[str], setting: Setting, predictions: Sequence[Row] | None = None) -> list[str]:
    """The lives of these ids of a run, read from its tables but for `predictions` that are read already."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = pc.field("id").isin(pa.array(ids, pa.string()))
    traces = {row["id"]: row for row in reversed(read_traces(run, schema.TRACE.names, chosen))}
    others = [key for key in ids if key not in traces]
    if predictions is None:
        with_unit = any(trace["unit_id"] for trace in traces.values())  # all are read, to see who else read it
        predictions = list(read_rows(run / "predictions", schema.PREDICTION, where=None if with_unit else chosen))
    tested = {row["id"]: row for row in reversed(predictions)}
    if unknown := [key for key in others if key not in tested]:
        tables = (("traces", schema.TRACE), ("predictions", schema.PREDICTION))
        known = [row["id"] for name, table in tables for row in islice(read_rows(run / name, table, ("id",)), 2)]
        some = f"there are, for instance, {', '.join(known[:3])}"
        there = some if known else "it has no traces and no predictions yet"
        raise UnknownExample(f"{run}: no example {unknown[0]!r} in this run; {there}")
    behind = {unit["id"]: unit["example_ids"] for unit in read_units(run)} if others else {}
    told = []
    for key in ids:
        if key not in traces:
            told.append(question_life(tested[key], behind, setting))
        else:
            unit = traces[key]["unit_id"]
            found = (row for row in predictions if unit and row["error"] is None)
            readers = [row for row in found if rank_of(unit, row["documents_writeback"])]
            told.append(example_life(traces[key], readers, setting))
    return told


def lives_to_show(traces: Sequence[Row], predictions: Sequence[Row], setting: Setting) -> list[tuple[str, str]]:
    """Up to three (caption, id): an example whose unit a fixed question read, one gated out, one that got worse.

    A kept and a failed example stand in for the first and the last; the lowest id is taken, not the most beautiful.
    """
    writer = {row["unit_id"]: row["id"] for row in reversed(traces) if row["unit_id"]}
    first = {row["status"]: row["id"] for row in reversed(traces)}
    fixed = worse = None
    for row in predictions:
        units = [d["id"] for d in row["documents_writeback"] or [] if d["id"] in writer]
        if units and row["error"] is None:
            before, after = (setting.score(row, side) for side in SIDES)
            fixed = fixed or (writer[units[0]] if after > before else None)
            worse = worse or (row["id"] if after < before else None)
    good = ("Kept; its unit was read for a test question that write-back fixed.", fixed)
    bad = ("A test question that got worse with write-back.", worse)
    gated = ("Gated out.", first.get("gated"))
    chosen = (
        good if fixed else ("Kept.", first.get("kept")),
        gated,
        bad if worse else ("Failed.", first.get("failed")),
    )
    return [(caption, key) for caption, key in chosen if key is not None]


def example_life(trace: Row, readers: Sequence[Row], setting: Setting) -> str:
    """A training example (a row of `schema.TRACE`); `readers`: predictions, not failed, that hold its unit."""
    gate, _, document = (trace["reason"] or "").partition("; ")
    failed, unit = trace["status"] == "failed", trace["unit_id"]
    with_documents = _scored(trace["rag_answer"], "s_rag", trace["s_rag"]) + _own(trace["retrievals"])
    entries: list[Entry] = [
        ("\nClosed book", [_scored(trace["closed_book_answer"], "s_nr", trace["s_nr"])]),
        ("Retrieved", _document_lines(trace["documents"])),
        ("With documents", [with_documents]),
        ("Delta", [] if trace["delta"] is None else [f"s_rag - s_nr = {trace['delta']:+.2f}"]),
        ("Utility gate", [] if failed else [gate]),
        *([("\nEach alone", _alone_lines(trace))] if trace["document_scores"] else []),
        ("Failed", [trace["reason"]]) if failed else ("Document gate", [document]),
    ]
    if unit:
        source, tokens = trace["source_tokens"], trace["unit_tokens"]
        ratio = f", {source / tokens:.1f} to 1" if tokens else ""
        about = [f"{unit}  ({source} -> {tokens} tokens{ratio})", trace["unit_title"], trace["unit_text"]]
        entries.append(("\nEvidence", (trace["evidence"] or "").splitlines()))
        entries.append(("\nKnowledge unit", about))
        entries.append(("\nFound by", _reader_lines(unit, readers, setting)))
    return _told(trace, f"training example, {trace['status']}", setting, [*entries, _cost(trace)])


def question_life(prediction: Row, writers: Mapping[str, Sequence[str]], setting: Setting) -> str:
    """A test question (a row of `schema.PREDICTION`); `writers`: unit id -> ids of the examples behind it."""
    if prediction["error"] is not None:
        return _told(prediction, "test question", setting, [("\nFailed", [prediction["error"]])])
    entries: list[Entry] = [("\nClosed book", [_measured(prediction, "closed_book", setting)])]
    for label, side in (("\nBase", "base"), ("\n+ write-back", "writeback")):
        documents = prediction[f"documents_{side}"]
        units = [document["id"] for document in documents if document["id"] in writers]
        told = _measured(prediction, side, setting) + _own(prediction[f"retrievals_{side}"])
        written = [f"{unit} was written {_from(writers[unit])}" for unit in units]
        entries += [(label, [told]), ("", [*_document_lines(documents), *written])]
    return _told(prediction, "test question", setting, [*entries, _cost(prediction)])


def _told(row: Row, what: str, setting: Setting, entries: Iterable[Entry]) -> str:
    lines = [f"{row['id']}: {what} ({setting.benchmark}, {setting.method}, {setting.backbone})"]
    asked = ("\nQuestion", [row["question"]]), ("Golden answers", [" | ".join(row["golden_answers"])])
    for label, paragraphs in (*asked, *entries):
        lines += [""] if label.startswith("\n") else []
        wrapped = [line for text in paragraphs if text for line in _wrapped(text)]
        lines += [f"{'' if i else label.strip():<{INDENT}}{line}".rstrip() for i, line in enumerate(wrapped)]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    # A table row keeps its columns: what textwrap would squeeze or break is left alone while it fits.
    fits = len(text) <= WIDTH - INDENT and "\n" not in text
    return [text] if fits else textwrap.wrap(text, WIDTH - INDENT)


def _from(examples: Sequence[str]) -> str:
    if not examples:
        return "because the evidence of training examples mentions its subject"
    more = f" and {len(examples) - READERS_SHOWN} more" if len(examples) > READERS_SHOWN else ""
    told = ", ".join(examples[:READERS_SHOWN])
    return f"from training example{'s' if len(examples) > 1 else ''} {told}{more}"


def rank_of(document_id: str, documents: Sequence[Row] | None) -> int:
    """1-based rank of a document among those retrieved, 0 where it is not there."""
    return next((rank for rank, document in enumerate(documents or [], 1) if document["id"] == document_id), 0)


def rank_of_answer(golden_answers: Sequence[str], documents: Sequence[Row] | None) -> int:
    """1-based rank of the first document whose contents hold a golden answer, or 0."""
    return next((rank for rank, one in enumerate(documents or [], 1) if holding([one], golden_answers)), 0)


def _quoted(answer: str | None) -> str:
    return "not asked" if answer is None else f'"{textwrap.shorten(answer, 60, placeholder=" ...")}"'


def _scored(answer: str | None, symbol: str, value: float | None) -> str:
    return _quoted(answer) if value is None else f"{_quoted(answer)}  {symbol} = {value:.2f}"


def _own(retrievals: int | None) -> str:
    return f"  after {_counted(retrievals, 'retrieval')} of the method's own" if retrievals else ""


def _measured(prediction: Row, answer: str, setting: Setting) -> str:
    return _scored(prediction[f"answer_{answer}"], setting.metric, setting.score(prediction, answer))


def _document_lines(documents: Sequence[Row] | None) -> list[str]:
    if not documents:
        return ["no document"]
    width = max(len(document["id"]) for document in documents)
    lines = [f"rank   score  source     {'id':<{width}}  title"]
    for rank, document in enumerate(documents, 1):
        title = textwrap.shorten(document["title"] or document["text"], TITLE, placeholder=" ...")
        where = f"{document['source']:<9}  {document['id']:<{width}}"
        lines.append(f"{rank:>4}  {document['score']:6.3f}  {where}  {title}")
    return lines


def _alone_lines(trace: Row) -> list[str]:
    lines = ["rank   s_j  s_j - s_nr  gate  answer with this document alone"]
    for rank, (answer, s_j) in enumerate(zip(trace["document_answers"], trace["document_scores"], strict=True), 1):
        gate = "kept" if rank in (trace["kept_ranks"] or []) else "-"
        lines.append(f"{rank:>4}  {s_j:4.2f}  {s_j - trace['s_nr']:+10.2f}  {gate:<4}  {_quoted(answer)}")
    return lines


def _reader_lines(unit: str, readers: Sequence[Row], setting: Setting) -> list[str]:
    if not readers:
        return ["no test question"]

    def change(row: Row) -> float:
        return abs(setting.score(row, "writeback") - setting.score(row, "base"))

    lines = [_counted(len(readers), "test question") + (":" if len(readers) <= READERS_SHOWN else ", among them:")]
    for row in sorted(readers, key=lambda row: (-change(row), row["id"]))[:READERS_SHOWN]:
        ranks = f"this unit none -> {rank_of(unit, row['documents_writeback'])}"
        if not setting.labels:
            before, after = (rank_of_answer(row["golden_answers"], row[f"documents_{side}"]) for side in SIDES)
            ranks += f", first document with a golden answer {before or 'none'} -> {after or 'none'}"
        answers = "  ->  ".join(_measured(row, side, setting) for side in SIDES)
        lines += [f"{row['id']}: {row['question']}", f"  answer  {answers}", f"  rank    {ranks}"]
    return lines


def _cost(row: Row) -> Entry:
    saved = f" ({row['calls_saved']} saved)" if row.get("calls_saved") else ""
    tokens = f"{row['prompt_tokens'] or 0:,} prompt + {row['completion_tokens'] or 0:,} completion tokens"
    seconds = f", {row['seconds']:.2f} s" if row.get("seconds") is not None else ""
    return "\nCost", [f"{_counted(row['calls'] or 0, 'call')}{saved}, {tokens}{seconds}"]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a life; exit code 2 with a message on stderr for an unknown id or a folder that is not a run."""
    told = "Print the life of one example of a run."
    parser = argparse.ArgumentParser("python -m wbrag.report.trace", description=told)
    parser.add_argument("run", type=Path, help="the run folder (run_dir of the job)")
    parser.add_argument("id", help="id of a training example or of a test question")
    given = parser.parse_args(arguments)
    try:
        print(life(given.run, given.id))
    except (UnknownExample, RunError) as error:
        print(f"wbrag.report.trace: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
