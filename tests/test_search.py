"""Search as a user has it: kinds of index, filters, switches, questions as text, units beside, blocks of a device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import copy_of, passages, publish, unit_vectors

from wbrag.config import Encoder, Merge
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.retrieval.merge import best_of
from wbrag.schema import UNIT, Document
from wbrag.store.changes import delete
from wbrag.store.files import StoreError
from wbrag.store.place import place_of
from wbrag.store.search import BATCH, KnowledgeBase
from wbrag.store.topk import block_search, candidates
from wbrag.store.vectors import (
    empty_index,
    index_file,
    lists_of,
    search_parameters,
    spec_of,
    template_name,
    train_template,
)
from wbrag.store.verify import verify
from wbrag.store.versions import Version, encoder_note, rollback

D = 16
NLIST = 6
HASHING = Encoder(name="hashing", kind="hashing", model="", dimension=64)
BESIDE = Merge("beside", margin=0.2, room=0.5)


def units(sources: list[list[str]]) -> pa.Table:
    rows = [
        {"id": f"wb-{i}", "title": "unit", "text": f"unit {i}", "example_ids": [f"e{i}"], "source_ids": ids}
        | {"source_tokens": 10 * i, "unit_tokens": i}
        for i, ids in enumerate(sources)
    ]
    return pa.Table.from_pylist(rows, UNIT)


def ids_of(results: list[list[object]]) -> list[list[str]]:
    return [[document.id for document in documents] for documents in results]  # type: ignore[attr-defined]


def publish_ivf(store: Path, vectors: np.ndarray, table: pa.Table, template: bytes, nlist: int = NLIST) -> Version:
    """A version with one IVF fragment more, as a build publishes it."""
    spec = spec_of("ivf_fp16", vectors.shape[1], template, nlist)
    place_of(store).create(template_name(spec), template)
    return publish(store, vectors, table, "test", {}, spec)


# IVF


def test_ivf_with_every_list_finds_what_flat_finds(tmp_path: Path) -> None:
    vectors, xq = unit_vectors(600), unit_vectors(30, seed=1)
    publish(tmp_path / "flat", vectors, passages(600), "test", {})
    publish_ivf(tmp_path / "ivf", vectors, passages(600), train_template(vectors, NLIST))
    flat = KnowledgeBase(tmp_path / "flat").search(xq, 9)
    assert KnowledgeBase(tmp_path / "ivf", nprobe=NLIST).search(xq, 9) == flat
    fewer = ids_of(KnowledgeBase(tmp_path / "ivf", nprobe=2).search(xq, 9))
    shared = [len(set(some) & set(all_)) for some, all_ in zip(fewer, ids_of(flat), strict=True)]
    assert 3 < np.mean(shared) < 9  # approximate, and not by chance: two of six lists


@pytest.mark.parametrize("nprobe", [1, 3])
def test_ivf_fragments_of_one_template_are_searched_as_one(tmp_path: Path, nprobe: int) -> None:
    vectors, table, xq = unit_vectors(500), passages(500), unit_vectors(20, seed=1)
    template = train_template(vectors, NLIST)
    publish_ivf(tmp_path / "one", vectors, table, template)
    for start, stop in ((0, 120), (120, 121), (121, 500)):
        publish_ivf(tmp_path / "many", vectors[start:stop], table.slice(start, stop - start), template)
    one = KnowledgeBase(tmp_path / "one", nprobe=nprobe).search(xq, 8)
    assert KnowledgeBase(tmp_path / "many", nprobe=nprobe).search(xq, 8) == one


def test_deletion_in_and_publishing_to_an_ivf_store(tmp_path: Path) -> None:
    vectors = unit_vectors(300)
    publish_ivf(tmp_path, vectors, passages(300), train_template(vectors, NLIST))
    delete(tmp_path, ["p7"], {})
    newest = publish(tmp_path, unit_vectors(40, seed=5), passages(40, "q"), "test", {})  # takes the store's template
    assert newest.spec.kind == "ivf_fp16"
    knowledge = KnowledgeBase(tmp_path, nprobe=NLIST)
    assert ids_of(knowledge.search(unit_vectors(40, seed=5)[3:4], 1)) == [["q3"]]
    assert len(found := ids_of(knowledge.search(vectors[7:8], 400))[0]) == 339
    assert "p7" not in found


def test_a_flat_writeback_stands_beside_an_ivf_base(tmp_path: Path) -> None:
    vectors = unit_vectors(300)
    publish_ivf(tmp_path / "base", vectors, passages(300), train_template(vectors, NLIST))
    publish(tmp_path / "wb", unit_vectors(9, seed=3), passages(9, "wb-"), "test", {})
    hits = KnowledgeBase(tmp_path / "base", tmp_path / "wb", nprobe=NLIST).search(unit_vectors(9, seed=3)[:1], 309)[0]
    assert (hits[0].id, len(hits)) == ("wb-0", 309)


def test_an_ivf_file_has_the_bytes_that_faiss_alone_makes(tmp_path: Path) -> None:
    import faiss

    place, vectors = place_of(tmp_path), unit_vectors(3000)
    template = train_template(vectors, NLIST)
    spec = spec_of("ivf_fp16", D, template, NLIST)
    place.create(template_name(spec), template)
    index_file(place, tmp_path / "own", vectors, spec)
    index: Any = faiss.deserialize_index(np.frombuffer(template, np.uint8))
    index.add(vectors.astype(np.float32))
    faiss.write_index(index, str(tmp_path / "theirs"))
    assert (tmp_path / "own").read_bytes() == (tmp_path / "theirs").read_bytes()


class Rounded:
    """Centroids searched by a device that adds up inner products in its own way: they are off as far as can be."""

    def __init__(self, centroids: np.ndarray, seed: int) -> None:
        self.centroids, self.random = centroids, np.random.default_rng(seed)

    def search(self, xb: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        exact = xb.astype(np.float64) @ self.centroids.T
        scores = (exact + self.random.uniform(-1, 1, exact.shape) * D * 2.0**-24).astype(np.float32)
        order = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), order.astype(np.int64)


def test_a_vector_is_in_the_same_list_whichever_device_finds_it() -> None:
    """Pairs of centroids that float32 hardly tells apart, and one that is there twice."""
    random, xb = np.random.default_rng(0), unit_vectors(500).astype(np.float32)
    one = unit_vectors(4, seed=1).astype(np.float32)
    near = [one + random.uniform(-1, 1, one.shape).astype(np.float32) * step for step in (1e-7, 1e-6, 1e-5)]
    centroids = np.concatenate([one, *near, one[:1]]).astype(np.float64)
    exact = np.array([[math.fsum(x * c) for c in centroids] for x in xb.astype(np.float64)]).argmax(axis=1)
    found = [lists_of(xb, Rounded(centroids, seed), centroids) for seed in range(20)]
    assert all(np.array_equal(lists, exact) for lists in found)
    rounded = [Rounded(centroids, seed).search(xb, 1)[1][:, 0] for seed in range(20)]
    assert not any(np.array_equal(lists, exact) for lists in rounded)  # so it is not by chance


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_template_is_named(tmp_path: Path, damage: str) -> None:
    vectors = unit_vectors(100)
    newest = publish_ivf(tmp_path, vectors, passages(100), train_template(vectors, NLIST))
    assert verify(tmp_path, full=True) == []
    file = tmp_path / template_name(newest.spec)
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    if damage == "missing":
        file.unlink()
    (fault,) = verify(tmp_path, full=True)
    assert fault.startswith(f"{file}: ")
    with pytest.raises(StoreError, match=str(file)):
        publish(tmp_path, unit_vectors(3, seed=9), passages(3, "q"), "test", {})


# Filters and switches


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    publish(folder / "base", unit_vectors(40, seed=1), passages(40), "test", {})
    publish(folder / "wb", unit_vectors(10, seed=2), units([[f"p{i}", "p0"] for i in range(10)]), "test", {})
    return folder / "base", folder / "wb"


def test_a_filter_searches_the_rows_it_lets_through(stores: tuple[Path, Path]) -> None:
    knowledge = KnowledgeBase(*stores)
    xq, everything = unit_vectors(4, seed=9), KnowledgeBase(*stores).search(unit_vectors(4, seed=9), 50)
    wanted = {"p3", "p30", "wb-4"}
    found = knowledge.search(xq, 2, where=pc.field("id").isin(sorted(wanted)))
    assert found == [[d for d in documents if d.id in wanted][:2] for documents in everything]
    assert knowledge.search(xq, 50) == everything  # the filter was that query's alone


def test_a_column_that_a_store_lacks_is_null_there(stores: tuple[Path, Path]) -> None:
    knowledge = KnowledgeBase(*stores)
    long = knowledge.search(unit_vectors(1, seed=9), 50, where=pc.field("source_tokens") > 55)
    assert sorted(ids_of(long)[0]) == ["wb-6", "wb-7", "wb-8", "wb-9"]
    assert len(knowledge.search(unit_vectors(1), 50, where=pc.field("source_tokens").is_null())[0]) == 40
    with pytest.raises(ValueError, match="no_such_column"):
        knowledge.search(unit_vectors(1), 5, where=pc.field("no_such_column") > 1)


def test_deleted_rows_stay_hidden_under_a_filter(tmp_path: Path) -> None:
    publish(tmp_path, unit_vectors(20), passages(20), "test", {})
    delete(tmp_path, ["p3"], {})
    found = KnowledgeBase(tmp_path).search(unit_vectors(2), 5, where=pc.field("id").isin(["p2", "p3"]))
    assert ids_of(found) == [["p2"], ["p2"]]


def test_filters_that_look_alike_are_not_taken_for_each_other(stores: tuple[Path, Path]) -> None:
    """Arrow writes a long list of values with its middle left out."""
    knowledge, xq = KnowledgeBase(*stores), unit_vectors(2)
    names = [f"p{i}" for i in range(40)]
    for without in (15, 20, 20, 22):
        wanted = [name for name in names if name != f"p{without}"]
        found = knowledge.search(xq, 40, where=pc.field("id").isin(wanted))
        assert all({d.id for d in documents} <= set(wanted) for documents in found)
        assert len({d.id for d in found[0]}) == len(knowledge.search(xq, 100, where=pc.field("id").isin(wanted))[0])


def test_nothing_passes_a_filter(stores: tuple[Path, Path]) -> None:
    assert KnowledgeBase(*stores).search(unit_vectors(2), 5, where=pc.field("id") == "none") == [[], []]


def test_writeback_is_switched_query_by_query(stores: tuple[Path, Path]) -> None:
    knowledge, xq = KnowledgeBase(*stores), unit_vectors(5, seed=2)
    on, off = knowledge.search(xq, 4), knowledge.search(xq, 4, writeback=False)
    assert on != off
    assert (knowledge.search(xq, 4, np.True_), knowledge.search(xq, 4, np.False_)) == (on, off)
    switches = [True, False, False, True, False]
    mixed = knowledge.search(xq, 4, writeback=switches)
    assert mixed == [(on if switch else off)[i] for i, switch in enumerate(switches)]
    with pytest.raises(ValueError, match=r"writeback has shape \(2,\) for 5 queries"):
        knowledge.search(xq, 4, writeback=[True, False])


# Units beside passages, and passages that are known


def of_source(documents: list[Document], source: str) -> list[Document]:
    return [document for document in documents if document.source == source]


@pytest.mark.parametrize("k", [1, 3, 6, 20, 60])
def test_units_beside_the_passages_are_those_of_the_whole_ranking(stores: tuple[Path, Path], k: int) -> None:
    xq = np.concatenate([unit_vectors(10, seed=2), unit_vectors(20, seed=7)])
    expected = []
    for documents in KnowledgeBase(*stores).search(xq, 50):  # all rows, best first
        passages = of_source(documents, "base")[:k]
        room = 0.5 * sum(len(d.contents) for d in passages)
        near = [d for d in of_source(documents, "writeback")[:k] if d.score >= passages[0].score - 0.2]
        fits = [near[:n] for n in range(len(near) + 1) if sum(len(d.contents) for d in near[:n]) <= room]
        expected.append([*fits[-1], *passages])  # the units are equally long: once one does not fit, none does
    found = KnowledgeBase(*stores, merge=BESIDE).search(xq, k)
    assert found == expected
    assert k == 1 or {"base", "writeback"} == {d.source for documents in found for d in documents}


def test_units_beside_leave_a_search_of_the_base_alone(stores: tuple[Path, Path]) -> None:
    xq = unit_vectors(5, seed=2)
    plain = KnowledgeBase(*stores).search(xq, 6, writeback=False)
    beside = KnowledgeBase(*stores, merge=BESIDE)
    assert beside.search(xq, 6, writeback=False) == plain
    both = beside.search(xq, 6)
    assert [of_source(documents, "base") for documents in both] == plain
    switched = beside.search(xq, 6, writeback=[True, False, True, False, False])
    assert switched == [both[0], plain[1], both[2], *plain[3:]]


def test_where_no_passage_passes_a_filter_the_units_do(stores: tuple[Path, Path]) -> None:
    knowledge, xq = KnowledgeBase(*stores, merge=BESIDE), unit_vectors(3, seed=9)
    only = knowledge.search(xq, 4, where=pc.field("source_tokens") >= 0)
    ranked = KnowledgeBase(*stores).search(xq, 50)
    assert only == [of_source(documents, "writeback")[:4] for documents in ranked]


@pytest.mark.parametrize("merge", [Merge(), BESIDE])
@pytest.mark.parametrize("k", [2, 7])
def test_passages_that_are_known_are_not_searched_again(stores: tuple[Path, Path], k: int, merge: Merge) -> None:
    xq = unit_vectors(6, seed=2)
    knowledge = KnowledgeBase(*stores, merge=merge)
    passages = knowledge.search(xq, k, writeback=False)
    assert knowledge.fold(xq, passages, k) == knowledge.search(xq, k)
    other = [[Document("known", "t", "x" * 200, 9.0)] for _ in xq]
    assert all(documents[0].id == "known" for documents in knowledge.fold(xq, other, k))
    assert KnowledgeBase(stores[0]).fold(xq, passages, k) == passages


@settings(max_examples=10)
@given(gone=st.lists(st.sets(st.integers(0, 9)), min_size=4, max_size=4), k=st.integers(1, 12))
def test_a_unit_left_out_is_as_if_it_were_deleted(
    tmp_path_factory: pytest.TempPathFactory, stores: tuple[Path, Path], gone: list[set[int]], k: int
) -> None:
    """Query by query: one query's units are still another's."""
    xq, folder, merge = unit_vectors(4, seed=2), tmp_path_factory.mktemp("deleted"), Merge("beside", 2.0, 2.0)
    knowledge = KnowledgeBase(*stores, merge=merge)
    without = [frozenset(f"wb-{i}" for i in numbers) for numbers in gone]
    found = knowledge.fold(xq, knowledge.search(xq, k, writeback=False), k, leave_out=without)
    for number, ids in enumerate(without):
        store = copy_of(stores[1], folder / str(number))
        delete(store, sorted(ids), {})
        assert found[number] == KnowledgeBase(stores[0], store, merge=merge).search(xq[number : number + 1], k)[0]


def test_units_that_a_question_names_are_found_behind_nearer_ones(tmp_path: Path) -> None:
    base, writeback = tmp_path / "base", tmp_path / "writeback"
    publish(base, unit_vectors(20), passages(20), "test", {})
    publish(writeback, unit_vectors(16, seed=3), passages(16, "wb"), "test", {})
    xq, merge = unit_vectors(3, seed=2), Merge("beside", 2.0, 2.0, reach="named")
    far = [of_source(documents, "writeback")[11] for documents in KnowledgeBase(base, writeback).search(xq, 40)]
    asked = [f"What of {document.title}, and of nobody else?" for document in far]
    knowledge = KnowledgeBase(base, writeback, merge=merge)
    found = knowledge.search(xq, 3, questions=asked)
    assert [of_source(documents, "writeback") for documents in found] == [[document] for document in far]
    found = knowledge.search(xq, 3, [True, False, True], questions=asked)
    assert [len(of_source(documents, "writeback")) for documents in found] == [1, 0, 1]
    assert knowledge.search(xq, 3, writeback=False) == KnowledgeBase(base).search(xq, 3)
    with pytest.raises(ValueError, match=r"merge\.reach=named asks which titles stand in the questions"):
        knowledge.search(xq, 3)


def test_units_that_a_named_unit_mentions_follow_it_however_far_they_are(tmp_path: Path) -> None:
    base, writeback = tmp_path / "base", tmp_path / "writeback"
    publish(base, unit_vectors(20), passages(20), "test", {})
    towns = [f"Town{chr(65 + i)}" for i in range(26)]
    texts = [f"{town} trades with {towns[(i + 1) % 26]}." for i, town in enumerate(towns)]
    told = pa.table({"id": [f"wb-{town}" for town in towns], "title": towns, "text": texts})
    publish(writeback, unit_vectors(26, seed=3), told, "test", {})
    xq, k = np.tile(unit_vectors(26, seed=3), (2, 1)), 5  # each town's own vector: more queries than are linked at once
    asked = [f"What of {town}?" for town in towns] * 2
    knowledge = KnowledgeBase(base, writeback, merge=Merge("beside", 2.0, 2.0, reach="linked"))
    found = [ids_of([of_source(documents, "writeback")])[0] for documents in knowledge.search(xq, k, questions=asked)]
    assert found == [[f"wb-{town}", f"wb-{towns[(i + 1) % 26]}"] for i, town in enumerate(towns)] * 2
    without = [frozenset({f"wb-{towns[1]}"})] * len(xq)
    near = knowledge.search(xq, k, writeback=False)
    left = knowledge.fold(xq, near, k, leave_out=without, questions=asked)
    assert [len(of_source(documents, "writeback")) for documents in left[:3]] == [1, 0, 2]
    where = pc.field("title") != towns[2]
    filtered = knowledge.search(xq, k, where=where, questions=asked)
    assert [len(of_source(documents, "writeback")) for documents in filtered[:4]] == [2, 1, 0, 2]
    assert knowledge.search(xq, k, questions=["What of nobody?"] * len(xq)) == near


# Questions as text


def text_base(folder: Path) -> Path:
    """base/ and writeback/ as a run leaves them, encoded by the hashing encoder that their notes name."""
    encoder = open_encoder(HASHING)
    towns = [{"id": f"t{i}", "title": f"Town {i}", "text": f"The mayor of town{i} is mayor{i}."} for i in range(12)]
    unit = {"id": "wb-1", "title": "Harbour", "text": "The harbour of town3 was built by Ida.", "example_ids": ["e"]}
    for name, rows in (("base", towns), ("writeback", [unit])):
        vectors = encoder.encode_passages([passage_text(row["title"], row["text"]) for row in rows])
        publish(folder / name, vectors, pa.Table.from_pylist(rows), encoder.fingerprint, encoder_note(HASHING))
    return folder


def test_a_question_is_answered_with_documents_of_both_stores(tmp_path: Path) -> None:
    knowledge = KnowledgeBase.open(text_base(tmp_path))
    first, second = knowledge.search(["Who built the harbour of town3?", "Who is mayor of town7?"], 2)
    assert (first[0].id, first[0].source) == ("wb-1", "writeback")
    assert (second[0].id, second[0].source, second[0].text) == ("t7", "base", "The mayor of town7 is mayor7.")
    assert knowledge.search_one("Who built the harbour of town3?", 2) == first
    assert knowledge.search_one("Who built the harbour of town3?", 1, writeback=False)[0].source == "base"
    with pytest.raises(ValueError, match="search_one"):
        knowledge.search("Who built the harbour?", 2)


def test_hits_say_from_which_version(tmp_path: Path) -> None:
    delete(text_base(tmp_path) / "base", ["t0"], {})
    hits = KnowledgeBase.open(tmp_path).search_one("Who built the harbour of town3?", 3)
    assert [(hit.source, hit.version) for hit in hits] == [("writeback", 1), ("base", 2), ("base", 2)]


def test_the_encoder_is_found_though_the_newest_version_does_not_name_it(tmp_path: Path) -> None:
    store = text_base(tmp_path) / "base"
    delete(store, ["t0"], {"by": "test"})
    rollback(store, 1, {"by": "test"})
    assert KnowledgeBase.open(store).search_one("mayor of town7", 1)[0].id == "t7"


def test_an_encoder_of_another_fingerprint_is_refused(tmp_path: Path) -> None:
    other = open_encoder(Encoder(name="hashing", kind="hashing", model="", dimension=64, query_prefix="q: "))
    with pytest.raises(
        StoreError, match=f"queries: encoder is '{other.fingerprint}', version 1 of .* has 'hashing-64d"
    ):
        KnowledgeBase.open(text_base(tmp_path), encoder=other)


def test_a_store_that_names_no_encoder_wants_one(tmp_path: Path) -> None:
    publish(tmp_path, unit_vectors(3), passages(3), "test", {})
    with pytest.raises(StoreError, match="no version says which encoder made it"):
        KnowledgeBase.open(tmp_path).search(["where?"], 1)


# Shards


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores of one to five fragments: 60 rows with 15 distinct vectors, some deleted; and one of three with lists."""
    folder, vectors = tmp_path_factory.mktemp("bases"), unit_vectors(15)[np.arange(60) * 7 % 15]
    template, table = train_template(vectors, NLIST), passages(60)
    made = [folder / str(count) for count in range(1, 6)]
    for store, count in [*zip(made, range(1, 6), strict=True), (folder / "ivf", 3)]:
        for rows in np.array_split(np.arange(60), count):
            some = table.slice(int(rows[0]), len(rows))
            if store.name == "ivf":
                publish_ivf(store, vectors[rows], some, template)
            else:
                publish(store, vectors[rows], some, "test", {})
        delete(store, [f"p{i}" for i in range(0, 60, 7)], {})
    return [*made, folder / "ivf"]


