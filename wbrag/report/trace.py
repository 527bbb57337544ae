"""The life of one example of a run, as text: `python -m wbrag.report.trace RUN ID`.

A training example: what the model knew, what retrieval brought, what the gates decided and by which numbers, the unit
that was written, and which test questions found that unit. A test question: its answers and documents before and after.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from wbrag import schema
from wbrag.metrics import acc, score
from wbrag.report.evaluation import Setting
from wbrag.run.folder import RunError, read_config, read_rows, read_traces, read_units, setting_of

Row = Mapping[str, Any]
WIDTH = 108
INDENT = 16
READERS_SHOWN = 3
TITLE = 44


class UnknownExample(LookupError):
    """An id that is neither a training example nor a test question of the run."""


def life(run: Path, example_id: str) -> str:
    """The life of one id of a run folder. Raises UnknownExample (with ids that exist) and RunError (with the file)."""
    import pyarrow.compute as pc

    setting = setting_of(read_config(run))
    chosen = pc.field("id") == example_id
    trace = next(iter(read_traces(run, schema.TRACE.names, chosen)), None)
    if trace is not None:
        unit = trace["unit_id"]
        tests = read_rows(run / "predictions", schema.PREDICTION) if unit else iter(())
        readers = [row for row in tests if row["error"] is None and rank_of(unit, row["documents_writeback"])]
        return example_life(trace, readers, setting)
    prediction = next(read_rows(run / "predictions", schema.PREDICTION, where=chosen), None)
    if prediction is not None:
        found = {document["id"] for document in prediction["documents_writeback"] or []}
        writers = {unit["id"]: unit["example_ids"] for unit in read_units(run) if unit["id"] in found}
        return question_life(prediction, writers, setting)
    raise UnknownExample(_unknown(run, example_id))


def example_life(trace: Row, readers: Sequence[Row], setting: Setting) -> str:
    """A training example (a row of `schema.TRACE`); `readers`: predictions, not failed, that hold its unit."""
    gate_reason, _, document_reason = (trace["reason"] or "").partition("; ")
    failed = trace["status"] == "failed"
    lines = [
        f"{trace['id']}: training example, {trace['status']} ({_told(setting)})",
        "",
        *_entry("Question", [trace["question"]]),
        *_entry("Golden answers", [" | ".join(trace["golden_answers"])]),
        "",
        *_entry("Closed book", [_scored(trace["closed_book_answer"], "s_nr", trace["s_nr"])]),
        *_entry("Retrieved", _document_lines(trace["documents"])),
        *_entry("With documents", [_scored(trace["rag_answer"], "s_rag", trace["s_rag"]) + _own(trace["retrievals"])]),
    ]
    if trace["delta"] is not None:
        lines += _entry("Delta", [f"s_rag - s_nr = {trace['delta']:+.2f}"])
    lines += [] if failed else _entry("Utility gate", [gate_reason])
    if trace["document_scores"]:
        lines += ["", *_entry("Each alone", _alone_lines(trace))]
    lines += _entry("Failed", [trace["reason"]]) if failed else _entry("Document gate", [document_reason])
    if trace["unit_id"]:
        lines += ["", *_entry("Evidence", (trace["evidence"] or "").splitlines())]
        lines += ["", *_entry("Knowledge unit", _unit_lines(trace))]
        lines += ["", *_entry("Found by", _reader_lines(trace["unit_id"], readers, setting))]
    return "\n".join([*lines, "", *_entry("Cost", [_cost(trace)])])


def question_life(prediction: Row, writers: Mapping[str, Sequence[str]], setting: Setting) -> str:
    """A test question (a row of `schema.PREDICTION`); `writers`: unit id -> ids of the examples behind it."""
    golden = prediction["golden_answers"]
    lines = [
        f"{prediction['id']}: test question ({_told(setting)})",
        "",
        *_entry("Question", [prediction["question"]]),
        *_entry("Golden answers", [" | ".join(golden)]),
        "",
    ]
    if prediction["error"] is not None:
        return "\n".join([*lines, *_entry("Failed", [prediction["error"]])])
    lines += _entry("Closed book", [_measured(prediction, "closed_book", setting)])
    for label, side in (("Base", "base"), ("+ write-back", "writeback")):
        documents = prediction[f"documents_{side}"]
        told = _measured(prediction, side, setting) + _own(prediction[f"retrievals_{side}"])
        lines += ["", *_entry(label, [told]), *_entry("", _document_lines(documents))]
        units = [document["id"] for document in documents if document["id"] in writers]
        lines += _entry("", [f"{unit} was written {_from(writers[unit])}" for unit in units])
    return "\n".join([*lines, "", *_entry("Cost", [_cost(prediction)])])


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
    """1-based rank of the first document whose contents hold a golden answer (`evaluation.retrieval_facts`), or 0."""
    contents = (f"{document['title']}\n{document['text']}" for document in documents or [])
    return next((rank for rank, text in enumerate(contents, 1) if acc(text, golden_answers)), 0)


def _told(setting: Setting) -> str:
    return f"{setting.benchmark}, {setting.method}, {setting.backbone}"


def _entry(label: str, paragraphs: Sequence[str]) -> list[str]:
    lines = [line for text in paragraphs if text for line in _wrapped(text)]
    return [f"{label if i == 0 else '':<{INDENT}}{line}".rstrip() for i, line in enumerate(lines)]


def _wrapped(text: str) -> list[str]:
    # A table row keeps its columns: what textwrap would squeeze or break is left alone while it fits.
    fits = len(text) <= WIDTH - INDENT and "\n" not in text
    return [text] if fits else textwrap.wrap(text, WIDTH - INDENT)


def _quoted(answer: str | None) -> str:
    return "not asked" if answer is None else f'"{textwrap.shorten(answer, 60, placeholder=" ...")}"'


def _scored(answer: str | None, symbol: str, value: float | None) -> str:
    return _quoted(answer) if value is None else f"{_quoted(answer)}  {symbol} = {value:.2f}"


def _own(retrievals: int | None) -> str:
    return f"  after {_counted(retrievals, 'retrieval')} of the method's own" if retrievals else ""


def _score(prediction: Row, side: str, setting: Setting) -> float:
    return score(setting.metric, prediction[f"answer_{side}"], prediction["golden_answers"], setting.labels)


def _measured(prediction: Row, side: str, setting: Setting) -> str:
    return _scored(prediction[f"answer_{side}"], setting.metric, _score(prediction, side, setting))


def _title(document: Row) -> str:
    return textwrap.shorten(document["title"] or document["text"], TITLE, placeholder=" ...")


def _document_lines(documents: Sequence[Row] | None) -> list[str]:
    if not documents:
        return ["no document"]
    width = max(len(document["id"]) for document in documents)
    rows = [
        f"{rank:>4}  {document['score']:6.3f}  {document['source']:<9}  {document['id']:<{width}}  {_title(document)}"
        for rank, document in enumerate(documents, 1)
    ]
    return [f"rank   score  source     {'id':<{width}}  title", *rows]


def _alone_lines(trace: Row) -> list[str]:
    kept = set(trace["kept_ranks"] or [])
    rows = zip(trace["document_answers"], trace["document_scores"], strict=True)
    return ["rank   s_j  s_j - s_nr  gate  answer with this document alone"] + [
        f"{rank:>4}  {s_j:4.2f}  {s_j - trace['s_nr']:+10.2f}  {'kept' if rank in kept else '-':<4}  {_quoted(answer)}"
        for rank, (answer, s_j) in enumerate(rows, 1)
    ]


def _unit_lines(trace: Row) -> list[str]:
    source, unit = trace["source_tokens"], trace["unit_tokens"]
    ratio = f", {source / unit:.1f} to 1" if unit else ""
    return [f"{trace['unit_id']}  ({source} -> {unit} tokens{ratio})", trace["unit_title"], trace["unit_text"]]


def _reader_lines(unit: str, readers: Sequence[Row], setting: Setting) -> list[str]:
    if not readers:
        return ["no test question"]

    def change(row: Row) -> float:
        return abs(_score(row, "writeback", setting) - _score(row, "base", setting))

    lines = [_counted(len(readers), "test question") + (":" if len(readers) <= READERS_SHOWN else ", among them:")]
    for row in sorted(readers, key=lambda row: (-change(row), row["id"]))[:READERS_SHOWN]:
        golden = row["golden_answers"]
        ranks = f"this unit none -> {rank_of(unit, row['documents_writeback'])}"
        if not setting.labels:
            before, after = (rank_of_answer(golden, row[f"documents_{side}"]) for side in ("base", "writeback"))
            ranks += f", first document with a golden answer {before or 'none'} -> {after or 'none'}"
        answers = f"{_measured(row, 'base', setting)}  ->  {_measured(row, 'writeback', setting)}"
        lines += [f"{row['id']}: {row['question']}", f"  answer  {answers}", f"  rank    {ranks}"]
    return lines


def _cost(row: Row) -> str:
    saved = f" ({row['calls_saved']} saved)" if row.get("calls_saved") else ""
    tokens = f"{row['prompt_tokens'] or 0:,} prompt + {row['completion_tokens'] or 0:,} completion tokens"
    seconds = f", {row['seconds']:.2f} s" if row.get("seconds") is not None else ""
    return f"{_counted(row['calls'] or 0, 'call')}{saved}, {tokens}{seconds}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _unknown(run: Path, example_id: str) -> str:
    folders = (("traces", schema.TRACE), ("predictions", schema.PREDICTION))
    known = [row["id"] for name, table in folders for row in islice(read_rows(run / name, table, ("id",)), 2)][:3]
    there = f"there are, for instance, {', '.join(known)}" if known else "it has no traces and no predictions yet"
    return f"{run}: no example {example_id!r} in this run; {there}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a life; exit code 2 with a message on stderr for an unknown id or a folder that is not a run."""
    parser = argparse.ArgumentParser(
        "python -m wbrag.report.trace", description="Print the life of one example of a run."
    )
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
