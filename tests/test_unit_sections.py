"""What a report says of a run's units: how they were made, how many of which kind, what was left out and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import CONFIG, PASSAGES, UNIT, kept, prediction, units_of, write_run, write_table

from wbrag import schema
from wbrag.config import Merge, Units
from wbrag.report.evaluation import Setting
from wbrag.report.page import Details, Table, Text
from wbrag.report.run_report import write_report
from wbrag.report.unit_sections import fitting, fitting_told, left_out_blocks, making_told, unit_blocks

SETTING = Setting("toy_nq", "naive", "micro_small", "acc")
SUBJECT = Units(name="subject", form="verbatim", scope="subject", hops=1, validate=True)


def told(units: Units, merge: Merge | None = None) -> str:
    return making_told({"units": asdict(units), "merge": asdict(merge or Merge())})


def test_every_way_to_make_units_is_told_in_words() -> None:
    assert told(Units()) == (
        "One unit for each kept example: the evidence in its documents, rewritten by the generator. Units and passages "
        "compete for the K places by score. (units=paper)"
    )
    assert making_told({}) == told(Units())
    subject = told(SUBJECT, Merge("beside", 0.05, 0.25))
    for part in (
        *(
            "what passages that hold its name say of it (of the 10 nearest to it), each thing once, word for word",
            "128 tokens",
        ),
        *(
            "about, and what that evidence mentions.",
            "What took more than it gave on training questions",
            "(units=subject)",
        ),
        *("The K passages stay", "up to 0.05 in score, within 25% of the passages' characters"),
    ):
        assert part in subject
    assert "chosen by the encoder (the 2 nearest to the question)" in told(Units(form="verbatim"))
    assert "chosen by the generator" in told(Units(form="verbatim", evidence="llm"))
    assert "(the critic: none)" in told(Units(faithful=True, critic="none"))
    assert "critic" not in told(Units(faithful=True, form="verbatim"))


def unit(key: str, examples: list[str], **changes: object) -> dict[str, Any]:
    return units_of([kept()])[0] | {"id": key, "example_ids": examples} | changes


def test_how_many_units_fit_beside_the_passages_is_told() -> None:
    read = [{"documents_base": [{"title": "a", "text": "b" * 98}] * n} for n in (1, 2, 3)] + [{"documents_base": None}]
    units = [{"title": "t", "text": "x" * size} for size in (10, 48, 49, 200, 300)]
    config = {"merge": {"policy": "beside", "room": 0.25}}
    found = fitting(config, units, read)
    assert found == {"share": 0.25, "room": 50, "units": 5, "fit": 2}
    assert "2 of 5 units fit into the room" in fitting_told(found)
    assert "50 characters, 25% of the passages'. What does not fit is not read: give" in fitting_told(found)
    assert "give" not in fitting_told(found | {"fit": 3})
    assert fitting({"merge": {"policy": "plain"}}, units, read) is None
    assert fitting(config, [], read) is fitting(config, units, read[-1:]) is None


def test_units_are_counted_by_form_and_doubt_and_by_who_asks_about_them() -> None:
    units = [
        *(unit("a", ["train-1"], form="verbatim", unit_tokens=10), unit("b", [], form="verbatim", unit_tokens=20)),
        unit("c", ["train-2"], doubt="cut", unit_tokens=None),
    ]
    blocks = unit_blocks({"units": asdict(SUBJECT)}, units, 30)
    assert any("2 of the 3 units are about what a kept example asks about, 1 about what" in str(b) for b in blocks)
    assert any("10.0 passages for each unit (30 in the corpus)" in str(block) for block in blocks)
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert table.rows == (
        ("distilled", "cut", "1", "1", "0", "-", "1.0"),
        ("verbatim", "-", "2", "1", "1", "15.0", "1.0"),
        ("all", "", "3", "2", "1", "15.0", "1.0"),
    )
    assert unit_blocks({}, [], None)[-1] == Text("No unit was written.")


def left(kind: str, text: str = "So it is.", reason: str = "why") -> dict[str, Any]:
    return {"request": "train-17", "text": text, "kind": kind, "reason": reason}


def test_what_was_left_out_has_two_examples_a_kind_the_most_frequent_first() -> None:
    rows = [left("copy"), *(left("foreign", f"{i} {'very ' * 99}long", "name 'X'") for i in range(4)), left("new_kind")]
    blocks = left_out_blocks(rows, [], SETTING)
    (table,) = (block for block in blocks if isinstance(block, Table))
    first = [row[:2] for row in table.rows]
    assert first == [
        ("foreign: a name, number, date or quotation that no source has", "4"),
        *(("", ""), ("copy: nearly the whole of one passage", "1"), ("new_kind", "1")),
    ]
    assert all(len(row[2]) <= 240 for row in table.rows)
    assert table.rows[0][2].endswith("[...]")
    assert table.rows[0][3] == "name 'X'"
    assert left_out_blocks([], [], SETTING) == []


def test_a_harmful_unit_shows_the_training_questions_that_it_changed() -> None:
    reason = "takes 2.00 and gives 0.00; read by 3, changed train-8, train-9"
    contents = f"{UNIT['title']}\n{UNIT['text']}"
    readings = [
        prediction(id="train-8", question="Which town?", answer_base="Tarnholm", answer_writeback="Port Elden"),
        prediction(id="train-9", question="And which?", answer_base="Tarnholm", answer_writeback=None),
        prediction(id="train-7", question="Unchanged?", answer_base="Tarnholm"),
        prediction(id="train-6", question="Not read?", documents_writeback=PASSAGES),
        prediction(id="train-5", question="Failed?", answer_base="Tarnholm", answer_writeback=None, error="E: x"),
    ]
    blocks = left_out_blocks([left("harmful", contents, reason)], readings, SETTING)
    (shown,) = (block for block in blocks if isinstance(block, Details))
    assert shown.summary == f"{UNIT['title']}: {reason}"
    text, table = shown.blocks
    assert text == Text(UNIT["text"])
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["Which town?", "And which?"]
    assert table.rows[0][1:] == ("Tarnholm", "Tarnholm", "Port Elden")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with units by subject, some left out, one of them harmful."""
    config = CONFIG + "units: {name: subject, form: verbatim, scope: subject, hops: 1, validate: true}\n"
    run = write_run(tmp_path / "run", [kept()], [prediction()], config + "merge: {policy: beside, margin: 0.05}\n")
    units = [unit(UNIT["id"], ["train-17"], form="verbatim"), unit("wb-2", [], form="verbatim")]
    pq.write_table(pa.Table.from_pylist(units, schema.UNIT), run / "units.parquet")
    harmful = left("harmful", f"{UNIT['title']}\n{UNIT['text']}", "takes 1.00 and gives 0.00; read by 1")
    pq.write_table(pa.Table.from_pylist([left("copy"), harmful], schema.LEFT), run / "left_out.parquet")
    reading = prediction(id="train-18", answer_base="Tarnholm", answer_writeback="Elm", question="Whence the painter?")
    write_table(run / "readings", [reading], schema.PREDICTION)
    return run


def test_the_report_tells_the_units_and_draws_of_them_whatever_their_form(run: Path) -> None:
    write_report(run)
    for form in ("report.md", "report.html"):
        text = (run / form).read_text()
        for part in (
            *(
                "Units",
                "1 of the 2 units are about what a kept example asks about",
                "only mentioned",
                "Left out of the units",
            ),
            *(
                "nearly the whole of one passage",
                "takes 1.00 and gives 0.00",
                "Whence the painter?",
                "The K passages stay",
            ),
        ):
            assert part in text, (form, part)
        assert "passages for each unit" not in text  # no base in this folder
    assert "drawn at random" in (run / "units_sample.md").read_text()
