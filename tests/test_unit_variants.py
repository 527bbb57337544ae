"""Ways to make and merge units, held against each other: what is pooled, and paired with what."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import PASSAGES, UNIT, write_run, write_table

from wbrag import schema
from wbrag.experiments.grid import Point, pooled_way, read_point, ways
from wbrag.experiments.grid_report import blocks_of, text_table, write_comparison
from wbrag.report.evaluation import Setting, answers_of

#: Questions of a run: id, whether it overlaps with training, right over base, right over the run's own write-back.
QUESTIONS = [("t1", "none", 0, 1), ("t2", "none", 1, 1), ("t3", "question", 0, 1), ("t4", "answer", 1, 0)]


def prediction(key: str, overlap: str, base: int, after: int, unit: bool) -> dict[str, object]:
    documents = [PASSAGES[0] | {"id": f"p-{key}"}]
    return dict.fromkeys(schema.PREDICTION.names) | {
        "id": key,
        "question": f"Where was {key} born?",
        "golden_answers": ["Tarnholm"],
        "metadata": json.dumps({"overlap": overlap}),
        "documents_base": documents,
        "documents_writeback": [UNIT, *documents] if unit else documents,
        "answer_closed_book": "unknown",
        "answer_base": "Tarnholm" if base else "unknown",
        "answer_writeback": "Tarnholm" if after else "unknown",
        "context_tokens_base": 10,
        "context_tokens_writeback": 14 if unit else 10,
        "retrievals_base": 0,
        "retrievals_writeback": 0,
    }


def finished(folder: Path, rows: list[dict[str, object]]) -> Point:
    """A finished run without traces, read."""
    run = write_run(folder, [], rows)
    (run / "metrics.json").write_text("{}")
    return read_point(run)


@pytest.fixture
def point(tmp_path: Path) -> Point:
    """A run with one way beside its own: it answers t4 too, and reads a unit for t1 alone."""
    made = finished(tmp_path / "run", [prediction(*told, unit=True) for told in QUESTIONS])
    rows = [prediction(key, overlap, base, 1, unit=key == "t1") for key, overlap, base, _ in QUESTIONS]
    folder = made.run / "variants" / "units-subject"
    folder.mkdir(parents=True)
    write_table(folder / "predictions", rows, schema.PREDICTION)
    (folder / "metrics.json").write_text("{}")
    for name, calls in (("written", [2, None]), ("readings", [1, 1])):
        (folder / name).mkdir()
        pq.write_table(pa.table({"calls": pa.array(calls, pa.int32())}), folder / name / "0.parquet")
    unit = {"id": "wb-1", "title": "T", "text": "x", "example_ids": [], "source_ids": ["p"], "form": "verbatim"}
    pq.write_table(pa.Table.from_pylist([unit], schema.UNIT), folder / "units.parquet")
    left = {"request": "r", "text": "x", "kind": "copy", "reason": "is passage p again"}
    pq.write_table(pa.Table.from_pylist([left], schema.LEFT), folder / "left_out.parquet")
    return made


def test_each_way_is_held_against_the_runs_own_units_question_by_question(point: Point) -> None:
    own, way = ways([point])
    assert (own["way"], way["way"]) == ("own", "subject")
    assert (own["all"]["mean"], own["unseen"]["mean"], own["seen"]["mean"]) == (0.25, 0.5, 0.0)
    assert (way["all"]["mean"], way["unseen"]["mean"], way["seen"]["mean"]) == (0.5, 0.5, 0.5)
    assert (way["unseen_difference"]["mean"], way["seen_difference"]["mean"]) == (0.0, 0.5)
    assert own["unseen_difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 2, "topics": 2}
    assert (way["unseen_read"], own["unseen_read"]) == (0.5, 1.0)
    assert (way["tokens"], own["tokens"]) == ([10.0, 11.0], [10.0, 14.0])
    assert (way["units"], way["left_out"], way["calls"], way["runs"]) == (1, 1, 4, 1)


def test_a_way_is_pooled_over_the_runs_that_have_it(point: Point, tmp_path: Path) -> None:
    second = finished(tmp_path / "second", [prediction("t1", "none", 0, 0, unit=False)])
    own, way = ways([point, second])
    assert (own["n"], own["runs"], own["unseen"]["n"]) == (5, 2, 3)
    assert (way["n"], way["runs"], way["unseen"]["n"]) == (4, 1, 2)


def test_questions_of_one_corpus_share_topics_and_those_of_two_do_not(point: Point, tmp_path: Path) -> None:
    second = finished(tmp_path / "second", [prediction(*told, unit=True) for told in QUESTIONS])
    assert ways([point, second])[0]["all"]["topics"] == 4
    record_file = second.run / "run.json"
    told = json.loads(record_file.read_text())
    record_file.write_text(json.dumps(told | {"identity": {"corpus": "another"}}))
    assert ways([point, second])[0]["all"]["topics"] == 8


def test_the_table_has_a_line_for_each_way_and_the_file_holds_the_figures(point: Point, tmp_path: Path) -> None:
    records = write_comparison([point.run], tmp_path / "out")
    lines = (tmp_path / "out" / "units.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| own", "| subject"]
    assert len({line.count("|") for line in lines}) == 1
    assert lines == text_table(records).splitlines()
    assert json.loads((tmp_path / "out" / "units.json").read_text())["ways"] == records


def test_a_grid_without_other_ways_says_nothing_of_them(point: Point, tmp_path: Path) -> None:
    assert len(blocks_of("units", [point], {"units": ways([point])})) == 3
    alone = finished(tmp_path / "alone", [prediction(*told, unit=True) for told in QUESTIONS])
    grid = {"units": ways([alone])}
    assert blocks_of("units", [alone], grid) == []
    assert len(grid["units"]) == 1


def test_without_a_question_that_does_not_overlap_the_gain_is_zero_and_not_a_number_is_nowhere() -> None:
    row = prediction("t1", "question", 0, 1, unit=True)
    answers = answers_of([row], Setting("toy_nq", "naive", "m", "acc"))
    told = pooled_way([({**answers, "more": answers["gain"]}, {"units": 1, "left_out": 0, "calls": 0})])
    assert told["unseen"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 0, "topics": 0}
    json.dumps(told, allow_nan=False)
