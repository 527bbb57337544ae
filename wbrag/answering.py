"""One test question, answered three times: closed book, with base documents, with base + write-back documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wbrag.methods import Method, Search, Tools, closed_book
from wbrag.schema import PREDICTION, Document, Example, document_rows
from wbrag.training import CountedLLM

Row = dict[str, Any]


async def answer_question(
    example: Example,
    base: Sequence[Document],
    writeback: Sequence[Document],
    tools: Tools,
    method: Method,
    merged_search: Search | None = None,
) -> tuple[Row, int]:
    """One row of `schema.PREDICTION`, whatever becomes of it, and the calls that were not repeated.

    `base` is R(q, K), `writeback` the merged Top-K(R(q, K) u R(q, K_wb)) (paper, section 3.1). Where both hold the
    same documents in the same order their prompts are equal, and the one reply serves both. A method that searches
    while it answers has `tools.search` for the base answer, and `merged_search`, over both stores, for the other.
    Context tokens are those of the documents given that fitted, without instruction and question. An exception becomes
    the row's error.
    """
    llm = CountedLLM(tools.llm, remember=True)
    row: Row = dict.fromkeys(PREDICTION.names) | {
        "id": example.id,
        "question": example.question,
        "golden_answers": list(example.golden_answers),
        "metadata": example.metadata,
        "documents_base": document_rows(list(base)),
        "documents_writeback": document_rows(list(writeback)),
    }
    try:
        row |= await _answers(example.question, base, writeback, replace(tools, llm=llm), method, merged_search)
    except Exception as error:  # one bad question must not take its block along
        row["error"] = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    row |= {"calls": llm.calls, "prompt_tokens": llm.prompt_tokens_sent, "completion_tokens": llm.completion_tokens}
    return row, llm.calls_saved


async def _answers(
    question: str,
    base: Sequence[Document],
    writeback: Sequence[Document],
    tools: Tools,
    method: Method,
    merged_search: Search | None,
) -> Row:
    alone, with_base, with_both = await asyncio.gather(
        closed_book(question, tools),
        method.answer(question, base, tools),
        method.answer(question, writeback, replace(tools, search=merged_search)),
    )

    def context(documents: Sequence[Document], dropped: int) -> int:
        return tools.llm.count_tokens(tools.prompts.documents(documents[: len(documents) - dropped]))

    return {
        "answer_closed_book": alone.text,
        "answer_base": with_base.text,
        "answer_writeback": with_both.text,
        "context_tokens_base": context(base, with_base.dropped_documents),
        "context_tokens_writeback": context(writeback, with_both.dropped_documents),
        "retrievals_base": with_base.retrievals,
        "retrievals_writeback": with_both.retrievals,
    }
