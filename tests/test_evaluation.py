"""Paired statistics and construction statistics on hand-made rows."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from synthetic_run import PASSAGES, UNIT, Row, document, failed, gated, kept, population, prediction

from wbrag.report import statistics
from wbrag.report.construction import SPENT, construction, cost, retained_by_rank, rule_of
from wbrag.report.evaluation import Setting, answers_of, evaluate, over_topics, topic_of
from wbrag.report.statistics import mcnemar, paired_bootstrap
from wbrag.run.folder import setting_of

SETTING = Setting("toy_nq", "naive", "micro_small", "acc", seed=3)
YES_NO = Setting("toy_boolq", "naive", "micro_small", "label", labels={"yes": ["true"], "no": ["false"]})
scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=60)
pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=80)


def evaluated(rows: list[Row], setting: Setting, training: list[Row] | None = None) -> dict[str, Any]:
    return evaluate(answers_of(rows, setting, training or []), setting)


def bootstrap(differences: list[float], resamples: int = 500, seed: int = 0) -> tuple[float, float]:
    low, high = paired_bootstrap(np.array(differences)[:, None], resamples, seed)[0]
    return float(low), float(high)


@given(scores, st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_the_interval_stays_within_the_differences_and_turns_with_their_sign(values: list[float], seed: int) -> None:
    low, high = bootstrap(values, seed=seed)
    assert min(values) <= low <= high <= max(values)
    swapped = bootstrap([-value for value in values], seed=seed)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_interval_holds_the_point_estimate(seed: int) -> None:
    differences = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], size=200, p=[0.1, 0.6, 0.3])
    low, high = bootstrap(differences.tolist(), seed=seed)
    assert low < differences.mean() < high


def test_the_interval_is_the_normal_one_for_many_questions() -> None:
    differences = np.random.default_rng(1).normal(0.02, 0.4, size=3000)
    low, high = bootstrap(differences.tolist(), resamples=4000)
    half = 1.96 * differences.std() / np.sqrt(3000)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.1 * half)


def test_the_interval_is_that_of_questions_drawn_one_by_one() -> None:
    generator = np.random.default_rng(2)
    differences = generator.choice([-1.0, 0.0, 0.4, 1.0], size=300)
    drawn = differences[generator.integers(300, size=(20_000, 300))].mean(axis=1)
    expected = np.quantile(drawn, (0.025, 0.975))
    assert bootstrap(differences.tolist(), resamples=20_000) == pytest.approx(tuple(expected), abs=0.005)


def test_the_interval_does_not_depend_on_how_the_resamples_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [0.0, 1.0, -1.0, 1.0, 0.5]
    whole = bootstrap(differences)
    monkeypatch.setattr(statistics, "COUNTS_AT_ONCE", 7)
    assert bootstrap(differences) == whole


@given(pairs)
@settings(deadline=None)
def test_mcnemar_counts_the_discordant_pairs_and_equals_scipy(both: list[tuple[float, float]]) -> None:
    base, writeback = np.array(both).T
    result = mcnemar(base, writeback)
    assert result["b"] == both.count((1.0, 0.0))
    assert result["c"] == both.count((0.0, 1.0))
    changed = result["b"] + result["c"]
    expected = binomtest(result["b"], changed, 0.5).pvalue if changed else 1.0
    assert result["mcnemar_p"] == pytest.approx(expected)
    assert mcnemar(writeback, base)["mcnemar_p"] == pytest.approx(expected)


def test_mcnemar_of_a_known_table() -> None:
    base, writeback = np.array([1.0] * 2 + [0.0] * 8), np.array([0.0] * 2 + [1.0] * 8)
    # Two-sided binomial: 2 * (1 + 10 + 45) / 2**10.
    assert mcnemar(base, writeback) == {"mcnemar_p": pytest.approx(112 / 1024), "b": 2, "c": 8}


def test_one_record_per_metric_primary_first_with_every_number() -> None:
    other = {"documents_base": PASSAGES[::-1], "documents_writeback": PASSAGES[::-1]}
    fixed, same = prediction(), prediction(id="b", answer_writeback="Port Elden", **other)
    found = evaluated([fixed, same], SETTING)
    assert [record["metric"] for record in found["results"]] == ["acc", "em", "f1", "precision", "recall"]
    record = found["results"][0]
    assert (record["topics"]["topics"], record["topics"]["largest"]) == (2, 1)
    assert "topics" not in found["results"][1]
    assert (record["n"], record["closed_book"], record["base"], record["writeback"]) == (2, 0.0, 0.0, 0.5)
    assert (record["gain"], record["ci_low"], record["ci_high"]) == (0.5, 0.0, 1.0)
    assert (record["b"], record["c"], record["mcnemar_p"]) == (0, 1, 1.0)
    assert (record["benchmark"], record["method"], record["backbone"]) == ("toy_nq", "naive", "micro_small")
    assert record["writeback_share"] == pytest.approx(1 / 6)
    assert record["questions_with_writeback"] == 1
    assert (record["context_tokens_base"], record["context_tokens_writeback"]) == (64.0, 70.0)
    assert (record["retrieval_rate_base"], record["retrievals_per_question_writeback"]) == (0.0, 0.0)
    assert {r["metric"]: r["mcnemar_p"] for r in found["results"]}["f1"] is None


def test_retrieval_recall_needs_a_golden_answer_in_the_contents() -> None:
    blind = [document("p-1", "Port Elden", "A harbour.")]
    rows = [prediction(documents_base=blind), prediction(id="b", documents_base=blind, documents_writeback=blind)]
    record = evaluated(rows, SETTING)["results"][0]
    assert (record["retrieval_recall_base"], record["retrieval_recall_writeback"]) == (0.0, 0.5)
    in_title = prediction(documents_base=[document("p-2", "Tarnholm", "A town.")])
    assert evaluated([in_title], SETTING)["results"][0]["retrieval_recall_base"] == 1.0


def test_labels_are_scored_and_leave_retrieval_recall_open() -> None:
    answers = {"answer_closed_book": "no", "answer_base": "No.", "answer_writeback": "yes, it does"}
    found = evaluated([prediction(golden_answers=["true"], **answers)], YES_NO)["results"]
    assert [record["metric"] for record in found] == ["label", "em", "acc", "f1", "precision", "recall"]
    assert (found[0]["base"], found[0]["writeback"], found[0]["c"]) == (0.0, 1.0, 1)
    assert found[0]["retrieval_recall_base"] is None
    assert found[0]["retrieval_recall_writeback"] is None


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_identical_answers_gain_nothing(right: list[bool]) -> None:
    answers = ["Tarnholm" if known else "Port Elden" for known in right]
    rows = [prediction(id=str(i), answer_base=text, answer_writeback=text) for i, text in enumerate(answers)]
    for record in evaluated(rows, SETTING)["results"]:
        assert (record["gain"], record["ci_low"], record["ci_high"]) == (0.0, 0.0, 0.0)


def test_a_failed_row_scores_zero_in_all_three_and_is_counted() -> None:
    lost = dict.fromkeys(("answer_closed_book", "answer_base", "answer_writeback", "documents_writeback"))
    right = dict.fromkeys(("answer_closed_book", "answer_base", "answer_writeback"), "Tarnholm")
    found = evaluated([prediction(**right), prediction(id="b", error="PromptTooLong: 900 > 512", **lost)], SETTING)
    assert found["questions"] == {"n": 2, "failed": 1}
    record = found["results"][0]
    assert [record[key] for key in ("closed_book", "base", "writeback")] == [0.5, 0.5, 0.5]
    assert record["context_tokens_base"] == 64.0


def test_splits_by_overlap_and_exposure_hold_all_rows_once() -> None:
    _, rows = population(0, 120, seed=5)
    found = evaluated(rows, SETTING)
    whole = found["results"][0]
    for groups in (found["splits"], found["exposure"]):
        parts = [records[0] for records in groups.values()]
        assert sum(part["n"] for part in parts) == whole["n"]
        assert sum(part["n"] * part["gain"] for part in parts) == pytest.approx(whole["n"] * whole["gain"])
    assert list(found["splits"]) == ["none", "answer", "question"]
    assert found["exposure"]["none"][0]["gain"] == 0.0
    assert set(found["splits"]["none"][0]) == set(whole)


def test_each_class_has_its_own_interval_over_topics() -> None:
    _, rows = population(0, 120, seed=5)
    found = evaluated(rows, SETTING)
    for key, records in found["splits"].items():
        some = [row for row in rows if json.loads(row["metadata"])["overlap"] == key]
        gains = [float(r["answer_writeback"] == "Tarnholm") - float(r["answer_base"] == "Tarnholm") for r in some]
        assert records[0]["topics"] == over_topics(np.array(gains), [topic_of(row) for row in some], SETTING.seed)
        assert records[0]["topics"]["topics"] <= records[0]["n"]


def test_questions_without_overlap_are_told_apart_by_what_their_units_hold() -> None:
    blind = UNIT | {"id": "wb-2", "text": "Almira Trevane was a glass painter."}
    new = {"metadata": json.dumps({"overlap": "none"})}
    rows = [
        prediction(id="gold", documents_writeback=[blind, UNIT, *PASSAGES[:1]], **new),
        prediction(id="other", documents_writeback=[blind, *PASSAGES[:2]], answer_writeback="Port Elden", **new),
        prediction(id="none", documents_writeback=PASSAGES, answer_writeback="Port Elden", **new),
        prediction(id="seen"),
    ]
    found = evaluated(rows, SETTING)
    assert {key: records[0]["n"] for key, records in found["unseen"].items()} == {"gold": 1, "other": 1, "none": 1}
    assert {key: records[0]["gain"] for key, records in found["unseen"].items()} == {"gold": 1, "other": 0, "none": 0}
    assert found["splits"]["none"][0]["n"] == 3
    labelled = evaluated([row | {"golden_answers": ["true"]} for row in rows], YES_NO)
    assert {key: records[0]["n"] for key, records in labelled["unseen"].items()} == {"unit": 2, "none": 1}


def test_an_equal_label_is_no_overlap_whatever_the_metadata_says() -> None:
    asked = [kept(golden_answers=["true"])]
    row = prediction(question="Is it far?", golden_answers=["true"], metadata=json.dumps({"overlap": "answer"}))
    assert list(evaluated([row], YES_NO, asked)["splits"]) == ["none"]
    assert evaluated([row], YES_NO, asked)["labels"] is True
    assert list(evaluated([row], SETTING, [kept()])["splits"]) == ["answer"]


def test_without_overlap_in_the_metadata_there_are_no_splits() -> None:
    assert evaluated([prediction(metadata="{}"), prediction(id="b", metadata=None)], SETTING)["splits"] == {}


def test_rows_that_would_spoil_the_pairing_are_refused() -> None:
    with pytest.raises(ValueError, match="id 'test-4' stands in more than one row"):
        evaluated([prediction(), prediction()], SETTING)
    with pytest.raises(ValueError, match="row 'test-4' has neither answer_base nor an error"):
        evaluated([prediction(answer_base=None)], SETTING)
    with pytest.raises(ValueError, match=r"row 'test-4', metadata.overlap is 'some'"):
        evaluated([prediction(metadata=json.dumps({"overlap": "some"}))], SETTING)


def test_construction_statistics_of_a_small_run() -> None:
    two = kept(id="b", kept_ranks=[1, 2], fallback=True, unit_id="wb-b", source_tokens=100, unit_tokens=20)
    found = construction([kept(), two, gated(), failed()], units=2)
    assert {key: found[key] for key in ("examples", "kept", "gated", "failed", "units")} == {
        "examples": 4,
        "kept": 2,
        "gated": 1,
        "failed": 1,
        "units": 2,
    }
    assert (found["selected_rate"], found["fallback_rate"], found["mean_retained_documents"]) == (0.5, 0.5, 1.5)
    assert (found["source_tokens"], found["distilled_tokens"]) == (79.0, 23.0)
    assert found["compression_ratio"] == pytest.approx((58 / 26 + 5) / 2)
    assert found["retained_by_rank"] == {"1": pytest.approx(1 / 3), "2": pytest.approx(2 / 3)}
    assert found["reasons"] == {
        "delta <= tau_delta, before the call": 1,
        "error: UnusableReply: rewrite reply repetition": 1,
    }


def test_construction_of_nothing_kept_has_no_means() -> None:
    found = construction([gated()])
    assert (found["selected_rate"], found["compression_ratio"], found["fallback_rate"]) == (0.0, None, None)
    assert found["retained_by_rank"] == {}
    assert construction([])["selected_rate"] == 0.0


def test_a_kept_example_whose_unit_was_left_out_has_no_tokens() -> None:
    lost = kept(id="b", **dict.fromkeys(("unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens")))
    found = construction([kept(), lost], units=1)
    assert (found["kept"], found["units"], found["mean_retained_documents"]) == (2, 1, 1.0)
    assert (found["source_tokens"], found["distilled_tokens"]) == (58.0, 26.0)
    assert found["compression_ratio"] == pytest.approx(58 / 26)


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("gated: delta 0.00 <= tau_delta 0.01 (s_nr 0.00, s_rag 0.00)", "delta <= tau_delta"),
        ("gated: delta -1.00 <= tau_delta 1e-05 (s_nr 1.00, s_rag 0.00)", "delta <= tau_delta"),
        ("gated: s_rag 0.05 <= tau_s 0.1 (s_nr 0.00, s_rag 0.05)", "s_rag <= tau_s"),
    ],
)
def test_the_rule_of_a_reason_has_no_numbers(reason: str, rule: str) -> None:
    assert rule_of(gated(reason=reason)) == rule


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("ValueError: metric gave nan, for the answer 'a: b'", "error: ValueError"),
        ("UnusableReply: extract reply too_long: 900 > 400", "error: UnusableReply: extract reply too_long"),
        ("TimeoutError: ", "error: TimeoutError"),
    ],
)
def test_the_rule_of_an_error_is_its_kind(reason: str, rule: str) -> None:
    assert rule_of(failed(reason=reason)) == rule


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=5, unique=True), min_size=1, max_size=20))
@settings(deadline=None)
def test_shares_by_rank_add_up_to_one(ranks: list[list[int]]) -> None:
    shares = retained_by_rank(Counter(rank for some in ranks for rank in some))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares) == [str(rank) for rank in range(1, max(map(max, ranks)) + 1)]


def test_cost_adds_the_saved_calls_to_the_papers_plan() -> None:
    found = cost([kept(), gated()], [prediction()])
    assert found["training"]["calls"] == 8
    assert found["training"]["calls_saved"] == 1
    assert found["training"]["paper_calls"] == 9
    assert found["evaluation"] == {"calls": 3, "prompt_tokens": 310, "completion_tokens": 12}
    assert list(found) == ["training", "evaluation"]


def test_cost_of_writing_and_validating_is_told_where_there_was_any() -> None:
    written = [{"calls": 2, "prompt_tokens": 90, "completion_tokens": 7}, dict.fromkeys(SPENT)]
    found = cost([kept()], [prediction()], written, [prediction()])
    assert found["writing"] == {"calls": 2, "prompt_tokens": 90, "completion_tokens": 7}
    assert found["validating"] == found["evaluation"]


def test_hits_from_write_back_are_counted_over_all_hits() -> None:
    rows = [prediction(documents_writeback=[UNIT, UNIT | {"id": "wb-2"}]), prediction(id="b", documents_writeback=[])]
    record = evaluated(rows, SETTING)["results"][0]
    assert (record["writeback_share"], record["questions_with_writeback"]) == (1.0, 1)


def test_retrievals_of_the_methods_own_are_a_rate_and_a_mean_over_the_rows_that_did_not_fail() -> None:
    retrievals = [(2, 0), (0, 1), (4, 1), (None, None)]
    rows = [
        prediction(
            id=str(i), retrievals_base=base, retrievals_writeback=both, error=None if base is not None else "E: x"
        )
        for i, (base, both) in enumerate(retrievals)
    ]
    record = evaluated(rows, SETTING)["results"][0]
    assert (record["retrieval_rate_base"], record["retrievals_per_question_base"]) == (pytest.approx(2 / 3), 2.0)
    assert record["retrieval_rate_writeback"] == record["retrievals_per_question_writeback"] == pytest.approx(2 / 3)


def test_answers_in_other_scripts_are_scored_as_the_benchmark_says() -> None:
    row = prediction(answer_base="\u300c\u4e0a\u6d77\u300d\u3002", golden_answers=["\u4e0a\u6d77"])
    config = {"name": "b", "metric": "em", "labels": {}}
    rest = {"method": {"name": "naive"}, "backbone": {"name": "m"}, "seed": 0}
    found = [setting_of({"benchmark": config | more, **rest}) for more in ({}, {"language": "en"}, {"language": "any"})]
    assert [setting.score(row, "base") for setting in found] == [0.0, 0.0, 1.0]
    assert found[2].scores(row, "em")[1] == 1.0
