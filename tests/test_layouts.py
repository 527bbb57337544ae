"""Whatever users have, in: files of every kind and layout, told from themselves, and every row left out by its line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbrag.config import Benchmark, ConfigError
from wbrag.data import files
from wbrag.data.benchmarks import Rejected, check_benchmark, held_out, read_examples, some_passages, write_corpus
from wbrag.data.files import Given, files_of
from wbrag.data.flashrag import InputError
from wbrag.data.layouts import PASSAGE_FIELDS, answers, check_columns

Row = dict[str, Any]
ADA = {"page_content": "Ada wrote it.", "metadata": {"source": "a.pdf", "page": 3, "loc.x": True}, "type": "Document"}


def lines(*rows: Row) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def put(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def corpus(given: Given, out: Path, rate: float = 0.0, **how: object) -> tuple[list[Row], Counter[str], list[Rejected]]:
    """The rows without what is null, how many there are of each sort, and the rows left out."""
    report = write_corpus(given, out, rate, **how)
    rows = pq.read_table(out).to_pylist()
    return [{k: v for k, v in row.items() if v not in (None, "")} for row in rows], report.sorts, report.rejected


def questions(given: Given, rate: float = 0.0, **how: object) -> tuple[list[Row], Counter[str], list[Rejected]]:
    rejected, sorts = list[Rejected](), Counter[str]()
    tables = list(read_examples(given, rejected, rate, sorts=sorts, **how))
    return [row for table in tables for row in table.to_pylist()], sorts, rejected


CORPORA: list[tuple[str, Any, str, Row]] = [
    (
        "a.jsonl",
        lines({"id": 1, "contents": '"T"\nText'}),
        "FlashRAG passages",
        {"id": "1", "title": "T", "text": "Text"},
    ),
    (
        "a.jsonl",
        lines(ADA),
        "LangChain documents",
        {"text": "Ada wrote it.", "source": "a.pdf", "page": 3, "loc_x": True},
    ),
    (
        "a.json",
        [{"lc": 1, "type": "constructor", "id": ["langchain", "Document"], "kwargs": ADA}],
        "LangChain documents",
        {"text": "Ada wrote it.", "source": "a.pdf", "page": 3, "loc_x": True},
    ),
    (
        "a.jsonl",
        lines({"id_": "n", "embedding": [0.1], "metadata": {"title": "T", "id": 7}, "text": "x", "relationships": {}}),
        "LlamaIndex nodes",
        {"id": "n", "title": "T", "text": "x", "metadata_id": 7},
    ),
    (
        "docstore.json",
        {"docstore/data": {"n": {"__data__": {"id_": "n", "text_resource": {"text": "x"}}}}, "docstore/metadata": {}},
        "LlamaIndex nodes",
        {"id": "n", "text": "x"},
    ),
    (
        "a.json",
        {"ids": ["1"], "documents": ["x"], "metadatas": [{"year": 1999}], "embeddings": None},
        "Chroma documents",
        {"id": "1", "text": "x", "year": 1999},
    ),
    (
        "a.json",
        {"ids": [["1"]], "documents": [["x"]], "metadatas": [[None]]},
        "Chroma documents",
        {"id": "1", "text": "x"},
    ),
    (
        "corpus.jsonl",
        lines({"_id": "b", "title": "T", "text": "x", "metadata": {"url": "u"}}),
        "BEIR passages",
        {"id": "b", "title": "T", "text": "x", "url": "u"},
    ),
    ("collection.tsv", '0\tThe "first', "MS MARCO passages", {"id": "0", "text": 'The "first'}),
    ("d.tsv", "D1\thttp://u\tT\tx", "MS MARCO documents", {"id": "D1", "title": "T", "text": "x", "url": "http://u"}),
    ("psgs.tsv", 'id\ttext\ttitle\n1\t"say ""x"""\tT\n', "passages", {"id": "1", "title": "T", "text": 'say "x"'}),
    ("a.csv", '\ufeffid;text;n\r\n1;"two\r\nlines";2\r\n', "passages", {"id": "1", "text": "two\r\nlines", "n": 2}),
    ("a.json", {"p": {"text": "x"}, "q": {"text": "y"}}, "passages", {"id": "p", "text": "x"}),
    ("a.json", '{"ids": ["1"], "documents": ["x"]}\n', "Chroma documents", {"id": "1", "text": "x"}),
    ("a.json", {"version": 2, "passages": [{"id": "1", "text": "x"}]}, "passages", {"id": "1", "text": "x"}),
    ("a.json", "\ufeff" + json.dumps({"text": "x"}, indent=1), "passages", {"text": "x"}),
]
QUESTIONS: list[tuple[str, Any, str, str]] = [
    ("a.jsonl", lines({"id": "i", "question": "Who?", "golden_answers": "Ada"}), "FlashRAG questions", "i"),
    (
        "squad.json",
        {"version": "1.1", "data": [{"paragraphs": [{"context": "c", "qas": [
            {"id": "i", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}, {"text": "Ada"}]}]}]}]},
        "SQuAD questions",
        "i",
    ),
    ("a.jsonl", lines({"id": "i", "question": "Who?", "answers": {"text": ["Ada"]}}), "SQuAD questions", "i"),
    ("a.jsonl", lines({"question": "Who?", "answer": ["Ada"]}), "questions with answers", ""),
    ("a.json", [{"_id": "i", "question": "Who?", "answer": "Ada", "supporting_facts": []}], "HotpotQA questions", "i"),
    ("a.jsonl", lines({"id": "i", "input": "Who?", "output": [{"answer": "Ada"}, {"meta": 1}]}), "KILT questions", "i"),
    ("a.json", lines({"id": "i", "input": "Who?", "output": [{"answer": "Ada"}]}), "KILT questions", "i"),
    ("a.jsonl", lines({"user_input": "Who?", "reference": "Ada", "response": "Bob"}), "ragas questions", ""),
    ("a.jsonl", lines({"question": "Who?", "answer": "Bob", "ground_truth": "Ada"}), "ragas questions", ""),
    ("a.csv", "question,golden_answers\nWho?,\"[\"\"Ada\"\"]\"\n", "FlashRAG questions", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "sort", "wanted"), CORPORA)
