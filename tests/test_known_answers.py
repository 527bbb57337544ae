"""What an earlier run answered is not asked again, and changes no decision; units are written on request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag import metrics
from wbrag.answering import answer_question
from wbrag.config import Gates
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.methods import Tools, naive
from wbrag.pipeline import keep_closed_book
from wbrag.prompts import Prompts
from wbrag.retrieval import KnownAnswers
from wbrag.schema import KNOWN, Document, Example, document_rows
from wbrag.training import train_example
from wbrag.unit_writing import write_unit

HELPFUL = Document("p1", "Town 1", "The mayor of town1 is Ada. The river of town1 is Osk.")
OTHER = Document("p2", "Town 2", "The mayor of town2 is Ben.")
EXAMPLE = Example("e", "What is the mayor of town1?", ("Ada",))


def tools_for(llm: ScriptedLLM) -> Tools:
    return Tools(llm, Prompts({}), "factoid", 16, 64)


def trained(known: str | None, respond: Any = read) -> dict[str, Any]:  # noqa: ANN401
    def metric(answer: str, golden: Any) -> float:  # noqa: ANN401
        return metrics.acc(answer, golden)

    tools = tools_for(ScriptedLLM(respond))
    run = train_example(EXAMPLE, [HELPFUL, OTHER], tools, Gates(), metric, method=naive, closed_book_answer=known)
    return asyncio.run(run)


@pytest.mark.parametrize("answer", ["unknown", "Ada", ""])
def test_a_known_closed_book_answer_saves_its_call_and_changes_nothing_else(answer: str) -> None:
    asked = trained(None, lambda prompt: answer if "your own knowledge" in prompt else read(prompt))
    known = trained(answer)
    told = ("calls", "calls_saved", "prompt_tokens", "completion_tokens", "seconds")
    assert {k: v for k, v in known.items() if k not in told} == {k: v for k, v in asked.items() if k not in told}
    assert (known["calls"], known["calls_saved"]) == (asked["calls"] - 1, asked["calls_saved"] + 1)


@given(st.booleans(), st.booleans())
def test_known_answers_to_a_test_question_are_taken_over(closed: bool, base: bool) -> None:
    llm = ScriptedLLM(read)
    known: dict[str, Any] = {"answer_closed_book": "nobody" if closed else None}
    known |= {"answer_base": "Eve", "context_tokens_base": 9} if base else {"answer_base": None}
    row, saved = asyncio.run(answer_question(EXAMPLE, [OTHER], [HELPFUL], tools_for(llm), naive, known=known))
    assert row["error"] is None
    assert row["answer_writeback"] == "Ada"
    assert row["answer_closed_book"] == ("nobody" if closed else "unknown")
    assert row["answer_base"] == ("Eve" if base else "unknown")
    assert row["context_tokens_base"] == (9 if base else row["context_tokens_base"])
    assert (row["calls"], saved) == (3 - closed - base, closed + base)
    assert len(llm.prompts) == row["calls"]


def test_answers_are_kept_once_without_failed_ones_and_found_by_id(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    table = pa.table({"id": ["b", "a", "c"], "closed_book_answer": ["B", "A", None]})
    pq.write_table(table, tmp_path / "run" / "part.parquet")
    kept = tmp_path / "cache" / "closed.parquet"
    keep_closed_book(tmp_path / "run", "closed_book_answer", kept)
    found = KnownAnswers(kept)(pa.table({"id": ["a", "c", "x"]}))["known"]
    assert found.type == KNOWN
    nothing = {"answer_base": None, "context_tokens_base": None, "retrievals_base": None}
    assert found.to_pylist() == [{"answer_closed_book": "A", **nothing}, None, None]
    before = kept.stat().st_mtime_ns
    keep_closed_book(tmp_path / "run", "closed_book_answer", kept)
    assert kept.stat().st_mtime_ns == before


def request(documents: list[Document], judged: bool = False) -> dict[str, Any]:
    return {"id": "r", "question": EXAMPLE.question, "documents": document_rows(documents), "judged": judged}


def written(row: dict[str, Any], respond: Any = read) -> tuple[dict[str, Any], ScriptedLLM]:  # noqa: ANN401
    llm = ScriptedLLM(respond)
    return asyncio.run(write_unit(row, tools_for(llm), n_min=1)), llm


def test_a_unit_is_distilled_from_the_documents_asked_for() -> None:
    row, llm = written(request([HELPFUL, OTHER]))
    assert (row["status"], row["source_ids"], row["calls"]) == ("kept", ["p1", "p2"], 2)
    assert "Ada" in row["unit_text"]
    assert len(llm.prompts) == 2
    assert row["unit_tokens"] > 0


@pytest.mark.parametrize(("verdict", "sources"), [("yes", ["p1"]), ("no", ["p2"])])
def test_a_judged_request_reads_what_is_called_relevant(verdict: str, sources: list[str]) -> None:
    def respond(prompt: str) -> str:
        if "help to answer" not in prompt:
            return read(prompt)
        return verdict if "town1 is Ada" in prompt else "no"

    row, _ = written(request([OTHER, HELPFUL], judged=True), respond)
    assert (row["status"], row["source_ids"]) == ("kept", sources)
    assert row["calls"] == 4


def test_without_documents_the_generator_writes_from_what_it_knows() -> None:
    row, llm = written(request([]), lambda _: "Town 1\nIts mayor is Eve.")
    assert (row["status"], row["unit_title"], row["unit_text"]) == ("kept", "Town 1", "Its mayor is Eve.")
    assert (row["source_ids"], row["source_tokens"]) == ([], 0)
    (prompt,) = llm.prompts
    assert "from your own knowledge" in prompt
    assert EXAMPLE.question in prompt


def test_a_reply_that_is_no_passage_and_an_error_are_told_apart() -> None:
    row, _ = written(request([]), lambda _: "I cannot help with that.")
    assert row["status"] == "gated"
    assert "unaided reply refusal" in row["reason"]

    def broken(_: str) -> str:
        raise RuntimeError("the engine is gone")

    row, _ = written(request([HELPFUL]), broken)
    assert (row["status"], row["reason"]) == ("failed", "RuntimeError: the engine is gone")
