"""Which passages and units a question's reader is given: laws of the two merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import ConfigError, Merge
from wbrag.retrieval.merge import admitted, check_merge, merged
from wbrag.schema import Document, Source

#: Few distinct scores make many ties; as float32 holds them exactly, so do margins between them.
SCORES = [0.0, 0.25, 0.5, 0.625, 0.75, 1.0]


@st.composite
def ranked(draw: st.DrawFn, source: str = "base", most: int = 8) -> list[Document]:
    """Documents of one store, best first, of 2 to 41 characters."""
    drawn = draw(st.lists(st.tuples(st.sampled_from(SCORES), st.integers(1, 40)), max_size=most))
    found = sorted(drawn, key=lambda one: -one[0])
    where = cast(Source, source)
    return [Document(f"{source}{i}", "", "x" * n, score, where) for i, (score, n) in enumerate(found)]


PASSAGES, UNITS = ranked(), ranked("writeback")
PLACES = st.integers(1, 10)
MARGINS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 2.0])
ROOMS = st.sampled_from([0.25, 0.5, 1.0, 2.0]) | st.floats(0, 2)


def characters(documents: Sequence[Document]) -> int:
    return sum(len(document.contents) for document in documents)


@given(PASSAGES, UNITS, PLACES)
def test_plain_takes_the_better_head_of_two_lists_until_it_is_full(
    passages: list[Document], units: list[Document], k: int
) -> None:
    expected: list[Document] = []
    left, right = list(passages), list(units)
    while len(expected) < k and (left or right):
        unit_first = bool(right) and (not left or right[0].score > left[0].score)
        expected.append((right if unit_first else left).pop(0))
    assert merged(passages, units, k, Merge()) == expected


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS)
def test_beside_keeps_every_passage_and_its_place_among_them(
    passages: list[Document], units: list[Document], k: int, margin: float, room: float
) -> None:
    merge = Merge("beside", margin, room)
    beside = admitted(passages, units, k, merge)
    assert merged(passages, units, k, merge) == [*beside, *passages]
    assert len(beside) <= k
    assert [unit for unit in units if unit in beside] == beside  # theirs, in their order, each once
    if passages:
        assert all(unit.score >= passages[0].score - margin for unit in beside)
        assert characters(beside) <= room * characters(passages)
    else:
        assert beside == units[:k]


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS)
def test_a_near_unit_is_left_out_only_where_it_does_not_fit(
    passages: list[Document], units: list[Document], k: int, margin: float, room: float
) -> None:
    beside = admitted(passages, units, k, Merge("beside", margin, room))
    for unit in units:
        better = [one for one in beside if units.index(one) < units.index(unit)]
        if unit in beside or not passages or unit.score < passages[0].score - margin or len(better) == k:
            continue
        assert characters([*better, unit]) > room * characters(passages)


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS)
def test_what_is_admitted_is_admitted_again(
    passages: list[Document], units: list[Document], k: int, margin: float, room: float
) -> None:
    merge = Merge("beside", margin, room)
    once = admitted(passages, units, k, merge)
    assert admitted(passages, once, k, merge) == once


@given(PASSAGES, UNITS, PLACES, MARGINS, MARGINS, ROOMS)
def test_a_wider_margin_only_adds_units_at_the_end(
    passages: list[Document], units: list[Document], k: int, one: float, other: float, room: float
) -> None:
    near, far = (admitted(passages, units, k, Merge("beside", margin, room)) for margin in sorted((one, other)))
    assert far[: len(near)] == near


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS, ROOMS)
def test_more_room_is_given_to_the_better_unit(
    passages: list[Document], units: list[Document], k: int, margin: float, one: float, other: float
) -> None:
    """Not a superset: where a longer, better unit fits, shorter ones behind it may not any more."""
    small, large = (admitted(passages, units, k, Merge("beside", margin, room)) for room in sorted((one, other)))
    differ = [unit for unit in units if (unit in small) != (unit in large)]
    assert not differ or differ[0] in large
    assert characters(small) <= characters(large)


def test_a_unit_may_fill_the_room_to_the_last_character_and_be_as_far_as_the_margin() -> None:
    passage, unit = Document("p", "", "x" * 39, 0.5), Document("u", "", "x" * 9, 0.25, "writeback")
    assert admitted([passage], [unit], 1, Merge("beside", 0.25, 0.25)) == [unit]
    assert admitted([passage], [unit], 1, Merge("beside", 0.25, 0.24)) == []
    assert admitted([passage], [unit], 1, Merge("beside", 0.24, 0.25)) == []


@given(PASSAGES, UNITS, PLACES)
def test_no_room_and_no_near_unit_read_what_the_base_says(
    passages: list[Document], units: list[Document], k: int
) -> None:
    if passages:
        assert merged(passages, units, k, Merge("beside", 2.0, 0.0)) == passages
        far = [replace(unit, score=passages[0].score - 0.5) for unit in units]
        assert merged(passages, far, k, Merge("beside", 0.25, 2.0)) == passages
    for policy in ("plain", "beside"):
        assert merged(passages, [], k, Merge(policy)) == passages[: k if policy == "plain" else None]


@given(PASSAGES, UNITS, PLACES, st.data())
def test_named_reads_the_units_that_the_question_names_as_if_no_others_were_there(
    passages: list[Document], units: list[Document], k: int, data: st.DataObject
) -> None:
    titles = data.draw(st.lists(st.sampled_from(["Elm", "New Elm", "Osk"]), min_size=len(units), max_size=len(units)))
    titled = [replace(unit, title=title) for unit, title in zip(units, titles, strict=True)]
    near, named = Merge("beside", 0.25, 1.0), Merge("beside", 0.25, 1.0, named=True)
    for question, there in (("Where is new elm?", {"Elm", "New Elm"}), ("Is Osker a river?", set()), ("", set())):
        some = [unit for unit in titled if unit.title in there]
        assert admitted(passages, titled, k, named, question) == admitted(passages, some, k, near)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        (Merge("best"), "merge.policy='best' is unknown; known are plain, beside"),
        (Merge("beside", -0.1), "merge.margin=-0.1: a number from 0 to 2"),
        (Merge("beside", 2.5), "merge.margin=2.5"),
        (Merge("plain", 0.0, -1.0), "merge.room=-1.0"),
        (Merge("beside", room=float("nan")), "merge.room=nan"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(merge: Merge, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_merge(merge)
