"""Which candidates of a ranked list become the top-K: laws of the superseding merge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import ConfigError, Merge
from wbrag.index.merge import Candidate, check_merge, supersede


def passage(key: str) -> Candidate:
    return Candidate(key)


def unit(key: str, *sources: str) -> Candidate:
    return Candidate(key, True, frozenset(sources))


def kept(ranked: list[Candidate], k: int, near: list[tuple[int, int]] | None = None) -> list[str]:
    """Ids of what stays; the pairs of places in `near` are near-duplicates."""
    cosines = np.eye(len(ranked))
    for one, other in near or []:
        cosines[one, other] = cosines[other, one] = 0.97
    return [ranked[place].id for place in supersede(ranked, k, cosines, 0.95)]


def test_a_unit_takes_the_place_of_its_sources_above_and_below() -> None:
    ranked = [passage("a"), passage("b"), unit("u", "a", "c"), passage("c"), passage("d")]
    assert kept(ranked, 3) == ["b", "u", "d"]


def test_a_unit_below_the_top_k_replaces_nothing() -> None:
    ranked = [passage("a"), passage("b"), unit("u", "a")]
    assert kept(ranked, 2) == ["a", "b"]


def test_of_near_duplicates_the_best_stays() -> None:
    ranked = [unit("u", "a"), unit("v", "b"), unit("w", "a"), passage("x")]
    assert kept(ranked, 4) == ["u", "v", "x"]  # w has the sources of u
    assert kept(ranked, 4, near=[(0, 1)]) == ["u", "x"]


def test_passages_are_never_duplicates() -> None:
    ranked = [passage("a"), passage("b"), unit("u"), unit("v")]
    assert kept(ranked, 4, near=[(0, 1), (0, 2)]) == ["a", "b", "u", "v"]


def test_a_unit_of_a_unit_replaces_it_and_its_sources_stay_replaced() -> None:
    ranked = [unit("u", "a"), unit("uu", "u"), passage("a"), passage("b")]
    assert kept(ranked, 3) == ["uu", "b"]


KEYS = [f"p{i}" for i in range(8)]


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[Candidate], np.ndarray]:
    """Distinct passages and units in any order, with symmetric cosines."""
    passages = [passage(key) for key in draw(st.lists(st.sampled_from(KEYS), unique=True))]
    sources = draw(st.lists(st.frozensets(st.sampled_from(KEYS), max_size=3), max_size=6))
    ranked = draw(st.permutations([*passages, *(unit(f"u{i}", *ids) for i, ids in enumerate(sources))]))
    drawn = draw(st.lists(st.sampled_from([0.1, 0.9, 0.95, 1.0]), min_size=len(ranked) ** 2, max_size=len(ranked) ** 2))
    cosines = np.array(drawn).reshape(len(ranked), len(ranked))
    return list(ranked), np.maximum(cosines, cosines.T)


@given(rankings(), st.integers(1, 8))
def test_k_places_hold_k_different_pieces_of_evidence(given: tuple[list[Candidate], np.ndarray], k: int) -> None:
    ranked, cosines = given
    places = supersede(ranked, k, cosines, 0.95)
    chosen = [ranked[place] for place in places]
    assert places == sorted(set(places))
    assert len(places) <= k
    replaced = {key for candidate in chosen for key in candidate.sources}
    assert not replaced & {candidate.id for candidate in chosen}
    units = [place for place in places if ranked[place].unit]
    for one in units:
        for other in units:
            if one != other:
                assert cosines[one, other] < 0.95
                assert not ranked[one].sources or ranked[one].sources != ranked[other].sources


@given(rankings(), st.integers(1, 8))
def test_every_gap_has_a_reason(given: tuple[list[Candidate], np.ndarray], k: int) -> None:
    """A list that is not full has seen all; each candidate it left out is a source or a near-duplicate of a unit."""
    ranked, cosines = given
    places = supersede(ranked, k, cosines, 0.95)
    if len(places) == k:
        return
    every = [place for place, candidate in enumerate(ranked) if candidate.unit]
    for place in set(range(len(ranked))) - set(places):
        source = any(ranked[place].id in ranked[other].sources for other in every)
        same = any(
            ranked[place].unit
            and other != place
            and (cosines[place, other] >= 0.95 or ranked[place].sources == ranked[other].sources)
            for other in every
        )
        assert source or same


@given(rankings(), st.integers(1, 8), st.data())
def test_what_stands_below_a_full_list_has_no_part_in_it(
    given: tuple[list[Candidate], np.ndarray], k: int, data: st.DataObject
) -> None:
    ranked, cosines = given
    cut = data.draw(st.integers(0, len(ranked)))
    short = supersede(ranked[:cut], k, cosines[:cut, :cut], 0.95)
    if len(short) == k:
        assert short == supersede(ranked, k, cosines, 0.95)


@given(st.lists(st.sampled_from(KEYS), unique=True), st.integers(1, 8))
def test_without_units_it_is_the_plain_merge(keys: list[str], k: int) -> None:
    assert kept([passage(key) for key in keys], k) == keys[:k]


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        (Merge("best"), "merge.policy='best' is unknown; known are plain, supersede"),
        (Merge("supersede", 0.0), "merge.cosine=0.0"),
        (Merge("supersede", 1.5), "merge.cosine=1.5"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(merge: Merge, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_merge(merge)
