"""Sentences, names, words and numbers: what the rules see in texts of several scripts."""

# ruff: noqa: RUF001 -- other scripts have signs that look like Latin ones

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.units.sentences import folded, holds, names, plain, sentences, tokens, whole_sentences, words

#: Each list is one text: its sentences, which a blank joins unless the script sets none.
SPLIT = [
    ["Tesla was born in 1856.", "He died in 1943!", "Did he?", "Yes."],
    ["Dr. J. K. Brown met Mr. Hart vs. St. Olaf, e.g. on Jan. 5.", "It rained."],
    ["It lies in the U.S.", "The town is old."],
    ["After World War I.", "In 1920 it ended."],
    ["It grew by 3.5 percent.", "It is at www.example.org today."],
    ['She said "Go."', "Then she left."],
    ['She said "Go!" and left.', "Nobody came."],
    ["It was framed ... without a basis.", "It fell."],
    ["The town is old.[3]", "It lies on the Ister.[citation]"],
    ["Er starb am 7. Mai 1945 in Köln, im 20. Jahrhundert, z. B. dort.", "Sie blieb."],
    ["भारत एक देश है।", "दिल्ली राजधानी है॥"],
    ["وُلد في القاهرة؟", "كان كاتبًا.", "یہ شہر ہے۔", "نعم."],
    ["Ողջույն։", "Այո։"],
]
UNSPACED = [
    ["東京は首都です。", "人口は多い！", "本当？"],
    ["「行く。」と彼は言った。", "雨だ。"],
    ["「行く。」", "「来る。」"],
    ["他说：“好。”然后走了。", "雨停了。"],
]


@pytest.mark.parametrize("expected", SPLIT)
def test_sentences_of_scripts_with_blanks(expected: list[str]) -> None:
    assert sentences(" ".join(expected)) == expected


@pytest.mark.parametrize("expected", UNSPACED)
def test_sentences_of_scripts_without_blanks(expected: list[str]) -> None:
    assert sentences("".join(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("A title\nA sentence.", ["A title", "A sentence."]),
        ("It is . . . so. . .", ["It is . . . so. . ."]),
        ("... and so on.", ["... and so on."]),
        ("all is small. so is this.", ["all is small.", "so is this."]),
        ("1. One town. 2. Another.", ["1.", "One town.", "2.", "Another."]),
    ],
)
def test_other_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


TEXTS = st.text(st.sampled_from(" .!?\n\"')(aAbB1,।。「」é..") | st.characters(exclude_categories=["Cs"]), max_size=60)


@given(TEXTS)
def test_sentences_lose_nothing_and_each_has_a_word(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(one == one.strip() for one in found)
    if len(found) > 1:
        assert all(re.search(r"\w", one) for one in found)


@given(TEXTS)
def test_a_whole_sentence_stays_one(text: str) -> None:
    joined = " ".join(sentences(text))
    assert " ".join(sentences(joined)).split() == joined.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Panthers beat Duke of York in The Hague.", ("Panthers", "Duke of York", "Hague")),
        ("In 1900 Nikola Tesla's patents went to Westinghouse.", ("Nikola Tesla", "Westinghouse")),
        ("He met J. K. Rowling. Paris followed.", ("J. K. Rowling", "Paris")),
        ("The US Supreme Court sat.", ("US Supreme Court",)),
        ("Ludwig van Beethoven wrote it for Anton Diabelli, a publisher.", ("Ludwig van Beethoven", "Anton Diabelli")),
        ("Köln liegt am Rhein.", ("Köln", "Rhein")),
        ("Москва лежит на реке.", ("Москва",)),
        ("Teslaは発明家です。", ("Tesla",)),
        ("東京は首都です。", ()),
        ("दिल्ली राजधानी है।", ()),
        ("وُلد في القاهرة.", ()),
        ("", ()),
    ],
)
def test_names(text: str, expected: tuple[str, ...]) -> None:
    assert names(text) == expected


def test_words_say_something_and_keep_their_marks() -> None:
    assert words("The town of Oakwick is old.") == {"town", "oakwick", "old"}
    assert words("It is.") == {"it", "is"}
    assert words("हिन्दी में नहीं") == {"हिन्दी", "में", "नहीं"}
    assert words("Teslaは") == {"tesla", "は"}


@pytest.mark.parametrize(
    ("text", "phrase", "held"),
    [
        ("NIKOLA  TESLA's patents", "Nikola Tesla", True),
        ("Wilhelm Röntgen", "rontgen", True),
        ("Bogusławski", "Boguslawski", True),
        ("Nikola Tesla", "Nikola Edison", False),
        ("Teslas", "Tesla", False),
        ("in Straße", "strasse", True),
        ("वह कि", "का", False),
        ("कान में", "में", True),
        ("كِتَاب", "كتاب", True),
        ("人口は１２３", "123", True),
        ("हिन्दी में १२३", "123", True),
    ],
)
def test_holds(text: str, phrase: str, held: bool) -> None:
    assert holds(text, phrase) is held


