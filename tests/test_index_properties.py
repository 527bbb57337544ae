"""Laws of the store, over random input: cuts and splits change nothing that can be seen."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag.store.files import sha256_file
from wbrag.store.passages import conform, write_passages
from wbrag.store.publish import publish
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import merge_vectors, spec_of, write_vectors

D = 4
SPEC = spec_of("flat_fp16", D)


def vectors_of(numbers: list[int]) -> np.ndarray:
    """A unit vector per number, equal for equal numbers: few distinct numbers make many ties."""
    drawn = [np.random.default_rng(number).standard_normal(D) for number in numbers]
    array = np.array(drawn, dtype=np.float32).reshape(-1, D)
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float16)


def table_of(numbers: list[int], prefix: str = "p") -> pa.Table:
    ids = [f"{prefix}{row}" for row in range(len(numbers))]
    return pa.table({"id": ids, "title": [str(n) for n in numbers], "text": ids})


def cut(length: int, cuts: list[int]) -> list[tuple[int, int]]:
    """Half-open ranges that cover 0 .. length, cut at these places (taken modulo the length)."""
    places = sorted({0, length, *(place % length for place in cuts)})
    return list(itertools.pairwise(places))


NUMBERS = st.lists(st.integers(0, 5), min_size=1, max_size=40)
CUTS = st.lists(st.integers(0, 1000), max_size=5)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, CUTS)
def test_any_cut_into_shards_gives_the_same_bytes(numbers: list[int], cuts: list[int]) -> None:
    vectors = vectors_of(numbers)
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for start, stop in cut(len(numbers), cuts):
            shards.append(Path(folder) / f"{start}.faiss")
            write_vectors(shards[-1], [vectors[start:stop]], SPEC)
        assert merge_vectors(Path(folder) / "merged", shards, SPEC) == len(numbers)
        assert write_vectors(Path(folder) / "whole", [vectors], SPEC) == len(numbers)
        assert sha256_file(Path(folder) / "merged") == sha256_file(Path(folder) / "whole")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5000), st.lists(st.integers(0, 5000), max_size=6))
def test_passages_give_the_same_bytes_however_they_come(rows: int, cuts: list[int]) -> None:
    table = conform(table_of(list(range(rows))), "test")
    with tempfile.TemporaryDirectory() as folder:
        whole, pieces = Path(folder) / "whole", Path(folder) / "pieces"
        assert write_passages(whole, [table]) == rows
        chunks = [table.slice(start, stop - start) for start, stop in cut(rows, cuts)]
        assert write_passages(pieces, chunks) == rows
        assert sha256_file(whole) == sha256_file(pieces)


@settings(max_examples=25, deadline=None)
@given(NUMBERS, CUTS, st.integers(1, 50), st.data())
def test_any_split_into_segments_and_stores_is_searched_as_one(
    numbers: list[int], cuts: list[int], k: int, data: st.DataObject
) -> None:
    """Base and write-back, each of several segments, equal one store that holds base rows, then write-back rows."""
    vectors, table = vectors_of(numbers), table_of(numbers)
    ranges = cut(len(numbers), cuts)
    in_base = data.draw(st.integers(1, len(ranges)))
    xq = vectors_of(data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4)))
    with tempfile.TemporaryDirectory() as folder:
        base, writeback, whole = (Path(folder) / name for name in ("base", "writeback", "whole"))
        publish(whole, vectors, table, "test", {})
        for part, (start, stop) in enumerate(ranges):
            store = base if part < in_base else writeback
            publish(store, vectors[start:stop], table.slice(start, stop - start), "test", {})
        split = KnowledgeBase(base, writeback).search(xq, k)
        one = KnowledgeBase(whole).search(xq, k)
    assert [[(d.id, d.score) for d in hits] for hits in split] == [[(d.id, d.score) for d in hits] for hits in one]
    assert split == [sorted(hits, key=lambda d: (-d.score, int(d.id[1:]))) for hits in split]
    best = np.sort(-(xq.astype(np.float32) @ vectors.astype(np.float32).T), axis=1)[:, :k]
    assert np.allclose([[-d.score for d in hits] for hits in one], best, atol=1e-5)
