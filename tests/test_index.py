"""Segments, manifests and search: what is refused, what is found, what a crash or a race leaves behind."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_store import passages, unit_vectors

from wbrag import config
from wbrag.retrieval.encoder import open_encoder, passage_text
from wbrag.schema import UNIT
from wbrag.store import manifest as manifests
from wbrag.store import publish as publishing
from wbrag.store.build import build_store
from wbrag.store.files import StoreError, create_exclusive, dump_json, sha256_file
from wbrag.store.manifest import Manifest, commit, latest, name_of, read_manifest, verify_chain
from wbrag.store.notes import encoder_note
from wbrag.store.publish import publish
from wbrag.store.search import KnowledgeBase
from wbrag.store.segment import SEGMENT, open_segment, segments_folder, verify_segment, write_segment
from wbrag.store.vectors import spec_of

D = 16
SPEC = spec_of("flat_fp16", D)
ENCODER = "test-16d"


def ids_of(results: list[list[object]]) -> list[list[str]]:
    return [[document.id for document in documents] for documents in results]  # type: ignore[attr-defined]


def add(store: Path, n: int, prefix: str = "p", seed: int = 0) -> Manifest:
    return publish(store, unit_vectors(n, seed), passages(n, prefix), ENCODER, {"made_by": "test"})


def bury(store: Path, rows: list[int]) -> Manifest:
    """Commit tombstones for these rows, as a deleting command will."""

    def change(parent: Manifest | None) -> Manifest:
        assert parent
        folder = store / "tombstones"
        folder.mkdir(exist_ok=True)
        np.save(folder / "new.npy", np.array(sorted(rows), dtype=np.int64))
        name = f"{parent.version + 1:06d}-{sha256_file(folder / 'new.npy')}.npy"
        os.rename(folder / "new.npy", folder / name)
        return manifests.replace(parent, tombstones=name)

    return commit(store, change)


# Segments


def test_a_segment_holds_what_was_given(tmp_path: Path) -> None:
    vectors, table = unit_vectors(2500), passages(2500).append_column("source_ids", pa.array([["a", "b"]] * 2500))
    segment = write_segment(tmp_path, vectors, table, SPEC, ENCODER)
    assert segment.path == tmp_path / "segments" / segment.id
    assert sorted(os.listdir(segment.path)) == ["passages.parquet", "segment.json", "vectors.faiss"]
    rows = np.array([2499, 0, 1024, 0])
    assert segment.passages.take(rows).to_pylist() == table.take(pa.array(rows)).to_pylist()
    assert segment.index.ntotal == 2500
    facts = json.loads((segment.path / SEGMENT).read_text())
    assert facts["rows"] == 2500
    assert len(facts["probes"]["rows"]) == 16
    assert facts["files"]["vectors.faiss"]["sha256"] == sha256_file(segment.path / "vectors.faiss")
    verify_segment(segment.path, segment.sha256)


def test_writing_a_segment_twice_changes_nothing(tmp_path: Path) -> None:
    first = write_segment(tmp_path, unit_vectors(30), passages(30), SPEC, ENCODER)
    before = (first.path / SEGMENT).stat().st_mtime_ns
    again = write_segment(tmp_path, unit_vectors(30), passages(30), SPEC, ENCODER)
    assert (again.id, again.sha256) == (first.id, first.sha256)
    assert os.listdir(segments_folder(tmp_path)) == [first.id]
    assert (first.path / SEGMENT).stat().st_mtime_ns == before


@pytest.mark.parametrize("what", ["vectors", "passages", "encoder"])
def test_a_segment_of_other_content_has_another_id(tmp_path: Path, what: str) -> None:
    first = write_segment(tmp_path, unit_vectors(30), passages(30), SPEC, ENCODER)
    vectors = unit_vectors(30, seed=1 if what == "vectors" else 0)
    table = passages(30, "q" if what == "passages" else "p")
    other = write_segment(tmp_path, vectors, table, SPEC, "other" if what == "encoder" else ENCODER)
    assert other.id != first.id


def with_row(vectors: np.ndarray, row: int, value: float) -> np.ndarray:
    vectors[row] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "table", "message"),
    [
        (with_row(unit_vectors(5), 3, np.nan), passages(5), "row 3 has norm nan"),
        (with_row(unit_vectors(5), 3, np.inf), passages(5), "row 3 has norm inf"),
        (with_row(unit_vectors(5), 2, 0.5), passages(5), "row 2 has norm 2, not 1"),
        (unit_vectors(5).astype(np.float32), passages(5), "float32 .* not float16"),
        (unit_vectors(5), passages(4), "5 vectors for 4 passages"),
        (unit_vectors(0), passages(0), "0 vectors for 0 passages"),
        (unit_vectors(5, d=8), passages(5), "has dimension 8, the spec says 16"),
        (unit_vectors(6), pa.concat_tables([passages(4), passages(2)]), "id 'p0' stands in row 0 and in row 4"),
        (unit_vectors(2), pa.table({"id": ["a", "b"], "title": ["", ""], "text": ["x", None]}), "row 1: text is null"),
        (unit_vectors(2), pa.table({"id": ["a", "b"], "title": ["", ""]}), "no column 'text'"),
    ],
    ids=["nan", "inf", "norm", "dtype", "rows", "none", "dimension", "duplicate", "null", "column"],
)
def test_bad_input_is_refused_with_both_values(
    tmp_path: Path, vectors: np.ndarray, table: pa.Table, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        write_segment(tmp_path, vectors, table, SPEC, ENCODER)
    assert os.listdir(segments_folder(tmp_path) if segments_folder(tmp_path).exists() else tmp_path) == []


@pytest.mark.parametrize("name", ["vectors.faiss", "passages.parquet", "segment.json"])
@pytest.mark.parametrize("where", [0.02, 0.5, 0.98])
def test_verify_names_the_file_with_a_flipped_bit(tmp_path: Path, name: str, where: float) -> None:
    segment = write_segment(tmp_path, unit_vectors(200), passages(200), SPEC, ENCODER)
    file = segment.path / name
    expected = sha256_file(file)
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 4
    file.write_bytes(content)
    with pytest.raises(StoreError, match=name) as error:
        verify_segment(segment.path, segment.sha256)
    assert expected in str(error.value)
    assert sha256_file(file) in str(error.value)


@pytest.mark.parametrize("name", ["vectors.faiss", "passages.parquet", "segment.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_open_refuses_a_file_cut_short(tmp_path: Path, name: str, damage: str) -> None:
    segment = write_segment(tmp_path, unit_vectors(200), passages(200), SPEC, ENCODER)
    file = segment.path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7] if damage == "truncated" else b"")
    with pytest.raises(StoreError, match=name):
        open_segment(segment.path, segment.sha256)


def test_open_refuses_an_index_of_another_codec(tmp_path: Path) -> None:
    import faiss

    segment = write_segment(tmp_path, unit_vectors(20), passages(20), SPEC, ENCODER)
    other = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
    other.add(unit_vectors(20).astype(np.float32))
    faiss.write_index(other, str(segment.path / "vectors.faiss"))  # the same size, and FAISS would merge it
    with pytest.raises(StoreError, match=r"vectors\.faiss: \(type, dimension, metric, codec\) is"):
        open_segment(segment.path)


# Manifests


def test_versions_are_numbered_and_chained(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    first = add(tmp_path, 10, "a")
    second = add(tmp_path, 5, "b", seed=1)
    assert (first.version, first.parent, second.version) == (1, None, 2)
    assert second.parent == sha256_file(tmp_path / "manifests" / "000001.json")
    assert [(ref.row_start, ref.rows) for ref in second.segments] == [(0, 10), (10, 5)]
    assert (second.next_row, second.note) == (15, {"made_by": "test"})
    assert latest(tmp_path) == second
    assert read_manifest(tmp_path, 1) == first
    verify_chain(tmp_path)


def test_publishing_what_is_live_changes_nothing(tmp_path: Path) -> None:
    first = add(tmp_path, 10)
    assert add(tmp_path, 10) == first
    assert os.listdir(tmp_path / "manifests") == ["000001.json"]


def test_only_new_passages_are_added(tmp_path: Path) -> None:
    add(tmp_path, 10)
    second = add(tmp_path, 14)
    assert [ref.rows for ref in second.segments] == [10, 4]
    found = KnowledgeBase(tmp_path).search(unit_vectors(14)[[2, 12]], 1)
    assert ids_of(found) == [["p2"], ["p12"]]


def test_a_live_id_with_another_text_is_refused(tmp_path: Path) -> None:
    add(tmp_path, 10)
    changed = passages(10).set_column(2, "text", pa.array([f"text p{i}" if i != 7 else "news" for i in range(10)]))
    with pytest.raises(StoreError, match=r"'text p7'.*'news'"):
        publish(tmp_path, unit_vectors(10), changed, ENCODER, {})


def test_another_encoder_or_dimension_is_refused(tmp_path: Path) -> None:
    add(tmp_path, 10)
    with pytest.raises(StoreError, match="encoder is 'other', version 1 has 'test-16d'"):
        publish(tmp_path, unit_vectors(3, 1), passages(3, "q"), "other", {})
    with pytest.raises(StoreError, match=r"dimension=8.*dimension=16"):
        publish(tmp_path, unit_vectors(3, 1, d=8), passages(3, "q"), ENCODER, {})


def test_nothing_to_publish_into_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to publish"):
        publish(tmp_path, unit_vectors(0), passages(0), ENCODER, {})


def test_row_numbers_are_never_given_twice(tmp_path: Path) -> None:
    add(tmp_path, 10)
    with pytest.raises(StoreError, match="next_row would fall from 10 to 3"):
        commit(tmp_path, lambda parent: manifests.replace(parent, next_row=3) if parent else None)


def test_every_flipped_bit_of_a_manifest_is_refused(tmp_path: Path) -> None:
    add(tmp_path, 3)
    file = tmp_path / name_of(1)
    content = file.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"000001\.json"):
            latest(tmp_path)


def test_a_replaced_parent_breaks_the_chain(tmp_path: Path) -> None:
    add(tmp_path / "a", 3, "a")
    add(tmp_path / "a", 3, "b", seed=1)
    add(tmp_path / "b", 4, "c", seed=2)
    (tmp_path / "a" / name_of(1)).write_bytes((tmp_path / "b" / name_of(1)).read_bytes())
    with pytest.raises(StoreError, match=r"000001\.json: sha256 is \w+, version 2 says"):
        verify_chain(tmp_path / "a")


def test_a_manifest_of_the_future_is_refused_with_advice(tmp_path: Path) -> None:
    assert create_exclusive(tmp_path / name_of(1), dump_json({"schema": 3}))
    with pytest.raises(StoreError, match="schema is 3, this wbrag reads 1 and 2; upgrade wbrag"):
        latest(tmp_path)


def test_only_one_of_two_may_create_a_version(tmp_path: Path) -> None:
    assert create_exclusive(tmp_path / "000001.json", b"first")
    assert not create_exclusive(tmp_path / "000001.json", b"second")
    assert (tmp_path / "000001.json").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["000001.json"]


def test_publishers_from_one_parent_all_succeed(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            barrier.wait()
            publish(tmp_path, unit_vectors(20, number), passages(20, f"w{number}-"), ENCODER, {"writer": number})
        except Exception as error:  # reported below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    newest = latest(tmp_path)
    assert newest
    assert (newest.version, newest.next_row) == (4, 80)
    assert sorted(ref.row_start for ref in newest.segments) == [0, 20, 40, 60]
    for number in range(4):
        assert ids_of(KnowledgeBase(tmp_path).search(unit_vectors(20, number)[:1], 1)) == [[f"w{number}-0"]]
    verify_chain(tmp_path)


def test_the_loser_of_a_race_drops_what_the_winner_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_segment = publishing.publish_segment

    def overtaken(store: Path, *rest: object) -> Manifest:
        monkeypatch.setattr(publishing, "publish_segment", publish_segment)
        add(store, 6)  # another job commits after this one has written its segment
        return publish_segment(store, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(publishing, "publish_segment", overtaken)
    newest = add(tmp_path, 10)
    assert newest.version == 2
    assert [(ref.row_start, ref.rows) for ref in newest.segments] == [(0, 6), (6, 4)]
    everything = KnowledgeBase(tmp_path).search(unit_vectors(1), 20)[0]
    assert sorted(document.id for document in everything) == sorted(f"p{i}" for i in range(10))


class Crash(Exception):
    """Stands for the end of the process."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the step-th durable file operation, counted from 0, raise instead of happening."""
    left = [step]

    def guarded(operation: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] == -1:
                raise Crash
            return operation(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "link"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


def test_a_crash_at_any_step_leaves_a_whole_version(tmp_path: Path) -> None:
    crashes = 0
    for step in range(100):
        store = tmp_path / str(step)
        old = add(store, 8, "a")
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                add(store, 5, "b", seed=1)
            except Crash:
                crashes += 1
            else:
                break
        current = latest(store)
        assert current
        assert current == old or current.next_row == 13  # only the flush after the link may fail past the commit
        for ref in current.segments:
            verify_segment(segments_folder(store) / ref.id, ref.sha256)
        assert add(store, 5, "b", seed=1).next_row == 13
        assert latest(store) == read_manifest(store, 2)
        verify_chain(store)
    assert crashes >= 8  # three files, two folders, the rename, the manifest, its link and folder


# Search


def test_hits_of_both_stores_are_merged_by_score(tmp_path: Path) -> None:
    base, writeback = unit_vectors(20, 1), unit_vectors(6, 2)
    publish(tmp_path / "base", base, passages(20), ENCODER, {})
    publish(tmp_path / "wb", writeback, passages(6, "wb-"), ENCODER, {})
    knowledge = KnowledgeBase(tmp_path / "base", tmp_path / "wb", encoder=ENCODER)
    hits = knowledge.search(writeback[:1], 26)[0]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert (hits[0].id, hits[0].source, hits[0].title) == ("wb-0", "writeback", "title wb-0")
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert {hit.source for hit in hits} == {"base", "writeback"}
    assert {hit.source for hit in knowledge.search(writeback[:1], 26, writeback=False)[0]} == {"base"}
    assert len(knowledge.search(writeback[:1], 26, writeback=False)[0]) == 20


def test_k_larger_than_the_index_gives_every_document_once(tmp_path: Path) -> None:
    add(tmp_path, 7)
    found = KnowledgeBase(tmp_path).search(unit_vectors(3), 50)
    assert [sorted(documents) for documents in ids_of(found)] == [[f"p{i}" for i in range(7)]] * 3


def test_no_queries_no_lists(tmp_path: Path) -> None:
    add(tmp_path, 7)
    assert KnowledgeBase(tmp_path).search(unit_vectors(0), 5) == []


def test_equal_scores_stand_base_first_then_by_row(tmp_path: Path) -> None:
    same = np.repeat(unit_vectors(1), 300, axis=0)
    publish(tmp_path / "base", same[:200], passages(200), ENCODER, {})
    publish(tmp_path / "base", same[200:], passages(100, "q"), ENCODER, {})
    publish(tmp_path / "wb", same[:3], passages(3, "wb-"), ENCODER, {})
    knowledge = KnowledgeBase(tmp_path / "base", tmp_path / "wb")
    expected = [*(f"p{i}" for i in range(200)), *(f"q{i}" for i in range(100)), "wb-0", "wb-1", "wb-2"]
    for k in (1, 5, 200, 250, 303):
        assert ids_of(knowledge.search(same[:1], k)) == [expected[:k]]


def test_an_absent_or_empty_writeback_store_counts_as_no_units(tmp_path: Path) -> None:
    add(tmp_path / "base", 7)
    (tmp_path / "empty").mkdir()
    alone = KnowledgeBase(tmp_path / "base").search(unit_vectors(2), 5)
    for name in ("absent", "empty"):
        assert KnowledgeBase(tmp_path / "base", tmp_path / name).search(unit_vectors(2), 5) == alone


def test_stores_and_queries_of_unlike_encoders_are_refused(tmp_path: Path) -> None:
    add(tmp_path / "base", 7)
    publish(tmp_path / "wb", unit_vectors(3), passages(3), "other", {})
    publish(tmp_path / "short", unit_vectors(3, d=8), passages(3), ENCODER, {})
    with pytest.raises(StoreError, match="encoder is 'other', version 1 has 'test-16d'"):
        KnowledgeBase(tmp_path / "base", tmp_path / "wb")
    with pytest.raises(StoreError, match=r"dimension=8.*dimension=16"):
        KnowledgeBase(tmp_path / "base", tmp_path / "short")
    with pytest.raises(StoreError, match="queries: encoder is 'third', version 1 has 'test-16d'"):
        KnowledgeBase(tmp_path / "base", encoder="third")
    with pytest.raises(StoreError, match="no version was ever published"):
        KnowledgeBase(tmp_path / "nowhere")


def test_bad_queries_are_refused(tmp_path: Path) -> None:
    add(tmp_path, 7)
    knowledge = KnowledgeBase(tmp_path)
    with pytest.raises(ValueError, match=r"\(2, 8\), not \(nq, 16\)"):
        knowledge.search(unit_vectors(2, d=8), 5)
    with pytest.raises(ValueError, match="query 1 is not finite"):
        knowledge.search(with_row(unit_vectors(2), 1, np.nan), 5)
    with pytest.raises(ValueError, match="k is 0"):
        knowledge.search(unit_vectors(2), 0)


def test_a_reader_keeps_its_version_and_can_ask_for_an_old_one(tmp_path: Path) -> None:
    add(tmp_path, 7, "a")
    reader = KnowledgeBase(tmp_path)
    add(tmp_path, 3, "b", seed=1)
    assert len(reader.search(unit_vectors(1), 50)[0]) == 7
    assert len(KnowledgeBase(tmp_path).search(unit_vectors(1), 50)[0]) == 10
    assert len(KnowledgeBase(tmp_path, base_version=1).search(unit_vectors(1), 50)[0]) == 7


def test_a_tombstoned_row_is_gone_and_the_others_keep_their_scores(tmp_path: Path) -> None:
    add(tmp_path, 10, "a")
    add(tmp_path, 10, "b", seed=1)
    before = KnowledgeBase(tmp_path).search(unit_vectors(4, 9), 20)
    bury(tmp_path, [0, 3, 12])
    after = KnowledgeBase(tmp_path).search(unit_vectors(4, 9), 20)
    dead = {"a0", "a3", "b2"}
    assert after == [[document for document in documents if document.id not in dead] for documents in before]
    assert KnowledgeBase(tmp_path).search(unit_vectors(4, 9), 3) == [documents[:3] for documents in after]


def test_a_segment_may_be_all_dead(tmp_path: Path) -> None:
    add(tmp_path, 4, "a")
    bury(tmp_path, [0, 1, 2, 3])
    assert KnowledgeBase(tmp_path).search(unit_vectors(2), 3) == [[], []]


def test_a_tombstoned_passage_can_be_published_again(tmp_path: Path) -> None:
    add(tmp_path, 4)
    bury(tmp_path, [2])
    newest = add(tmp_path, 4)
    assert [(ref.row_start, ref.rows) for ref in newest.segments] == [(0, 4), (4, 1)]
    assert ids_of(KnowledgeBase(tmp_path).search(unit_vectors(4)[2:3], 1)) == [["p2"]]


def test_changed_tombstones_are_refused(tmp_path: Path) -> None:
    add(tmp_path, 4)
    newest = bury(tmp_path, [2])
    assert newest.tombstones
    np.save(tmp_path / "tombstones" / newest.tombstones, np.array([1], dtype=np.int64))
    with pytest.raises(StoreError, match=newest.tombstones):
        KnowledgeBase(tmp_path)


# The build on Ray

HASHING = config.Encoder(name="hashing", kind="hashing", model="", dimension=32)


def corpus(n: int) -> pa.Table:
    ids = [f"c{i}" for i in range(n)]
    texts = [f"the town of {i * 7919 % 10007} lies near {i}" for i in range(n)]
    return pa.table({"id": ids, "title": [f"Town {i}" for i in range(n)], "text": texts})


def build(source: Path, store: Path, shards: int = 1, encoders: int = 1) -> Manifest:
    cluster = config.Cluster(encoders=encoders)
    return build_store(source, store, HASHING, config.Index(shards=shards), cluster, {"from": "test"})


@pytest.mark.usefixtures("ray_session")
def test_a_build_is_the_same_for_any_number_of_shards_and_equals_publish(tmp_path: Path) -> None:
    table = corpus(3000)
    (tmp_path / "in").mkdir()
    for part, start in enumerate((0, 700, 701)):  # row groups of the input do not matter either
        stop = (700, 701, 3000)[part]
        pq.write_table(table.slice(start, stop - start), tmp_path / "in" / f"{part}.parquet", row_group_size=333)
    one = build(tmp_path / "in", tmp_path / "one")
    many = build(tmp_path / "in", tmp_path / "many", shards=7, encoders=2)
    encoder = open_encoder(HASHING)
    texts = [passage_text(row["title"], row["text"]) for row in table.to_pylist()]
    vectors = encoder.encode_passages(texts)
    note = {"from": "test", **encoder_note(HASHING)}
    plain = publish(tmp_path / "plain", vectors, table, encoder.fingerprint, note)
    assert one == many == plain
    assert one.segments[0].rows == 3000
    assert os.listdir(tmp_path / "many" / "segments") == [one.segments[0].id]  # no scratch left
    hits = KnowledgeBase(tmp_path / "many").search(vectors[[5, 2999]], 1)
    assert ids_of(hits) == [["c5"], ["c2999"]]


@pytest.mark.usefixtures("ray_session")
def test_building_again_adds_only_what_is_new_and_keeps_provenance(tmp_path: Path) -> None:
    units = [
        {"id": f"wb-{i}", "title": "t", "text": f"unit {i}", "example_ids": [f"e{i}"], "source_ids": ["c1", "c2"]}
        | {"source_tokens": 100, "unit_tokens": 20, "subject": "t", "form": "verbatim", "doubt": ""}
        for i in range(12)
    ]
    source = tmp_path / "units.parquet"
    pq.write_table(pa.Table.from_pylist(units[:8], schema=UNIT), source)
    first = build(source, tmp_path / "wb")
    assert build(source, tmp_path / "wb") == first
    pq.write_table(pa.Table.from_pylist(units, schema=UNIT), source)
    second = build(source, tmp_path / "wb")
    assert [ref.rows for ref in second.segments] == [8, 4]
    segment = open_segment(tmp_path / "wb" / "segments" / second.segments[1].id)
    assert segment.passages.take(np.arange(4)).to_pylist() == units[8:]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "t", "x"), ("b", "t", None)], r"in\.parquet: row 1: text is null"),
        ([("a", "t", "x"), ("a", "t", "y")], "id 'a' stands in row 0 and in row 1"),
        ([], r"in\.parquet: no passages"),
    ],
    ids=["null", "duplicate", "empty"],
)
def test_a_build_refuses_bad_passages_and_leaves_nothing(
    tmp_path: Path, rows: list[tuple[str, str, str | None]], message: str
) -> None:
    columns = [[row[i] for row in rows] for i in range(3)]
    table = pa.table([pa.array(c, pa.string()) for c in columns], names=["id", "title", "text"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(StoreError, match=message):
        build(tmp_path / "in.parquet", tmp_path / "store")
    assert os.listdir(tmp_path / "store" / "segments") == []
    assert latest(tmp_path / "store") is None


@pytest.mark.usefixtures("ray_session")
def test_a_build_with_another_encoder_is_refused_with_both(tmp_path: Path) -> None:
    pq.write_table(corpus(5), tmp_path / "in.parquet")
    publish(tmp_path / "store", unit_vectors(3, d=32), passages(3), "another", {})
    with pytest.raises(Exception, match=r"encoder is 'hashing-32d-\w+', the store's current version has 'another'"):
        build(tmp_path / "in.parquet", tmp_path / "store")


def test_an_unknown_index_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"index\.kind: 'hnsw'"):
        build_store(tmp_path, tmp_path, HASHING, config.Index(kind="hnsw"), config.Cluster(), {})
