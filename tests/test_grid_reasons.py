"""Why a setting does not gain: counts that add up, and one sentence that they bear out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.experiments.grid import Point, fates, why
from wbrag.report.evaluation import Setting

CONSTRUCTION = {"units": 3, "kept": 4, "examples": 9, "reasons": {"delta <= tau_delta": 5}}
scores = st.sampled_from([0.0, 0.5, 1.0])
questions = st.lists(
    st.tuples(scores, scores, st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=30
)


def point(rows: list[tuple[float, float, bool, bool, int]], labels: bool = False, **changes: object) -> Point:
    """A setting from (base score, score with write-back, answer found before, after, units read) by question."""
    unknown = float("nan")
    base, writeback, before, after, units = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    return Point(
        run=Path("run"),
        setting=Setting("nq", "naive", "m", "f1"),
        answers={
            "id": np.array([f"q{i}" for i in range(len(rows))], dtype=object),
            "gain": writeback - base,
            "retrieval_recall_base": before * unknown if labels else before,
            "retrieval_recall_writeback": after * unknown if labels else after,
            "writeback_hits": units,
        },
        metrics={"construction": CONSTRUCTION | changes},
        tokens=[],
        config={},
    )


@given(questions)
def test_every_question_that_got_worse_has_one_reason(rows: list[tuple[float, float, bool, bool, int]]) -> None:
    fate = fates(point(rows))
    assert fate["lost"] + fate["there"] + fate["never"] + fate["unread"] == fate["worse"]
    assert fate["better"] + fate["worse"] <= len(rows)
    assert (fate["example"] is None) == (not fate["worse"] and not fate["read"])
    assert why(fate).endswith(".")


@given(questions)
def test_where_labels_are_answers_nothing_is_said_of_documents(
    rows: list[tuple[float, float, bool, bool, int]],
) -> None:
    fate = fates(point(rows, labels=True))
    assert fate["lost"] is fate["there"] is fate["never"] is None
    assert "document" not in why(fate).replace("among its documents", "").replace("what the documents had", "")


LOST, MISREAD, UNREAD = (1.0, 0.0, True, False, 2), (1.0, 0.5, True, True, 1), (1.0, 0.0, True, True, 0)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([LOST, LOST, MISREAD], "3 questions read a unit; 0 got better, 3 worse: for 2 of the worse, units pushed"),
        ([MISREAD, MISREAD, LOST], "for 2 of the worse, a document with the answer was there and was misread"),
        ([(0.5, 0.0, False, False, 1)], "for 1 of the worse, no document had held the answer"),
        ([UNREAD, (0.0, 0.0, True, True, 1)], "for 1 of the worse, no unit was read"),
        ([(1.0, 1.0, True, True, 2)], "units said what the documents had said already"),
        ([(1.0, 1.0, True, True, 0)], "No test question found a unit"),
    ],
)
def test_the_chief_reason_is_told(rows: list[tuple[float, float, bool, bool, int]], told: str) -> None:
    assert told in why(fates(point(rows)))


def test_without_a_unit_the_gate_is_named() -> None:
    fate: dict[str, Any] = fates(point([LOST], units=0, kept=0))
    assert why(fate) == "No unit was written: delta <= tau_delta, for 5 of 9 examples."
    assert "no example was there" in why(fates(point([LOST], units=0, reasons={})))
