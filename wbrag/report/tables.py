"""The numbers of a run as people read them: percent, points, intervals, and the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wbrag.report.overlap import without_overlap
from wbrag.report.page import Table

Record = Mapping[str, Any]

METRIC_NAMES = {
    "em": "exact match",
    "acc": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "label": "label accuracy",
}
SPLIT_NAMES = {
    "none": "without overlap",
    "answer": "answer seen in training",
    "question": "question seen in training",
}
EVERY = "all test questions"
EXPOSURE_NAMES = {
    "unit": "a unit among the documents",
    "near_duplicate": "a unit from a near-duplicate question",
    "gold": "another unit, with a golden answer",
    "other": "another unit, without one",
    "none": "no unit among the documents",
}
#: What the units that questions without overlap read hold (`evaluation.READ`).
READ_NAMES = {
    "gold": "a unit that was read holds the golden answer",
    "other": "only units that do not hold it were read",
    "unit": "a unit was read",
    "none": "no unit was read",
}
FOUND_HEADER = ("answer in the documents, base, %", "+ write-back, %")
RESULT_HEADER = (
    *("n", "closed book", "base", "+ write-back", "gain", "95% over topics", "95% over questions", "McNemar p"),
)

LEGEND = """\
Scores in %. closed book: the model alone. base: the model with documents of the corpus. + write-back: with documents
of the corpus and of the trained write-back index. gain: + write-back minus base, in points; where its 95% interval
leaves out 0, the difference is more than chance. Over topics: questions with the same first base document are drawn
together, as the same units help them."""


def headline(metrics: Record) -> str:
    """What a run says of the questions without overlap (of all, where none is known to be), in one sentence that claims
    no more than the interval over topics does.
    """
    unseen = metrics["splits"].get("none")
    record = unseen[0] if unseen else metrics["results"][0]
    n = f"{record['n']:,} test questions of {record['benchmark']}" + (
        " without overlap with training" if unseen else ""
    )
    metric, over = METRIC_NAMES[record["metric"]], record["topics"]
    scores = f"from {percent(record['base'])}% to {percent(record['writeback'])}%"
    told = f"{points(record['gain'])} points, 95% interval over topics {interval(over)}"
    if over["topics"] > 1 and over["ci_low"] > 0:
        return f"Write-back raises {metric} on {n} {scores}: {told}."
    if over["topics"] > 1 and over["ci_high"] < 0:
        return f"Write-back lowers {metric} on {n} {scores}: {told}."
    why = "which includes 0" if over["ci_low"] <= 0 <= over["ci_high"] else "of a single topic"
    return f"No change shown: write-back takes {metric} on {n} {scores} ({told}, {why})."


def all_told(metrics: Record) -> str:
    """What a run says of all its test questions, beside the headline; both intervals."""
    record, splits = metrics["results"][0], metrics["splits"]
    unseen = f"{splits['none'][0]['n']:,} without overlap" if "none" in splits else "none known to be without overlap"
    scores = f"from {percent(record['base'])}% to {percent(record['writeback'])}%"
    told = f"95% interval {interval(record['topics'])} over topics, {interval(record)} over questions"
    return f"All {record['n']:,} test questions, {unseen}: {scores}, {points(record['gain'])} points, {told}."


def topics_told(record: Record) -> str:
    """Why intervals are over topics, and how unevenly a record's questions are spread over them."""
    over = record["topics"]
    return (
        "Over topics: questions with the same first base document, which the same units help, are drawn together; here "
        f"they are {over['topics']:,} topics, the largest with {over['largest']:,} of {record['n']:,} questions."
    )


def by_overlap(metrics: Record) -> dict[str, Record]:
    """The primary record of the questions without overlap, of the other classes of overlap, and of all, by name."""
    found = {SPLIT_NAMES[key]: records[0] for key, records in metrics["splits"].items()}
    return found | {EVERY: metrics["results"][0]}


