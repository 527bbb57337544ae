"""Naive RAG: all documents and the question in one prompt, one call."""

from __future__ import annotations

from collections.abc import Sequence

from wbrag.llm.fit import ask
from wbrag.methods import Answer, Tools, answered, closed_book
from wbrag.schema import Document


async def answer(question: str, documents: Sequence[Document], tools: Tools) -> Answer:
    """The generator's reply to documents and question; what does not fit is dropped from the tail and counted.

    Raises PromptTooLong where not even the first document fits.
    """
    if not documents:
        return await closed_book(question, tools)
    reply, read = await ask(tools.llm, tools.prompts, tools.task, tools.answer_tokens, documents, question=question)
    return answered(reply.text, [reply], len(documents) - read)
