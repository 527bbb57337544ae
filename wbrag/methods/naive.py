"""Naive RAG: all documents and the question in one prompt, one call."""

from __future__ import annotations

from collections.abc import Sequence

from wbrag.llm.fit import fit_documents
from wbrag.methods import Answer, Tools, closed_book
from wbrag.schema import Document


async def answer(question: str, documents: Sequence[Document], tools: Tools) -> Answer:
    """The generator's reply to documents and question; what does not fit is dropped from the tail and counted.

    Raises PromptTooLong where not even the first document fits.
    """
    if not documents:
        return await closed_book(question, tools)
    prompt, read = fit_documents(
        documents, lambda some: tools.prompts.answer(tools.task, question, some), tools.llm, tools.answer_tokens
    )
    reply = await tools.llm.chat(prompt, tools.answer_tokens)
    dropped = len(documents) - read
    return Answer(reply.text.strip(), reply.prompt_tokens, reply.completion_tokens, 1, dropped)
