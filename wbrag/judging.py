"""A judge in place of labels: the generator says whether the documents bear an answer out; it sees no golden answer.

The same gates read its scores. A judgement is 1 or 0, asked and answered in words, so that any generator can give it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from wbrag.config import Gates
from wbrag.gates import utility_gate, with_documents_needed
from wbrag.llm.fit import fit_documents
from wbrag.methods import Tools
from wbrag.metrics import normalise
from wbrag.schema import Document

#: From question, answer and the retrieved documents D to a score in 0..1.
Judge = Callable[[str, str, Sequence[Document], Tools], Awaitable[float]]


class NoJudgement(ValueError):
    """A reply of the judge that is neither yes nor no; the message holds it."""


async def llm_judge(question: str, answer: str, documents: Sequence[Document], tools: Tools) -> float:
    """1.0 where the generator says yes, the documents bear the answer out; 0.0 where it says no, or has no documents.

    Documents that do not fit are dropped from the tail. Raises NoJudgement, and PromptTooLong where nothing fits.
    """
    if not documents:
        return 0.0
    prompt, _ = fit_documents(
        documents, lambda some: tools.prompts.judge(question, answer, some), tools.llm, tools.answer_tokens
    )
    reply = await tools.llm.chat(prompt, tools.answer_tokens)
    match normalise(reply.text).split():
        case ["yes", *_]:
            return 1.0
        case ["no", *_]:
            return 0.0
    raise NoJudgement(f"the judge said {reply.text[:60]!r}, neither yes nor no")


def labels_agree(row: Mapping[str, Any], gates: Gates, metric: Callable[[str, Sequence[str]], float]) -> bool | None:
    """Whether the utility gate decides by the labels as it did by the judge, from a row of `schema.TRACE`.

    None for a failed row, for one without golden answers, and where the judge's s_nr spared a call that the labels'
    decision would have needed.
    """
    golden = row["golden_answers"]
    if not golden or row["status"] == "failed":
        return None
    s_nr = metric(row["closed_book_answer"], golden)
    if row["s_rag"] is None:
        return None if with_documents_needed(s_nr, gates) else True
    by_labels = utility_gate(s_nr, metric(row["rag_answer"], golden), gates)
    return by_labels.passed == utility_gate(row["s_nr"], row["s_rag"], gates).passed
