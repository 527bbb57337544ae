"""Tables as data: a column says where its value lies in a record and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

from wbrag.report.page import Table

Record = Mapping[str, Any]
#: Heading, path of the value in a record ("topics.ci_low"; "" is the record itself), the value's text.
Column = tuple[str, str, Callable[[Any], str]]
#: Fewer questions, or topics, have no interval.
FEW = 10


def tabled(
    first: str,
    columns: Sequence[Column],
    records: Iterable[tuple[str, Record]],
    strong: Iterable[int] = (),
    numbers: bool = True,
) -> Table:
    """One row a record, after its name, which stands in the column `first`; "-" where a record has no such value."""
    rows = tuple((name, *cells(columns, record)) for name, record in records)
    return Table((first, *(heading for heading, _, _ in columns)), rows, frozenset(strong), numbers)


def cells(columns: Iterable[Column], record: Record) -> tuple[str, ...]:
    """The record's cells under these columns."""
    told = []
    for _, path, form in columns:
        value: Any = record
        for key in path.split(".") if path else ():
            value = None if value is None else value.get(key)
        told.append(form(value))
    return tuple(told)


def _form(form: str, times: int = 1) -> Callable[[Any], str]:
    return lambda value: "-" if value is None else form.format(times * value)


#: A whole number (or one that is told as such), a mean, a fraction in percent; "-" for None.
count = _form("{:,.0f}")
number = _form("{:,.1f}")
hundredths = _form("{:,.2f}")
percent = _form("{:.1f}", 100)


def points(value: float | None) -> str:
    """A difference of fractions as points with a sign; what rounds to 0 has none."""
    text = "-" if value is None else f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def too_few(record: Record) -> bool:
    """Whether a record's questions or topics are too few for an interval: a bootstrap of three knows three values."""
    counts = [record[key] for key in ("n", "questions", "topics") if isinstance(record.get(key), int)]
    return bool(counts) and min(counts) < FEW


def interval(record: Record | None, low: str = "ci_low", high: str = "ci_high") -> str:
    """The interval of a gain in points; of too few questions or topics none."""
    if record is None or low not in record:
        return "-"
    return "too few" if too_few(record) else f"{points(record[low])} to {points(record[high])}"


def p_value(p: float | None) -> str:
    """A p-value, never as 0."""
    return "-" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def quoted(answer: str | None, width: int = 60) -> str:
    """An answer in quotes, shortened to `width`; None was not asked."""
    return "not asked" if answer is None else f'"{shorten(answer, width, placeholder=" ...")}"'
