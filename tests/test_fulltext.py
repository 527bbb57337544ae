"""Search by words over a store's version, against BM25 by hand."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import passages, publish, unit_vectors

from wbrag.store.changes import delete
from wbrag.store.fulltext import FOLDER, FullText, fulltext_name
from wbrag.store.place import place_of
from wbrag.store.versions import current, rollback

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
    (found,) = FullText(place_of(store), current(store)).best([" ".join(sorted(question))], len(ids))
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
    before = FullText(place, first).best(asked, 9)
    assert [[key for key, _ in some] for some in before[:3]] == [["p3", "p0", "p1", "p2"], [], []]
    assert len(FullText(place, first).best(["text"], 2)[0]) == 2
    delete(store, ["p3"], {})
    assert [key for key, _ in FullText(place, current(store)).best(["p3 text"], 9)[0]] == ["p0", "p1", "p2"]
    rollback(store, 1, {})
    assert fulltext_name(current(store)) == fulltext_name(first)  # the same rows
    shutil.rmtree(store / FOLDER)
    assert FullText(place, first).best(asked, 9) == before
    delete(store, ["p0", "p1", "p2", "p3"], {})
    assert FullText(place, current(store)).best(["text"], 9) == [[]]
