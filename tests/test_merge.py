"""Which passages and units a question's reader is given: laws of the two merges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import ConfigError, Merge
from wbrag.retrieval.merge import beside, best_of, check_merge, fused, is_named, linked, mentions, plain
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


@given(st.lists(st.tuples(st.sampled_from(SCORES), st.integers(0, 4)), max_size=40), PLACES, st.randoms())
def test_the_best_of_shards_are_the_best_of_all(told: list[tuple[float, int]], k: int, order: random.Random) -> None:
    """Ties included, across shards and at the last place."""
    documents = [Document(f"d{i:02d}", "", "", score) for i, (score, _) in enumerate(told)]
    shards: list[list[Document]] = [[] for _ in range(5)]
    for document, (_, shard) in zip(documents, told, strict=True):
        shards[shard].append(document)
    ranked_shards = [sorted(some, key=lambda one: (-one.score, one.id))[:k] for some in shards]
    order.shuffle(ranked_shards)
    assert best_of(ranked_shards, k) == sorted(documents, key=lambda one: (-one.score, one.id))[:k]


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("How do I set up the guide?", True),
        ("Where does setup write its files?", True),
        ("How long does installing the Linux package take?", False),
        ("What is in the Install Manual?", False),
        ("What does the guide > setup say?", True),
        ("Who wrote it?", False),
    ],
)
def test_any_heading_of_a_title_that_is_a_path_names_it(question: str, named: bool) -> None:
    assert is_named(question, "Guide > Setup > Install") is named


@given(PASSAGES, UNITS, PLACES)
def test_plain_takes_the_better_head_of_two_lists_until_it_is_full(
    passages: list[Document], units: list[Document], k: int
) -> None:
    expected: list[Document] = []
    left, right = list(passages), list(units)
    while len(expected) < k and (left or right):
        unit_first = bool(right) and (not left or right[0].score > left[0].score)
        expected.append((right if unit_first else left).pop(0))
    assert plain(passages, units, k) == expected


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS)
def test_beside_keeps_every_passage_and_its_place_among_them(
    passages: list[Document], units: list[Document], k: int, margin: float, room: float
) -> None:
    merge = Merge("beside", margin, room)
    there = beside(passages, units, k, merge)
    assert len(there) <= k
    assert [unit for unit in units if unit in there] == there  # theirs, in their order, each once
    if passages:
        assert all(unit.score >= passages[0].score - margin for unit in there)
        assert characters(there) <= room * characters(passages)
    else:
        assert there == units[:k]


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS)
def test_a_near_unit_is_left_out_only_where_it_does_not_fit(
    passages: list[Document], units: list[Document], k: int, margin: float, room: float
) -> None:
    there = beside(passages, units, k, Merge("beside", margin, room))
    for unit in units:
        better = [one for one in there if units.index(one) < units.index(unit)]
        if unit in there or not passages or unit.score < passages[0].score - margin or len(better) == k:
            continue
        assert characters([*better, unit]) > room * characters(passages)


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS)
def test_what_is_admitted_is_admitted_again(
    passages: list[Document], units: list[Document], k: int, margin: float, room: float
) -> None:
    merge = Merge("beside", margin, room)
    once = beside(passages, units, k, merge)
    assert beside(passages, once, k, merge) == once


@given(PASSAGES, UNITS, PLACES, MARGINS, MARGINS, ROOMS)
def test_a_wider_margin_only_adds_units_at_the_end(
    passages: list[Document], units: list[Document], k: int, one: float, other: float, room: float
) -> None:
    near, far = (beside(passages, units, k, Merge("beside", margin, room)) for margin in sorted((one, other)))
    assert far[: len(near)] == near


@given(PASSAGES, UNITS, PLACES, MARGINS, ROOMS, ROOMS)
def test_more_room_is_given_to_the_better_unit(
    passages: list[Document], units: list[Document], k: int, margin: float, one: float, other: float
) -> None:
    """Not a superset: where a longer, better unit fits, shorter ones behind it may not any more."""
    small, large = (beside(passages, units, k, Merge("beside", margin, room)) for room in sorted((one, other)))
    differ = [unit for unit in units if (unit in small) != (unit in large)]
    assert not differ or differ[0] in large
    assert characters(small) <= characters(large)


def test_a_unit_may_fill_the_room_to_the_last_character_and_be_as_far_as_the_margin() -> None:
    passage, unit = Document("p", "", "x" * 39, 0.5), Document("u", "", "x" * 9, 0.25, "writeback")
    assert beside([passage], [unit], 1, Merge("beside", 0.25, 0.25)) == [unit]
    assert beside([passage], [unit], 1, Merge("beside", 0.25, 0.24)) == []
    assert beside([passage], [unit], 1, Merge("beside", 0.24, 0.25)) == []


@given(PASSAGES, UNITS, PLACES)
def test_no_room_and_no_near_unit_read_what_the_base_says(
    passages: list[Document], units: list[Document], k: int
) -> None:
    if passages:
        assert beside(passages, units, k, Merge("beside", 2.0, 0.0)) == []
        far = [replace(unit, score=passages[0].score - 0.5) for unit in units]
        assert beside(passages, far, k, Merge("beside", 0.25, 2.0)) == []
    assert plain(passages, [], k) == passages[:k]
    assert beside(passages, [], k, Merge("beside")) == []


@given(PASSAGES, UNITS, PLACES, st.data())
def test_named_reads_the_units_that_the_question_names_as_if_no_others_were_there(
    passages: list[Document], units: list[Document], k: int, data: st.DataObject
) -> None:
    titles = data.draw(st.lists(st.sampled_from(["Elm", "New Elm", "Osk"]), min_size=len(units), max_size=len(units)))
    titled = [replace(unit, title=title) for unit, title in zip(units, titles, strict=True)]
    near, named = Merge("beside", 0.25, 1.0), Merge("beside", 0.25, 1.0, reach="named")
    for question, there in (("Where is new elm?", {"Elm", "New Elm"}), ("Is Osker a river?", set()), ("", set())):
        some = [unit for unit in titled if unit.title in there]
        assert beside(passages, titled, k, named, question) == beside(passages, some, k, near)


@pytest.mark.parametrize(
    ("question", "title", "named"),
    [
        ("When was the South African Schools Act passed?", "South African Schools Act", True),
        ("When was the South African Schools Act passed?", "Act", False),
        ("Which Act came before the South African Schools Act?", "Act", True),
        ("What was Warsaw's first newspaper?", "Warsaw", True),
        ("how long do nhl players stay on waivers", "NHL", True),
        ("how many species live in the amazon rainforest", "Amazon", True),
        ("What is the Amazonian climate?", "Amazon", False),
        ("Who was it?", "", False),
    ],
)
def test_a_question_names_a_title_that_is_no_part_of_a_longer_name(question: str, title: str, named: bool) -> None:
    assert is_named(question, title) is named


def test_what_a_unit_mentions_is_every_name_in_it_but_its_own() -> None:
    told = "Ada Elm lives in Oakwick on the Osk. Elm was born in Port Elden. She knows Ada."
    assert mentions([Document("u", "Ada Elm", told)]) == {"Oakwick", "Osk", "Port Elden"}
    assert mentions([]) == mentions([Document("u", "Elm", "nothing is named here")]) == frozenset()


@given(PASSAGES, UNITS, UNITS, PLACES, ROOMS, st.data())
def test_linked_adds_units_that_the_first_ones_mention_behind_them_as_far_as_they_fit(
    passages: list[Document], some: list[Document], others: list[Document], k: int, room: float, data: st.DataObject
) -> None:
    names = st.sampled_from(["Elm", "Osk", "Ida"])
    first = [replace(unit, id=f"f{i}", title=f"T{i}", text=f"It is in {data.draw(names)}.")
             for i, unit in enumerate(some)]  # fmt: skip
    units = [replace(unit, title=data.draw(names)) for unit in others]
    merge = Merge("beside", 2.0, room, reach="linked")
    first = beside(passages, first, k, Merge("beside", 2.0, room))
    found = linked(passages, first, [*first, *units], k, merge)
    assert found[: len(first)] == first
    more = found[len(first) :]
    assert all(any(f"in {unit.title}." in one.text for one in first) for unit in more)
    assert [unit for unit in units if unit in more] == more
    assert len(found) <= k
    if passages:
        assert characters(found) <= room * characters(passages)
    for unit in units:
        behind = [one for one in more if units.index(one) < units.index(unit)]
        if unit in more or not any(f"in {unit.title}." in one.text for one in first) or len(first) + len(behind) == k:
            continue
        assert passages
        assert characters([*first, *behind, unit]) > room * characters(passages)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        (Merge("best"), "merge.policy='best' is unknown; known are plain, beside"),
        (Merge("beside", reach="far"), "merge.reach='far' is unknown; known are near, named, linked"),
        (Merge("beside", -0.1), "merge.margin=-0.1: a number from 0 to 2"),
        (Merge("beside", 2.5), "merge.margin=2.5"),
        (Merge("plain", 0.0, -1.0), "merge.room=-1.0"),
        (Merge("beside", room=float("nan")), "merge.room=nan"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(merge: Merge, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_merge(merge)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=3), PLACES)
def test_a_fusion_counts_every_lists_rank(lists: list[list[str]], k: int) -> None:
    given = [[Document(key, "", key, 7.0, "base") for key in some] for some in lists]
    every = [(one.id, one.score) for one in fused(given, 99)]
    assert [(one.id, one.score) for one in fused(given, k)] == every[:k]
    assert {key for key, _ in every} == {key for some in lists for key in some}
    assert all(0 < score <= 1 for _, score in every)
    for key, score in every:
        there = [some.index(key) + 1 for some in lists if key in some]
        assert score == pytest.approx(sum(61 / (60 + rank) for rank in there) / len(lists))
        assert (score == pytest.approx(1)) == (there == [1] * len(lists))
    assert every == sorted(every, key=lambda pair: (-pair[1], pair[0]))
    assert [one.id for one in fused(given[:1], 99)] == lists[0]