@settings(max_examples=30)
@given(
    number=st.integers(0, 5),
    shards=st.integers(1, 7),
    k=st.integers(1, 60),
    block_bytes=st.sampled_from([0, 7 * 2 * D, 1 << 20]),
)
def test_shards_find_together_what_the_store_finds(
    bases: list[Path], number: int, shards: int, k: int, block_bytes: int
) -> None:
    """Scores, ties, and more shards than fragments."""
    base, xq = bases[number], unit_vectors(3, seed=5)
    with KnowledgeBase(base, nprobe=2) as knowledge:
        whole = knowledge.search(xq, k)
        assert knowledge.base.fragments == (number + 1 if number < 5 else 3)
    found = []
    for shard in range(shards):
        with KnowledgeBase(base, nprobe=2, block_bytes=block_bytes, shard=(shard, shards)) as knowledge:
            found.append(knowledge.search(xq, k))
    assert [best_of(lists, k) for lists in zip(*found, strict=True)] == whole


def test_a_shard_that_fits_the_device_is_held_though_the_base_does_not(bases: list[Path]) -> None:
    live = 60 - len(range(0, 60, 7))
    room = 2 * D * live // 2
    assert not KnowledgeBase(bases[4], block_bytes=room)._pair.stores["base"].holds
    assert KnowledgeBase(bases[4], block_bytes=room, shard=(0, 5))._pair.stores["base"].holds


