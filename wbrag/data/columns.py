"""The keys of a corpus' rows beside id, title and text, as typed columns: which type a key's values have, and whether
a value fits it. Pure.

A number is int64, or double where any row has a fraction; lists keep the type of their items; an object, and a list of
unlike items, is its JSON text. Where rows differ, the type that most have is the column's, and the others do not fit.
A column of a text table is numbers, or true and false, where all its cells are written so, else text.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa

from wbrag.data.flashrag import KEYS, BadRow
from wbrag.data.layouts import Cell

NULL = pa.null()
INT64 = range(-(2**63), 2**63)
#: How a text table writes a number that is one: no code with zeros before it.
INTEGER, NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})"), re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d{1,2})?")


def type_of(value: object) -> pa.DataType:
    """The type of a column for a value as JSON has it; null for none, and for an empty list a list of null."""
    match value:
        case None:
            return NULL
        case Cell():
            flag = value.lower() in ("true", "false")
            number = pa.int64() if INTEGER.fullmatch(value) else pa.float64() if NUMBER.fullmatch(value) else None
            return pa.bool_() if flag else number or pa.string()
        case bool():
            return pa.bool_()
        case int() if value in INT64:
            return pa.int64()
        case int() | float():
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
        wide = reduce(lambda one, other: joined(one, other) or one, kinds, kind)
        fits[wide] = sum(count for other, count in kinds.items() if joined(wide, other) == wide)
    found = max(fits, key=fits.__getitem__, default=NULL)
    return None if found == NULL else found


def columns_of(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The other keys of the rows with their types, in order of first appearance; without what is null everywhere."""
    kinds: dict[str, Counter[pa.DataType]] = defaultdict(Counter)
    cells = set[str]()
    for row in rows:
        for key in row:
            if key not in KEYS:
                kinds[key][type_of(row[key])] += 1
                if type(row[key]) is Cell:
                    cells.add(key)
    types = {key: _of_cells(counted) if key in cells else most(counted) for key, counted in kinds.items()}
    return pa.schema([(key, _whole(kind)) for key, kind in types.items() if kind is not None])


def _of_cells(kinds: Counter[pa.DataType]) -> pa.DataType:
    """The type that all cells of a column are written in."""
    found: pa.DataType | None = reduce(lambda one, other: one and joined(one, other), kinds, NULL)
    return pa.string() if found is None else found


def _whole(kind: pa.DataType) -> pa.DataType:
    """The type with strings where nothing but nulls was seen, as in lists that are all empty."""
    if pa.types.is_list(kind):
        return pa.list_(pa.string() if kind.value_type == NULL else _whole(kind.value_type))
    return kind


def fitted(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The values of a row for these columns; BadRow, with key, value and both types, for one that does not fit."""
    found = {}
    for field in schema:
        value = row.get(field.name)
        if type(value) is Cell:
            value = _read_as(value, field.type)
        if joined(field.type, type_of(value)) != field.type:
            told = f"{field.name} is {json.dumps(value, ensure_ascii=False)[:40]} ({type_of(value)})"
            raise BadRow(f"{told}, in most rows it is {field.type}")
        found[field.name] = _told(value, field.type)
    return found


def _read_as(cell: Cell, kind: pa.DataType) -> object:
    """What a cell says as a value of this type, its text where it says none."""
    if kind == pa.string() or joined(kind, type_of(cell)) != kind:
        return str(cell)
    return cell.lower() == "true" if kind == pa.bool_() else int(cell) if kind == pa.int64() else float(cell)


def _told(value: object, kind: pa.DataType) -> object:
    if isinstance(value, list) and pa.types.is_list(kind):
        return [_told(one, kind.value_type) for one in value]
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and pa.types.is_floating(kind):
        return float(value)
    return value
