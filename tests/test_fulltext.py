"""Search by words over a store's version, against BM25 by hand."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import passages, publish, unit_vectors

from wbrag.config import ConfigError
from wbrag.retrieval.merge import fused
from wbrag.schema import Document
from wbrag.store.changes import collect, delete
from wbrag.store.fulltext import FOLDER, FullText, fulltext_name
from wbrag.store.place import place_of
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current, rollback


class _Given:
    fingerprint, dimension = "hashing", 16


GIVEN: Any = _Given()
WORDS = st.sampled_from("river hill town bridge mayor old new of the".split())


def bm25(texts: list[list[str]], question: list[str], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """Okapi BM25 of a question and every text, with Lucene's IDF (Robertson and Zaragoza 2009, 3.5)."""
    mean, holding = sum(map(len, texts)) / len(texts), Counter(word for text in texts for word in set(text))
    scores = []
    for text in texts:
        counts, score = Counter(text), 0.0
        for word in question:
            idf = math.log(1 + (len(texts) - holding[word] + 0.5) / (holding[word] + 0.5))
            score += idf * counts[word] * (k1 + 1) / (counts[word] + k1 * (1 - b + b * len(text) / mean))
        scores.append(score)
    return scores


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=8), min_size=2, max_size=12), st.sets(WORDS, min_size=1))
def test_the_best_are_those_of_bm25(tmp_path_factory: object, texts: list[list[str]], question: set[str]) -> None:
    store = tmp_path_factory.mktemp("words") / "base"  # type: ignore[attr-defined]
    ids = [f"p{i:02}" for i in range(len(texts))]
    table = pa.table({"id": ids, "title": [""] * len(ids), "text": [" ".join(text) for text in texts]})
    publish(store, unit_vectors(len(ids)), table, "hashing", {})
    hits = FullText(place_of(store), current(store)).best(" ".join(sorted(question)), len(ids))
    assert [(address, key) for address, key, _ in hits] == [(ids.index(key), key) for _, key, _ in hits]
    found = [(key, score) for _, key, score in hits]
    wanted = {key: score for key, score in zip(ids, bm25(texts, sorted(question)), strict=True) if score > 0}
    assert {key for key, _ in found} == set(wanted)
    assert [key for key, score in found] == sorted(dict(found), key=lambda key: (-dict(found)[key], key))
    for key, score in found:
        assert math.isclose(score, wanted[key], rel_tol=0.05)  # Lance keeps a text's length in a byte


def test_it_is_made_of_the_rows_and_again_when_missing(tmp_path: Path) -> None:
    store, place = tmp_path / "base", place_of(tmp_path / "base")
    publish(store, unit_vectors(4), passages(4), "hashing", {})
    first = current(store)
    asked = ['(TEXT p3) -"x" *:?', "", "nowhere", "text"]
    before = [FullText(place, first).best(one, 9) for one in asked]
    assert [[key for _, key, _ in some] for some in before[:3]] == [["p3", "p0", "p1", "p2"], [], []]
    assert len(FullText(place, first).best("text", 2)) == 2
    delete(store, ["p3"], {})
    assert [key for _, key, _ in FullText(place, current(store)).best("p3 text", 9)] == ["p0", "p1", "p2"]
    rollback(store, 1, {})
    assert fulltext_name(current(store)) == fulltext_name(first)  # the same rows
    shutil.rmtree(store / FOLDER)
    assert [FullText(place, first).best(one, 9) for one in asked] == before
    delete(store, ["p0", "p1", "p2", "p3"], {})
    assert FullText(place, current(store)).best("text", 9) == []


def test_both_ways_of_searching_are_fused_among_what_a_reader_sees(tmp_path: Path) -> None:
    """Against fused lists by hand, in base and write-back, with filters, shards and deleted rows."""
    rng = np.random.default_rng(3)
    words = "river hill town bridge mayor old new".split()
    stores = tmp_path / "base", tmp_path / "writeback"
    for store, prefix, count in zip(stores, "pu", (60, 20), strict=True):
        for part in range(2):  # two fragments
            ids = [f"{prefix}{part}-{i:02}" for i in range(count // 2)]
            texts = [" ".join(rng.choice(words, 5)) for _ in ids]
            table = pa.table({"id": ids, "title": texts, "text": texts, "year": rng.integers(0, 4, len(ids))})
            publish(store, unit_vectors(len(ids), part), table, "hashing", {})
        delete(store, [f"{prefix}0-03"], {})
    xq, questions = unit_vectors(8, 9), [" ".join(rng.choice(words, 2)) for _ in range(8)]
    for where in (None, "year > 1", "year = 0"):
        with KnowledgeBase(*stores, encoder=GIVEN) as dense:
            near = [dense.search(xq, 20, writeback=False, where=where), dense.fold(xq, [[]] * 8, 20, where=where)]
            visible = {one.id for some in (*dense.search(xq, 99, where=where),) for one in some}
        expected = []
        for number, store in enumerate(stores):
            full = FullText(place_of(store), current(store))
            worded = [[key for _, key, _ in full.best(question, 99) if key in visible][:20] for question in questions]
            lists = [([one.id for one in some], by_words) for some, by_words in zip(near[number], worded, strict=True)]
            expected.append([[(one.id, one.score) for one in fused([*map(_bare, both)], 5)] for both in lists])
        both = [sorted([*p, *u], key=lambda pair: -pair[1])[:5] for p, u in zip(*expected, strict=True)]
        with KnowledgeBase(*stores, encoder=GIVEN, retrieval="hybrid") as hybrid:
            found = hybrid.search(xq, 5, where=where, questions=questions)
            assert [[(one.id, one.score) for one in some] for some in found] == both
            with pytest.raises(ValueError, match="retrieval=hybrid searches by words"):
                hybrid.search(xq, 5)
        with KnowledgeBase(*stores, encoder=GIVEN, retrieval="bm25", shard=(1, 2)) as half:
            found = half.search(xq, 3, writeback=False, where=where, questions=questions)
            assert all(one.id.startswith("p1") for some in found for one in some)
            assert all(len(some) == 3 for some in found)
    with pytest.raises(ConfigError, match="retrieval='sparse' is unknown; known are dense, bm25, hybrid"):
        KnowledgeBase(*stores, encoder=GIVEN, retrieval="sparse")


def _bare(ids: list[str]) -> list[Document]:
    return [Document(key, "", key, 0.0, "base") for key in ids]


def test_clean_up_takes_the_indices_of_versions_that_are_gone(tmp_path: Path) -> None:
    store = tmp_path / "base"
    publish(store, unit_vectors(4), passages(4), "hashing", {})
    first = current(store)
    delete(store, ["p3"], {})
    for version in (first, current(store)):
        FullText(place_of(store), version)
    assert len(list((store / FOLDER).iterdir())) == 2
    assert f"{FOLDER}/{fulltext_name(first)}" in collect(store, keep=1, grace=0, dry_run=True)
    collect(store, keep=1, grace=0)
    assert [one.name for one in (store / FOLDER).iterdir()] == [fulltext_name(current(store))]
