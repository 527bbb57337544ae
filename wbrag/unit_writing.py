"""A unit written on request, outside Algorithm 1: for placebos, and for document sets that no run has distilled yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wbrag.distill import Distilled, UnusableReply, distil, knowledge_unit, require_usable, title_and_text
from wbrag.llm.fit import fit_documents, require_fit
from wbrag.methods import Tools
from wbrag.schema import WRITTEN, Document, documents_of
from wbrag.training import CountedLLM

Row = dict[str, Any]
#: Longest reply to a yes/no question, in tokens.
VERDICT_TOKENS = 4


async def write_unit(request: Row, tools: Tools, n_min: int) -> Row:
    """One row of `schema.WRITTEN` for one row of `schema.REQUEST`, whatever becomes of it.

    With documents the unit is k = F(q, D*), D* being all of them or, for a `judged` request, those that the generator
    calls relevant (the first `n_min` where it calls none so). Without documents the unit is what the generator says
    from its own knowledge. No request holds a golden answer.
    """
    llm = CountedLLM(tools.llm, remember=True)
    tools = replace(tools, llm=llm)
    row: Row = dict.fromkeys(WRITTEN.names) | {"id": request["id"]}
    try:
        documents = documents_of(request["documents"])
        if request["judged"]:
            documents = await relevant(request["question"], documents, tools) or documents[:n_min]
        row |= await _written(request, documents, tools)
    except UnusableReply as error:
        row |= {"status": "gated", "reason": f"not distilled: {error}"}
    except Exception as error:  # one bad request must not take its block along
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()}
    return row | {
        "calls": llm.calls,
        "prompt_tokens": llm.prompt_tokens_sent,
        "completion_tokens": llm.completion_tokens,
    }


async def relevant(question: str, documents: Sequence[Document], tools: Tools) -> list[Document]:
    """The documents that the generator, asked of each alone, says yes to: do they help to answer the question?"""

    async def helps(document: Document) -> bool:
        def prompt(some: Sequence[Document]) -> str:
            return tools.prompts.relevance(question, some)

        asked, _ = fit_documents([document], prompt, tools.llm, VERDICT_TOKENS)
        reply = await tools.llm.chat(asked, VERDICT_TOKENS)
        return reply.text.strip().lower().startswith("yes")

    verdicts = await asyncio.gather(*[helps(document) for document in documents])
    return [document for document, yes in zip(documents, verdicts, strict=True) if yes]


async def unaided(question: str, tools: Tools) -> Distilled:
    """A passage on the question's subject from the generator's own knowledge: one call, no documents.

    Raises UnusableReply for a reply that can be no passage; its kinship with a source cannot be checked, as none is.
    """
    limit = tools.distil_tokens
    reply = await tools.llm.chat(require_fit(tools.prompts.unaided(question), tools.llm, limit), limit)
    title, text = title_and_text(reply.text)
    require_usable("unaided", reply.text, text, reply.text)
    return Distilled(title, text, "", 0)


async def _written(request: Row, documents: Sequence[Document], tools: Tools) -> Row:
    question = request["question"]
    if documents:
        distilled = await distil(question, documents, tools.llm, tools.prompts, tools.distil_tokens)
    else:
        distilled = await unaided(question, tools)
    unit = knowledge_unit(request["id"], distilled, documents, tools.llm)
    return {
        "status": "kept",
        "reason": f"written from {distilled.documents_read} documents",
        "unit_id": unit.id,
        "unit_title": unit.title,
        "unit_text": unit.text,
        "source_ids": list(unit.source_ids),
        "source_tokens": unit.source_tokens,
        "unit_tokens": unit.unit_tokens,
    }
