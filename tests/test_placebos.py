"""Placebos: as many units as the run has, no longer than they are, and what each leaves out is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import PASSAGES, document, gated, kept

from wbrag.config import ConfigError
from wbrag.experiments.placebos import (
    WRITTEN_ONES,
    cheat_sheet,
    check_placebos,
    cut,
    own_units,
    raw_units,
    requests,
    words,
    written_units,
)

CORPUS = [document(f"p-{i}", f"Title {i}", f"Passage {i} tells of thing {i}.") for i in range(50)]


def traces(count: int) -> list[dict[str, Any]]:
    """Kept examples with units of their own, and as many gated ones."""
    made = []
    for i in range(count):
        documents = [document(f"p-{i}-{j}", f"T{i}", f"Source {i} {j} " + "word " * 30) for j in range(3)]
        text = " ".join(f"u{i}" for _ in range(5 + i))
        unit = {"unit_id": f"wb-{i:016x}", "unit_title": f"T{i}", "unit_text": text}
        made.append(kept(id=f"train-{i}", question=f"Question {i}?", documents=documents, kept_ranks=[1, 3], **unit))
    return [*made, *(gated(id=f"gated-{i}") for i in range(count))]


def written(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Long units for the requests; every fourth reply was no passage."""
    return [
        {
            "id": row["id"],
            "status": "gated" if i % 4 == 1 else "kept",
            "units": []
            if i % 4 == 1
            else [
                {
                    "title": f"W{i}",
                    "text": f"unit {i} " + "long " * 60,
                    "source_ids": [d["id"] for d in row["documents"]],
                }
            ],
        }
        for i, row in enumerate(rows)
    ]


@given(st.integers(1, 12))
def test_raw_and_cheat_sheet_are_as_many_as_the_own_units(count: int) -> None:
    rows = traces(count)
    lengths = sorted(words(row["unit_text"]) for row in own_units(rows))
    for units in (raw_units(rows), cheat_sheet(rows)):
        assert len(units) == len({unit["id"] for unit in units}) == count
        assert all(unit["id"].startswith("placebo-") for unit in units)
    assert sorted(words(unit["text"]) for unit in raw_units(rows)) == lengths


def test_raw_units_are_the_words_of_the_kept_documents() -> None:
    (unit,) = raw_units([kept()])
    assert unit["source_ids"] == ["p-0077"]
    assert PASSAGES[1]["text"].startswith(unit["text"])


def test_only_the_cheat_sheet_sees_golden_answers() -> None:
    row = kept(golden_answers=["GOLD"], unit_text="u v w")
    (told,) = cheat_sheet([row])
    assert (told["title"], told["text"]) == (row["question"], "GOLD")
    for name in WRITTEN_ONES:
        assert "GOLD" not in str(requests(name, [row, gated(golden_answers=["GOLD"])], CORPUS, seed=1))
    assert "GOLD" not in str(raw_units([row]))


@pytest.mark.parametrize("name", WRITTEN_ONES)
def test_written_placebos_are_no_more_and_no_longer_than_the_own_units(name: str) -> None:
    rows = traces(8)
    asked = requests(name, rows, CORPUS, seed=3)
    assert asked == requests(name, rows, CORPUS, seed=3)
    assert len({row["id"] for row in asked}) == len(asked)
    units = written_units(name, written(asked), rows)
    own = own_units(rows)
    assert 0 < len(units) <= len(own)
    assert max(words(unit["text"]) for unit in units) <= max(words(row["unit_text"]) for row in own)
    assert len(units) == (6 if name == "no_documents" else 8)


def test_each_leaves_out_its_ingredient() -> None:
    rows = traces(6)
    random, ungated, alone = (requests(name, rows, CORPUS, seed=0) for name in WRITTEN_ONES)
    assert {row["documents"][0]["id"] for row in random} <= {row["id"] for row in CORPUS}
    assert all(row["judged"] for row in ungated)
    assert any(row["question"] == gated()["question"] for row in ungated)
    assert all(row["documents"] == [] and not row["judged"] for row in alone)
    assert {row["question"] for row in alone} == {f"Question {i}?" for i in range(6)}


def test_one_unit_of_several_examples_has_one_placebo() -> None:
    assert len(raw_units([kept(), kept(id="a")])) == 1
    assert cheat_sheet([kept(), kept(id="a")])[0]["example_ids"] == ["a"]


def test_an_unknown_placebo_is_named() -> None:
    with pytest.raises(ConfigError, match="placebos: 'sugar' is unknown; known are raw, random"):
        check_placebos(["raw", "sugar"])


@given(st.text(alphabet="ab \n\t", max_size=20), st.integers(0, 9))
def test_a_cut_is_a_beginning(text: str, count: int) -> None:
    assert text.split()[: max(1, count)] == cut(text, count).split()
