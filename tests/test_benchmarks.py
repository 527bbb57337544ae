"""Reading FlashRAG's files: what goes in comes out, and every kind of bad input is refused or quarantined by line."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbrag.config import Benchmark, ConfigError
from wbrag.data import benchmarks
from wbrag.data.benchmarks import InputError, OverErrorBudget, Rejected, drawn, examples_table, write_corpus
from wbrag.data.flashrag import example_of
from wbrag.run.inputs import write_quarantine
from wbrag.schema import EXAMPLE, PASSAGE, Example

CLAIM = {"SUPPORTS": ["true", "yes"], "REFUTES": ["false", "no"]}
GOOD_EXAMPLE = b'{"id": "good", "question": "Who?", "golden_answers": ["Ada"]}'
GOOD_PASSAGE = b'{"id": "good", "contents": "Ada\\nAda wrote it."}'

#: One bad line of each kind, and what the quarantine has to say of it.
BAD_ROWS = [
    (b'{"id": x}', "malformed JSON: Expecting value at character 7"),
    (b"[" * 100_000, "malformed JSON: "),
    (b'{"id": ' + b"9" * 5000 + b"}", "malformed JSON: Exceeds the limit"),
    (b'["id"]', "not a JSON object but list"),
    (b'{"id": "caf\xe9"}', "not UTF-8: invalid continuation byte at byte 11"),
]
BAD_EXAMPLES = [
    *BAD_ROWS,
    (b'{"id": " ", "question": "Who?", "golden_answers": ["Ada"]}', "id is empty"),
    (b'{"id": 1.5, "question": "Who?", "golden_answers": ["Ada"]}', "id must be a string, got float"),
    (b'{"id": true, "question": "Who?", "golden_answers": ["Ada"]}', "id must be a string, got bool"),
    (b'{"id": "x", "golden_answers": ["Ada"]}', "question is missing or null"),
    (b'{"id": "x", "question": " \\n", "golden_answers": ["Ada"]}', "question is empty"),
    (b'{"id": "x", "question": ["Who?"], "golden_answers": ["Ada"]}', "question must be a string, got list"),
    (b'{"id": "x", "question": "\\ud800", "golden_answers": ["Ada"]}', "question is not Unicode text"),
    (b'{"id": "x", "question": "Who?"}', "no golden answer"),
    (b'{"id": "x", "question": "Who?", "golden_answers": []}', "no golden answer"),
    (b'{"id": "x", "question": "Who?", "golden_answers": ""}', "no golden answer"),
    (
        b'{"id": "x", "question": "Who?", "golden_answers": true}',
        "golden_answers must be a string or a list of strings, got",
    ),
    (
        b'{"id": "x", "question": "Who?", "golden_answers": ["Ada", [3]]}',
        "golden_answers[1] must be a string, got list",
    ),
    (b'{"id": "x", "question": "Who?", "golden_answers": ["Ada", null]}', "golden_answers[1] is missing or null"),
    (b'{"id": "x", "question": "Who?", "golden_answers": [""]}', "golden_answers[0] is empty"),
    (b'{"id": "x", "question": "Who?", "golden_answers": ["Ada"], "metadata": 3}', "metadata must be an object"),
]
BAD_PASSAGES = [
    *BAD_ROWS,
    (b'{"id": "x"}', "text is missing or null"),
    (b'{"id": "x", "text": null}', "text is missing or null"),
    (b'{"id": "x", "contents": null, "text": "Text."}', "contents is missing or null"),
    (b'{"id": "x", "contents": "Ada\\n  "}', "text is empty"),
    (b'{"id": "x", "contents": 7}', "contents must be a string, got int"),
    (b'{"id": "x", "text": "Text.", "title": 0}', "title must be a string, got int"),
    (b'{"id": "x", "contents": "Ada\\n\\udfff"}', "contents is not Unicode text"),
    (b'{"id": "x", "text": "Ada", "year": {"a": "\\ud800"}}', "year is not Unicode text: half a character"),
    (b'{"id": "x", "text": "Ada", "\\ud800": 1}', "key \\ud800 is not Unicode text: half a character"),
]

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
filled_text = unicode_text.filter(str.strip)
metadata = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=2)
examples = st.builds(
    Example,
    id=filled_text,
    question=filled_text,
    golden_answers=st.lists(filled_text, min_size=1, max_size=3).map(tuple),
    metadata=metadata.map(json.dumps),
)
#: A title as it stands in the first line of `contents`: one line, single spaces, no quotes around it.
titles = filled_text.map(lambda text: " ".join(text.replace('"', "'").split()))
passages = st.tuples(filled_text, titles, filled_text)
files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def write(path: Path, *lines: bytes | dict[str, Any]) -> Path:
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines))
    return path


def passage_rows(path: Path) -> list[tuple[str, str, str]]:
    table = pq.read_table(path)
    assert list(table.schema)[:3] == list(PASSAGE)
    return [(row["id"], row["title"], row["text"]) for row in table.to_pylist()]


def read_examples(path: Path, max_error_rate: float = 0.01) -> tuple[list[Example], list[Rejected]]:
    """The examples of a file, and the rows left out."""
    rejected: list[Rejected] = []
    tables = list(benchmarks.read_examples(path, rejected, max_error_rate))
    rows = [row for table in tables for row in table.to_pylist()]
    return [Example(**row | {"golden_answers": tuple(row["golden_answers"])}) for row in rows], rejected


@given(st.lists(examples, min_size=1, max_size=4, unique_by=lambda e: e.id), st.booleans())
@files
def test_examples_come_back_as_written(tmp_path: Path, wanted: list[Example], ascii_only: bool) -> None:
    rows = [
        {"id": e.id, "question": e.question, "golden_answers": e.golden_answers, "metadata": json.loads(e.metadata)}
        for e in wanted
    ]
    path = write(tmp_path / "q.jsonl", *(json.dumps(row, ensure_ascii=ascii_only).encode() for row in rows))
    assert read_examples(path) == (wanted, [])
    table = examples_table(wanted)
    assert table.schema.equals(EXAMPLE)
    assert [Example(**row | {"golden_answers": tuple(row["golden_answers"])}) for row in table.to_pylist()] == wanted


@given(st.lists(passages, min_size=1, max_size=4, unique_by=lambda p: p[0]), st.booleans())
@files
def test_passages_come_back_as_written_with_and_without_quotes(
    tmp_path: Path, wanted: list[tuple[str, str, str]], quoted: bool
) -> None:
    mark = '"' if quoted else ""
    path = write(tmp_path / "c.jsonl", *({"id": i, "contents": f"{mark}{t}{mark}\n{x}"} for i, t, x in wanted))
    assert write_corpus(path, tmp_path / "c.parquet") == benchmarks.CorpusReport(len(wanted), [])
    assert passage_rows(tmp_path / "c.parquet") == wanted


def test_corpus_forms(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        {"id": 0, "contents": '"The "Who" band"\nFirst line.\n"Second" line.'},
        {"id": "1", "contents": "One line only."},
        {"id": "2", "contents": "\nNo title."},
        {"id": "3", "title": '"Ada\nLovelace"', "text": "Text\nof two lines."},
        {"id": "4", "title": None, "text": "Text.", "other": [1]},
        {"id": "5", "title": '"', "text": "Text."},
        {"id": "6", "contents": "T\r\nText."},
    )
    assert write_corpus(path, tmp_path / "c.parquet").passages == 7
    assert passage_rows(tmp_path / "c.parquet") == [
        ("0", 'The "Who" band', 'First line.\n"Second" line.'),
        ("1", "", "One line only."),
        ("2", "", "No title."),
        ("3", "Ada Lovelace", "Text\nof two lines."),
        ("4", "", "Text."),
        ("5", '"', "Text."),
        ("6", "T", "Text."),
    ]


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + GOOD_EXAMPLE + b"\r\n\r\n  \n" + GOOD_EXAMPLE.replace(b"good", b"last"))
    found, rejected = read_examples(path)
    assert [e.id for e in found] == ["good", "last"]
    assert rejected == []


def test_integer_ids_become_strings_and_null_metadata_an_empty_object(tmp_path: Path) -> None:
    row = {"id": 7, "question": "Who?", "golden_answers": ["Ada"], "metadata": None}
    assert read_examples(write(tmp_path / "q.jsonl", row))[0] == [Example("7", "Who?", ("Ada",), "{}")]


@given(st.integers(0, 12), st.integers(0, 15), st.integers(0, 5))
def test_a_limit_draws_examples_that_keep_their_order_and_the_same_for_the_same_seed(
    rows: int, limit: int, seed: int
) -> None:
    found = drawn(rows, limit, seed).tolist()
    assert len(found) == (min(limit, rows) if limit else rows)
    assert found == sorted(set(found)) == drawn(rows, limit, seed).tolist()
    assert set(found) <= set(range(rows))
    if 0 < limit < rows:  # as the examples themselves would be drawn
        assert found == sorted(random.Random(seed).sample(list(range(rows)), limit))


def test_a_limit_draws_from_the_whole_file() -> None:
    last = [drawn(100, 10, seed)[-1] for seed in range(20)]
    assert min(last) >= 50
    assert len(set(last)) > 5


@pytest.mark.parametrize(("bad", "reason"), BAD_EXAMPLES)
def test_a_bad_example_is_quarantined_and_the_others_go_on(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = write(tmp_path / "q.jsonl", GOOD_EXAMPLE, b"", bad, GOOD_EXAMPLE.replace(b"good", b"last"))
    found, [rejected] = read_examples(path, max_error_rate=0.5)
    assert [e.id for e in found] == ["good", "last"]
    assert (rejected.file, rejected.line) == (str(path), 3)
    assert rejected.reason.startswith(reason)
    assert rejected.raw == bad.decode(errors="replace")[:200]


@pytest.mark.parametrize(("bad", "reason"), BAD_PASSAGES)
def test_a_bad_passage_is_quarantined_and_the_others_go_on(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = write(tmp_path / "c.jsonl", bad, GOOD_PASSAGE)
    report = write_corpus(path, tmp_path / "c.parquet", max_error_rate=0.5)
    assert passage_rows(tmp_path / "c.parquet") == [("good", "Ada", "Ada wrote it.")]
    assert report.passages == 1
    assert [(r.file, r.line) for r in report.rejected] == [(str(path), 1)]
    assert report.rejected[0].reason.startswith(reason)


def refused(path: Path, message: str, error: type[Exception] = InputError, rate: float = 0.01) -> None:
    """Both readers refuse the file with the message, and the corpus writer leaves nothing behind."""
    out = path.parent / "out" / "c.parquet"
    with pytest.raises(error, match=message):
        read_examples(path, max_error_rate=rate)
    with pytest.raises(error, match=message):
        write_corpus(path, out, max_error_rate=rate)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


#: A row that is a valid example and a valid passage.
def both(row_id: str) -> dict[str, Any]:
    return {"id": row_id, "question": "Who?", "golden_answers": ["Ada"], "contents": "Ada\nText."}


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.jsonl", "none.jsonl: no such file")
    (tmp_path / "folder.jsonl").mkdir()
    refused(tmp_path / "folder.jsonl", "folder.jsonl: an empty folder; give one with files")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \n\r\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    refused(path, r"data.jsonl: no valid row among 0; it is empty$")


def test_a_file_without_one_valid_row_is_refused_with_its_first_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", b"", b"]", b"{")
    refused(path, "data.jsonl: no valid row among 2; the first: line 2: malformed JSON", rate=1.0)


def test_an_id_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    rows = [both(row_id) for row_id in ("a", "b", "c", "b")]
    refused(write(tmp_path / "data.jsonl", b"", *rows), "data.jsonl: id 'b' is on line 3 and again on line 5")


def test_integer_and_string_form_of_an_id_are_the_same_id(tmp_path: Path) -> None:
    rows = [both("1"), both("1") | {"id": 1}]
    refused(write(tmp_path / "data.jsonl", *rows), "id '1' is on line 1 and again on line 2")


def test_any_text_is_an_id_twins_of_unicode_are_two_and_a_passage_may_be_long(tmp_path: Path) -> None:
    ids = ["../../etc/passwd", "a/b", "a\\b", "..", "caf\u00e9", "cafe\u0301", "long"]
    rows = [both(row_id) for row_id in ids]
    rows[-1]["contents"] = "Ada\n" + "word " * 250_000
    path = write(tmp_path / "data.jsonl", *rows)
    assert [e.id for e in read_examples(path)[0]] == ids
    assert write_corpus(path, tmp_path / "c.parquet") == benchmarks.CorpusReport(len(ids), [])
    made = passage_rows(tmp_path / "c.parquet")
    assert [row[0] for row in made] == ids
    assert len(made[-1][2]) == 5 * 250_000


def test_the_id_of_a_quarantined_row_is_no_duplicate(tmp_path: Path) -> None:
    bad = both("a") | {"question": "", "contents": ""}
    path = write(tmp_path / "data.jsonl", both("a"), bad)
    assert [e.id for e in read_examples(path, max_error_rate=0.5)[0]] == ["a"]
    assert write_corpus(path, tmp_path / "c.parquet", max_error_rate=0.5).passages == 1


class OneHash(str):
    """A string id whose hash equals that of all others of its kind."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