@given(TEXTS)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)
    assert plain(plain(text)) == plain(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("31,288,288", ["31288288"]),
        ("31.288.288 und 31 288 288, 31'288'288; 31\u00a0288\u202f288", ["31288288", "und", *["31288288"] * 3]),
        ("15 000 men, 15\u00a0000", ["15000", "men", "15000"]),
        ("in 1900 300 men", ["in", "1900", "300", "men"]),
        ("1.4 million or 1,400,000", ["1400000", "or", "1400000"]),
        ("five million, two hundred, 3 thousand", ["5000000", "200", "3000"]),
        ("0.125 0,125 2.50 2,5 007", ["0.125", "0.125", "2.5", "2.5", "7"]),
        ("91 %, 91%, 91 percent, ninety-one per cent", ["91%"] * 4),
        ("the third, 3rd and 20th; Twentieth no", ["3th", "3th", "and", "20th", "twentieth", "no"]),
        ("the 1990s, 1990's and 1990", ["1990s", "1990s", "and", "1990"]),
        ("three of twenty-five, thirty one", ["3", "of", "25", "31"]),
        ("6½ MPEG-2 S2 33C 23–16", ["6", "1", "2", "mpeg", "2", "s", "2", "33", "c", "23", "16"]),
        ("$5, €5 and −5 C++", ["$", "5", "€", "5", "and", "−", "5", "c", "+", "+"]),
        ("Tesla's o'clock doesn’t a the an", ["tesla", "o'clock", "doesn't"]),
        ("1989年に１２３人", ["1989", "年", "に", "123", "人"]),
        ("१९८९ में", ["1989", "में"]),
        ("عام ١٩٨٩", ["عام", "1989"]),
        ("ประเทศ", list("ประเทศ")),
        ("Super_Bowl_50", ["super", "bowl", "50"]),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert list(tokens(text).words) == expected


def test_tokens_know_capitals_and_clauses() -> None:
    found = tokens("The Panthers, who won (in 2015), beat Denver")
    assert found.words == ("panthers", "who", "won", "in", "2015", "beat", "denver")
    assert (found.capitals, found.edges) == ({0, 6}, {1, 3, 5})


#: Two whole sentences of a script, and how a third begins.
CUT = {
    "English": ("Alder lies on the Ister.", " It has a mill [3].", " Its"),
    "Bengali": (
        "\u09a2\u09be\u0995\u09be \u09b0\u09be\u099c\u09a7\u09be\u09a8\u09c0\u0964",
        " \u098f\u099f\u09bf \u09ac\u09a1\u09bc\u0964",
        " \u098f\u0996\u09be\u09a8\u09c7",
    ),
    "Urdu": (
        "\u06cc\u06c1 \u0634\u06c1\u0631 \u06c1\u06d2\u06d4",
        " \u06a9\u06cc\u0627 \u06cc\u06c1 \u0628\u0691\u0627 \u06c1\u06d2\u061f",
        " \u06cc\u06c1",
    ),
    "Persian": (
        "\u062a\u0647\u0631\u0627\u0646 \u0628\u0632\u0631\u06af \u0627\u0633\u062a.",
        " \u0632\u06cc\u0628\u0627 \u0627\u0633\u062a!",
        " \u0622\u0646",
    ),
    "Japanese": ("\u6771\u4eac\u306f\u9996\u90fd\u3060\u3002", "\u5927\u304d\u3044\uff01", "\u4eba"),
    "Amharic": ("\u1218\u1295\u12f0\u122d \u1290\u12cd\u1362", " \u1275\u120d\u1245 \u1290\u12cd\u1367", " \u12a5"),
    "Armenian": (
        "\u0535\u0580\u0587\u0561\u0576\u0568 \u0574\u0565\u056e \u0567\u0589",
        " \u0531\u0575\u0576 \u0570\u056b\u0576 \u0567\u0589",
        " \u0531",
    ),
    "Burmese": ("\u1019\u103c\u102d\u102f\u1037\u104b", "\u1000\u103c\u102e\u1038\u104b", "\u104e"),
    "Khmer": ("\u1797\u17d2\u1793\u17c6\u1796\u17c1\u1789\u17d4", " \u1792\u17c6\u17d4", " \u1793"),
    "Tibetan": ("\u0f56\u0f7c\u0f51\u0f0d", " \u0f63\u0fb7\u0f0d", " \u0f66"),
    "Thai": (
        "\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e",
        " \u0e40\u0e1b\u0e47\u0e19\u0e40\u0e21\u0e37\u0e2d\u0e07",
        " \u0e21\u0e35",
    ),
    "Lao": ("\u0ea7\u0ebd\u0e87", " \u0ec0\u0e9b\u0eb1\u0e99", " \u0ea1"),
}


@pytest.mark.parametrize("script", CUT)
def test_of_a_text_that_was_cut_the_whole_sentences_stay(script: str) -> None:
    first, second, begun = CUT[script]
    assert whole_sentences(first + second + begun) == first + second
    assert whole_sentences(f"{first}\n{second.strip()}{begun}") == f"{first}\n{second.strip()}"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It weighs 3. It was sold for 4.", "It weighs 3."),  # of 4.5 million
        ("It is old. He met Dr.", "It is old."),
        ("It is old. He met Dr. Weiss in the", "It is old."),
        ("It rose by 3.5 m. It", "It rose by 3.5 m."),
        ("a few words", ""),
        ("", ""),
        ('He said "yes." Then he', 'He said "yes."'),
    ],
)
def test_what_may_be_no_end_is_none(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@given(st.text(st.sampled_from("aB. !\u3002\u0964\u0e01\n1"), max_size=40))
def test_what_stays_is_the_beginning_and_ends_as_sentences_do(text: str) -> None:
    whole = whole_sentences(text)
    assert text.startswith(whole)
    assert not whole or whole[-1] in ".!\u3002\u0964\u0e01"