def test_write_back_is_folded_into_what_shards_found(stores: tuple[Path, Path], bases: list[Path]) -> None:
    xq, switches = unit_vectors(4, seed=2), [True, False, True, True]
    whole = KnowledgeBase(bases[2], stores[1], merge=BESIDE)
    parts = [KnowledgeBase(bases[2], stores[1], merge=BESIDE, shard=(i, 3)) for i in range(3)]
    lists = zip(*[part.search(xq, 6, writeback=False) for part in parts], strict=True)
    folded = parts[1].fold(xq, [best_of(some, 6) for some in lists], 6, switches)
    assert folded == whole.search(xq, 6, writeback=switches)


# Blocks of a device


@settings(max_examples=20)
@given(
    rows=st.integers(1, 40),
    block=st.integers(1, 50),
    k=st.integers(1, 45),
    hidden=st.sets(st.integers(0, 39)),
    distinct=st.integers(1, 40),
)
def test_any_block_size_finds_the_same(rows: int, block: int, k: int, hidden: set[int], distinct: int) -> None:
    """Ties included: few distinct vectors make many."""
    codes, xq = unit_vectors(40)[np.arange(rows) % distinct], unit_vectors(3, seed=5).astype(np.float32)
    visible = ~np.isin(np.arange(rows), sorted(hidden))
    seen = np.flatnonzero(visible)
    scores = xq @ codes.astype(np.float32).T
    cut = candidates(block_search(codes, visible, block), len(seen), xq, k)
    for query, hits in enumerate(cut):
        found, best = [row for _, row in hits], np.sort(scores[query][seen])[::-1]
        assert len(found) >= min(k, len(seen))
        assert np.allclose([score for score, _ in hits], best[: len(found)], atol=1e-5)
        assert len(found) <= k or hits[-1][0] == hits[k - 1][0]  # ties of the last one, all of them
        assert set(found) <= set(seen)
        assert len(set(found)) == len(found)
    whole = candidates(block_search(codes, visible, rows), len(seen), xq, k)
    assert [sorted(hits) for hits in cut] == [sorted(hits) for hits in whole]


