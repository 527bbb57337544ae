"""FlashRAG's files out and in: what is exported is what is live, and what is adopted is what was encoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_store import publish

from wbrag.config import Encoder
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.store.changes import delete
from wbrag.store.exchange import adopt, export
from wbrag.store.files import StoreError, sha256_file
from wbrag.store.place import place_of
from wbrag.store.rows import opened
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current, encoder_note, latest

HASHING = Encoder(name="hashing", kind="hashing", model="", dimension=64)
TOWNS = [{"id": f"t{i}", "title": f"Town {i}", "text": f"The mayor of town{i} is mayor{i}."} for i in range(40)]
UNITS = [{"id": f"wb-{i}", "title": "", "text": f"unit {i} of town{i}", "source_ids": [f"t{i}"]} for i in range(5)]
QUESTIONS = ["Who is mayor of town7?", "unit 3 of town3", "town39 town2"]


def filled(store: Path, rows: list[dict[str, Any]]) -> Path:
    """A store of these passages in two fragments."""
    encoder = open_encoder(HASHING)
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        vectors = encoder.encode_passages([passage_text(row["title"], row["text"]) for row in part])
        publish(store, vectors, pa.Table.from_pylist(part), encoder.fingerprint, encoder_note(HASHING))
    return store


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    return filled(tmp_path / "base", TOWNS), filled(tmp_path / "writeback", UNITS)


def lines_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_label_n_of_the_index_is_line_n_of_the_corpus(stores: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    delete(stores[0], ["t0", "t25"], {})
    facts = export(stores, tmp_path / "out", dtype)
    index: Any = faiss.read_index(str(tmp_path / "out" / "flat.index"))
    lines = lines_of(tmp_path / "out")
    assert type(index) is (faiss.IndexFlatIP if dtype == "float32" else faiss.IndexScalarQuantizer)
    assert len(lines) == index.ntotal == facts["rows"] == 43
    assert lines[0] == {"id": "t1", "contents": "Town 1\nThe mayor of town1 is mayor1."}
    own = open_encoder(HASHING).encode_passages([line["contents"].strip() for line in lines])
    assert (index.reconstruct_n(0, 43) == own.astype(np.float32)).all()
    found = index.search(open_encoder(HASHING).encode_queries(QUESTIONS).astype(np.float32), 5)[1]
    ours = KnowledgeBase(*stores).search(open_encoder(HASHING).encode_queries(QUESTIONS), 5)
    assert [lines[row[0]]["id"] for row in found] == [documents[0].id for documents in ours]


def test_an_fp32_export_has_the_bytes_that_faiss_writes(stores: tuple[Path, Path], tmp_path: Path) -> None:
    export(stores[:1], tmp_path / "out")
    index = faiss.IndexFlatIP(64)
    index.add(open_encoder(HASHING).encode_passages([f"{t['title']}\n{t['text']}" for t in TOWNS]).astype(np.float32))
    faiss.write_index(index, str(tmp_path / "theirs"))
    assert sha256_file(tmp_path / "out" / "flat.index") == sha256_file(tmp_path / "theirs")


def test_the_table_has_all_columns_and_says_from_which_store(stores: tuple[Path, Path], tmp_path: Path) -> None:
    facts = export(stores, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "dataset").to_pylist()
    assert [row["id"] for row in rows] == [line["id"] for line in lines_of(tmp_path / "out")]
    assert (rows[3]["store"], rows[3]["source_ids"]) == (0, None)
    assert (rows[-1]["store"], rows[-1]["source_ids"]) == (1, ["t4"])
    assert facts["sha256"]["corpus.jsonl"] == sha256_file(tmp_path / "out" / "corpus.jsonl")
    assert facts["encoder"]["kind"] == "hashing"
    assert [store["version"] for store in facts["stores"]] == [2, 2]


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(stores: tuple[Path, Path], tmp_path: Path) -> None:
    for bad, message in (
        ([stores[0], stores[0]], "id 't0' stands in row 0 and in row 40"),
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
    ):
        with pytest.raises(StoreError, match=message):
            export(bad, tmp_path / "out")
    publish(tmp_path / "other", np.eye(8, dtype=np.float16), pa.Table.from_pylist(TOWNS[:8]), "another", {})
    with pytest.raises(StoreError, match=r"other: encoder is 'another', version 2 of .*base has 'hashing-64d"):
        export([stores[0], tmp_path / "other"], tmp_path / "out")
    export(stores[:1], tmp_path / "out")
    with pytest.raises(StoreError, match="out: is there already"):
        export(stores[:1], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other", "out", "writeback"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_export_adopted_is_searched_alike(stores: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    export(stores, tmp_path / "out", dtype)
    store, folder = tmp_path / "adopted", tmp_path / "out"
    made = adopt(folder / "corpus.jsonl", folder / "flat.index", store, HASHING, {"corpus": "c"})
    assert (made.version, made.rows, made.note["corpus"]) == (1, 45, "c")
    found = KnowledgeBase.open(store).search(QUESTIONS, 6)
    ours = KnowledgeBase(*stores).search(open_encoder(HASHING).encode_queries(QUESTIONS), 6)
    assert [[(d.id, d.text, d.score) for d in hits] for hits in found] == [
        [(d.id, d.text, d.score) for d in hits] for hits in ours
    ]
    assert adopt(folder / "corpus.jsonl", folder / "flat.index", store, HASHING, {}) == made  # nothing new


def flashrag(folder: Path, rows: int = 40) -> tuple[Path, Path]:
    """A corpus with quoted titles and its index, as FlashRAG makes them: contents encoded as they stand."""
    folder.mkdir()
    contents = [f'"{town["title"]}"\n{town["text"]}' for town in TOWNS[:rows]]
    lines = [json.dumps({"id": i, "contents": text}) + "\n" for i, text in enumerate(contents)]
    (folder / "corpus.jsonl").write_text("".join(lines))
    index = faiss.IndexFlatIP(64)
    index.add(open_encoder(HASHING).encode_passages(contents).astype(np.float32))
    faiss.write_index(index, str(folder / "e5_Flat.index"))
    return folder / "corpus.jsonl", folder / "e5_Flat.index"


def test_a_corpus_with_quoted_titles_is_adopted(tmp_path: Path) -> None:
    adopt(*flashrag(tmp_path / "in"), tmp_path / "store", HASHING, {})
    hit = KnowledgeBase.open(tmp_path / "store").search_one("Town 7 The mayor of town7 is mayor7.", 1)[0]
    assert (hit.id, hit.title) == ("7", "Town 7")


def test_a_byte_order_mark_and_columns_of_other_names_are_read_as_everywhere(tmp_path: Path) -> None:
    corpus, index = flashrag(tmp_path / "in")
    corpus.write_bytes(b"\xef\xbb\xbf" + corpus.read_bytes())
    assert adopt(corpus, index, tmp_path / "store", HASHING, {}).rows == 40
    named = [json.loads(line) for line in corpus.read_text(encoding="utf-8-sig").splitlines()]
    other = [json.dumps({"nr": row["id"], "page": row["contents"]}) + "\n" for row in named]
    (tmp_path / "other.json").write_text("".join(other))
    columns = {"id": "nr", "text": "page"}
    assert adopt(tmp_path / "other.json", index, tmp_path / "second", HASHING, {}, columns).rows == 40


def test_a_corpus_with_columns_of_its_own_is_adopted_beside_others(tmp_path: Path) -> None:
    store, columns = tmp_path / "store", ("year", "place")
    for number, column in enumerate(columns):
        corpus, index = flashrag(tmp_path / column, rows=20)
        lines = [json.loads(line) for line in corpus.read_text().splitlines()]
        told = [json.dumps({**row, "id": f"{column}-{row['id']}", column: number}) + "\n" for row in lines]
        corpus.write_text("".join(told))
        adopt(corpus, index, store, HASHING, {})
    kept = opened(place_of(store), current(store)).to_table(columns=["id", *columns]).to_pylist()
    assert [(row["year"], row["place"]) for row in kept] == [(0, None)] * 20 + [(None, 1)] * 20


def test_vectors_of_another_encoder_are_refused_with_both(tmp_path: Path) -> None:
    other = Encoder(name="hashing", kind="hashing", model="", dimension=64, passage_prefix="passage: ")
    with pytest.raises(
        StoreError, match=r"row 0 has \[.*\] where the encoder makes \[.*inner product 0\.\d+, 0.999 is needed"
    ):
        adopt(*flashrag(tmp_path / "in"), tmp_path / "store", other, {})
    short = Encoder(name="hashing", kind="hashing", model="", dimension=32)
    with pytest.raises(StoreError, match="dimension is 64, encoder 'hashing' has 32"):
        adopt(*flashrag(tmp_path / "again"), tmp_path / "store", short, {})
    assert latest(tmp_path / "store") is None


def test_corpus_and_index_of_unlike_length_are_refused_with_both(tmp_path: Path) -> None:
    corpus, index = flashrag(tmp_path / "in")
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join([*lines, json.dumps({"id": "x", "contents": "One\nmore"}) + "\n"]))
    with pytest.raises(StoreError, match="40 vectors for the 41 passages of"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})
    corpus.write_text("".join(lines[:30]))
    with pytest.raises(StoreError, match=r"40 vectors, but .* has no passage"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})
    corpus.write_text("".join([*lines[:11], "{broken\n", *lines[12:]]))
    with pytest.raises(OverErrorBudget, match="line 12"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})
    corpus.write_text("".join(["{broken\n", *lines[1:]]))  # a probe row
    with pytest.raises(InputError, match="passage 0: malformed JSON"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})
    assert latest(tmp_path / "store") is None


KINDS = {
    "IDMap,Flat": "IndexIDMap with metric 0",
    "SQ8": "IndexScalarQuantizer with metric 0",
    "PQ8x4": "IndexPQ",
    "IVF4,Flat": "IndexIVFFlat",
    "L2norm,Flat": "IndexPreTransform",
    "PQ8x4,RFlat": "IndexRefine",
}


def test_other_kinds_of_index_are_refused_by_name(tmp_path: Path) -> None:
    corpus, index = flashrag(tmp_path / "in")
    eye = np.eye(64, dtype=np.float32)
    for other, name in (
        (faiss.IndexFlatL2(64), "IndexFlatL2 with metric 1"),
        (faiss.IndexHNSWFlat(64, 8), "IndexHNSW"),
        *((faiss.index_factory(64, kind, faiss.METRIC_INNER_PRODUCT), name) for kind, name in KINDS.items()),
        (faiss.index_factory(64, "SQfp16", faiss.METRIC_L2), "IndexScalarQuantizer with metric 1"),
    ):
        other.train(eye)
        (other.add_with_ids if "IDMap" in name else other.add)(eye, *([np.arange(64)] if "IDMap" in name else []))
        faiss.write_index(other, str(index))
        with pytest.raises(StoreError, match=f"is {name}"):
            adopt(corpus, index, tmp_path / "store", HASHING, {})
    faiss.write_index(faiss.IndexIVFFlat(faiss.IndexFlatIP(64), 64, 4, faiss.METRIC_INNER_PRODUCT), str(index))
    with pytest.raises(StoreError, match="is IndexIVFFlat with metric 0"):  # nor was it trained
        adopt(corpus, index, tmp_path / "store", HASHING, {})
    faiss.write_index(faiss.IndexFlatIP(64), str(index))
    with pytest.raises(StoreError, match="holds no vectors"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})


def test_files_that_are_no_index_of_vectors_are_refused(tmp_path: Path) -> None:
    corpus, index = flashrag(tmp_path / "in")
    whole = index.read_bytes()
    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(index))
    for data in (index.read_bytes(), whole[:-9], whole[:7], b"", b"not an index at all"):
        index.write_bytes(data)
        with pytest.raises(
            StoreError, match=r"FAISS cannot read it: it is damaged, or no index of float vectors \((?!.* at )"
        ):
            adopt(corpus, index, tmp_path / "store", HASHING, {})
    index.unlink()
    with pytest.raises(StoreError, match=r"\.index: no such file$"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})


def test_vectors_that_are_not_unit_norm_are_refused_by_row(tmp_path: Path) -> None:
    corpus, index = flashrag(tmp_path / "in")
    made: Any = faiss.read_index(str(index))
    vectors = made.reconstruct_n(0, 40)
    vectors[11] *= 2  # no probe row
    doubled = faiss.IndexFlatIP(64)
    doubled.add(vectors)
    faiss.write_index(doubled, str(index))
    with pytest.raises(StoreError, match=r"e5_Flat.index: from row 0 on: row 11 has norm 1\.99"):
        adopt(corpus, index, tmp_path / "store", HASHING, {})


def test_ids_in_order_survive_the_round_trip(stores: tuple[Path, Path], tmp_path: Path) -> None:
    export(stores, tmp_path / "out")
    made = adopt(tmp_path / "out" / "corpus.jsonl", tmp_path / "out" / "flat.index", tmp_path / "s", HASHING, {})
    kept = opened(place_of(tmp_path / "s"), made).to_table(columns=["id"])
    assert kept["id"].to_pylist() == [row["id"] for row in (*TOWNS, *UNITS)]
