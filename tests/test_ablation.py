"""The replay of other thresholds, held against Algorithm 1 run again with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import failed, gated, kept

from wbrag.algorithm import train_example
from wbrag.config import ConfigError, Gates
from wbrag.experiments.ablation import Plan, gates_of, plan, replay, request_id
from wbrag.llm.scripted import ScriptedLLM
from wbrag.methods import Tools
from wbrag.prompts import Prompts
from wbrag.schema import Document, Example

SCORES = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.7, 1.0])
THRESHOLDS = st.builds(
    Gates,
    tau_s=st.sampled_from([0.0, 0.05, 0.1, 0.5]),
    tau_delta=st.sampled_from([0.0, 0.01, 0.2]),
    tau_doc=st.sampled_from([0.0, 0.01, 0.1, 0.6]),
    n_min=st.integers(1, 4),
)
DOCUMENTS = [Document(f"p{i}", f"Title {i}", f"This is passage {i} about the thing.") for i in range(3)]
EXAMPLE = Example("e", "What is the thing?", ("gold",))


def algorithm_1(s_nr: float, s_rag: float, scores: list[float], gates: Gates) -> dict[str, Any]:
    """The trace of an example whose answers score so: the replies are the scores themselves."""

    def respond(prompt: str) -> str:
        if "Extract the sentences" in prompt or prompt.startswith("Evidence"):
            return "Title\nThis is passage 0 about the thing."
        alone = [i for i, document in enumerate(DOCUMENTS) if document.text in prompt]
        return str(s_nr if not alone else s_rag if len(alone) > 1 else scores[alone[0]])

    tools = Tools(ScriptedLLM(respond), Prompts({}), "factoid", 8, 64)
    made = train_example(EXAMPLE, DOCUMENTS, tools, gates, lambda answer, _: float(answer))
    return asyncio.run(made)


@given(SCORES, SCORES, st.lists(SCORES, min_size=3, max_size=3), THRESHOLDS, THRESHOLDS)
def test_a_replay_decides_as_algorithm_1_would(
    s_nr: float, s_rag: float, scores: list[float], own: Gates, other: Gates
) -> None:
    found = replay(algorithm_1(s_nr, s_rag, scores, own), other)
    again = algorithm_1(s_nr, s_rag, scores, other)
    if found is None:
        assert again["s_rag"] is not None  # it cannot be known without a call that the own gates saved
    else:
        assert list(found.kept_ranks) == (again["kept_ranks"] or [])
        assert not found.kept_ranks or found.fallback == again["fallback"]


@given(SCORES, SCORES, st.lists(SCORES, min_size=3, max_size=3), THRESHOLDS)
def test_the_own_gates_take_no_call(s_nr: float, s_rag: float, scores: list[float], own: Gates) -> None:
    trace = algorithm_1(s_nr, s_rag, scores, own)
    found = plan([trace], own)
    assert found.to_distil == found.to_train == ()
    assert found.reused == (("e",) if trace["status"] == "kept" else ())


def test_a_plan_reuses_distils_and_asks() -> None:
    closed = gated(id="c", s_nr=0.95, s_rag=None)
    rows = [kept(id="a"), kept(id="b", document_scores=[0.0, 0.3, 0.0], fallback=False), closed, failed(id="d")]
    strict = Gates(tau_delta=0.1, tau_doc=0.5)
    assert plan(rows, strict) == Plan(("a",), (("b", (1, 2)),), ())
    loose = Gates(tau_delta=0.0, tau_doc=0.01)
    assert plan(rows, loose) == Plan(("a", "b"), (), ("c",))


def test_what_could_not_be_distilled_is_not_asked_the_same_again() -> None:
    unusable = kept(status="gated", unit_id=None)
    assert plan([unusable], Gates()) == Plan((), (), ())
    assert plan([unusable], Gates(tau_doc=0.99)) == Plan((), (), ())


def test_one_threshold_changes_at_a_time_and_the_own_value_is_among_them() -> None:
    found = gates_of(Gates(), {"tau_doc": [0.05], "n_min": [1, 3]})
    assert list(found) == ["tau_doc=0.01", "tau_doc=0.05", "n_min=1", "n_min=2", "n_min=3"]
    assert found["tau_doc=0.05"] == Gates(tau_doc=0.05)
    assert found["tau_doc=0.01"] == found["n_min=2"] == Gates()


@pytest.mark.parametrize(
    ("thresholds", "told"),
    [
        ({"tau_x": [0.1]}, r"thresholds\.tau_x: unknown"),
        ({"tau_s": [1.0]}, r"thresholds\.tau_s: 1\.0 is out of range"),
        ({"tau_s": ["low"]}, r"thresholds\.tau_s: 'low' is not a number"),
        ({"n_min": [0]}, r"thresholds\.n_min: 0 is out of range"),
        ({"n_min": [1.5]}, r"thresholds\.n_min: 1\.5 is out of range"),
    ],
)
def test_thresholds_that_cannot_be_are_named(thresholds: dict[str, list[float]], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        gates_of(Gates(), thresholds)


def test_a_request_is_one_for_all_variants_that_need_it() -> None:
    assert request_id("train-1", (1, 3)) == request_id("train-1", [1, 3]) == "train-1@1+3"
