"""The gates of Algorithm 1 against a plain restatement of the paper, and their laws."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import Gates
from wbrag.gates import document_gate, reason_without_documents, utility_gate, with_documents_needed

SCORE = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
THRESHOLD = st.one_of(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]), st.floats(-1, 1))
GATES = st.builds(Gates, tau_s=THRESHOLD, tau_delta=THRESHOLD, tau_doc=THRESHOLD, n_min=st.integers(1, 6))
SCORES = st.lists(SCORE, max_size=7)


def test_defaults_are_the_papers() -> None:
    gates = Gates()
    assert (gates.tau_s, gates.tau_delta, gates.tau_doc, gates.n_min) == (0.1, 0.01, 0.01, 2)


@given(SCORE, SCORE, GATES)
def test_utility_gate_is_the_papers(s_nr: float, s_rag: float, gates: Gates) -> None:
    delta = s_rag - s_nr
    decision = utility_gate(s_nr, s_rag, gates)
    assert decision.passed == (delta > gates.tau_delta and s_rag > gates.tau_s)
    assert decision.delta == delta


@given(SCORE, SCORES, GATES)
def test_document_gate_is_the_papers(s_nr: float, scores: list[float], gates: Gates) -> None:
    passing = [j for j in range(1, len(scores) + 1) if scores[j - 1] - s_nr > gates.tau_doc]
    expected = passing if passing else list(range(1, len(scores) + 1))[: gates.n_min]
    decision = document_gate(s_nr, scores, gates)
    assert list(decision.kept_ranks) == expected
    assert decision.fallback == (not passing)
    if decision.fallback:
        assert len(decision.kept_ranks) == min(gates.n_min, len(scores))


@given(SCORE, SCORE, GATES, st.floats(0, 1), st.floats(0, 1))
def test_a_stricter_utility_gate_passes_no_more(s_nr: float, s_rag: float, gates: Gates, a: float, b: float) -> None:
    stricter = Gates(tau_s=gates.tau_s + a, tau_delta=gates.tau_delta + b)
    assert utility_gate(s_nr, s_rag, gates).passed >= utility_gate(s_nr, s_rag, stricter).passed


@given(SCORE, SCORES, GATES, st.floats(0, 1))
def test_a_stricter_document_gate_keeps_no_more(s_nr: float, scores: list[float], gates: Gates, more: float) -> None:
    loose = document_gate(s_nr, scores, gates)
    strict = document_gate(s_nr, scores, Gates(tau_doc=gates.tau_doc + more, n_min=gates.n_min))
    if not strict.fallback:
        assert set(strict.kept_ranks) <= set(loose.kept_ranks)


@given(SCORE, SCORE, GATES)
def test_no_score_passes_where_documents_are_not_needed(s_nr: float, s_rag: float, gates: Gates) -> None:
    if not with_documents_needed(s_nr, gates):
        assert not utility_gate(s_nr, s_rag, gates).passed
        assert reason_without_documents(s_nr, gates).startswith("gated: ")
    else:
        assert utility_gate(s_nr, 1.0, gates).passed


@given(SCORE, SCORE, GATES)
def test_every_comparison_in_a_utility_reason_is_true(s_nr: float, s_rag: float, gates: Gates) -> None:
    decision = utility_gate(s_nr, s_rag, gates)
    assert decision.reason.startswith("passed: " if decision.passed else "gated: ")
    assert f"(s_nr {s_nr:.2f}, s_rag {s_rag:.2f})" in decision.reason
    compared = re.findall(r"(delta|s_rag) (\S+) (>|<=) (tau_delta|tau_s) ([^\s()]+)", decision.reason)
    assert len(compared) == (2 if decision.passed else 1)
    for name, value, relation, key, threshold in compared:
        assert float(threshold) == getattr(gates, key)
        assert (float(value) > float(threshold)) == (relation == ">")
        assert float(value) == pytest.approx({"delta": decision.delta, "s_rag": s_rag}[name], abs=0.005)


@given(SCORE, st.lists(SCORE, min_size=1, max_size=7), GATES)
def test_a_document_reason_tells_ranks_threshold_and_gains(s_nr: float, scores: list[float], gates: Gates) -> None:
    decision = document_gate(s_nr, scores, gates)
    assert f"tau_doc {gates.tau_doc!r}" in decision.reason
    told = re.findall(r"\(gains (.*)\)", decision.reason)[0].split(", ")
    assert [float(gain) > gates.tau_doc for gain in told] == [s_j - s_nr > gates.tau_doc for s_j in scores]
    ranks = re.match(r"(\d+) of \d+ documents? .*: ranks? ([\d, ]+) \(gains", decision.reason)
    assert decision.fallback == (ranks is None)
    if ranks:
        assert (int(ranks[1]), *map(int, ranks[2].split(", "))) == (len(decision.kept_ranks), *decision.kept_ranks)


@pytest.mark.parametrize(
    ("s_nr", "s_rag", "reason"),
    [
        (1.0, 1.0, "gated: delta 0.00 <= tau_delta 0.01 (s_nr 1.00, s_rag 1.00)"),
        (0.0, 0.05, "gated: s_rag 0.05 <= tau_s 0.1 (s_nr 0.00, s_rag 0.05)"),
        (0.0, 1.0, "passed: delta 1.00 > tau_delta 0.01 and s_rag 1.00 > tau_s 0.1 (s_nr 0.00, s_rag 1.00)"),
        (0.2, 0.2121, "passed: delta 0.0121 > tau_delta 0.01 and s_rag 0.21 > tau_s 0.1 (s_nr 0.20, s_rag 0.21)"),
    ],
)
def test_utility_reasons(s_nr: float, s_rag: float, reason: str) -> None:
    assert utility_gate(s_nr, s_rag, Gates()).reason == reason


def test_document_reasons() -> None:
    kept = document_gate(0.0, [1.0, 0.0, 0.5], Gates())
    assert kept.reason == "2 of 3 documents gain more than tau_doc 0.01: ranks 1, 3 (gains 1.00, 0.00, 0.50)"
    none = document_gate(0.0, [0.0, 0.0, 0.0], Gates())
    assert none.reason == (
        "fallback to the top 2 of 3: no document gains more than tau_doc 0.01 (gains 0.00, 0.00, 0.00)"
    )
    assert none.kept_ranks == (1, 2)


def test_reason_without_documents_says_that_nothing_was_asked() -> None:
    told = reason_without_documents(1.0, Gates())
    assert told == "gated: delta 0.00 <= tau_delta 0.01 (s_nr 1.00, s_rag 1.00 at best, not asked)"
