"""The keys of a corpus' rows beside id, title and text, as typed columns: which type a key's values have, and whether
a value fits it. Pure.

A number is int64, or double where any row has a fraction; lists keep the type of their items; an object, and a list of
unlike items, is its JSON text. Where rows differ, the type that most have is the column's, and the others do not fit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from typing import Any

import pyarrow as pa

from wbrag.data.flashrag import KEYS, BadRow

NULL = pa.null()
INT64 = range(-(2**63), 2**63)


def type_of(value: object) -> pa.DataType:
    """The type of a column for a value as JSON has it; null for none, and for an empty list a list of null."""
    match value:
        case None:
            return NULL
        case bool():
            return pa.bool_()
        case int():
            return pa.int64() if value in INT64 else pa.float64()
        case float():
            return pa.float64()
        case list():
            inner = reduce(lambda one, other: one and joined(one, other), map(type_of, value), NULL)
            return pa.string() if inner is None else pa.list_(inner)
        case _:
            return pa.string()


def joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds values of both; None where there is none."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = joined(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    return None


def most(kinds: Counter[pa.DataType]) -> pa.DataType | None:
    """The type that fits most of the values so counted, of as many the one counted first; None for no value at all."""
    fits: dict[pa.DataType, int] = {}
    for kind in kinds:
        wide = kind
        for other in kinds:
            wide = joined(wide, other) or wide
        fits[wide] = sum(count for other, count in kinds.items() if joined(wide, other) == wide)
    found = max(fits, key=fits.__getitem__, default=NULL)
    return None if found == NULL else found


class Columns:
    """The other keys of rows that were counted, each with its type; a key that is null everywhere is left out."""

    def __init__(self) -> None:
        self._kinds: dict[str, Counter[pa.DataType]] = {}

    def count(self, row: Mapping[str, Any]) -> None:
        """Take the values of a row into account."""
        for key, value in row.items():
            if key not in KEYS:
                self._kinds.setdefault(key, Counter())[type_of(value)] += 1

    def schema(self) -> pa.Schema:
        """The columns in order of their first appearance."""
        types = {key: _whole(most(kinds)) for key, kinds in self._kinds.items()}
        return pa.schema([(key, kind) for key, kind in types.items() if kind is not None])


def _whole(kind: pa.DataType | None) -> pa.DataType | None:
    """The type with strings where nothing but nulls was seen, as in lists that are all empty."""
    if kind is None or not pa.types.is_list(kind):
        return kind
    return pa.list_(pa.string() if kind.value_type == NULL else _whole(kind.value_type))


def fitted(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The values of a row for these columns; BadRow for one that is of another type, with key, value and both types."""
    found = {}
    for field in schema:
        value = row.get(field.name)
        if joined(field.type, type_of(value)) != field.type:
            told = f"{field.name} is {json.dumps(value, ensure_ascii=False)[:40]} ({type_of(value)})"
            raise BadRow(f"{told}, in most rows it is {field.type}")
        found[field.name] = _told(value, field.type)
    return found


def _told(value: object, kind: pa.DataType) -> object:
    if isinstance(value, list) and pa.types.is_list(kind):
        return [_told(one, kind.value_type) for one in value]
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and pa.types.is_floating(kind):
        return float(value)
    return value
