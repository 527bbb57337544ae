"""A run's units as its readers see them: beside the traces, and in place of what Algorithm 1 wrote of an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from synthetic_run import UNIT, gated, kept, prediction, write_run

from wbrag import schema
from wbrag.report.evaluation import answers_of, evaluate
from wbrag.report.trace import life
from wbrag.run.folder import (
    RunError,
    read_config,
    read_fields,
    read_left_out,
    read_rows,
    read_traces,
    setting_of,
    unit_rows,
)

COLUMNS = ("id", "evidence", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens")


def unit(key: str, *examples: str, **changes: object) -> dict[str, Any]:
    told = {"title": f"Title of {key}", "text": f"Text of {key}.", "source_tokens": 40, "unit_tokens": 9}
    about = {"subject": "Almira Trevane", "form": "verbatim", "doubt": "", "source_ids": ["p-0077"]}
    return {"id": key, "example_ids": list(examples), **told, **about, **changes}


def write_units(run: Path, units: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(units, schema.UNIT), run / "units.parquet")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two kept examples, whose traces hold a unit of Algorithm 1 each, and a gated one; no units written yet."""
    traces = [kept(id="a"), kept(id="b", unit_id="wb-b"), gated(id="c")]
    folder = write_run(tmp_path / "run", traces, [prediction()])
    (folder / "units.parquet").unlink()
    return folder


def rows_of(run: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_traces(run, COLUMNS)}


def test_before_units_are_written_a_trace_says_what_algorithm_1_wrote(run: Path) -> None:
    assert {key: row["unit_id"] for key, row in rows_of(run).items()} == {"a": UNIT["id"], "b": "wb-b", "c": None}
    assert list(unit_rows(run)) == read_left_out(run) == []


def test_a_kept_example_has_its_first_unit_and_one_whose_units_went_has_none(run: Path) -> None:
    write_units(run, [unit("wb-1", "a"), unit("wb-2", "a"), unit("wb-3")])
    rows = rows_of(run)
    told = {"unit_id": "wb-1", "unit_title": "Title of wb-1", "unit_text": "Text of wb-1.", "unit_tokens": 9}
    assert rows["a"].items() >= (told | {"source_tokens": 40, "evidence": "Text of wb-1."}).items()
    assert [rows["b"][name] for name in COLUMNS[2:]] == [rows["c"][name] for name in COLUMNS[2:]] == [None] * 5
    assert rows["b"]["evidence"] == kept()["evidence"]


def test_of_a_distilled_unit_the_evidence_is_that_of_the_trace(run: Path) -> None:
    write_units(run, [unit("wb-1", "a", "b", form="distilled")])
    assert {row["unit_id"] for row in rows_of(run).values()} == {"wb-1", None}
    assert rows_of(run)["b"]["evidence"] == kept()["evidence"]


def test_only_the_columns_asked_for_come_back(run: Path) -> None:
    write_units(run, [unit("wb-1", "a")])
    assert next(read_traces(run, ("id", "unit_id"))) == {"id": "a", "unit_id": "wb-1"}
    assert [row["unit_id"] for row in read_traces(run, ("id", "unit_id"), ["b", "a", "z"])] == ["wb-1", None]


def test_of_documents_only_the_fields_asked_for_are_read(run: Path) -> None:
    where = pc.field("status") == "kept"
    columns = ("id", "status", "kept_ranks", "documents.score", "documents.id")
    rows = list(read_fields(run / "traces", columns, where))
    whole = {row["id"]: row for row in read_rows(run / "traces", schema.TRACE, where=where)}
    assert {row["id"] for row in rows} == set(whole) == {"a", "b"}
    for row in rows:
        assert set(row) == {"id", "status", "kept_ranks", "documents"}
        assert row["kept_ranks"] == whole[row["id"]]["kept_ranks"]
        wanted = [{name: one[name] for name in ("id", "score")} for one in whole[row["id"]]["documents"]]
        assert row["documents"] == wanted
    assert len(list(read_fields(run / "traces", ["id"]))) == 3
    assert list(read_fields(run / "nothing", ["id"])) == []
    with pytest.raises(
        RunError, match=r"part-0\.parquet: no column 'documents\.colour'; it has id, .*documents\.\S+id"
    ):
        list(read_fields(run / "traces", ["id", "documents.colour"]))


def test_a_variant_has_its_own_units_or_those_of_the_run_around_it(run: Path) -> None:
    variant = run / "variants" / "units-x"
    variant.mkdir(parents=True)
    write_units(run, [unit("wb-1", "a")])
    assert [row["id"] for row in unit_rows(variant)] == ["wb-1"]
    write_units(variant, [])
    assert list(unit_rows(variant)) == []
    write_units(variant, [unit("wb-2", "a")])
    assert [row["id"] for row in unit_rows(variant)] == ["wb-2"]
    assert [row["id"] for row in unit_rows(run / "evaluations" / "other")] == ["wb-1"]


def test_what_was_left_out_is_read_back(run: Path) -> None:
    rows = [{"request": "a", "text": "So.", "kind": "copy", "reason": "is passage p-0077 again"}]
    pq.write_table(pa.Table.from_pylist(rows, schema.LEFT), run / "left_out.parquet")
    assert read_left_out(run) == rows


def test_a_file_of_units_that_lacks_a_column_is_named(run: Path) -> None:
    pq.write_table(pa.table({"id": ["wb-1"]}), run / "units.parquet")
    with pytest.raises(RunError, match=r"units\.parquet: no column 'title'"):
        list(unit_rows(run))


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        ((), "because the evidence of training examples mentions its subject"),
        (("a",), "from training example a"),
        (("a", "b", "c"), "from training examples a, b, c"),
        (("a", "b", "c", "d", "e"), "from training examples a, b, c and 2 more"),
    ],
)
def test_the_life_of_a_question_names_the_examples_behind_its_unit(
    run: Path, examples: tuple[str, ...], told: str
) -> None:
    write_units(run, [unit(UNIT["id"], *examples)])
    text = " ".join(life(run, "test-4").split())  # long lines are wrapped
    assert f"{UNIT['id']} was written {told} Cost" in text


def test_a_question_near_any_example_behind_a_unit_is_exposed(run: Path) -> None:
    near = kept(id="z", question=prediction()["question"])
    far = kept(id="y", question="Who built the harbour?", golden_answers=["Ida"])
    setting = setting_of(read_config(run))
    for behind, found in ((["y", "z"], "near_duplicate"), (["y"], "gold"), ([], "gold")):
        answers = answers_of([prediction()], setting, [near, far], [unit(UNIT["id"], *behind)])
        assert [key for key, records in evaluate(answers, setting)["exposure"].items() if records] == [found]
