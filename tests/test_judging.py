"""The judge in place of labels: same gates, no golden answer in sight, and how often labels would have agreed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.algorithm import NoJudgement, llm_judge, train_example
from wbrag.config import Benchmark, ConfigError, Gates, Method, TrainConfig
from wbrag.data.benchmarks import OverErrorBudget, read_examples
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.methods import Tools
from wbrag.metrics import acc
from wbrag.prompts import Prompts
from wbrag.report.construction import construction
from wbrag.report.run_report import construction_rows
from wbrag.run.inputs import check_settings
from wbrag.schema import Document, Example

QUESTION = "Where is the Alder bridge?"
HELPFUL = Document("d1", "Alder bridge", "The Alder bridge is in Norvale. The ferry was old.", 0.9)
USELESS = Document("d2", "Mills", "The mill is in Osterby.", 0.5)


def tools(llm: ScriptedLLM) -> Tools:
    return Tools(llm, Prompts(), "factoid", 16, distil_tokens=200)


def judged(llm: ScriptedLLM, golden: Sequence[str] = ("Norvale",), paper_plan: bool = False) -> dict[str, Any]:
    example = Example("q1", QUESTION, tuple(golden))
    work = train_example(example, [HELPFUL, USELESS], tools(llm), Gates(), acc, judge=True, paper_plan=paper_plan)
    return asyncio.run(work)


def saying(closed: bool, rag: bool) -> ScriptedLLM:
    """A reader whose judge has its own mind about "unknown", the closed-book answer, and about any other."""

    def respond(prompt: str) -> str:
        if "Judge by" in prompt:
            return "yes" if (closed if prompt.endswith("Answer: unknown") else rag) else "No."
        return read(prompt)

    return ScriptedLLM(respond)


def test_the_judge_decides_by_the_same_gates() -> None:
    row = judged(ScriptedLLM(read))
    assert (row["status"], row["s_nr"], row["s_rag"], row["document_scores"]) == ("kept", 0.0, 1.0, [1.0, 0.0])
    assert (row["kept_ranks"], row["judge_agrees"], row["unit_title"]) == ([1], True, "The Alder bridge")


def test_labels_need_not_be_there() -> None:
    row = judged(ScriptedLLM(read), golden=())
    assert (row["status"], row["s_rag"], row["judge_agrees"]) == ("kept", 1.0, None)


@pytest.mark.parametrize(
    ("closed", "rag", "golden", "status", "agrees"),
    [
        (False, True, "Norvale", "kept", True),
        (False, True, "Osterby", "kept", False),
        (False, False, "Osterby", "gated", True),
        (False, False, "Norvale", "gated", False),
        (True, True, "unknown", "gated", True),  # both find it known: the call that was left out matters to neither
        (True, True, "Norvale", "gated", None),  # the labels' decision would have needed that call
    ],
)
def test_whether_labels_agree_is_recorded(closed: bool, rag: bool, golden: str, status: str, agrees: bool) -> None:
    row = judged(saying(closed, rag), [golden])
    assert (row["status"], row["judge_agrees"]) == (status, agrees)


def test_under_the_papers_plan_agreement_is_always_known() -> None:
    assert judged(saying(closed=True, rag=True), ["Norvale"], paper_plan=True)["judge_agrees"] is False


@given(st.uuids(), st.booleans(), st.booleans())
def test_no_golden_answer_reaches_the_judge(canary: object, closed: bool, rag: bool) -> None:
    llm = saying(closed, rag)
    judged(llm, [f"canary-{canary}", "Norvale town"])
    asked = [prompt for prompt in llm.prompts if "Judge by" in prompt]
    assert asked
    assert all(HELPFUL.text in prompt and USELESS.text in prompt for prompt in asked)
    assert not any(f"canary-{canary}" in prompt or "Norvale town" in prompt for prompt in llm.prompts)


def test_a_judge_that_will_not_say_fails_the_example() -> None:
    row = judged(ScriptedLLM(lambda prompt: "perhaps" if "Judge by" in prompt else read(prompt)))
    assert (row["status"], row["reason"]) == ("failed", "NoJudgement: the judge said 'perhaps', neither yes nor no")


@pytest.mark.parametrize(("reply", "score"), [("yes", 1.0), ("Yes.", 1.0), ("**no**", 0.0), ("No, it is not", 0.0)])
def test_a_judgement_is_read_from_its_first_word(reply: str, score: float) -> None:
    llm = ScriptedLLM(lambda prompt: reply)
    assert asyncio.run(llm_judge(QUESTION, "Norvale", [HELPFUL], tools(llm))) == score


def test_nothing_bears_out_an_answer_without_documents() -> None:
    llm = ScriptedLLM(read)
    assert asyncio.run(llm_judge(QUESTION, "Norvale", [], tools(llm))) == 0.0
    assert llm.prompts == []
    with pytest.raises(NoJudgement):
        asyncio.run(llm_judge(QUESTION, "Norvale", [HELPFUL], tools(ScriptedLLM(lambda prompt: "yesterday"))))


def test_agreement_is_among_the_construction_statistics() -> None:
    rows = [judged(saying(False, True), [golden]) for golden in ("Norvale", "Osterby", "Norvale")]
    numbers = construction([*rows, judged(ScriptedLLM(read), golden=())])
    assert (numbers["judge_compared"], numbers["judge_agreement"]) == (3, pytest.approx(2 / 3))
    assert (numbers["judge_passed"], numbers["labels_passed"], numbers["judge_kappa"]) == (3, 2, pytest.approx(0.0))
    assert ("judge and labels agree", "66.7% of 3 decisions, kappa 0.00") in construction_rows(numbers)
    unjudged = construction([row | {"judge_agrees": None} for row in rows])
    assert unjudged["judge_agreement"] is unjudged["judge_kappa"] is None
    assert "judge and labels agree" not in dict(construction_rows(unjudged))


def test_rows_without_labels_are_read_only_for_a_judge(tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "Who?"}, {"id": "b", "question": "Where?", "golden_answers": ["Norvale"]}]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (table,) = read_examples(path, [], labelled=False)
    assert table["golden_answers"].to_pylist() == [[], ["Norvale"]]
    with pytest.raises(OverErrorBudget, match="no golden answer"):
        list(read_examples(path, []))


def test_labels_judge_unless_told_otherwise() -> None:
    assert (TrainConfig().judge, TrainConfig().method) == ("labels", Method())


def test_an_unknown_judge_is_named() -> None:
    benchmark = Benchmark(name="t", train="a", test="b")
    with pytest.raises(ConfigError, match="judge='coin' is unknown; known are labels, llm"):
        check_settings(TrainConfig(benchmark=benchmark, judge="coin"))
