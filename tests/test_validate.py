"""Units judged by what they did to training questions: who goes, who stays, and what is beyond chance."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from wbrag.units.validate import CHANCE, Reading, balances, tail


def unit(key: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """A unit that shares nothing with another but its form and that somebody asked about it."""
    told = {"id": key, "form": "verbatim", "doubt": "", "source_ids": [f"p-{key}"], "example_ids": [f"e-{key}"]}
    return told | changes


def readings(change: float, *units: str, count: int = 1, first: int = 0, near: float = -0.1) -> list[Reading]:
    """So many questions that read these units together and whose score changed so much."""
    before = max(0.0, -change)
    return [
        Reading(f"{'-'.join(units)}:{change}:{i}", before, before + change, dict.fromkeys(units, near))
        for i in range(first, first + count)
    ]


def gone(units: list[dict[str, Any]], read: list[Reading]) -> set[str]:
    return {key for key, balance in balances(units, read).items() if balance.reason}


def test_units_that_nobody_read_stay() -> None:
    units = [unit("u"), unit("v")]
    assert gone(units, []) == set()
    found = balances(units, readings(-1.0, "u"))
    assert (found["u"].readings, found["v"].readings) == (1, 0)
    assert found["v"].reason == ""  # one answer lost is not beyond chance


def test_a_unit_that_takes_more_than_it_gives_goes_with_its_numbers() -> None:
    read = [*readings(-1.0, "u", count=2), *readings(1.0, "u"), *readings(0.0, "u", count=5)]
    found = balances([unit("u"), unit("v")], read)["u"]
    assert (found.given, found.taken, found.readings) == (1.0, 2.0, 8)
    assert found.questions == ("u:-1.0:0", "u:-1.0:1", "u:1.0:0")
    assert found.reason == "takes 2.00 and gives 1.00"


@pytest.mark.parametrize("change", [(1.0,), (0.5, -0.5), (1.0, -0.25), (0.0,)])
def test_a_unit_that_gives_as_much_as_it_takes_or_more_stays(change: tuple[float, ...]) -> None:
    assert gone([unit("u")], [one for score in change for one in readings(score, "u")]) == set()


def test_units_read_together_share_what_came_of_it() -> None:
    found = balances([unit("u"), unit("v")], [*readings(-1.0, "u", "v"), *readings(1.0, "u")])
    assert (found["u"].given, found["u"].taken) == (1.0, 0.5)
    assert (found["v"].given, found["v"].taken) == (0.0, 0.5)
    assert [key for key, one in found.items() if one.reason] == ["v"]


def test_thirds_given_and_taken_back_are_no_harm() -> None:
    """1/2 + 1/3 + 1/6 is less than 1 in floating point."""
    together = [readings(1.0, *names, first=i) for i, names in enumerate((["u", *"ab"], ["u", "a"], ["u", *"abcde"]))]
    read = [one for some in together for one in some]
    assert gone([unit("u")], [*read, *readings(-1.0, "u")]) == set()


def losses(count: int, **about: object) -> tuple[list[dict[str, Any]], list[Reading]]:
    """So many units with this in common, each of which took one answer."""
    units = [unit(f"bad{i}", **about) for i in range(count)]
    return units, [one for i in range(count) for one in readings(-1.0, f"bad{i}")]


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"source_ids": ["p-shared"]}, "source p-shared"),
        ({"form": "distilled"}, "form distilled"),
        ({"doubt": "cut"}, "doubt cut"),
        ({"example_ids": []}, "asked about no"),
    ],
)
def test_a_pool_that_does_harm_beyond_chance_takes_its_other_members_along(about: dict[str, Any], told: str) -> None:
    common = [unit(key, **about) for key in ("unread", "calm", "kind")]
    good = [unit(f"good{i}") for i in range(8)]  # outweigh the harm in all that is not asked about here
    calm = [*readings(0.0, "calm"), *readings(1.0, "kind"), *(one for g in good for one in readings(1.0, g["id"]))]
    for lost, beyond_chance in ((4, False), (7, True)):  # with the one that won: 4 of 5 or more, 0.19; 7 of 8, 0.04
        bad, read = losses(lost, **about)
        found = balances([*bad, *common, *good], [*read, *calm])
        assert all(found[one["id"]].reason == "takes 1.00 and gives 0.00" for one in bad)
        reason = f"{told}: {lost + 3} units take {lost}.00 and give 1.00" if beyond_chance else ""
        assert found["unread"].reason == found["calm"].reason == reason
        assert not any(found[one["id"]].reason for one in [common[2], *good])  # their own readings gave


def test_units_far_from_the_question_are_a_pool() -> None:
    bad, read = losses(5)
    calm = [*readings(0.0, "near", near=0.0), *readings(0.0, "far", near=-0.01)]
    kind = [one for i in range(9) for one in readings(1.0, f"kind{i}", near=0.2)]
    units = [*bad, unit("near"), unit("far"), unit("unread"), *[unit(f"kind{i}") for i in range(9)]]
    found = balances(units, [*read, *calm, *kind])
    assert found["far"].reason.startswith("nearness farther than the best passage: 6 units take 5.00 and give 0.00")
    assert found["near"].reason == found["unread"].reason == ""


def test_one_lost_answer_is_one_however_many_units_were_read_for_it() -> None:
    many = [unit(f"u{i}") for i in range(6)]
    read = readings(-1.0, *[one["id"] for one in many])
    found = balances([*many, unit("unread")], read)
    assert found["unread"].reason == ""
    assert all(one.reason == "takes 0.17 and gives 0.00" for key, one in found.items() if key != "unread")


def test_a_unit_alone_is_no_pool() -> None:
    assert gone([unit("u", doubt="cut")], [*readings(-1.0, "u", count=9), *readings(1.0, "u", count=9)]) == set()


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_tail_is_that_of_a_sign_test(worse: int, better: int) -> None:
    changed = worse + better
    expected = binomtest(worse, changed, 0.5, alternative="greater").pvalue if changed else 1.0
    assert tail(worse, changed) == pytest.approx(expected)


IDS = [f"u{i}" for i in range(5)]
UNITS = st.lists(
    st.tuples(
        st.sampled_from(["verbatim", "distilled"]),
        st.sampled_from(["", "cut"]),
        st.lists(st.sampled_from(["p", "q", "r"]), unique=True, max_size=2),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
READS = st.lists(
    st.tuples(st.lists(st.sampled_from(IDS), unique=True, min_size=1), st.sampled_from([-4, -2, 0, 1, 4])), max_size=14
)


@given(UNITS, READS)
def test_balances_add_up_and_no_unit_goes_that_gives_more_than_it_takes(
    drawn: list[tuple[str, str, list[str], bool]], read: list[tuple[list[str], int]]
) -> None:
    units = [
        unit(f"u{i}", form=form, doubt=doubt, source_ids=sources, example_ids=["e"] if asked else [])
        for i, (form, doubt, sources, asked) in enumerate(drawn)
    ]
    here = {one["id"] for one in units}
    together = [([key for key in keys if key in here], fourths) for keys, fourths in read]
    some = [
        Reading(f"q{i}", 1.0, 1.0 + fourths / 4, dict.fromkeys(keys, 0.1 * (i % 3) - 0.1))
        for i, (keys, fourths) in enumerate(together)
    ]
    found = balances(units, some)
    assert list(found) == [one["id"] for one in units]
    net = {
        key: sum((Fraction(fourths, 4 * len(keys)) for keys, fourths in together if key in keys), Fraction(0))
        for key in here
    }
    for key, one in found.items():
        assert one.given - one.taken == pytest.approx(float(net[key]))
        assert one.readings == sum(key in keys for keys, _ in together)
        assert one.questions == tuple(f"q{i}" for i, (keys, fourths) in enumerate(together) if key in keys and fourths)
        assert (one.reason != "") >= (net[key] < 0)
        assert (one.reason == "") >= (net[key] > 0)
    total = sum(Fraction(fourths, 4) for keys, fourths in together if keys)
    assert sum(one.given - one.taken for one in found.values()) == pytest.approx(float(total))
    lost = sum(fourths < 0 for keys, fourths in together if keys)
    if tail(lost, lost) >= CHANCE:  # too few for any pool: each is judged by its own
        assert {key for key, one in found.items() if one.reason} == {key for key in here if net[key] < 0}
