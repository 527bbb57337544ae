"""Tables as data: a column says where its value lies in a record and how it is told; the names and numbers in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from wbrag.report.page import Table

Record = Mapping[str, Any]
#: Heading, path of the value in a record ("topics.ci_low"; "" is the record itself), the value's text.
Column = tuple[str, str, Callable[[Any], str]]

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


def tabled(
    first: str,
    columns: Iterable[Column],
    records: Iterable[tuple[str, Record]],
    strong: Collection[int] = (),
    numbers: bool = True,
) -> Table:
    """One row a record, after its name, which stands in the column `first`; "-" where a record has no such value."""
    columns = tuple(columns)
    rows = tuple((name, *cells(columns, record)) for name, record in records)
    return Table((first, *(heading for heading, _, _ in columns)), rows, frozenset(strong), numbers)


def cells(columns: Iterable[Column], record: Record) -> tuple[str, ...]:
    """The record's cells under these columns."""
    return tuple(told(_value(record, path)) for _, path, told in columns)


def _value(record: Any, path: str) -> Any:  # noqa: ANN401 - a value of plain data
    for key in path.split(".") if path else ():
        record = None if record is None else record.get(key)
    return record


def text(value: object) -> str:
    """Any value as it is; "-" for None, as in all these."""
    return "-" if value is None else str(value)


def count(value: float | None) -> str:
    """A whole number, or one that is told as such."""
    return "-" if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 1) -> str:
    """A mean with `digits` decimals."""
    return "-" if value is None else f"{value:,.{digits}f}"


#: A mean with two decimals.
hundredths = partial(number, digits=2)


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of fractions as points with a sign; what rounds to 0 has none."""
    text = "-" if value is None else f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def interval(record: Record | None, low: str = "ci_low", high: str = "ci_high") -> str:
    """The interval of a gain in points."""
    return "-" if record is None or low not in record else f"{points(record[low])} to {points(record[high])}"


def p_value(p: float | None) -> str:
    """A p-value, never as 0."""
    return "-" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


#: What calls took, as a record tells it.
COST: Sequence[Column] = (
    ("LLM calls", "calls", count),
    ("prompt tokens", "prompt_tokens", count),
    ("completion tokens", "completion_tokens", count),
)


def read_table(records: Mapping[str, Record], heading: str, n: str, found: str) -> Table:
    """The questions without overlap by what the units that they read hold (`evaluation.READ`), and `together`, of all
    of them; a record's `n` are its questions, under `heading`, and `found` begins its shares of documents with an
    answer.
    """
    columns = (
        (heading, n, count),
        ("share, %", "share", percent),
        ("gain", "gain", points),
        ("95% over topics", "topics", interval),
        ("answer in the documents, base, %", f"{found}_base", percent),
        ("+ write-back, %", f"{found}_writeback", percent),
    )
    whole = records["together"][n]
    rows = [(READ_NAMES.get(key, key), {**record, "share": record[n] / whole}) for key, record in records.items()]
    return tabled("without overlap", columns, rows, {len(rows) - 1})
