"""Which sentences say other values of one fact."""

from __future__ import annotations

import pytest

from wbrag.units.facts import facts

SAME = [
    ("Oakton was governed by Ada Elm.", "As the almanac notes, Oakton was governed by Tom Ash."),
    ("The mayor of Oakton is Ada Elm.", "The mayor of Oakton is Tom Ash."),
    ("Oakton's mayor is Ada Elm.", "Oakton's mayor is Tom Ash."),
    ("Ada Elm is the mayor of Oakton.", "Tom Ash is the mayor of Oakton."),
    ("Oakton was founded in 1679.", "It is on record that Oakton was founded in 1697."),
    ("Oakton has 3,000 inhabitants.", "Oakton has 3200 inhabitants."),
    ("Ada Elm was born on May 3, 1920.", "Ada Elm was born on May 4, 1921."),
    ("Fox Ltd has its seat in Oakton.", "Fox Ltd has its seat in Elmton."),
    ("The population of Oakton is 1.4 million.", "The population of Oakton is 1,500,000."),
]
OTHER = [
    ("Oakton lies on the Elm.", "Oakton lies on the Ash."),  # it may lie on both
    ("Oakton is a town in Norvale.", "Oakton is a town in Kent."),
    ("Ada Elm won the cup in 1990.", "Ada Elm won the cup in 1994."),
    ("Oakton was founded in 1920.", "Oakton was founded in May 1920."),
    ("Oakton was governed by Elm.", "Oakton was governed by Ada Elm."),
    ("Oakton was governed by Ada Elm.", "Elmton was governed by Tom Ash."),
    ("In 1920, Oakton has 300 inhabitants.", "In 1930, Oakton has 400 inhabitants."),
    ("Ada Elm was born in Oakton.", "Ada Elm was born in 1920."),
    ("A famous resident of Oakton is Ada Elm.", "A famous resident of Oakton is Tom Ash."),
    ("He was born in 1920.", "He was born in 1930."),
    ("The population of Oakton is 1.4 million.", "The population of Oakton is 1,400,000."),
]


def against(one: str, other: str) -> bool:
    return any(a.contradicts(b) for a in facts(one) for b in facts(other))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_another_value_of_the_same_fact(one: str, other: str) -> None:
    assert against(one, other)
    assert against(other, one)
    assert not against(one, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_no_value_of_the_same_fact(one: str, other: str) -> None:
    assert not against(one, other)
    assert not against(other, one)
