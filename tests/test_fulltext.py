"""Search by words over a store's version, against BM25 by hand."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import passages, publish, unit_vectors
from test_critics import cross_encoder

from wbrag.config import ConfigError, Retrieval
from wbrag.retrieval.merge import fused
from wbrag.retrieval.rerank import Reranker
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
        with KnowledgeBase(*stores, encoder=GIVEN, retrieval=Retrieval("hybrid")) as hybrid:
            found = hybrid.search(xq, 5, where=where, questions=questions)
            assert [[(one.id, one.score) for one in some] for some in found] == both
            with pytest.raises(ValueError, match="retrieval=hybrid searches by words"):
                hybrid.search(xq, 5)
        with KnowledgeBase(*stores, encoder=GIVEN, retrieval=Retrieval("bm25"), shard=(1, 2)) as half:
            found = half.search(xq, 3, writeback=False, where=where, questions=questions)
            assert all(one.id.startswith("p1") for some in found for one in some)
            assert all(len(some) == 3 for some in found)
    with pytest.raises(ConfigError, match=r"retrieval\.kind='sparse' is unknown; known are dense, bm25, hybrid"):
        KnowledgeBase(*stores, encoder=GIVEN, retrieval=Retrieval("sparse"))


def _bare(ids: list[str]) -> list[Document]:
    return [Document(key, "", key, 0.0, "base") for key in ids]


def _placed(one: Document) -> Document:
    return replace(one, version=1)


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


def test_a_reranker_orders_candidates_anew(tmp_path: Path) -> None:
    """A cross-encoder with random weights: a real checkpoint, whose scores are its own, alone or in a batch."""
    model = cross_encoder(tmp_path / "model", {0: "relevance"})
    reranker = Reranker(model, device="cpu")
    texts = ["oakwick is a town", "a town", "is old", "oakwick", "old old old"]
    some = [Document(f"p{i}", "", text, 0.0, "base") for i, text in enumerate(texts)]
    found = reranker.best("oakwick", some, 5)
    alone = {one.id: reranker.best("oakwick", [one], 1)[0].score for one in some}
    assert {one.id: pytest.approx(one.score, abs=1e-6) for one in found} == alone
    assert [one.id for one in found] == sorted(alone, key=lambda key: (-alone[key], key))
    assert [one.id for one in reranker.best("oakwick", some, 2)] == [one.id for one in found[:2]]
    assert reranker.best("oakwick", [], 3) == []

    table = pa.table({"id": [*alone], "title": [""] * 5, "text": texts})
    publish(tmp_path / "base", unit_vectors(5), table, "hashing", {})
    with KnowledgeBase(tmp_path / "base", encoder=GIVEN, retrieval=Retrieval("bm25", model)) as reader:
        (best,) = reader.search(unit_vectors(1), 3, questions=["oakwick"])
        assert [one.id for one in best] == [one.id for one in found if "oakwick" in one.text]
    with KnowledgeBase(tmp_path / "base", encoder=GIVEN, retrieval=Retrieval("dense", model)) as reader:
        assert reader.search(unit_vectors(1), 5, questions=["oakwick"]) == [[*map(_placed, found)]]
        with pytest.raises(ValueError, match="a reranker reads words"):
            reader.search(unit_vectors(1), 3)
    with pytest.raises(ConfigError, match="has 2 labels, a reranker has one"):
        Reranker(cross_encoder(tmp_path / "other", {0: "no", 1: "yes"}), device="cpu")
