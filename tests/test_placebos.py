"""Placebos: as many units as the run has, no longer than they are, and what each leaves out is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import document, gated, kept

from wbrag.config import ConfigError, Units
from wbrag.experiments.placebos import (
    asked_about,
    cheat_sheet,
    check_placebos,
    cut,
    drawn,
    raw_units,
    to_draw,
    written_units,
)
from wbrag.units.requests import by_question, by_subject

Row = dict[str, Any]
CORPUS = [document(f"p-{i}", f"Title {i}", f"Passage {i} tells of thing {i}.") for i in range(50)]


def traces(count: int) -> list[Row]:
    """Kept examples, and as many gated ones."""
    made = []
    for i in range(count):
        documents = [document(f"p-{i}-{j}", f"T{i}", f"Source {i} {j} " + "word " * 30) for j in range(3)]
        made.append(kept(id=f"train-{i}", question=f"Question {i}?", documents=documents, kept_ranks=[1, 3]))
    return [*made, *(gated(id=f"gated-{i}") for i in range(count))]


def units_of(rows: list[Row], subject: str = "") -> list[Row]:
    """A unit of each kept example, and one that no example asks about."""
    own = []
    for i, row in enumerate(row for row in rows if row["status"] == "kept"):
        sources = [row["documents"][rank - 1]["id"] for rank in row["kept_ranks"]]
        unit = {"id": f"wb-{i:016x}", "title": f"T{i}", "text": " ".join(f"u{i}" for _ in range(5 + i))}
        own.append(unit | {"example_ids": [row["id"]], "source_ids": sources, "subject": subject})
    mentioned = {"id": "wb-f", "title": "M", "text": "one two three", "subject": "M"}
    return [*own, mentioned | {"example_ids": [], "source_ids": own[0]["source_ids"]}]


def passages_of(rows: list[Row]) -> dict[str, Row]:
    return {one["id"]: one for row in rows for one in row["documents"]}


def written(rows: list[Row]) -> list[Row]:
    """Long units for the requests; every fourth reply was no passage."""
    return [
        {
            "id": f"r-{i:03d}",
            "status": "gated" if i % 4 == 1 else "kept",
            "units": []
            if i % 4 == 1
            else [{"title": f"W{i}", "text": f"unit {i} " + "long " * 60, "source_ids": [row["id"]]}],
        }
        for i, row in enumerate(rows)
    ]


@given(st.integers(1, 12))
def test_raw_units_are_as_many_and_as_long_as_the_own(count: int) -> None:
    rows = traces(count)
    own = units_of(rows)
    made = raw_units(own, passages_of(rows))
    assert len({unit["id"] for unit in made}) == len(made) == count + 1
    assert all(unit["id"].startswith("placebo-") for unit in made)
    assert sorted(len(unit["text"].split()) for unit in made) == sorted(len(unit["text"].split()) for unit in own)
    assert len(cheat_sheet(own, rows)) == count  # a unit that no example asks about has no question


def test_raw_units_are_the_words_of_the_sources_under_their_subject() -> None:
    rows = traces(1)
    (unit, mentioned) = sorted(raw_units(units_of(rows), passages_of(rows)), key=lambda one: one["title"], reverse=True)
    assert unit["source_ids"] == mentioned["source_ids"] == ["p-0-0", "p-0-2"]
    assert (unit["title"], unit["text"]) == ("T0", "Source 0 0 word word")
    assert (mentioned["title"], mentioned["text"]) == ("M", "Source 0 0")


def test_only_the_cheat_sheet_sees_golden_answers() -> None:
    row = kept(golden_answers=["GOLD"])
    own = units_of([row])
    (told,) = cheat_sheet(own, [row])
    assert (told["title"], told["text"]) == (row["question"], "GOLD")
    assert "GOLD" not in str(raw_units(own, passages_of([row])))
    for name in ("random", "ungated"):
        for some in drawn(name, 2, 2, [row, gated(golden_answers=["GOLD"])], CORPUS, seed=1):
            (asked,) = by_question([some], Units(), lambda *_: [])
            assert "GOLD" not in str(asked)


@pytest.mark.parametrize("name", ["random", "ungated"])
def test_written_placebos_are_no_more_and_no_longer_than_the_own_units(name: str) -> None:
    rows = traces(8)
    own = units_of(rows)
    assert (to_draw(own, by_subject=False), to_draw(own, by_subject=True)) == (14, 8)
    some = drawn(name, 14, 2, rows, CORPUS, seed=3)
    assert some == drawn(name, 14, 2, rows, CORPUS, seed=3) != drawn(name, 14, 2, rows, CORPUS, seed=4)
    assert len({row["id"] for row in some}) == len(some) == 14
    units = written_units(name, written(some), own)
    assert len(units) == len(own)
    assert max(len(unit["text"].split()) for unit in units) <= max(len(row["text"].split()) for row in own)
    assert len(written_units(name, written(some[:8]), own)) == 6


def test_each_leaves_out_its_ingredient() -> None:
    rows = traces(6)
    random, ungated = (drawn(name, 9, 2, rows, CORPUS, seed=0) for name in ("random", "ungated"))
    assert {one["id"] for row in random for one in row["documents"]} <= {row["id"] for row in CORPUS}
    assert all(row["kept_ranks"] == [1] for row in random)
    assert all(row["kept_ranks"] == [1, 2] for row in ungated)
    assert any(row["question"] == gated()["question"] for row in ungated)
    assert {row["question"] for row in asked_about(units_of(rows), rows)} == {f"Question {i}?" for i in range(6)}


def test_random_passages_become_units_by_subject_as_kept_evidence_does() -> None:
    mill = document("m", "Oakwick", "Oakwick has a mill.")
    (row,) = drawn("random", 1, 2, [], [mill], seed=0)
    (asked,) = by_subject(
        [row], Units(hops=0), lambda names: [[] for _ in names], lambda _, there: [[0] for _ in there]
    )
    assert (row["question"], asked["subject"]) == ("What is known about Oakwick?", "Oakwick")
    assert [one["text"] for one in asked["statements"]] == ["Oakwick has a mill."]


def test_one_unit_of_several_examples_has_one_placebo() -> None:
    rows = [kept(), kept(id="a")]
    own = [unit | {"example_ids": [kept()["id"], "a"]} for unit in units_of([kept()])[:1]]
    assert len(raw_units(own, passages_of(rows))) == 1
    assert cheat_sheet(own, rows)[0]["example_ids"] == ["a"]


def test_an_unknown_placebo_is_named() -> None:
    with pytest.raises(ConfigError, match="placebos: 'sugar' is unknown; known are raw, random"):
        check_placebos(["raw", "sugar"])


@given(st.text(alphabet="ab \n\t", max_size=20), st.integers(0, 9))
def test_a_cut_is_a_beginning(text: str, count: int) -> None:
    assert text.split()[: max(1, count)] == cut(text, count).split()
