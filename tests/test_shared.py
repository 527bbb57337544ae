"""What runs share, by question: nothing is lost, doubled or seen half, and rows come in the order that is asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_searching import HASHING, WORDS, publish_passages

from wbrag.config import TrainConfig
from wbrag.data.benchmarks import examples_table
from wbrag.experiments.variants import backwards
from wbrag.retrieval.encoding import open_encoder
from wbrag.run import retrieve as retrieval
from wbrag.run import writeback
from wbrag.run.folder import write_rows
from wbrag.run.lookup import Rows, SharedRows, share
from wbrag.run.retrieve import ASKED, DOCUMENTS, FOUND, MERGED, Knowledge, Opening, in_order, retrieve_block
from wbrag.run.writeback import readers
from wbrag.schema import DOCUMENT, EXAMPLE, Example

SCHEMA = pa.schema([("question", pa.string()), ("told", pa.list_(pa.struct([("text", pa.large_string())])))])
QUESTIONS = st.lists(st.sampled_from("abcdefgh"), max_size=12)


def told(questions: list[str], by: str = "") -> pa.Table:
    return pa.table({"question": questions, "told": [[{"text": question * 3 + by}] for question in questions]}, SCHEMA)


def asking(questions: list[str]) -> Rows:
    table = pa.table({"question": pa.array(questions, pa.string())})
    return Rows.of(table.to_batches(), table.schema)


def missing(shared: SharedRows, questions: list[str]) -> list[str]:
    return list(shared.missing(asking(questions)).column("question").to_pylist())


def rows(shared: SharedRows, questions: list[str], columns: list[str]) -> pa.Table:
    return shared.rows(pa.array(questions, pa.string()), columns)


@settings(max_examples=50)
@given(st.lists(QUESTIONS, max_size=5), QUESTIONS)
def test_what_is_missing_is_added_once_and_comes_back_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[str]], asked: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("shared")
    there: set[str] = set()
    for questions in [*runs, asked]:
        new = missing(SharedRows(folder, SCHEMA), questions)
        assert new == [question for question in dict.fromkeys(questions) if question not in there]
        share(folder, told(new))
        there |= set(new)
    shared = SharedRows(folder, SCHEMA)
    assert sorted(shared.table.column("question").to_pylist()) == sorted(there)
    assert rows(shared, asked, SCHEMA.names).equals(told(asked))
    assert rows(shared, asked, ["told"]).schema.names == ["told"]
    with pytest.raises(KeyError, match="nobody asked"):
        rows(shared, [*asked, "nobody asked"], ["told"])


def test_a_question_that_two_runs_added_has_one_row(tmp_path: Path) -> None:
    for by in ("first", "second"):
        share(tmp_path, told(["a", by], by))
    shared = SharedRows(tmp_path, SCHEMA)
    assert missing(shared, ["a", "first", "second"]) == []
    ((one,),) = rows(shared, ["a"], ["told"])["told"].to_pylist()
    assert one["text"] in ("aaafirst", "aaasecond")
    assert rows(shared, ["a", "a"], ["told"])["told"].to_pylist() == [[one], [one]]


def test_a_file_is_seen_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share(tmp_path, told(["a"]))
    seen: list[list[str]] = []

    def killed(source: Path, target: Path) -> None:
        assert source.stat().st_size > 0
        seen.append(missing(SharedRows(tmp_path, SCHEMA), ["a", "b"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("wbrag.run.lookup.replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        share(tmp_path, told(["b"]))
    assert seen == [["b"]]
    assert missing(SharedRows(tmp_path, SCHEMA), ["a", "b"]) == ["b"]


def test_runs_at_once_do_each_other_no_harm(tmp_path: Path) -> None:
    questions = [str(i) for i in range(40)]

    def work() -> None:
        for start in range(0, 40, 5):
            share(tmp_path, told(missing(SharedRows(tmp_path, SCHEMA), questions[start : start + 5])))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(SharedRows(tmp_path, SCHEMA), questions, SCHEMA.names).equals(told(questions))


def test_rows_are_those_of_the_files_that_were_there_when_they_were_opened(tmp_path: Path) -> None:
    for i in range(60):
        share(tmp_path, told([str(i)]))
    shared = SharedRows(tmp_path, SCHEMA)
    share(tmp_path, told(["60"]))
    assert missing(shared, ["60", "59", "0"]) == ["60"]
    assert rows(shared, ["59", "0"], SCHEMA.names).equals(told(["59", "0"]))


def test_documents_have_offsets_that_do_not_overflow() -> None:
    fields = list(DOCUMENTS.value_type)
    assert [field.name for field in fields] == [field.name for field in DOCUMENT]
    assert not [field.name for field in fields if field.type == pa.string()]


def stored(examples: list[Example]) -> Rows:
    return Rows.of(examples_table(examples).to_batches(), EXAMPLE)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_questions_shared_piece_by_piece_are_those_retrieved_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """As the whole table was: sorted by first document and id, however it is cut; and backwards for A/A."""
    publish_passages(tmp_path / "base", "p", [f"{a} and {b}" for a in WORDS for b in WORDS])
    encoder, stores = open_encoder(HASHING), Knowledge(TrainConfig(encoder=HASHING, k=3), tmp_path / "base")
    opening = Opening(stores)
    examples = [Example(f"q{i:02d}", f"the {WORDS[i * 5 % 7]} of {WORDS[i % 3]}", (str(i),)) for i in range(24)]
    texts = list(dict.fromkeys(example.question for example in examples))
    assert len(texts) < len(examples)  # one question under two ids

    def found(questions: list[str]) -> pa.Table:
        return retrieve_block(encoder, opening, questions, stores.cfg.k)

    for start in range(0, len(texts), batch):
        new = missing(SharedRows(tmp_path / "cache", FOUND), texts[: start + batch])
        share(tmp_path / "cache", found(new))
    monkeypatch.setattr(retrieval, "READ_ROWS", 5)
    monkeypatch.setattr(retrieval, "SORTED_BATCHES", 2)
    file = tmp_path / "test.parquet"
    write_rows(file, ASKED, in_order(stored(examples), SharedRows(tmp_path / "cache", FOUND)))

    def whole() -> list[dict[str, Any]]:
        rows = found([example.question for example in examples]).to_pylist()
        known = [{"id": e.id, "golden_answers": list(e.golden_answers), "metadata": e.metadata} for e in examples]
        rows = [example | row for example, row in zip(known, rows, strict=True)]
        rows.sort(key=lambda row: (row["first_document"], row["id"]))
        return [{name: row[name] for name in ASKED.names} for row in rows]

    assert pq.read_table(file).to_pylist() == whole()
    assert pq.read_metadata(file).num_row_groups == 5
    assert pq.read_table(backwards(file, tmp_path / "back.parquet")).to_pylist() == whole()[::-1]


def test_readers_are_the_same_however_many_questions_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """q0 and q7 ask the same, and the unit is nearest to both; q0 made it."""
    publish_passages(tmp_path / "base", "p", [f"{a} and {b}" for a in WORDS for b in WORDS])
    publish_passages(tmp_path / "units", "wb-", [f"the {WORDS[0]} of the town"])
    cfg, stores = TrainConfig(encoder=HASHING, k=2), (tmp_path / "base", tmp_path / "units")
    examples = [Example(f"q{i}", f"the {WORDS[i % 7]} of the town", ("x",)) for i in range(9)]
    asked = list(dict.fromkeys(example.question for example in examples))
    share(tmp_path / "cache", retrieve_block(open_encoder(HASHING), Opening(Knowledge(cfg, *stores)), asked, cfg.k))
    file, out, units = (tmp_path / f"{name}.parquet" for name in ("train", "readers", "units"))
    write_rows(file, ASKED, in_order(stored(examples), SharedRows(tmp_path / "cache", FOUND)))
    pq.write_table(pa.table({"id": ["wb-0", "wb-1"], "example_ids": [["q0", "q9"], []]}), units)

    def found(answered: list[str], batch: int) -> list[dict[str, Any]]:
        monkeypatch.setattr(writeback, "READ_ROWS", batch)
        pq.write_table(pa.table({"id": answered}), tmp_path / "answered.parquet")
        write_rows(out, MERGED, readers(cfg, units, file, tmp_path / "answered.parquet", stores))
        return list(pq.read_table(out).to_pylist())

    every = [example.id for example in examples]
    whole = found(every, 1024)
    assert found(every, 1) == found(every, 4) == whole
    assert all("wb-0" in [document["id"] for document in row["documents_writeback"]] for row in whole)
    assert [row["id"] for row in whole if row["id"] in ("q0", "q7")] == ["q7"]
    assert [row["id"] for row in found(["q0", "q7"], 1)] == ["q7"]
    assert found(["q0"], 1) == []


def test_a_file_without_questions_has_its_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", ASKED, in_order(stored([]), SharedRows(tmp_path / "none", FOUND)))
    assert pq.read_table(tmp_path / "train.parquet").schema.equals(ASKED)


def test_a_table_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.parquet", SCHEMA, [told(["a"])])
    with pytest.raises(ValueError, match="does not match"):
        write_rows(tmp_path / "t.parquet", SCHEMA, (rows for rows in (told(["b"]), pa.table({"question": ["c"]}))))
    assert pq.read_table(tmp_path / "t.parquet").equals(told(["a"]))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
