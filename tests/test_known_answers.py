"""What an earlier run answered is not asked again, and changes no decision."""

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
from wbrag.algorithm import answer_question, train_example
from wbrag.config import Gates
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.methods import Tools
from wbrag.prompts import Prompts
from wbrag.run.pipeline import keep_closed_book
from wbrag.run.retrieve import KnownAnswers
from wbrag.schema import KNOWN, Document, Example

HELPFUL = Document("p1", "Town 1", "The mayor of town1 is Ada. The river of town1 is Osk.")
OTHER = Document("p2", "Town 2", "The mayor of town2 is Ben.")
EXAMPLE = Example("e", "What is the mayor of town1?", ("Ada",))


def tools_for(llm: ScriptedLLM) -> Tools:
    return Tools(llm, Prompts({}), "factoid", 16, 64)


def trained(known: str | None, respond: Any = read) -> dict[str, Any]:  # noqa: ANN401
    def metric(answer: str, golden: Any) -> float:  # noqa: ANN401
        return metrics.acc(answer, golden)

    tools = tools_for(ScriptedLLM(respond))
    run = train_example(EXAMPLE, [HELPFUL, OTHER], tools, Gates(), metric, closed_book_answer=known)
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
    row, saved = asyncio.run(answer_question(EXAMPLE, [OTHER], [HELPFUL], tools_for(llm), known=known))
    assert row["error"] is None
    assert row["answer_writeback"] == "Ada"
    assert row["answer_closed_book"] == ("nobody" if closed else "unknown")
    assert row["answer_base"] == ("Eve" if base else "unknown")
    assert row["context_tokens_base"] == (9 if base else row["context_tokens_base"])
    assert (row["calls"], saved) == (3 - closed - base, closed + base)
    assert len(llm.prompts) == row["calls"]


def test_over_the_same_documents_a_known_answer_is_that_over_write_back_too() -> None:
    llm = ScriptedLLM(read)
    known = {"answer_closed_book": "nobody", "answer_base": "Eve", "context_tokens_base": 9, "retrievals_base": 0}
    row, saved = asyncio.run(answer_question(EXAMPLE, [OTHER], [OTHER], tools_for(llm), known=known))
    assert (row["answer_writeback"], row["context_tokens_writeback"], row["retrievals_writeback"]) == ("Eve", 9, 0)
    assert (row["calls"], llm.prompts, saved, row["error"]) == (0, [], 2, None)

    async def search(query: str, k: int) -> list[Document]:
        return [HELPFUL]

    asked = answer_question(EXAMPLE, [OTHER], [OTHER], tools_for(llm), search, known)
    assert asyncio.run(asked)[0]["answer_writeback"] == "unknown"  # it could have searched: it is asked
    other, _ = asyncio.run(answer_question(EXAMPLE, [OTHER], [HELPFUL, OTHER], tools_for(llm), known=known))
    assert (other["answer_writeback"], other["calls"]) == ("Ada", 1)


def kept(run: Path, cache: Path, answers: dict[str, str | None]) -> None:
    """A finished table of a run with these answers, kept."""
    run.mkdir()
    table = pa.table({"question": list(answers), "closed_book_answer": pa.array(answers.values(), pa.string())})
    pq.write_table(table, run / "part.parquet")
    keep_closed_book(run, "closed_book_answer", cache)


def answers_in(cache: Path) -> dict[str, str]:
    """The questions that are kept, with the answers that they are given."""
    questions = pa.concat_tables(pa.ipc.open_file(file).read_all() for file in cache.glob("*.arrow"))["question"]
    asked = pa.table({"id": questions, "question": questions})
    known = KnownAnswers(cache)(asked)["known"].to_pylist()
    assert len(set(questions.to_pylist())) == len(questions)
    return {q: answer["answer_closed_book"] for q, answer in zip(questions.to_pylist(), known, strict=True)}


def test_answers_are_kept_once_and_found_by_the_questions_text(tmp_path: Path) -> None:
    cache = tmp_path / "closed-book"
    kept(tmp_path / "one", cache, {"Who?": "B", "What?": "A", "Where?": None})
    found = KnownAnswers(cache)(pa.table({"id": ["x", "y", "z"], "question": ["What?", "Where?", "When?"]}))["known"]
    assert found.type == KNOWN
    nothing = {"answer_base": None, "context_tokens_base": None, "retrievals_base": None}
    assert found.to_pylist() == [{"answer_closed_book": "A", **nothing}, None, None]
    before = {path.name for path in cache.iterdir()}
    kept(tmp_path / "two", cache, {"What?": "another", "Who?": "B"})
    assert {path.name for path in cache.iterdir()} == before
    kept(tmp_path / "three", cache, {"What?": "another", "When?": "C"})
    assert answers_in(cache) == {"Who?": "B", "What?": "A", "When?": "C"}


def test_what_was_empty_or_failed_is_not_kept_and_so_asked_again(tmp_path: Path) -> None:
    cache = tmp_path / "closed-book"
    kept(tmp_path / "one", cache, {"Who?": "", "What?": None})
    assert not cache.exists()
    kept(tmp_path / "two", cache, {"Who?": "Ada", "What?": ""})
    assert answers_in(cache) == {"Who?": "Ada"}


def test_answers_of_a_runs_own_table_are_found_by_id(tmp_path: Path) -> None:
    rows = pa.table({"id": ["a", "b"], "question": ["Who?", "Who?"], "answer_base": ["A", "B"]})
    pq.write_table(rows, tmp_path / "part.parquet")
    for table in (tmp_path, tmp_path / "part.parquet"):
        found = KnownAnswers(table)(pa.table({"id": ["b", "a"], "question": ["Who?", "Who?"]}))["known"].to_pylist()
        assert [row["answer_base"] for row in found] == ["B", "A"]