def test_ids_with_equal_hashes_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(row: dict[str, Any], labelled: bool) -> Example:
        example = example_of(row, labelled)
        return Example(OneHash(example.id), example.question, example.golden_answers)

    monkeypatch.setattr(benchmarks, "example_of", colliding)
    path = write(tmp_path / "data.jsonl", *(both(row_id) for row_id in "abc"))
    assert [e.id for e in read_examples(path)[0]] == ["a", "b", "c"]
    with pytest.raises(InputError, match="id 'a' is on line 1 and again on line 3"):
        read_examples(write(path, *(both(row_id) for row_id in "aba")))


def test_over_the_error_budget(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", b"{", b"[", *(both(str(i)) for i in range(6)))
    message = r"data.jsonl: 2 of 8 rows are bad \(25.00%\), max_error_rate=0.2; the first: line 1: malformed JSON"
    refused(path, message, OverErrorBudget, rate=0.2)
    assert len(read_examples(path, max_error_rate=0.25)[1]) == 2
    assert write_corpus(path, tmp_path / "c.parquet", max_error_rate=0.25).passages == 6


def test_over_the_error_budget_hands_over_the_rejected_rows_even_between_processes(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", both("a"), b"{")
    with pytest.raises(OverErrorBudget) as caught:
        read_examples(path)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (str(sent), sent.rejected) == (str(caught.value), caught.value.rejected)
    assert [row.line for row in sent.rejected] == [2]


def test_a_wrong_file_fails_before_it_is_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "EARLY_REJECTED", 3)
    path = write(tmp_path / "data.jsonl", both("a"), *[b"{"] * 3, *(both(str(i)) for i in range(300)))
    refused(path, "3 of 4 rows are bad", OverErrorBudget, rate=0.5)
    assert len(read_examples(path, max_error_rate=0.75)[0]) == 301


def test_a_refused_corpus_leaves_the_earlier_one_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "GROUP_ROWS", 2)
    out = tmp_path / "c.parquet"
    write_corpus(write(tmp_path / "c.jsonl", GOOD_PASSAGE), out)
    with pytest.raises(InputError, match="id 'a' is on line 1 and again on line 4"):
        write_corpus(write(tmp_path / "c.jsonl", *(both(row_id) for row_id in "abca")), out)
    assert passage_rows(out) == [("good", "Ada", "Ada wrote it.")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.jsonl", "c.parquet"]


def test_a_corpus_of_many_groups_keeps_its_order_and_carries_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "GROUP_ROWS", 4)
    out = tmp_path / "new" / "c.parquet"
    path = write(tmp_path / "c.jsonl", *({"id": i, "contents": f"T{i}\n{'word ' * 50}{i}"} for i in range(10)))
    assert write_corpus(path, out).passages == 10
    assert pq.ParquetFile(out).num_row_groups == 3
    assert [row[:2] for row in passage_rows(out)] == [(str(i), f"T{i}") for i in range(10)]
    ids = pq.ParquetFile(out).metadata.row_group(1).column(0)
    spoilt = bytearray(out.read_bytes())
    spoilt[ids.dictionary_page_offset + ids.total_compressed_size - 1] ^= 1
    out.write_bytes(spoilt)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(out, page_checksum_verification=True)


def test_quarantine_file(tmp_path: Path) -> None:
    rejected = [Rejected("a.jsonl", 3, "id is empty", "é\ufffd"), Rejected("b.jsonl", 1, "no golden answer", "{}")]
    out = tmp_path / "run" / "quarantine.jsonl"
    write_quarantine(rejected, out)
    assert [Rejected(**json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()] == rejected
    write_quarantine([], out)
    assert out.read_bytes() == b""
    assert [p.name for p in out.parent.iterdir()] == ["quarantine.jsonl"]


def test_a_benchmark_that_works() -> None:
    benchmarks.check_benchmark(Benchmark(name="nq"))
    benchmarks.check_benchmark(Benchmark(name="fever", task="claim", metric="label", labels=CLAIM))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "poem"}, "benchmark.task='poem' is unknown; known are factoid, "),
        ({"metric": "rouge"}, "benchmark.metric='rouge' is unknown; known are em, "),
        ({"metric": "label"}, "benchmark.labels is empty, but benchmark.metric='label'"),
        ({"labels": {"yes": ["true"], "no": ["True"]}}, "benchmark.labels: spelling 'True' belongs to both"),
        ({"rows": {"train": 5, "dev": 3}}, "benchmark.rows.dev: no such split; known are train, test"),
        ({"labels": {"The": []}}, "benchmark.labels: label 'The': spelling 'The' normalises to nothing"),
    ],
)
def test_a_benchmark_that_cannot_work_names_key_and_value(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmarks.check_benchmark(Benchmark(**changed))


def test_an_unknown_golden_label_names_file_and_id() -> None:
    known = Example("t1", "Ada wrote it.", ("SUPPORTS",))
    good, bad = Example("t2", "Ada wrote it.", ("false", "yes")), Example("t3", "Ada wrote it.", ("MAYBE",))
    benchmarks.check_labels([examples_table([known, good])], CLAIM, Path("dev.jsonl"))
    message = r"dev\.jsonl: example 't3': unknown golden label 'MAYBE'; known labels are SUPPORTS, REFUTES"
    with pytest.raises(InputError, match=message):
        benchmarks.check_labels([examples_table([known]), examples_table([good, bad])], CLAIM, Path("dev.jsonl"))


def test_golden_answers_that_normalise_to_nothing_are_left_out_and_a_row_of_none_but_them(tmp_path: Path) -> None:
    golden = [["A"], ["The", "..."], ["Ada", "The"], ["Bo"]]
    rows = [{"id": str(i), "question": "Who?", "golden_answers": some} for i, some in enumerate(golden)]
    path, rejected = write(tmp_path / "q.jsonl", *(json.dumps(row).encode() for row in rows)), list[Rejected]()
    (table,) = benchmarks.read_examples(path, rejected, 0.9, language="en")
    assert table["golden_answers"].to_pylist() == [["Ada"], ["Bo"]]
    assert [row.line for row in rejected] == [1, 2]
    assert rejected[0].reason.startswith("golden_answers ['A'] normalise to nothing, which every answer holds; take")
    (table,) = benchmarks.read_examples(path, [], 0.9, language="any")
    assert table["golden_answers"].to_pylist() == [["A"], ["The"], ["Ada", "The"], ["Bo"]]


@pytest.mark.parametrize(
    ("golden", "how", "told"),
    [
        ("no", {}, ["golden answers of 2 of 3 questions are parts of common words, as no is of unknown"]),
        ("no", {"metric": "em"}, []),
        ("\u0915\u092e\u0932", {}, ["golden answers of 2 of 3 questions are in other scripts"]),
        ("\u0915\u092e\u0932", {"language": "any"}, []),
        ("\u00c9mile Zol\u00e0", {}, []),
    ],
)
def test_golden_answers_that_a_metric_scores_badly_are_told(golden: str, how: dict[str, str], told: list[str]) -> None:
    found = [Example(f"t{i}", "Is it?", (golden if i else "Ada Lovelace",)) for i in range(3)]
    doubts = benchmarks.doubts([examples_table(found)], Benchmark(**how))
    assert [doubt[: len(start)] for doubt, start in zip(doubts, told, strict=True)] == told