def test_a_base_larger_than_the_device_is_searched_in_blocks(stores: tuple[Path, Path]) -> None:
    xq = unit_vectors(6, seed=3)
    whole = KnowledgeBase(*stores).search(xq, 12)
    blocks = KnowledgeBase(*stores, block_bytes=7 * 2 * D)  # seven rows at a time
    assert ids_of(blocks.search(xq, 12)) == ids_of(whole)
    kept = pc.field("id").isin([f"p{i}" for i in range(0, 40, 3)])
    assert ids_of(blocks.search(xq, 12, where=kept)) == ids_of(KnowledgeBase(*stores).search(xq, 12, where=kept))


def test_a_base_that_fits_the_device_is_sent_once(stores: tuple[Path, Path]) -> None:
    xq = unit_vectors(6, seed=3)
    mapped, warm = KnowledgeBase(*stores), KnowledgeBase(*stores, block_bytes=1 << 20)
    assert ids_of(warm.search(xq, 12)) == ids_of(mapped.search(xq, 12))
    held = [part.held for store in warm._pair.stores.values() for part in store.parts]
    assert len(held) == 2
    assert None not in held
    assert ids_of(warm.search(xq, 50)) == ids_of(mapped.search(xq, 50))
    assert [part.held for store in warm._pair.stores.values() for part in store.parts] == held
    kept = pc.field("id").isin([f"p{i}" for i in range(0, 40, 3)])
    assert ids_of(warm.search(xq, 12, where=kept)) == ids_of(mapped.search(xq, 12, where=kept))