def terminal_table(metrics: Record) -> str:
    """The results as plain text for a terminal: questions without overlap, all questions, and how to read them."""
    record, unseen = metrics["results"][0], metrics["splits"].get("none")
    records = ({SPLIT_NAMES["none"]: unseen[0]} if unseen else {}) | {EVERY: record}
    header = (f"{record['benchmark']}, {METRIC_NAMES[record['metric']]}", *RESULT_HEADER)
    rows = [(name, *result_cells(record)) for name, record in records.items()]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [_aligned(row, widths) for row in (header, *rows)]
    told = [without_overlap([metrics["labels"]])] if unseen else []
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", LEGEND, *told])


def recall_line(record: Record, k: int) -> str:
    """How often the first `k` documents hold a golden answer (recall@k), in percent, base only and with write-back."""
    base, both = (percent(record[f"retrieval_recall_{key}"]) for key in ("base", "writeback"))
    return f"recall@{k}, questions with a golden answer in their documents: base {base}, + write-back {both}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells])


def results_table(first: str, records: Mapping[str, Record], strong: frozenset[int] = frozenset()) -> Table:
    """One row per named record."""
    rows = tuple((name, *result_cells(record)) for name, record in records.items())
    return Table((first, *RESULT_HEADER), rows, strong)


def result_cells(record: Record) -> tuple[str, ...]:
    """The cells under `RESULT_HEADER`; only a primary record knows its interval over topics."""
    scores = (percent(record[key]) for key in ("closed_book", "base", "writeback"))
    over = interval(record["topics"]) if "topics" in record else "-"
    p = p_value(record["mcnemar_p"]) if record["mcnemar_p"] is not None else "-"
    return (f"{record['n']:,}", *scores, points(record["gain"]), over, interval(record), p)


def unseen_table(metrics: Record) -> Table:
    """The questions without overlap by what the units that they read hold, and how many documents held the answer."""
    whole = metrics["splits"]["none"][0]
    records = {READ_NAMES[key]: records[0] for key, records in metrics["unseen"].items()} | {"together": whole}
    rows = tuple(
        (
            *(name, f"{record['n']:,}", percent(record["n"] / whole["n"]), points(record["gain"])),
            *(interval(record["topics"]), percent(record["retrieval_recall_base"])),
            percent(record["retrieval_recall_writeback"]),
        )
        for name, record in records.items()
    )
    header = ("without overlap", "n", "share, %", "gain", "95% over topics", *FOUND_HEADER)
    return Table(header, rows, frozenset({len(rows) - 1}))


def construction_rows(construction: Record) -> tuple[tuple[str, ...], ...]:
    """Name and value of each construction statistic (paper, Table 3)."""
    agreed = f"{percent(construction['judge_agreement'])}% of {construction['judge_compared']:,} decisions"
    agreed += f", kappa {number(construction['judge_kappa'], 2)}"
    judged = (("judge and labels agree", agreed),) if construction["judge_compared"] else ()
    fates = f"{construction['kept']:,} kept, {construction['gated']:,} gated out, {construction['failed']:,} failed"
    return (
        ("training examples", f"{construction['examples']:,}: {fates}"),
        ("selected rate", f"{percent(construction['selected_rate'])}%"),
        ("knowledge units", f"{construction['units']:,}"),
        ("retained documents, mean", number(construction["mean_retained_documents"], 2)),
        ("source tokens, mean", number(construction["source_tokens"])),
        ("distilled tokens, mean", number(construction["distilled_tokens"])),
        ("compression, mean", f"{number(construction['compression_ratio'], 2)} to 1"),
        ("fallback rate", f"{percent(construction['fallback_rate'])}%"),
        ("documents dropped, prompt too long", f"{construction['dropped_documents']:,}"),
        *judged,
    )


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal; "-" for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of fractions as points with a sign; what rounds to 0 has none."""
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text


def interval(record: Record) -> str:
    """The interval of a gain in points."""
    return f"{points(record['ci_low'])} to {points(record['ci_high'])}"


def p_value(p: float) -> str:
    """A p-value, never as 0."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def number(value: float | None, digits: int = 1) -> str:
    """A mean with `digits` decimals; "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}"
