"""The questions that got worse, one by one: which they are, what they had read, and where that came from."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import PASSAGES, UNIT, Row, kept, prediction, units_of, write_run

from wbrag import schema
from wbrag.report.evaluation import Setting, answers_of
from wbrag.report.harms import SHOWN, harm_blocks, harms, sources_of
from wbrag.report.page import Cases
from wbrag.report.run_report import write_report
from wbrag.run.folder import read_passages

SETTING = Setting("toy_nq", "naive", "micro_small", "acc")
YES_NO = Setting("toy_boolq", "naive", "micro_small", "label", labels={"yes": ["true"], "no": ["false"]})


def worse(**changes: object) -> Row:
    """A test question that was right before a unit was read."""
    return prediction(answer_base="Tarnholm", answer_writeback="Port Elden") | changes


def found(rows: list[Row], setting: Setting, units: list[Row], training: list[Row] | None = None) -> list[Row]:
    return harms(rows, answers_of(rows, setting, training or [], units), units)


def test_a_question_is_a_harm_where_its_score_fell_and_the_greatest_fall_comes_first() -> None:
    partly = Setting("toy_nq", "naive", "micro_small", "f1")
    rows = [
        worse(id="c", answer_writeback="Tarnholm in Elden"),
        *(worse(id="b"), worse(id="a"), prediction(id="fixed"), worse(id="failed", error="E: x")),
    ]
    assert [harm["id"] for harm in found(rows, SETTING, [])] == ["a", "b"]
    assert [harm["id"] for harm in found(rows, partly, [])] == ["a", "b", "c"]


def test_a_harm_says_what_was_read_and_whether_the_answer_was_there() -> None:
    blind = UNIT | {"text": "Almira Trevane was a glass painter."}
    rows = [worse(metadata="{}", documents_writeback=[blind, PASSAGES[0], PASSAGES[2]])]
    (unit,) = units_of([kept()])
    (harm,) = found(rows, SETTING, [unit], [kept()])
    assert (harm["score_base"], harm["score_writeback"], harm["overlap"]) == (1.0, 0.0, "answer")
    assert (harm["base_held_answer"], harm["writeback_held_answer"]) == (True, False)
    (read,) = harm["units"]
    assert (read["id"], read["text"], read["form"], read["example_ids"]) == (
        *(UNIT["id"], blind["text"], "distilled", ["train-17"]),
    )
    assert read["sources"] == sources_of([harm]) == [{"id": "p-0077"}]


def test_labels_leave_open_which_document_held_the_answer() -> None:
    row = worse(golden_answers=["true"], answer_base="yes", answer_writeback="no")
    (harm,) = found([row], YES_NO, [])
    assert harm["base_held_answer"] is None
    assert harm["units"][0]["sources"] == []  # a unit that no table knows
    (shown,) = (block for block in harm_blocks([harm], 9) if isinstance(block, Cases))
    assert "not known" in str(shown)


def test_the_report_and_the_file_have_them_all_and_markdown_the_first(tmp_path: Path) -> None:
    rows = [worse(id=f"test-{i:02}") for i in range(SHOWN + 5)] + [prediction(id="fine")]
    run = write_run(tmp_path / "run", [kept()], rows)
    write_report(run)
    lines = [json.loads(line) for line in (run / "harms.jsonl").read_text().splitlines()]
    assert [harm["id"] for harm in lines] == [row["id"] for row in rows[:-1]]
    told = {"id": "p-0077", "title": PASSAGES[1]["title"], "text": PASSAGES[1]["text"]}
    assert lines[0]["units"][0]["sources"] == [told]
    page = (run / "report.html").read_text()
    assert page.count('<details id="case-') == SHOWN + 6  # and one that got better
    assert (run / "report.md").read_text().count("<details>") == SHOWN + 1
    assert "1 of 26 test questions score higher with write-back" in page
    assert f"{SHOWN + 5} of {SHOWN + 6} test questions score lower with write-back, 0 of them without overlap" in page
    assert "0 of them had read no unit" in page
    assert f"its source {PASSAGES[1]['id']}" in page


def test_without_harm_the_file_is_empty_and_the_report_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    write_report(run)
    assert (run / "harms.jsonl").read_text() == ""
    assert "None of 1 test questions scores lower with write-back." in (run / "report.html").read_text()


def test_a_source_that_no_table_has_is_said_to_be_not_at_hand(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [worse()])
    (unit,) = units_of([kept()])
    pq.write_table(pa.Table.from_pylist([unit | {"source_ids": ["p-gone"]}], schema.UNIT), run / "units.parquet")
    write_report(run)
    (line,) = (run / "harms.jsonl").read_text().splitlines()
    assert json.loads(line)["units"][0]["sources"] == [{"id": "p-gone", "title": None, "text": None}]
    assert "not at hand" in (run / "report.html").read_text()


@pytest.mark.parametrize("wanted", [set(), {"p-0077"}, {"p-0077", "p-9"}])
def test_passages_are_found_in_traces_and_requests(tmp_path: Path, wanted: set[str]) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    named = dict.fromkeys(schema.REQUEST.names) | {"id": "subject x", "documents": [PASSAGES[0] | {"id": "p-9"}]}
    pq.write_table(pa.Table.from_pylist([named], schema.REQUEST), run / "requests.parquet")
    assert set(read_passages(run, wanted)) == wanted
