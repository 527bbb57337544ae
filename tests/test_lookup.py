"""Tables of which a few rows are in memory: held against lists and dicts, however they are cut into files, and where
hashes collide.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbrag.run import lookup
from wbrag.run.lookup import Keyed, Rows, distinct, sorted_places, write_batch

SCHEMA = pa.schema([("id", pa.string()), ("told", pa.list_(pa.struct([("text", pa.string())])))])
KEYS = st.lists(st.text("abé", max_size=2), max_size=12)
files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def table_of(keys: list[str]) -> pa.Table:
    told = [[{"text": f"{i}{key}"}] * (i % 3) for i, key in enumerate(keys)]
    return pa.table({"id": keys, "told": told}, SCHEMA)


def cut(table: pa.Table, edges: list[int]) -> list[pa.Table]:
    ends = sorted({min(edge, len(table)) for edge in edges} | {0, len(table)})
    return [table.slice(start, end - start) for start, end in pairwise(ends)]


def colliding(parts: Any) -> Any:  # noqa: ANN401
    """Three hashes for all strings."""
    every = [np.array([len(key) for key in part.to_pylist()], dtype=np.int64) for part in parts]
    return np.concatenate([np.empty(0, dtype=np.int64), *every])


@pytest.fixture(params=[False, True], ids=["hashes", "collisions"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(lookup, "hashed", colliding)


@given(KEYS, st.lists(st.integers(0, 12), max_size=4), st.data())
@files
def test_rows_are_those_of_the_whole_table_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], edges: list[int], data: st.DataObject
) -> None:
    table, folder = table_of(keys), tmp_path_factory.mktemp("rows")
    rows = Rows.written(folder, SCHEMA, cut(table, edges))
    places = st.lists(st.integers(0, len(keys) - 1), max_size=20) if keys else st.just([])
    wanted, some = (np.array(data.draw(places), dtype=np.int64) for _ in range(2))
    assert len(rows) == len(keys)
    assert list(rows) == table.to_pylist()
    assert rows.column("id").to_pylist() == keys
    assert rows.take(wanted).equals(table.take(pa.array(wanted)))
    assert rows.take(wanted, ["told"]).equals(table.select(["told"]).take(pa.array(wanted)))
    chosen = table.take(pa.array(some))
    assert list(rows.chosen(some)) == chosen.to_pylist()
    both = rows.chosen(some) + rows
    assert list(both) == chosen.to_pylist() + table.to_pylist()
    assert list(both.chosen(np.arange(len(both))[::-1])) == list(both)[::-1]
    assert [len(batch) for batch in both.batches(size=5)] == [min(5, len(both) - i) for i in range(0, len(both), 5)]


@pytest.mark.usefixtures("hashes")
@given(KEYS, KEYS, st.lists(st.integers(0, 12), max_size=3))
@files
def test_a_key_is_found_where_it_first_stands(keys: list[str], asked: list[str], edges: list[int]) -> None:
    parts = [batch for table in cut(table_of(keys), edges) for batch in table.to_batches()]
    found = Keyed(Rows.of(parts, SCHEMA), "id")
    assert found.find(pa.array(asked, pa.string())).tolist() == [
        keys.index(key) if key in keys else -1 for key in asked
    ]
    assert (
        found.find(pa.chunked_array([asked[:3], asked[3:]], pa.string())).tolist()
        == found.find(pa.array(asked, pa.string())).tolist()
    )
    new = found.missing(Rows.of(table_of(asked).to_batches(), SCHEMA))
    assert new.column("id").to_pylist() == [key for key in dict.fromkeys(asked) if key not in keys]
    there = [key for key in asked if key in keys]
    assert found.rows(pa.array(there, pa.string()), ["id"])["id"].to_pylist() == there
    for key in set(asked) - set(keys):
        with pytest.raises(KeyError):
            found.rows(pa.array([*there, key], pa.string()), ["id"])


@pytest.mark.usefixtures("hashes")
@given(KEYS, st.integers(0, 12))
@files
def test_different_strings_are_counted_and_ordered(keys: list[str], edge: int) -> None:
    assert distinct(lambda: map(pa.array, (keys[:edge], keys[edge:]))) == (len(keys), len(set(keys)))
    assert [keys[place] for place in sorted_places(keys)] == sorted(keys)
    assert sorted_places(["b", "a", "b", "a"]).tolist() == [1, 3, 0, 2]


def test_a_file_is_mapped_only_while_it_is_read(tmp_path: Path) -> None:
    table = pa.table({"id": ["x" * 1000] * 5000})
    for number in range(4):
        write_batch(tmp_path / f"{number}.arrow", table.to_batches()[0])
    rows = Keyed(Rows.of(sorted(tmp_path.glob("*.arrow")), table.schema), "id")
    assert rows.find(pa.array(["x" * 1000, "y"])).tolist() == [0, -1]
    assert len(rows.table.take(np.arange(0, 20_000, 7))) == 2858
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
