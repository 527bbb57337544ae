"""Units drawn for a person to hold against their sources: which they are, and what the rules say of each sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic_run import PASSAGES, kept, population, prediction, units_of, write_run

from wbrag.report.run_report import write_report
from wbrag.report.unit_sections import DRAWN, drawn, judged, sample_page, verdicts_told

HELD = {passage["id"]: passage for passage in PASSAGES}


def unit(text: str, **changes: object) -> dict[str, Any]:
    return units_of([kept(unit_text=text)])[0] | changes


def test_the_draw_is_the_same_for_the_same_seed_whatever_the_order() -> None:
    units = [unit("So.", id=f"wb-{i:03}", form="verbatim" if i % 3 == 0 else "distilled") for i in range(150)]
    first = drawn(units, 7)
    assert first == drawn(units[::-1], 7)
    assert first != drawn(units, 8)
    assert len(first) == DRAWN
    assert {one["form"] for one in first} == {"distilled", "verbatim"}
    assert drawn(units[:4], 7) == units[:4]


def test_each_sentence_has_its_verdict_and_the_nearest_of_the_sources() -> None:
    text = (
        "Tarnholm, where Almira Trevane was born, lies inland. Almira Trevane was born in Zurich. She came to Tarnholm."
    )
    (found,) = judged([unit(text, title="Tarnholm", doubt="cut")], HELD, {"train-17": "Where?"})
    _, _, verdict = found
    assert [one.kind for one in verdict.sentences] == ["stated", "foreign", "open"]
    told = verdicts_told([found])
    assert told == (
        "Of the 3 sentences of 1 units, drawn at random: 1 stand in their sources, 1 open (no rule decides), "
        "1 foreign; 0 titles with a fault."
    )
    page = sample_page([found], 7)
    assert "## Tarnholm" in page
    assert "from p-0077; doubt: cut" in page
    assert "| foreign: name 'Zurich' | Tarnholm, where Almira Trevane was born, lies inland. | p-0077 |" in page


def test_a_unit_whose_sources_are_not_at_hand_is_not_judged() -> None:
    both = unit("So it is.", source_ids=["p-0077", "p-gone"])
    assert judged([both, unit("So it is.", source_ids=[])], HELD, {}) == []


def test_the_report_has_the_draw_beside_it(tmp_path: Path) -> None:
    traces, rows = population(120, 8)
    run = write_run(tmp_path / "run", traces, rows)
    write_report(run)
    page = (run / "units_sample.md").read_text()
    assert page.count("\n## ") == min(DRAWN, sum(bool(one["source_ids"]) for one in units_of(traces)))
    assert "drawn at random" in (run / "report.md").read_text()
    bare = write_run(tmp_path / "bare", [], [prediction()])
    write_report(bare)
    assert not (bare / "units_sample.md").exists()
