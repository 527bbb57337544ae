"""What kept evidence is about and what is said of it: rules on names and sentences, and that nothing is lost or told
twice.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.schema import Document
from wbrag.units.requests import (
    ALIKE,
    Statement,
    candidates,
    mentioned,
    once,
    packed,
    said,
    standing,
    statements,
    subject_of,
)
from wbrag.units.sentences import folded, holds, plain_title, sentences, words

MILL = Document("a", "Oakwick", "Oakwick is a town on the Osk. Its mill was built by Ida Brandt in 1904.")
RIVER = Document("b", "Osk", "The Osk is a river. Oakwick and Elm lie on it. The river Osk rises near Elm.")
PERSON = Document("c", '"Tesla"', "Nikola Tesla was an engineer. Tesla was born in Smiljan. He left it in 1870.")


@pytest.mark.parametrize(
    ("question", "documents", "subject"),
    [
        ("What river is Oakwick on?", [MILL], "Oakwick"),
        ("What river is OAKWICK on?", [MILL], "OAKWICK"),  # as it is asked; case does not matter
        ("Who built the mill of Elm, near Oakwick?", [MILL], "Oakwick"),  # the passage does not hold Elm
        ("Who built the mill of Elm, near Oakwick?", [MILL, RIVER], "Elm"),  # one of them does
        ("what river is oakwick on?", [RIVER, MILL], "Osk"),  # no name: the first passage's title
        ("When was Tesla born?", [PERSON], "Tesla"),
        ("When was Edison born?", [PERSON], "Tesla"),  # its name stands in no passage
    ],
)
def test_the_subject_is_the_first_name_that_a_passage_holds(
    question: str, documents: list[Document], subject: str
) -> None:
    assert subject_of(question, documents) == subject


@pytest.mark.parametrize(
    ("title", "plain"),
    [('"New_York"', "New York"), ("'Tis", "Tis"), (" A  B ", "A B"), ("Rock 'n' Roll", "Rock 'n' Roll"), ("", "")],
)
def test_a_title_is_told_as_a_person_writes_it(title: str, plain: str) -> None:
    assert plain_title(title) == plain


def test_statements_are_the_sentences_that_begin_with_the_subject() -> None:
    told = statements("Oakwick", [MILL, RIVER])
    assert told == [Statement("Oakwick is a town on the Osk.", "a"), Statement("Oakwick and Elm lie on it.", "b")]
    first_name = ["The Osk is a river.", "The river Osk rises near Elm."]
    assert [one.text for one in statements("osk", [MILL, RIVER])] == first_name
    assert [one.text for one in statements("Tesla", [PERSON])] == [
        "Nikola Tesla was an engineer.",
        "Tesla was born in Smiljan.",
    ]
    assert statements("Nikola Tesla", [PERSON]) == [Statement("Nikola Tesla was an engineer.", "c")]
    assert statements("Tesla", [Document("d", "", "he left it. He left it. It is his.")]) == []


def test_what_a_passage_cuts_off_is_no_statement() -> None:
    passage = Document(
        "a",
        "Osk",
        "and flows to the sea. The Osk is a river.\nHistory\nThe Osk was mapped.[citation needed] The Osk was named",
    )
    assert said(passage) == ["The Osk is a river.", "The Osk was mapped.[citation needed]"]
    assert [one.text for one in statements("Osk", [passage])] == said(passage)
    assert [one.text for one in candidates("Osk", [passage])] == said(passage)
    assert standing(["The Osk was named", "The Osk is a river."], passage) == [Statement(said(passage)[0], "a")]
    assert said(Document("b", "Osk", "the osk is a river. it is long.")) == ["the osk is a river.", "it is long."]
    assert said(Document("c", "osk", "the osk is a river\nit is long")) == ["the osk is a river", "it is long"]
    assert said(Document("d", "\u6cb3", "\u6cb3\u5f88\u957f\u3002\u5b83\u6d41")) == ["\u6cb3\u5f88\u957f\u3002"]


def test_candidates_hold_the_name_or_are_all_where_none_does() -> None:
    assert [one.text for one in candidates("Osk", [MILL, RIVER])] == [
        "Oakwick is a town on the Osk.",
        "The Osk is a river.",
        "The river Osk rises near Elm.",
    ]
    assert [one.text for one in candidates("Edison", [PERSON])] == sentences(PERSON.text)
    assert candidates("", [MILL]) == [Statement(text, "a") for text in sentences(MILL.text)]
    assert candidates("Osk", [Document("e", "Osk", "")]) == []


def test_mentioned_are_other_names_and_no_beginnings_of_sentences() -> None:
    told = [
        *statements("Oakwick", [MILL, RIVER]),
        Statement("Swimming in Oakwick Bay is free for Ida Brandt.", "d"),
        Statement("Port Elm is near the OSK.", "d"),
    ]
    assert mentioned(told, "Oakwick") == ["Osk", "Elm", "Ida Brandt", "Port Elm"]
    assert mentioned([Statement("Tesla met Nikola Tesla in Smiljan.", "c")], "Tesla") == ["Smiljan"]


def test_of_two_statements_with_the_same_words_the_first_stays_and_of_more_words_the_longer() -> None:
    short, same, long = (
        Statement("The mill is old.", "a"),
        Statement("Old is the mill!", "b"),
        Statement("The mill of Oakwick is old.", "c"),
    )
    assert once([short, same]) == [short]
    assert once([short, same, long]) == once([long, same, short]) == [long]
    other = Statement("The mill is tall.", "a")
    assert once([short, other]) == [short, other]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["Its mill was built by Ida Brandt in 1904."], [1]),
        (["The mill was built by Ida Brandt.", "Oakwick, on the Osk, is a town."], [1, 0]),  # in the reply's order
        (["The mill was built in 1904 by Ida Brandt.", "Its mill was built by Ida Brandt in 1904."], [1]),
        (["Oakwick is the largest harbour of the whole northern coast."], []),
        (["", "None."], []),
        ([], []),
    ],
)
def test_an_extraction_is_held_against_the_sentences_that_stand_there(lines: list[str], found: list[int]) -> None:
    there = sentences(MILL.text)
    assert standing(lines, MILL) == [Statement(there[i], "a") for i in found]


WORDS = ["Oakwick", "mill", "Osk", "river", "the", "is", "old", "Elm"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(lambda some: f"{' '.join(some)}.")
TOLD = st.lists(st.builds(Statement, TEXTS, st.sampled_from("abc")), max_size=10)


@given(TOLD)
def test_once_keeps_every_word_and_says_nothing_twice(told: list[Statement]) -> None:
    kept = once(told)
    left = iter(told)
    assert all(any(one is other for other in left) for one in kept)  # theirs, in their order
    said = [words(one.text) for one in kept]
    assert all(any(words(one.text) <= own for own in said) for one in told)
    assert all(not one <= other for i, one in enumerate(said) for j, other in enumerate(said) if i != j)
    assert once(kept) == kept


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 60))
def test_packed_loses_and_repeats_nothing_and_keeps_to_the_budget(lengths: list[int], budget: int) -> None:
    told = [Statement(f"Sentence {i}.", str(n)) for i, n in enumerate(lengths)]
    units = packed(told, dict(zip((one.text for one in told), lengths, strict=True)).__getitem__, budget)
    assert [one for unit in units for one in unit] == told
    sizes = [[int(one.source) for one in unit] for unit in units]
    assert all(size and (sum(size) <= budget or len(size) == 1) for size in sizes)
    assert all(sum(one) + other[0] > budget for one, other in pairwise(sizes))  # no unit too many


@given(st.lists(TEXTS, min_size=1, max_size=5), st.lists(TEXTS, max_size=5), st.permutations(range(5)))
def test_standing_finds_whole_sentences_and_nothing_that_is_not_there(
    there: list[str], others: list[str], order: list[int]
) -> None:
    document = Document("d", "T", " ".join(there))
    stated = list(dict.fromkeys(said(document)))
    distinct = list({words(text): text for text in reversed(stated)}.values())  # the first of those of the same words
    named = [distinct[i] for i in order if i < len(distinct)]
    assert standing(named, document) == [Statement(text, "d") for text in named]
    found = standing(others, document)
    assert len({one.text for one in found}) == len(found)
    for one in found:
        alike = [len(words(one.text) & words(o)) / len(words(one.text) | words(o)) for o in others]
        assert one.text in stated
        assert max(alike) >= ALIKE


@given(TOLD, st.sampled_from(["Oakwick", "Osk", "Elm"]))
def test_names_mentioned_are_others_each_once(told: list[Statement], name: str) -> None:
    found = mentioned(told, name)
    assert len({folded(one) for one in found}) == len(found)
    assert all(any(holds(one.text, other) for one in told) for other in found)
    assert not any(holds(name, other) or holds(other, name) for other in found)
