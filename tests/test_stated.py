"""Stated: word for word in whole clauses; every change that turns what is said is seen."""

# ruff: noqa: RUF001 -- other scripts have signs that look like Latin ones

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.units.sentences import sentences, tokens
from wbrag.units.stated import bare_title, own_title, stated

TESLA = (
    "Nikola Tesla\nNikola Tesla (10 July 1856 – 7 January 1943) was a Serbian inventor. He was born in Smiljan. In "
    "1900, Tesla was granted 17 patents. It is on record that his father was a priest. Tesla taught Robert Lane, who "
    "became an engineer. Neither Tesla nor Lane won the prize. Critics claim that Tesla was mad. According to critics, "
    "Tesla was rich. For some, Tesla is a hero. The brother of Tesla was a banker. Tesla was honoured (allegedly) in "
    "Rome. If it rains, Tesla stays home. Tesla was never married, but he was happy. Tesla won, though that is "
    "disputed. Tesla was a genius? The tower cost 15,000 dollars."
)


@pytest.mark.parametrize(
    "sentence",
    [
        "He was born in Smiljan.",
        "NIKOLA TESLA, was a Serbian inventor!",
        "Nikola Tesla (10 July 1856 - 7 January 1943) was the Serbian inventor.",
        "Tesla was granted seventeen patents.",
        "Nikola Tesla was granted 17 patents.",
        "His father was a priest.",
        "Tesla taught Robert Lane.",
        "Nikola Tesla was born in Smiljan.",
        "Tesla was born in Smiljan.",
        "Tesla was born in Smiljan and taught Robert Lane.",
        "Tesla was a Serbian inventor and was granted 17 patents and taught Robert Lane.",
        "The tower cost fifteen thousand dollars.",
        "The tower cost 15.000 dollars.",
        "He was born in Smiljan. In 1900, Tesla was granted 17 patents.",
        "Critics claim that Tesla was mad.",
        "Neither Tesla nor Lane won the prize.",
    ],
)
def test_what_stands_there_is_stated(sentence: str) -> None:
    assert stated(sentence, [TESLA], "Nikola Tesla")


@pytest.mark.parametrize(
    "sentence",
    [
        "Robert Lane taught Tesla.",
        "Tesla was taught by Robert Lane.",
        "Tesla nor Lane won the prize.",
        "Lane won the prize.",
        "Tesla was mad.",
        "Tesla was rich.",
        "Tesla is a hero.",
        "Tesla was a banker.",
        "Tesla was honoured in Rome.",
        "Tesla stays home.",
        "Tesla was married.",
        "Tesla was never married, but he was.",
        "Tesla won.",
        "Tesla was a genius.",
        "Tesla was granted patents.",
        "Tesla was granted 17.",
        "The tower cost 15,000 euros.",
        "Robert Lane was born in Smiljan.",
        "Tesla was born in Smiljan and was a banker.",
        "Tesla became an engineer.",
        "Tesla was a Serbian.",
        "Tesla born.",
        "",
        "...",
    ],
)
def test_what_says_something_else_is_not(sentence: str) -> None:
    assert not stated(sentence, [TESLA], "Nikola Tesla")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("Nikola Tesla\nTesla met Thomas Edison. He died in 1931.", False),
        ("Nikola Tesla\nTesla met Thomas Edison in 1884. He died in 1931.", False),
        ("Nikola Tesla\nTesla lived in New York. He died in 1931.", True),
        ("Nikola Tesla\nTesla lived in New York. He was old. He died in 1931.", True),
        ("Nikola Tesla\nTesla had a wife. She was old. He died in 1931.", False),
        ("Nikola Tesla\nThe winter was long. He died in 1931.", False),
        ("Nikola Tesla\nHe died in 1931.", True),
        ("Thomas Edison\nHe died in 1931.", False),
        ("He died in 1931.", True),
        ('"Nikola_Tesla"\nHe died in 1931.', True),
        ("Nikola Tesla (inventor)\nHe died in 1931.", True),
        ("Tesla family\nHer uncle John Tesla died in 1931.", False),
        ("Nikola Tesla\nTesla Motors died in 1931.", False),
    ],
)
def test_a_pronoun_is_the_passages_subject_where_nobody_else_can_be_meant(source: str, said: bool) -> None:
    assert stated("Nikola Tesla died in 1931.", [source], "Nikola Tesla") is said


def test_the_last_word_of_a_place_is_another_place() -> None:
    assert not stated("New York was founded in 71.", ["New York\nYork was founded in 71."], "New York")
    assert not stated("York was founded in 71.", ["New York\nNew York was founded in 71."], "New York")


def test_sentences_of_several_sources() -> None:
    sources = ["Oakwick\nOakwick lies on the Ryeflow.", "Herald 92\nRain fell. Oakwick was founded in 1712."]
    assert stated("Oakwick lies on the Ryeflow and was founded in 1712.", sources, "Oakwick")
    assert not stated("Oakwick lies on the Ryeflow in 1712.", sources, "Oakwick")


@pytest.mark.parametrize(
    ("source", "sentence", "said"),
    [
        ("東京都は日本の首都である。人口は約１,４００万人で、皇居がある。", "人口は約1,400万人で、皇居がある。", True),
        ("東京都は日本の首都である。", "日本は東京都の首都である。", False),
        ("彼は医者ではない。", "彼は医者で。", False),
        ("田中（1900年生まれ）は医者である。", "田中は医者である。", True),
        ("गांधी ने नेहरू को पढ़ाया।", "गांधी ने नेहरू को पढ़ाया।", True),
        ("गांधी ने नेहरू को पढ़ाया।", "नेहरू ने गांधी को पढ़ाया।", False),
        ("गांधी ने नेहरू को नहीं पढ़ाया।", "गांधी ने नेहरू को पढ़ाया।", False),
        ("عَلَّمَ أحمد عليًا عام ١٩٨٩.", "علم أحمد عليا عام 1989.", True),
        ("علم أحمد عليا.", "علم علي أحمدا.", False),
        ("لم يعلم أحمد عليا.", "يعلم أحمد عليا.", False),
        ("Köln (Stadt am Rhein) hat 1.073.096 Einwohner.", "Köln hat 1 073 096 Einwohner.", True),
        ("Adenauer lehrte Böll.", "Böll lehrte Adenauer.", False),
        ("Wenn es regnet, ist Köln nass.", "Ist Köln nass.", False),
        ("Adenauer lehrte Böll nicht.", "Adenauer lehrte Böll.", False),
        ("S'il pleut, Paris est mouillé.", "Paris est mouillé.", False),
        ("ทินกรสอนมาลี", "มาลีสอนทินกร", False),
    ],
)
def test_other_scripts_and_languages(source: str, sentence: str, said: bool) -> None:
    assert stated(sentence, [source]) is said


def test_titles() -> None:
    assert own_title('"Super_Bowl_50"\nText.') == "Super Bowl 50"
    assert own_title("Only a text.") == ""
    assert bare_title("Sky (United Kingdom)") == "Sky"
    assert bare_title("(500) Days of Summer") == "(500) Days of Summer"


TEXTS = st.text(st.sampled_from(" .!?\n(),AaBbé1२।。東「」-") | st.characters(exclude_categories=["Cs"]), max_size=80)


@given(TEXTS, TEXTS, st.sampled_from(["", "Aa B", "1"]))
def test_a_sentence_of_a_source_is_stated(source: str, other: str, title: str) -> None:
    for sentence in sentences(source):
        if tokens(sentence).words:
            assert stated(sentence, [other, source], title)
