"""Holm, the pooled gain and its strata, winners, flips; the paired bootstrap is tested with the evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag.statistics import flips, holm, paired_bootstrap, pooled_gain, winners

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(p_values)
def test_holm_only_raises_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert all(a <= 1.0 for a in adjusted)
    ranked = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[i] for i in ranked] == sorted(adjusted)


@given(p_values, st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected, ranked = set(), sorted(range(len(p)), key=p.__getitem__)
    for step, i in enumerate(ranked):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected.add(i)
    assert {i for i, a in enumerate(holm(p)) if a <= alpha} == rejected


def test_holm_of_a_known_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def everything(*strata: list[list[float]]) -> list[tuple[np.ndarray, np.ndarray]]:
    arrays = [np.array(rows, dtype=np.float64) for rows in strata]
    return [(rows, np.ones(rows.shape, dtype=bool)) for rows in arrays]


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=2, max_size=40), st.integers(0, 3))
@settings(max_examples=25)
def test_one_setting_pools_to_its_own_gain_and_interval(values: list[float], seed: int) -> None:
    gain, low, high = pooled_gain(everything([[v] for v in values]), resamples=400, seed=seed)
    assert gain == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    alone = paired_bootstrap(np.array(values)[:, None], resamples=1000)[0]
    pooled = pooled_gain(everything([[v] for v in values]), resamples=1000)
    assert pooled[1:] == pytest.approx(tuple(alone), abs=0.15)


def test_every_setting_counts_once_whatever_its_questions() -> None:
    gain, _, _ = pooled_gain(everything([[1.0]] * 10, [[0.0, 0.0]] * 300), resamples=100)
    assert gain == pytest.approx(1 / 3)


def test_settings_that_share_questions_are_not_independent_evidence() -> None:
    column = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=200)
    alone = pooled_gain(everything([[v] for v in column]))
    copied = pooled_gain(everything([[v] * 8 for v in column]))
    apart = pooled_gain(everything(*[[[v] for v in column]] * 8))
    assert copied[2] - copied[1] == pytest.approx(alone[2] - alone[1], rel=0.1)
    assert apart[2] - apart[1] < 0.5 * (copied[2] - copied[1])


def test_only_questions_that_count_are_pooled() -> None:
    differences = np.array([[1.0, 5.0], [0.0, 5.0], [5.0, 5.0]])
    members = np.array([[True, False], [True, False], [False, False]])
    gain, low, high = pooled_gain([(differences, members)], resamples=2000)
    assert (gain, low, high) == (0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="no setting has a question that counts"):
        pooled_gain([(differences, np.zeros((3, 2), dtype=bool))])


@given(st.lists(st.sampled_from([-0.1, 0.0, 0.2]), max_size=20))
def test_winners_are_all_counted_once(gains: list[float]) -> None:
    found = winners(gains)
    assert sum(found.values()) == len(gains)
    assert found["better"] == gains.count(0.2)


def test_flips_are_the_share_of_answers_that_changed() -> None:
    assert flips(["a", "b", None, "d"], ["a", "c", None, "e"]) == 0.5
    assert flips([], []) == 0.0