def test_a_corpus_of_any_layout_is_told_and_read(
    tmp_path: Path, name: str, content: object, sort: str, wanted: Row
) -> None:
    [row, *_], sorts, rejected = corpus(put(tmp_path, name, content), tmp_path / "o.parquet")
    made = {} if "id" in wanted else {"id": row["id"]}
    assert row == made | wanted
    assert row["id"].startswith("p-") == bool(made) or row["id"] == "p"
    assert (list(sorts), rejected) == ([sort], [])


@pytest.mark.parametrize(("name", "content", "sort", "key"), QUESTIONS)
def test_questions_of_any_layout_are_told_and_read(
    tmp_path: Path, name: str, content: object, sort: str, key: str
) -> None:
    [row], sorts, rejected = questions(put(tmp_path, name, content))
    assert (row["question"], row["golden_answers"]) == ("Who?", ["Ada"])
    assert row["id"] == key or (not key and row["id"].startswith("q-"))
    assert (dict(sorts), rejected) == ({sort: 1}, [])


ROWS = lines(*({"id": str(i), "contents": f"T{i}\nText {i}."} for i in range(3)))


def zipped(content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as packed:
        packed.writestr("in/corpus.jsonl", content)
        packed.writestr("__MACOSX/._corpus.jsonl", b"\0")
        packed.writestr("in/photo.png", b"\0")
    return held.getvalue()


def zstandard(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def locked(content: bytes) -> bytes:
    """A zip whose member says that it is encrypted."""
    held = bytearray(zipped(content))
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        held[held.index(start) + flags] |= 1
    return bytes(held)


TABLE = 'id,title,text\n1,T,x\n2,T,"y\n3,T,z\n'
#: A file that would give other rows than are in it, and how it is refused.
REFUSED = {
    "a.csv": (TABLE.encode(), "line 3: a quote is opened and never closed: 'y"),
    "twice.csv": (b"id,text,text\n1,x,y\n", "the header has 'text' twice"),
    "long.csv": (b'id,text\n1,"' + b"x " * (1 << 23), "line 2: field larger than"),
    "16.csv": (TABLE.encode("utf-16-le"), "is UTF-16"),
    "cut.jsonl.zst": (zstandard(ROWS * 99)[:-20], "Truncated"),
    "locked.zip": (locked(ROWS), "encrypted"),
    "cut.json": (b'[{"text": "x"},\n{"text": ', "line 2: malformed JSON"),
    "two.json": (b'[{"text": "x"}]\n[{"text": "y"}]\n', "line 1: the list ends, but not the file"),
    "deep.json": (b"[" * 100_000, "malformed JSON: maximum recursion"),
    "deep2.json": (b'{"a":' * 100_000, "malformed JSON: maximum recursion"),
    "squad.json": (b'{"data": [{"paragraphs": [{"qas": []}, {}]}]}', "SQuAD's articles, but not all of them"),
    "node.json": (b'{"docstore/data": {"a": {"__data__": 5}}}', "__data__ is not an object but int"),
    "a.txt": (b"a\0b", "a NUL at character 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_whose_rows_would_be_lost_or_mixed_up_is_refused(tmp_path: Path, name: str) -> None:
    content, told = REFUSED[name]
    with pytest.raises(InputError, match=re.escape(name)) as refused:
        corpus(put(tmp_path, name, content), tmp_path / "o.parquet", 0.9)
    assert told in str(refused.value)


@pytest.mark.parametrize("given", ["s3://b/c.jsonl", "https://h/c.jsonl", "file:///c.jsonl", "gs://b/*.jsonl"])
def test_a_url_is_no_path(given: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{given}: a URL; what is read lies on this machine")):
        files_of([given])


def test_what_other_tools_write_is_read_as_it_was_meant(tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    rows, _, _ = corpus(put(tmp_path, "list.jsonl", json.dumps([{"id": "1", "text": "x"}], indent=1)), out)
    assert [row["text"] for row in rows] == ["x"]
    pq.write_table(pa.table({"text": [b"Zo\xc3\xab", b"Zo\xeb"]}), tmp_path / "bytes.parquet")
    rows, _, [left] = corpus(tmp_path / "bytes.parquet", out, 0.9)
    assert [row["text"] for row in rows] == ["Zo\u00eb"]
    assert left.reason == "text is not Unicode text: byte 0xeb is no UTF-8, at character 2"
    table = put(tmp_path, "latin.csv", "id, text, city\r\n1,x,K\xf6ln\r\n2,y,Rom\r\n".encode("latin-1"))
    rows, _, [left] = corpus(table, out, 0.9)
    assert ([row["city"] for row in rows], left.line) == (["Rom"], 2)
    put(tmp_path / "in", "state.json", [1])
    put(tmp_path / "in", "a.jsonl", ROWS)
    assert len(corpus(tmp_path / "in", out, 0.9)[0]) == 3
    chroma = put(tmp_path, "chroma.json", {"ids": ["a"], "documents": ["x", "y"]})
    assert len(corpus(chroma, out)[0]) == 2
    rows, _, _ = corpus(put(tmp_path, "mac.md", b"# One\rtext\r## Two\rmore\r"), out)
    assert [row["title"] for row in rows] == ["One", "One > Two"]
    cells = """1,a?,"['x', 'y']"\n2,b?,1998\n3,c?,"['x' 'y']"\n4,d?,[SEP] x\n"""
    asked, _, [left] = questions(put(tmp_path, "q.csv", f"id,question,golden_answers\n{cells}"), 0.9)
    assert [row["golden_answers"] for row in asked] == [["x", "y"], ["1998"], ["[SEP] x"]]
    assert "a list that cannot be read; give a JSON list" in left.reason
    asked, _, _ = questions(put(tmp_path, "q.jsonl", lines({"question": "Q?", "golden_answers": [1998, 2.5]})))
    assert asked[0]["golden_answers"] == ["1998", "2.5"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zstandard, zipped, lambda rows: b"\xef\xbb\xbf" + rows])
@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.zip", "c"])
def test_a_packed_file_is_told_by_its_first_bytes(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    rows, _, rejected = corpus(put(tmp_path, name, pack(ROWS)), tmp_path / "o.parquet")
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    assert [one.reason for one in rejected] == ["no kind of file that is read: .png"] * (pack is zipped)


def test_several_files_globs_folders_and_saved_datasets_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.jsonl", "a.jsonl", "sub/c.jsonl"]
    paths = [put(tmp_path / "in", name, lines({"id": name, "text": "x"})) for name in names]
    put(tmp_path / "in", "_SUCCESS", b"")
    put(tmp_path / "in", "photo.png", b"\x89PNG")
    out = tmp_path / "o.parquet"
    rows, _, [photo] = corpus(tmp_path / "in", out)
    assert [row["id"] for row in rows] == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert (photo.line, photo.reason, photo.fault) == (0, "no kind of file that is read: .png", False)
    assert [row["id"] for row in corpus(str(tmp_path / "in" / "*.jsonl"), out)[0]] == ["a.jsonl", "b.jsonl"]
    assert len(corpus(f"{tmp_path}/in/**/*.jsonl", out)[0]) == 3
    assert [row["id"] for row in corpus([str(paths[2]), str(paths[0])], out)[0]] == ["sub/c.jsonl", "b.jsonl"]
    saved = tmp_path / "saved"
    put(saved, "state.json", {"_data_files": [{"filename": "data-0.arrow"}]})
    put(saved, "cache-1.arrow", b"not read")
    table = pa.table({"text": ["x", "y"], "at": pa.array([0, 1], pa.timestamp("s"))})
    with pa.ipc.new_stream(str(saved / "data-0.arrow"), table.schema) as stream:
        stream.write_table(table)
    rows, _, _ = corpus(saved, out)
    assert [(row["text"], row["at"]) for row in rows] == [("x", "1970-01-01 00:00:00"), ("y", "1970-01-01 00:00:01")]
    pq.write_table(pa.table({"id": [1], "contents": ["T\nx"], "tags": [["a"]]}), tmp_path / "c.parquet")
    assert corpus(tmp_path / "c.parquet", out)[0] == [{"id": "1", "title": "T", "text": "x", "tags": ["a"]}]
    with pytest.raises(InputError, match=r"x\*\.jsonl: no such file"):
        files_of(str(tmp_path / "x*.jsonl"))
    (tmp_path / "docs").mkdir()
    for name, told in (("dox", ""), ("dox/guides/*.md", f", as there is no {tmp_path}/dox")):
        with pytest.raises(InputError) as absent:
            files_of(str(tmp_path / name))
        assert str(absent.value).endswith(f"{name}: no such file or folder{told}; did you mean {tmp_path}/docs?")


def test_columns_may_be_named_and_unknown_names_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "nr,body,year,code\n7,x,1999,007\n8,y,2000,12\n")
    rows, sorts, _ = corpus(path, tmp_path / "o.parquet", columns={"id": "nr", "text": "body"})
    assert (rows[0], dict(sorts)) == ({"id": "7", "text": "x", "year": 1999, "code": "007"}, {"passages": 2})
    asked = put(tmp_path, "q.jsonl", lines({"frage": "Wer?", "antwort": "Ada", "id": 1}))
    [row], _, _ = questions(asked, columns={"question": "frage", "golden_answers": "antwort"})
    assert (row["id"], row["question"], row["golden_answers"]) == ("1", "Wer?", ["Ada"])
    with pytest.raises(
        InputError, match=r"text is missing or null; the row has frage, antwort, id: corpus_columns.text="
    ):
        corpus(asked, tmp_path / "o.parquet")
    with pytest.raises(ConfigError, match=r"corpus_columns\.body: there is no such part; known are id, title, text"):
        check_columns({"body": "x"}, PASSAGE_FIELDS, "corpus_columns")
    with pytest.raises(ConfigError, match=r"benchmark\.columns\.antwort"):
        check_benchmark(Benchmark("b", "t", "t", columns={"antwort": "x"}))


def test_what_says_itself_that_it_is_no_label_is_told_and_is_no_fault(tmp_path: Path) -> None:
    log = put(tmp_path, "log.csv", "question,answer,accepted\nA?,x,1\nB?,y,\nC?,z,False\nA?,x,yes\n")
    rows, sorts, left = questions(log)
    assert ([row["question"] for row in rows], dict(sorts)) == (["A?"], {"answers of a log": 1})
    assert [(one.line, one.reason, one.fault) for one in left] == [
        (3, "accepted is null: no label", False),
        (4, 'accepted is "False": no label', False),
        (5, "the same as a row before it, and without an id", False),
    ]
    hidden = {"id": "x", "question": "Q?", "answers": {"text": []}}
    asked = lines({"id": "y", "question": "R?", "answers": {"text": ["a"]}}, hidden, {"id": "z"} | hidden | {"id": "z"})
    assert [one.fault for one in questions(put(tmp_path, "squad2.jsonl", asked))[2]] == [False, False]


def test_files_without_answers_say_what_is_missing(tmp_path: Path) -> None:
    queries = put(tmp_path, "queries.jsonl", lines({"_id": "1", "text": "Who?", "metadata": {}}))
    with pytest.raises(
        InputError, match=r"no golden answer: BEIR queries, .*; BEIR's qrels name passages, not answers"
    ):
        questions(queries)
    assert [row["question"] for row in questions(queries, labelled=False)[0]] == ["Who?"]
    table = put(tmp_path, "q.csv", "frage,antwort\nWer?,Ada\n")
    there = "the row has frage, antwort: benchmark.columns="
    for columns, told in (
        ({}, f"no 'question'; {there}{{question: KEY}} names the one"),
        ({"question": "frage"}, f"no 'golden_answers'; {there}{{golden_answers: KEY}} names the one"),
        ({"question": "frage", "golden_answers": "antwor"}, f"no 'antwor'; {there}{{golden_answers: KEY}} names"),
    ):
        with pytest.raises(InputError, match=re.escape(told)):
            questions(table, columns=columns)
    only = put(tmp_path, "only.csv", "question,antwort\nWer?,Ada\n")
    with pytest.raises(InputError, match=r"question, antwort; benchmark\.columns={golden_answers: KEY} names"):
        questions(only)
    with pytest.raises(InputError, match=r"b\.pdf: a document, no questions; wbrag questions makes some"):
        questions(put(tmp_path, "b.pdf", b"%PDF"))


def test_bad_rows_are_told_by_line_whatever_the_file(tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    table = put(tmp_path, "a.csv", 'id,text\n1,"a\nb"\n2\n3,c\n')
    assert [(one.line, one.reason) for one in corpus(table, out, 0.5)[2]] == [(4, "1 cells, the header has 2")]
    listed = put(tmp_path, "a.json", '[\n{"text": "x"},\n 3,\n{"text": "y"}\n]')
    rows, _, left = corpus(listed, out, 0.9)
    assert [row["text"] for row in rows] == ["x", "y"]
    assert [(one.line, one.reason) for one in left] == [(3, "not a JSON object but int")]
    with tarfile.open(tmp_path / "t.jsonl", "w") as tar:
        info = tarfile.TarInfo("corpus.jsonl")
        info.size = len(ROWS)
        tar.addfile(info, io.BytesIO(ROWS))
    first, last = corpus(tmp_path / "t.jsonl", out, 0.9)[2]
    assert first.reason == "the header of a tar archive stands before it; unpack the file with tar -xf"
    assert (first.line, last.line) == (1, 4)
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz: cannot be read to its end: EOFError"):
        corpus(put(tmp_path, "cut.jsonl.gz", gzip.compress(ROWS * 99)[:-20]), out)
    with pytest.raises(InputError, match=r"u\.jsonl: is UTF-16; save it as UTF-8"):
        corpus(put(tmp_path, "u.jsonl", ROWS.decode().encode("utf-16")), out)
    with pytest.raises(InputError, match=r"p\.parquet: cannot be read to its end: ArrowInvalid"):
        corpus(put(tmp_path, "p.parquet", b"PAR1 nothing"), out)


def test_ids_are_made_of_the_content_and_equal_rows_are_left_out(tmp_path: Path) -> None:
    twice = {"text": "x", "title": "T"}
    path = put(tmp_path, "a.jsonl", lines(twice, {"text": "y"}, twice))
    rows, _, [left] = corpus(path, tmp_path / "o.parquet")
    assert (left.line, left.fault) == (3, False)
    again, _, _ = corpus(put(tmp_path, "b.jsonl", lines({"text": "y"}, twice)), tmp_path / "o.parquet")
    assert {row["text"]: row["id"] for row in rows} == {row["text"]: row["id"] for row in again}
    assert [one.id for one in some_passages(path, {}, 100, 1)] == [rows[0]["id"]]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
filled = texts.filter(lambda text: bool(text.strip()))


@given(st.lists(st.tuples(filled, filled), min_size=1, max_size=5, unique_by=lambda row: row[0]), st.integers(1, 40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_list_is_read_the_same_however_it_comes(tmp_path: Path, rows: list[tuple[str, str]], step: int) -> None:
    """A JSON list in pieces of a few bytes, and the same rows as lines and as Parquet."""
    given = [{"id": key, "text": text} for key, text in rows]

    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(step)

    found = [row for _, row, _ in files._items(Slow(json.dumps(given, indent=1).encode()))]
    assert found == given
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "c.parquet")
    for path in (put(tmp_path, "c.json", given), put(tmp_path, "c.jsonl", lines(*given)), tmp_path / "c.parquet"):
        there = some_passages(path, {}, 100, 9)
        assert [(one.id, one.text) for one in there] == rows


@given(st.lists(filled, max_size=30), st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_share_tests_and_equal_questions_stand_on_one_side(asked: list[str], share: float, seed: int) -> None:
    test = held_out(asked, share, seed)
    assert test.tolist() == held_out(asked, share, seed).tolist()
    sides = {text: {bool(side) for other, side in zip(asked, test, strict=True) if other == text} for text in asked}
    assert all(len(side) == 1 for side in sides.values())
    if asked:
        assert test.sum() >= max(1, round(share * len(asked)))


def test_the_split_is_another_for_another_seed_and_stays_when_rows_come() -> None:
    asked = [f"question {i}" for i in range(200)]
    test, other, more = held_out(asked, 0.2, 0), held_out(asked, 0.2, 1), held_out([*asked, "new"], 0.2, 0)
    assert (test.sum(), other.sum()) == (40, 40)
    assert (test != other).any()
    assert (test != more[:-1]).sum() <= 1


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("x", ["x"]),
        (["x", "y"], ["x", "y"]),
        ({"text": ["x", "x", "y"]}, ["x", "y"]),
        ({"value": "x", "aliases": ["x", "z"]}, ["x", "z"]),
        ([{"answer": "x"}, {"meta": 1}], ["x"]),
        ("", []),
        (None, None),
        (3, 3),
    ],
)
def test_answers_in_any_holder(value: object, wanted: object) -> None:
    assert answers(value) == wanted


def test_test_share_has_to_leave_some_on_either_side() -> None:
    check_benchmark(Benchmark("b", "t", ""))
    with pytest.raises(ConfigError, match=r"benchmark\.test_share=1\.0: benchmark\.test is empty"):
        check_benchmark(Benchmark("b", "t", "", test_share=1.0))
