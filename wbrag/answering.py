"""One test question, answered three times: closed book, with base documents, with base + write-back documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wbrag.algorithm import CountedLLM
from wbrag.methods import Answer, Method, Search, Tools, closed_book
from wbrag.schema import PREDICTION, Document, Example, document_rows

Row = dict[str, Any]


async def answer_question(
    example: Example,
    base: Sequence[Document],
    writeback: Sequence[Document],
    tools: Tools,
    method: Method,
    merged_search: Search | None = None,
    known: Mapping[str, Any] | None = None,
) -> tuple[Row, int]:
    """One row of `schema.PREDICTION`, whatever becomes of it, and the calls that were not repeated.

    `base` is R(q, K), `writeback` the merged Top-K(R(q, K) u R(q, K_wb)) (paper, section 3.1). Where both hold the
    same documents in the same order their prompts are equal, and the one reply serves both. A method that searches
    while it answers has `tools.search` for the base answer, and `merged_search`, over both stores, for the other.
    Context tokens are those of the documents given that fitted, without instruction and question. An exception becomes
    the row's error.

    `known` holds columns of `schema.KNOWN` from an earlier run of the same settings; what is known is not asked again,
    nor is an answer over write-back where the documents are those of a known base answer.
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
    earlier = {column: value for column, value in (known or {}).items() if value is not None}
    try:
        over_both = replace(tools, llm=llm, search=merged_search)
        tools = replace(tools, llm=llm)
        row |= await _answers(example.question, (base, tools), (writeback, over_both), method, earlier)
    except Exception as error:  # one bad question must not take its block along
        row["error"] = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    row |= {"calls": llm.calls, "prompt_tokens": llm.prompt_tokens_sent, "completion_tokens": llm.completion_tokens}
    return row, llm.calls_saved + sum(column in earlier for column in ("answer_closed_book", "answer_base"))


async def _answers(
    question: str,
    base: tuple[Sequence[Document], Tools],
    writeback: tuple[Sequence[Document], Tools],
    method: Method,
    known: Mapping[str, Any],
) -> Row:
    """What is not `known`; each side's documents with the tools that search where they come from."""

    async def alone() -> Row:
        return {"answer_closed_book": (await closed_book(question, base[1])).text}

    async def read(side: str, documents: Sequence[Document], tools: Tools) -> Row:
        answer = await method.answer(question, documents, tools)
        return {
            f"answer_{side}": answer.text,
            f"context_tokens_{side}": _context(documents, answer, tools),
            f"retrievals_{side}": answer.retrievals,
        }

    answers = dict(known)
    asked = []
    if writeback[1].search is None and list(base[0]) == list(writeback[0]) and "answer_base" in known:
        same = ("answer", "context_tokens", "retrievals")
        answers |= {f"{name}_writeback": known.get(f"{name}_base") for name in same}
    else:
        asked = [read("writeback", *writeback)]
    asked += [] if "answer_closed_book" in known else [alone()]
    asked += [] if "answer_base" in known else [read("base", *base)]
    for found in await asyncio.gather(*asked):
        answers |= found
    return answers


def _context(documents: Sequence[Document], answer: Answer, tools: Tools) -> int:
    return tools.llm.count_tokens(tools.prompts.documents(documents[: len(documents) - answer.dropped_documents]))
