"""Holm, the pooled gain, turned signs, kappa; the paired bootstrap is tested with the evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag.report.statistics import holm, kappa, mcnemar, paired_bootstrap, pooled_gain, sign_flips

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


def test_questions_of_one_topic_are_as_much_evidence_as_one_and_topics_of_one_change_nothing() -> None:
    column = np.random.default_rng(0).choice([-1.0, 0.0, 0.5, 1.0], size=200)
    alone = paired_bootstrap(column[:, None])[0]
    apart = paired_bootstrap(column[:, None], topics=[f"t{i}" for i in range(200)])[0]
    tripled = [f"t{i}" for i in range(200) for _ in range(3)]
    together = paired_bootstrap(np.repeat(column, 3)[:, None], topics=tripled)[0]
    assert apart == pytest.approx(alone, abs=0.01)
    assert together == pytest.approx(alone, abs=0.01)
    pooled = pooled_gain(everything([[v] for v in np.repeat(column, 3)]), topics=[tripled])
    assert pooled == pytest.approx((column.mean(), *alone), abs=0.01)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([-1.0, 0.0, 1.0])), min_size=1, max_size=30))
def test_an_interval_over_topics_lies_between_the_topics_means(rows: list[tuple[str, float]]) -> None:
    topics, values = [topic for topic, _ in rows], np.array([value for _, value in rows])
    means = [values[[t == topic for t in topics]].mean() for topic in topics]
    low, high = paired_bootstrap(values[:, None], resamples=200, topics=topics)[0]
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
@settings(max_examples=30)
def test_turning_signs_is_mcnemars_test_where_scores_are_0_or_1(b: int, c: int, equal: int) -> None:
    base = np.array([1.0] * b + [0.0] * c + [1.0] * equal)
    writeback = np.array([0.0] * b + [1.0] * c + [1.0] * equal)
    exact = mcnemar(base, writeback)["mcnemar_p"]
    assert sign_flips(writeback - base) == pytest.approx(exact, abs=0.02)


@given(st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.25, 1.0]), max_size=40), st.integers(0, 3))
@settings(max_examples=30)
def test_turning_signs_is_two_sided_and_never_0(values: list[float], seed: int) -> None:
    differences = np.array(values)
    p = sign_flips(differences, resamples=500, seed=seed)
    assert 0 < p <= 1
    assert sign_flips(-differences, resamples=500, seed=seed) == p
    assert differences.any() or p == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_kappa_is_symmetric_and_1_just_where_all_agree(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = kappa(first, second)
    assert kappa(second, first) == pytest.approx(found)
    if len({*first, *second}) < 2:
        assert found is None
    else:
        assert found is not None
        assert -1 <= found <= 1
        assert (found == pytest.approx(1)) == (first == second)


def test_kappa_of_a_known_table() -> None:
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert kappa(*zip(*pairs, strict=True)) == pytest.approx(0.4)
