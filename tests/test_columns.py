"""Other keys of a corpus: each a typed column, nothing lost, and a value that does not fit is set aside by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.data.benchmarks import InputError, write_corpus
from wbrag.data.columns import columns_of, fitted, joined, type_of
from wbrag.data.flashrag import BadRow

PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


def written(folder: Path, *rows: dict[str, Any], rate: float = 0.0) -> tuple[pa.Table, list[str]]:
    """The corpus as Parquet, and why rows were left out."""
    lines = [json.dumps({"id": str(i), "contents": f"T\nText {i}."} | row) for i, row in enumerate(rows)]
    (folder / "c.jsonl").write_text("\n".join(lines))
    report = write_corpus(folder / "c.jsonl", folder / "c.parquet", max_error_rate=rate)
    return pq.read_table(folder / "c.parquet"), [one.reason for one in report.rejected]


def test_every_key_is_a_column_of_its_type(tmp_path: Path) -> None:
    table, left = written(
        tmp_path,
        {"year": 1999, "score": 1, "labels": [], "open": True, "source": {"url": "x", "n": 1}, "none": None},
        {"year": None, "score": 0.5, "labels": ["a", "b"], "mixed": [1, "a"]},
        {"labels": ["c"], "nested": [[1], [2.5]]},
    )
    types = {field.name: str(field.type) for field in table.schema}
    lists = {"labels": "list<element: string>", "nested": "list<element: list<element: double>>"}
    plain = {"year": "int64", "score": "double", "open": "bool", "source": "string", "mixed": "string"}
    assert types == {"id": "string", "title": "string", "text": "string"} | plain | lists
    assert left == []
    assert table["labels"].to_pylist() == [[], ["a", "b"], ["c"]]
    assert table["score"].to_pylist() == [1.0, 0.5, None]
    assert json.loads(table["source"][0].as_py()) == {"url": "x", "n": 1}
    assert json.loads(table["mixed"][1].as_py()) == [1, "a"]


def test_a_value_of_another_type_than_most_is_set_aside_by_name(tmp_path: Path) -> None:
    table, left = written(tmp_path, {"year": 1}, {"year": "unknown"}, {"year": 3}, rate=0.5)
    assert table["year"].to_pylist() == [1, 3]
    assert left == ['year is "unknown" (string), in most rows it is int64']


@pytest.mark.parametrize("name", ["vector", "a.b", ""])
def test_a_key_that_no_column_can_be_called_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"c.jsonl: key {name!r}: a column cannot be called so"):
        written(tmp_path, {name: 1})


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_what_fits_is_held_as_arrow_holds_it_and_the_rest_is_named(values: list[Any]) -> None:
    rows = [{"id": "x", "key": value} for value in values]
    schema, held, told = columns_of(rows), [], []
    for row in rows:
        try:
            held.append(fitted(row, schema))
        except BadRow as error:
            told.append(str(error))
    assert all(reason.startswith("key is ") for reason in told)
    kinds = Counter(type_of(value) for value in values if value is not None)
    assert schema.names == (["key"] if kinds else [])
    if kinds:
        assert len(pa.Table.from_pylist(held, schema)) == len(held) >= max(kinds.values())


@given(VALUES, VALUES, VALUES)
def test_joining_types_is_commutative_and_holds_both(one: object, two: object, three: object) -> None:
    a, b, c = map(type_of, (one, two, three))
    assert joined(a, b) == joined(b, a)
    assert joined(a, a) == a
    if (both := joined(a, b)) is not None:
        assert joined(both, a) == joined(both, b) == both
        ab_c, bc = joined(both, c), joined(b, c)
        assert bc is None or ab_c == joined(a, bc)
