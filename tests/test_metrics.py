"""The metrics against FlashRAG's own values and against the laws they obey."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag import metrics

VECTORS = [json.loads(line) for line in (Path(__file__).parent / "data/metric_vectors.jsonl").open(encoding="utf-8")]
TEXT_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "em": metrics.em,
    "acc": metrics.acc,
    "f1": metrics.f1,
    "precision": metrics.precision,
    "recall": metrics.recall,
}
CLAIM = {"SUPPORTS": ["supported", "true", "yes"], "REFUTES": ["refuted", "false", "no", "not true"]}

#: Texts of few words, so that two of them often share some.
words = st.sampled_from(["Paris", "paris,", "the", "A", "yes", "no", "U.S.", "noanswer", "1999", "é", "%", "..."])
texts = st.one_of(st.lists(words, max_size=5).map(" ".join), st.text(max_size=12))
golden_lists = st.lists(texts, min_size=1, max_size=3)


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_every_golden_vector_is_equal_to_the_last_bit(name: str) -> None:
    assert len(VECTORS) == 300
    for vector in VECTORS:
        value = TEXT_METRICS[name](vector["prediction"], vector["golden_answers"])
        assert value == vector[name], vector
        assert isinstance(value, float), vector


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.S. of A.", "us of"),
        ("  New \t York\n", "new york"),
        ("another theatre", "another theatre"),
        ("O’Brien", "o’brien"),  # noqa: RUF001 -- only ASCII punctuation goes
        ("a.b", "ab"),  # punctuation goes before articles
        ("a-the", "athe"),
        ("The", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert metrics.normalise(text) == expected


@given(texts)
@settings(deadline=None)
def test_normal_form_has_no_upper_ascii_punctuation_article_or_double_space(text: str) -> None:
    normal = metrics.normalise(text)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert not {"a", "an", "the"} & set(normal.split())


@given(texts, golden_lists)
@settings(deadline=None)
def test_values_are_bounded_and_f1_is_never_above_the_better_of_its_parts(prediction: str, golden: list[str]) -> None:
    values = {name: metric(prediction, golden) for name, metric in TEXT_METRICS.items()}
    assert all(0.0 <= value <= 1.0 for value in values.values())
    assert {values["em"], values["acc"]} <= {0.0, 1.0}
    assert values["f1"] <= max(values["precision"], values["recall"]) * (
        1 + 1e-15
    )  # rounding: one unit in the last place
    assert (values["f1"] > 0) == (values["precision"] > 0) == (values["recall"] > 0)


@given(texts, golden_lists)
@settings(deadline=None)
def test_em_implies_acc_and_where_a_word_is_left_f1(prediction: str, golden: list[str]) -> None:
    if metrics.em(prediction, golden) == 1.0:
        assert metrics.acc(prediction, golden) == 1.0
        assert metrics.f1(prediction, golden) == (1.0 if metrics.normalise(prediction) else 0.0)


@given(texts)
@settings(deadline=None)
def test_a_text_answers_itself(text: str) -> None:
    assert metrics.em(text, [text]) == metrics.acc(text, [text]) == 1.0
    expected = 1.0 if metrics.normalise(text) else 0.0
    assert metrics.f1(text, [text]) == metrics.precision(text, [text]) == metrics.recall(text, [text]) == expected


@given(texts, texts)
@settings(deadline=None)
def test_exchanging_the_two_texts_keeps_em_and_f1_and_swaps_precision_with_recall(a: str, b: str) -> None:
    assert metrics.em(a, [b]) == metrics.em(b, [a])
    assert metrics.f1(a, [b]) == metrics.f1(b, [a])
    assert metrics.precision(a, [b]) == metrics.recall(b, [a])


@given(texts, golden_lists, golden_lists)
@settings(deadline=None)
def test_the_value_is_the_best_over_golden_answers(prediction: str, some: list[str], more: list[str]) -> None:
    for metric in TEXT_METRICS.values():
        assert metric(prediction, some + more) == max(metric(prediction, some), metric(prediction, more))


@pytest.mark.parametrize("metric", TEXT_METRICS.values())
def test_without_golden_answers_nothing_is_right(metric: Callable[[str, Sequence[str]], float]) -> None:
    assert metric("Paris", []) == 0.0


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_bare_string_is_no_list_of_golden_answers(name: str) -> None:
    with pytest.raises(TypeError, match="'Paris'"):
        metrics.score(name, "Paris", "Paris", CLAIM)


@pytest.mark.parametrize(
    ("prediction", "golden", "expected"),
    [
        ("SUPPORTS", "SUPPORTS", 1.0),
        ("supports.", "SUPPORTS", 1.0),
        ("Yes, it is.", "true", 1.0),
        ("The claim is false, not true.", "REFUTES", 1.0),
        ("not true", "no", 1.0),  # the longest spelling wins over "true"
        ("It is true, no doubt", "SUPPORTS", 1.0),  # the first recognised word decides
        ("no", "SUPPORTS", 0.0),
        ("unknown", "REFUTES", 0.0),  # "no" inside a word is not "no"
        ("untrue", "SUPPORTS", 0.0),
        ("I cannot say", "REFUTES", 0.0),
        ("", "REFUTES", 0.0),
    ],
)
def test_label_accuracy(prediction: str, golden: str, expected: float) -> None:
    assert metrics.label_accuracy(prediction, [golden], CLAIM) == expected


def test_any_golden_label_will_do() -> None:
    assert metrics.label_accuracy("no", ["SUPPORTS", "REFUTES"], CLAIM) == 1.0


@pytest.mark.parametrize("golden", ["NOT ENOUGH INFO", "true love", ""])
def test_an_unknown_golden_label_is_named_beside_the_known(golden: str) -> None:
    with pytest.raises(ValueError, match=f"unknown golden label '{golden}'; known labels are SUPPORTS, REFUTES"):
        metrics.label_accuracy("SUPPORTS", [golden], CLAIM)


def test_a_golden_label_without_any_labels_is_unknown() -> None:
    with pytest.raises(ValueError, match="'yes'; known labels are none"):
        metrics.label_accuracy("yes", ["yes"], {})


def test_spellings_that_cannot_work_are_named() -> None:
    with pytest.raises(ValueError, match="'no' belongs to both 'yes' and 'no'"):
        metrics.spellings({"yes": ["no."], "no": []})
    with pytest.raises(ValueError, match="label 'A': spelling 'A' normalises to nothing"):
        metrics.spellings({"A": []})


@given(st.sampled_from([*CLAIM["SUPPORTS"], *CLAIM["REFUTES"], *CLAIM]), st.sampled_from(["", "!", " indeed", ", a b"]))
@settings(deadline=None)
def test_a_spelling_in_front_decides_whatever_follows(spelling: str, rest: str) -> None:
    golden = metrics.golden_label(spelling, CLAIM)
    assert metrics.predicted_label(spelling.upper() + rest, CLAIM) == golden


@given(texts, golden_lists)
@settings(deadline=None)
def test_score_finds_each_metric_by_name(prediction: str, golden: list[str]) -> None:
    for name, metric in TEXT_METRICS.items():
        assert metrics.score(name, prediction, golden, {}) == metric(prediction, golden)


def test_score_knows_labels_and_names_an_unknown_metric() -> None:
    assert metrics.score("label", "Yes", ["SUPPORTS"], CLAIM) == 1.0
    assert set(metrics.METRICS) == {*TEXT_METRICS, "label"}
    with pytest.raises(ValueError, match="unknown metric 'rouge'; known are em, acc, f1, precision, recall, label"):
        metrics.score("rouge", "x", ["x"], {})
