"""The numbers of a run as people read them: percent, points, intervals, and the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wbrag.page import Table

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
    "none": "no overlap with training",
    "answer": "answer seen in training",
    "question": "question seen in training",
}
EXPOSURE_NAMES = {
    "unit": "a unit among the documents",
    "near_duplicate": "a unit from a near-duplicate question",
    "gold": "another unit, with a golden answer",
    "other": "another unit, without one",
    "none": "no unit among the documents",
}
RESULT_HEADER = ("n", "closed book", "base", "+ write-back", "gain", "95% interval", "McNemar p")

LEGEND = """\
Scores in %. closed book: the model alone. base: the model with documents of the corpus. + write-back: with documents
of the corpus and of the trained write-back index. gain: + write-back minus base, in points; where its 95% interval
leaves out 0, the difference is more than chance."""


def headline(record: Record) -> str:
    """What the primary record says, in one sentence that claims no more than its interval does."""
    metric, n = METRIC_NAMES[record["metric"]], f"{record['n']:,} unseen questions of {record['benchmark']}"
    scores = f"from {percent(record['base'])}% to {percent(record['writeback'])}%"
    told = f"{points(record['gain'])} points, 95% interval {interval(record)}"
    if record["ci_low"] > 0:
        return f"Write-back raises {metric} on {n} {scores}: {told}."
    if record["ci_high"] < 0:
        return f"Write-back lowers {metric} on {n} {scores}: {told}."
    return f"No change shown: write-back takes {metric} on {n} {scores} ({told}, which includes 0)."


def topics_told(record: Record, questions: int) -> str:
    """The gain's interval over topics, and how unevenly the questions are spread over them."""
    return (
        "Questions with the same first base document are helped by the same units. Drawn by these "
        f"{record['topics']:,} topics, the largest with {record['largest']:,} of {questions:,} questions, the 95% "
        f"interval of the gain is {interval(record)}."
    )


def terminal_table(results: Sequence[Record]) -> str:
    """The results as plain text for a terminal: one line a record, in percent, and how to read them."""
    header = ("benchmark", "metric", *RESULT_HEADER)
    rows = [(str(record["benchmark"]), METRIC_NAMES[record["metric"]], *result_cells(record)) for record in results]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [_aligned(row, widths) for row in (header, *rows)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", LEGEND])


def recall_line(record: Record, k: int) -> str:
    """How often the first `k` documents hold a golden answer (recall@k), in percent, base only and with write-back."""
    base, both = (percent(record[f"retrieval_recall_{key}"]) for key in ("base", "writeback"))
    return f"recall@{k}, questions with a golden answer in their documents: base {base}, + write-back {both}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
    cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(cells)


def results_table(first: str, records: Mapping[str, Record], strong: frozenset[int] = frozenset()) -> Table:
    """One row per named record."""
    rows = tuple((name, *result_cells(record)) for name, record in records.items())
    return Table((first, *RESULT_HEADER), rows, strong)


def result_cells(record: Record) -> tuple[str, ...]:
    """The cells under `RESULT_HEADER`."""
    scores = (percent(record[key]) for key in ("closed_book", "base", "writeback"))
    p = record["mcnemar_p"]
    return (f"{record['n']:,}", *scores, points(record["gain"]), interval(record), p_value(p) if p is not None else "-")


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
