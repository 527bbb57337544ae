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


@pytest.mark.parametrize(
    ("said", "golden"),
    [
        ("\u0661\u0669\u0669\u0668", "1998"),
        ("\u0967\u096f\u096a\u096d", "1947"),
        ("\u0e52\u0e55\u0e56\u0e50", "2560"),
        ("\u06a9\u062a\u0627\u0628\u06cc", "\u0643\u062a\u0627\u0628\u064a"),  # Persian letters, Arabic ones
        ("\u2764\ufe0f", "\u2764"),
        ("\u22125", "-5"),
        ("\u00bd", "1/2"),
    ],
)
def test_digits_and_forms_of_other_scripts_are_one_for_any_language(said: str, golden: str) -> None:
    assert [metrics.score(name, said, [golden], {}, "any") for name in ("em", "acc", "f1")] == [1.0, 1.0, 1.0]
    assert metrics.em(said, [golden]) == 0.0  # FlashRAG's


def test_a_label_that_only_english_makes_nothing_says_what_keeps_it() -> None:
    with pytest.raises(ValueError, match=r"'A' normalises to nothing; benchmark\.language=any keeps it"):
        metrics.spellings({"A": []})
    with pytest.raises(ValueError, match=r"'\.\.\.' normalises to nothing$"):
        metrics.spellings({"...": []})


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


#: An answer and a golden answer that say the same in Unicode's form, and not in FlashRAG's.
SAME_BY_UNICODE = {
    "Chinese, full stop": ("\u4e0a\u6d77\u3002", "\u4e0a\u6d77"),
    "Chinese, brackets": ("\u3010\u4e09\u56fd\u6f14\u4e49\u3011", "\u4e09\u56fd\u6f14\u4e49"),
    "full-width letters": ("\uff2e\uff21\uff34\uff2f", "NATO"),
    "half-width katakana": ("\uff84\uff96\uff80", "\u30c8\u30e8\u30bf"),
    "decomposed": ("Sa\u0303o Paulo", "S\u00e3o Paulo"),
    "danda": ("\u092e\u0941\u0902\u092c\u0908\u0964", "\u092e\u0941\u0902\u092c\u0908"),
    "Arabic comma": ("\u0627\u0644\u0642\u0627\u0647\u0631\u0629\u060c", "\u0627\u0644\u0642\u0627\u0647\u0631\u0629"),
    "Arabic vowels": ("\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f", "\u0645\u062d\u0645\u062f"),
    "Ethiopic stop": ("\u12a0\u12f2\u1235\u1362", "\u12a0\u12f2\u1235"),
    "Armenian stop": ("\u0535\u0580\u0587\u0561\u0576\u0589", "\u0535\u0580\u0587\u0561\u0576"),
    "guillemets": ("\u00abLe Monde\u00bb", "le monde"),
    "low quotes": ("\u201eFaust\u201c", "Faust"),
    "dash": ("1914\u20131918", "1914-1918"),
    "sharp s": ("GROSSE", "Gro\u00dfe"),
    "dotted I": ("\u0130zmir", "izmir"),
    "zero-width": ("Par\u200bis", "Paris"),
    "Persian joiner": ("\u0645\u06cc\u200c\u0631\u0648\u0645", "\u0645\u06cc\u0631\u0648\u0645"),
}


@pytest.mark.parametrize("name", SAME_BY_UNICODE)
def test_by_unicode_punctuation_and_forms_of_no_script_make_a_difference(name: str) -> None:
    said, golden = SAME_BY_UNICODE[name]
    assert metrics.em(said, [golden]) == 0.0
    for metric in TEXT_METRICS:
        assert metrics.score(metric, said, [golden], {}, "any") == 1.0


def test_by_unicode_characters_are_words_where_no_blanks_are_set() -> None:
    assert metrics.f1("\u7b54\u6848\u662f\u5317\u4eac", ["\u5317\u4eac"], "any") == pytest.approx(2 * 2 / (5 + 2))
    assert metrics.acc("\u7b54\u6848\u662f\u5317\u4eac", ["\u5317\u4eac"], "any") == 1.0
    assert metrics.em("Tokyo \u6771\u4eac", ["tokyo\u6771\u4eac"], "any") == 1.0


def test_by_unicode_no_word_is_an_article() -> None:
    assert metrics.em("A", ["a."], "any") == 1.0
    assert metrics.em("Vitamin A", ["Vitamin"], "any") == 0.0
    assert metrics.golden_label("A", {"A": [], "B": []}, "any") == "A"
    assert metrics.label_accuracy("B) because", ["B"], {"A": [], "B": []}, "any") == 1.0


@given(texts)
@settings(deadline=None)
def test_the_unicode_form_is_its_own(text: str) -> None:
    assert metrics.normalise(metrics.normalise(text, "any"), "any") == metrics.normalise(text, "any")


def test_golden_answers_that_no_metric_can_score_are_told() -> None:
    assert metrics.scorable(["A", "The", "...", "an A-team"]) == ["an A-team"]
    assert metrics.scorable(["A", "\u3002\u3002", "..."], "any") == ["A"]
    assert [metrics.inside_words([golden]) for golden in ("no", "True.", "Ed", "Nora", "1", "New York")] == [
        *(True, True, True, False, False, False)
    ]
