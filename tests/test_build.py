"""Builds of a store on Lance, on Ray: exact, resumable, with every column of the corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wbrag import config
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import ON_CPUS, Encoders, open_encoder
from wbrag.store import rows, versions
from wbrag.store.build import addition, build_store, encode_group, make_piece, read_rows
from wbrag.store.changes import delete
from wbrag.store.files import StoreError
from wbrag.store.place import place_of
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import spec_of
from wbrag.store.verify import verify
from wbrag.store.versions import Version

HASHING = config.Encoder(name="hashing", kind="hashing", model="hashing", dimension=32)


def corpus(n: int) -> pa.Table:
    ids = [f"c{i}" for i in range(n)]
    texts = [f"the town of {i * 7919 % 10007} lies near {i}" for i in range(n)]
    return pa.table({"id": ids, "title": [f"Town {i}" for i in range(n)], "text": texts})


def build(source: Path, store: Path, index: config.Index, encoders: int = 1, rows_each: int = 2048) -> Version:
    index, actors = replace(index, fragment_rows=rows_each), Encoders(HASHING, config.Cluster(encoders=encoders))
    try:
        return build_store(source, store, actors, index, {"from": "test"})
    finally:
        actors.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_build_holds_every_passage_and_is_found_by_exact_search(tmp_path: Path) -> None:
    table = corpus(5200).append_column("year", pa.array([i % 50 for i in range(5200)]))
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=700)
    made = build(tmp_path / "in.parquet", tmp_path / "flat", config.Index(), encoders=2)
    assert (made.rows, made.version, made.note["from"], made.note["encoder"]["name"]) == (5200, 1, "test", "hashing")
    data = rows.opened(place_of(tmp_path / "flat"), made)
    assert [f.metadata.physical_rows for f in data.get_fragments()] == [2048, 2048, 1104]
    assert data.to_table(columns=table.column_names).equals(
        table.cast(data.to_table(columns=table.column_names).schema)
    )
    encoder, questions = open_encoder(HASHING), ["Town 77", "the town of 5", "near 5199"]
    xb = encoder.encode_passages([passage_text(f"Town {i}", text) for i, text in enumerate(table["text"].to_pylist())])
    xq = encoder.encode_queries(questions).astype(np.float32)
    wanted = []
    for query in xq:
        scores = [float(np.dot(vector, query)) for vector in xb.astype(np.float32)]
        order = sorted(range(5200), key=lambda i: (-scores[i], f"c{i}"))
        wanted.append([f"c{i}" for i in order[:7]])
    with KnowledgeBase.open(tmp_path / "flat") as kb:
        assert [[one.id for one in hits] for hits in kb.search(questions, 7)] == wanted
        assert {int(one.id[1:]) % 50 for one in kb.search(questions, 7, where="year = 9")[0]} == {9}
    lists = build(tmp_path / "in.parquet", tmp_path / "ivf", config.Index("ivf_fp16", nlist=8, nprobe=8))
    assert lists.spec.nlist == 8
    with KnowledgeBase(tmp_path / "ivf", nprobe=8) as kb:
        assert [[one.id for one in hits] for hits in kb.search(xq, 7)] == wanted
    assert place_of(tmp_path / "ivf").names("pieces") == []
    assert verify(place_of(tmp_path / "ivf"), full=True) == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_what_is_live_is_not_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(corpus(30), tmp_path / "in.parquet")
    first = build(tmp_path / "in.parquet", tmp_path / "kb", config.Index())
    assert build(tmp_path / "in.parquet", tmp_path / "kb", config.Index()) == first
    pq.write_table(corpus(40), tmp_path / "more.parquet")
    assert build(tmp_path / "more.parquet", tmp_path / "kb", config.Index()).rows == 40
    delete(place_of(tmp_path / "kb"), ["c3", "c35"], {})
    assert build(tmp_path / "more.parquet", tmp_path / "kb", config.Index()).rows == 40
    changed = corpus(5).set_column(2, "text", pa.array(["other"] * 5))
    pq.write_table(changed, tmp_path / "changed.parquet")
    with pytest.raises(StoreError, match=r"/.*live with another text: live \{'id': 'c0'.*given \{.*'other'"):
        build(tmp_path / "changed.parquet", tmp_path / "kb", config.Index())
    pq.write_table(corpus(40).slice(1), tmp_path / "without.parquet")
    build(tmp_path / "without.parquet", tmp_path / "kb", config.Index())
    assert "1 passage of the store is not in the corpus any more (c0) and stays: wbrag kb delete" in caplog.text
    pq.write_table(corpus(50), tmp_path / "fifty.parquet")
    with pytest.raises(StoreError, match=r"index\.kind is 'ivf_fp16', version 4 has 'flat_fp16'"):
        build(tmp_path / "fifty.parquet", tmp_path / "kb", config.Index("ivf_fp16", nlist=2))
    other = Encoders(replace(HASHING, passage_prefix="p: "), config.Cluster())
    with pytest.raises(Exception, match=r"encoder is .*, the current version has"):
        build_store(tmp_path / "fifty.parquet", tmp_path / "kb", other, config.Index(), {})
    other.stop()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({"id": ["a", "a"], "title": ["", ""], "text": ["", ""]}), "id 'a' stands in row 0 and in row 1"),
        (pa.table({"id": ["a", None], "title": ["", ""], "text": ["", ""]}), "row 1: id is null"),
        (pa.table({"id": ["a"], "title": [""]}), "text"),
        (corpus(0), "no passages"),
    ],
)
def test_bad_passages_are_refused_with_file_and_row(tmp_path: Path, table: pa.Table, told: str) -> None:
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises((StoreError, ValueError, KeyError), match=told):
        addition(place_of(tmp_path / "kb"), tmp_path / "in.parquet", None)


def test_a_build_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, file, table = place_of(tmp_path / "kb"), tmp_path / "in.parquet", corpus(3000)
    pq.write_table(table, file, row_group_size=500)
    assert read_rows(file, np.array([2999, 5, 1700, 1499, 6])).equals(table.take([2999, 5, 1700, 1499, 6]))
    encoder: Any = open_encoder(HASHING)
    groups = {f"pieces/{i}.npy": np.arange(1024 * i, min(1024 * (i + 1), 3000)) for i in range(3)}
    for group, numbers in groups.items():
        assert encode_group(encoder, place, file, numbers, group, "") == (32, encoder.fingerprint)
    monkeypatch.setattr(encoder, "encode_passages", None)  # nothing is encoded again
    for group, numbers in groups.items():
        assert encode_group(encoder, place, file, numbers, group, "") == (32, encoder.fingerprint)
    schema = rows.schema_in(place, None, table.schema, 32)
    piece = make_piece(place, file, groups, schema, spec_of("flat_fp16", 32))
    assert piece.fragment.physical_rows == 3000
    assert versions.latest(place) is None


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_encoder_actors_make_the_lists_that_tasks_make(tmp_path: Path) -> None:
    """As where they have GPUs; FAISS has none here."""
    pq.write_table(corpus(2500), tmp_path / "in.parquet")
    index, cluster = config.Index("ivf_fp16", fragment_rows=1024, nlist=8), config.Cluster(encoders=2)
    files = []
    for name, where in (("tasks", None), ("actors", lambda: [ON_CPUS] * 2)):
        encoders = Encoders(HASHING, cluster, where)
        made = build_store(tmp_path / "in.parquet", tmp_path / name, encoders, index, {})
        encoders.stop()
        assert made.fragments == 3
        files.append(sorted(facts for file, facts in made.files.items() if file.endswith(".faiss")))
    assert files[0] == files[1]
    assert len(files[0]) == 4
