"""Overlap with training and exposure to units, held against a comparison of every pair."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import PASSAGES, UNIT, prediction

from wbrag.metrics import normalise
from wbrag.report.evaluation import Setting, answers_of, overlap_of
from wbrag.report.overlap import EXPOSURES, SAME_ANSWER_WORDS, SAME_WORDS, TrainingQuestions, content_words, jaccard

WORDS = ["river", "mayor", "glass", "town", "north", "painter", "born", "osk"]
questions = st.builds(" ".join, st.lists(st.sampled_from(WORDS), min_size=1, max_size=7))
rows = st.builds(
    lambda question, answer: {"question": question, "golden_answers": [answer], "documents_writeback": []},
    questions,
    st.sampled_from(["Elm", "the Elm", "Port"]),
)


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "id": f"train-{i}"} for i, row in enumerate(rows)]


def near(a: dict[str, Any], b: dict[str, Any], labels: bool) -> bool:
    """The rule, spelt out."""
    shared = jaccard(content_words(a["question"]), content_words(b["question"]))
    same = {normalise(x) for x in a["golden_answers"]} & {normalise(x) for x in b["golden_answers"]}
    return shared >= SAME_WORDS or (not labels and bool(same) and shared >= SAME_ANSWER_WORDS)


@given(st.lists(rows, max_size=20), st.lists(rows, min_size=1, max_size=5), st.booleans())
def test_overlap_is_that_of_a_comparison_with_every_training_question(
    training: list[dict[str, Any]], tested: list[dict[str, Any]], labels: bool
) -> None:
    known = {normalise(a) for row in training for a in row["golden_answers"]}
    found = TrainingQuestions(numbered(training), tested, labels)
    for test in tested:
        answer = not labels and normalise(test["golden_answers"][0]) in known
        expected = "question" if any(near(test, row, labels) for row in training) else "answer" if answer else "none"
        assert found.overlap(test) == expected


@given(
    st.lists(rows, max_size=12),
    rows,
    st.lists(st.sampled_from(["wb-1", "wb-2", "wb-3"]), max_size=3),
    st.lists(st.sets(st.integers(0, 12)), min_size=2, max_size=2),
)
def test_exposure_is_one_class_and_the_first_that_holds(
    training: list[dict[str, Any]], test: dict[str, Any], read: list[str], behind_units: list[set[int]]
) -> None:
    """A unit has any number of examples behind it, an example any number of units."""
    training = numbered(training)
    units = [UNIT | {"id": key, "text": "An elm." if key == "wb-2" else "Nothing."} for key in read]
    made = [
        {"id": f"wb-{i}", "example_ids": [f"train-{number}" for number in sorted(numbers)]}
        for i, numbers in enumerate(behind_units, 1)
    ]
    row = test | {"documents_writeback": [*units, *PASSAGES]}
    asked = TrainingQuestions(training, [row], units=made)
    found = asked.exposure(row)
    behind = [row for row in training if any(u["id"] in read and row["id"] in u["example_ids"] for u in made)]
    if any(near(test, row, labels=False) for row in behind):
        assert found == "near_duplicate"
    elif not read:
        assert found == "none"
    else:
        gold = "wb-2" in read and "elm" in test["golden_answers"][0].lower()
        assert found == ("gold" if gold else "other")
    assert found in EXPOSURES


def test_a_label_gives_nothing_away() -> None:
    unit = UNIT | {"text": "There is no answer."}
    row = {"question": "Is it so?", "golden_answers": ["no"], "documents_writeback": [unit]}
    assert TrainingQuestions([], [row], labels=True).exposure(row) == "other"
    assert TrainingQuestions([], [row]).exposure(row) == "gold"


def test_answers_are_compared_as_the_benchmarks_metric_does() -> None:
    unit = UNIT | {"text": "Это Ёлкино, дом № ١٢."}
    row = {"question": "Где?", "golden_answers": ["12"], "documents_writeback": [unit]}
    assert TrainingQuestions([], [row]).exposure(row) == "other"
    assert TrainingQuestions([], [row], language="any").exposure(row) == "gold"


def test_what_the_metadata_says_of_overlap_holds() -> None:
    training = TrainingQuestions([prediction()], [prediction()])
    assert overlap_of(prediction(), training) == "answer"
    assert overlap_of(prediction(metadata="{}"), training) == "question"
    assert overlap_of(prediction(metadata="{}")) is None


@pytest.mark.parametrize(("documents", "told"), [([UNIT], "unit"), (PASSAGES, "none"), (None, "none")])
def test_without_training_questions_only_units_are_told(documents: list[dict[str, Any]] | None, told: str) -> None:
    setting = Setting("toy_nq", "naive", "micro_small", "acc")
    assert answers_of([prediction(documents_writeback=documents)], setting)["exposure"].tolist() == [told]