@settings(max_examples=20)
@given(
    rows=st.integers(1, 60),
    block=st.integers(1, 70),
    k=st.integers(1, 65),
    hidden=st.sets(st.integers(0, 59)),
    distinct=st.integers(1, 60),
)
def test_a_batch_in_blocks_has_the_bits_of_one_index(
    rows: int, block: int, k: int, hidden: set[int], distinct: int
) -> None:
    """Scores too, and ties, whichever way FAISS is told of hidden rows."""
    vectors, xq = unit_vectors(60)[np.arange(rows) % distinct], unit_vectors(20, seed=5).astype(np.float32)
    index = empty_index(spec_of("flat_fp16", D))
    index.add_sa_codes(vectors.view(np.uint8))
    seen = ~np.isin(np.arange(rows), sorted(hidden))
    parameters = search_parameters(spec_of("flat_fp16", D), seen, 1)
    whole = candidates(lambda xq, n: index.search(xq, n, params=parameters), int(seen.sum()), xq, k)
    cut = candidates(block_search(vectors, seen, block), int(seen.sum()), xq, k)
    assert [sorted(hits) for hits in cut] == [sorted(hits) for hits in whole]


def test_a_query_finds_in_a_batch_what_it_finds_alone(
    stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbrag.store.search.CACHE_BYTES", 7 * 2 * D)  # seven rows at a time
    base = copy_of(stores[0], tmp_path / "base")
    delete(base, ["p3", "p11"], {})
    knowledge, xq = KnowledgeBase(base, stores[1]), unit_vectors(2 * BATCH, seed=3)
    kept = pc.field("id").isin([f"p{i}" for i in range(0, 40, 3)])
    for where in (None, kept):
        together = knowledge.search(xq, 12, where=where)
        assert together == [knowledge.search(xq[i : i + 1], 12, where=where)[0] for i in range(len(xq))]


# On a CUDA device


@pytest.mark.gpu
def test_lists_trained_on_a_gpu_find_as_much_as_those_trained_on_the_cpu(tmp_path: Path) -> None:
    vectors, xq, nlist = unit_vectors(20_000), unit_vectors(200, seed=1), 64
    publish(tmp_path / "flat", vectors, passages(20_000), "test", {})
    flat, shares = ids_of(KnowledgeBase(tmp_path / "flat").search(xq, 10)), []
    for gpu in (False, True):
        store = tmp_path / f"gpu-{gpu}"
        publish_ivf(store, vectors, passages(20_000), train_template(vectors, nlist, gpu), nlist)
        found = ids_of(KnowledgeBase(store, nprobe=8).search(xq, 10))
        shares.append(np.mean([len(set(some) & set(all_)) / 10 for some, all_ in zip(found, flat, strict=True)]))
    assert shares[0] > 0.5
    assert abs(shares[0] - shares[1]) < 0.03


@pytest.mark.gpu
def test_lists_found_on_a_gpu_are_those_found_on_the_cpu(tmp_path: Path) -> None:
    place, vectors = place_of(tmp_path), unit_vectors(50_000, d=64)
    template = train_template(vectors[:8192], 128)
    spec = spec_of("ivf_fp16", 64, template, 128)
    place.create(template_name(spec), template)
    made = [index_file(place, tmp_path / f"gpu-{gpu}", vectors, spec, gpu) for gpu in (False, True)]
    assert made[0] == made[1]


@pytest.mark.gpu
@pytest.mark.parametrize("block_bytes", [700 * 2 * D, 1 << 30])
def test_shards_on_a_gpu_find_what_the_cpu_finds(tmp_path: Path, block_bytes: int) -> None:
    """In blocks and held there; scores as the device rounds them."""
    vectors, table, xq = unit_vectors(6000), passages(6000), unit_vectors(40, seed=1)
    for rows in np.array_split(np.arange(6000), 3):
        publish(tmp_path, vectors[rows], table.slice(int(rows[0]), len(rows)), "test", {})
    delete(tmp_path, [f"p{i}" for i in range(0, 6000, 7)], {})
    whole = KnowledgeBase(tmp_path).search(xq, 10)
    parts = [KnowledgeBase(tmp_path, block_bytes=block_bytes, shard=(i, 2)) for i in range(2)]
    assert [part._pair.stores["base"].holds for part in parts] == [block_bytes == 1 << 30] * 2
    found = [best_of(lists, 10) for lists in zip(*[part.search(xq, 10) for part in parts], strict=True)]
    assert ids_of(found) == ids_of(whole)
    scores = [[[one.score for one in documents] for documents in lists] for lists in (found, whole)]
    assert np.allclose(*scores, atol=1e-5)
