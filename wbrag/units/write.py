"""Units written, rewritten or word for word, one request at a time: of an example, a subject, a placebo's documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from wbrag.algorithm import CountedLLM
from wbrag.config import Units
from wbrag.distill import (
    Distilled,
    UnusableReply,
    distil,
    evidence_lines,
    knowledge_unit,
    require_usable,
    rewritten,
    title_and_text,
)
from wbrag.llm.fit import fit_documents, require_fit
from wbrag.methods import Tools
from wbrag.schema import WRITTEN, Document, documents_of
from wbrag.units.critics import critic_of, settled
from wbrag.units.faithful import checked
from wbrag.units.refusals import bare
from wbrag.units.subjects import Statement, once, packed, plain_title, standing

Row = dict[str, Any]
#: Longest reply to a yes/no question, in tokens.
VERDICT_TOKENS = 4
#: The share of a passage's characters above which a unit made of it alone is a copy.
COPY = 0.8


async def write_units(request: Row, tools: Tools, how: Units, n_min: int) -> Row:
    """One row of `schema.WRITTEN` for one row of `schema.REQUEST`, whatever becomes of it.

    `how` says in which form; a `judged` request reads of its documents those that the generator calls relevant (the
    first `n_min` where it calls none so). Without documents the unit is what the generator says from its own knowledge.
    No request holds a golden answer.
    """
    llm = CountedLLM(tools.llm, remember=True)
    tools = replace(tools, llm=llm)
    row: Row = dict.fromkeys(WRITTEN.names) | {"id": request["id"], "units": [], "left_out": []}
    try:
        documents = documents_of(request["documents"])
        if request["judged"]:
            documents = await relevant(request["question"], documents, tools) or documents[:n_min]
        units = await _units(request, documents, tools, how, row["left_out"])
        told = f"written from {len(documents)} documents" if units else "nothing was left to write"
        row |= {"units": units, "status": "kept" if units else "gated", "reason": told}
    except UnusableReply as error:
        row |= {"status": "gated", "reason": f"not distilled: {error}"}
    except Exception as error:  # one bad request must not take its block along
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()}
    return row | {
        "calls": llm.calls,
        "prompt_tokens": llm.prompt_tokens_sent,
        "completion_tokens": llm.completion_tokens,
    }


async def _units(request: Row, documents: list[Document], tools: Tools, how: Units, left_out: list[Row]) -> list[Row]:
    if not documents:
        return [_row(request, await unaided(request["question"], tools), documents, tools, "distilled")]
    told = [Statement(**one) for one in request["statements"] or []]
    if how.form == "verbatim":
        told = told or await extracted(request["question"], documents, tools)
        return verbatim(request, told, documents, tools, how, left_out)
    try:
        drafts = await _drafts(request, documents, tools, how, left_out)
    except UnusableReply as error:
        if not how.faithful:
            raise
        left_out.append(_left("", "unusable", str(error)))
        return verbatim(request, told, documents, tools, how, left_out, "fallback")
    if not how.faithful:
        return [_row(request, draft, read, tools, "distilled") for draft, read in drafts]
    made = [await _faithful(request, *draft, told, tools, how, left_out) for draft in drafts]
    return [unit for units in made for unit in units]


async def _faithful(
    request: Row,
    draft: Distilled,
    read: list[Document],
    told: Sequence[Statement],
    tools: Tools,
    how: Units,
    left_out: list[Row],
) -> list[Row]:
    """The draft without what its sources do not bear out. Where less than half of it is left it is asked for once more,
    from the evidence that stands in the sources; then the evidence itself is the unit.
    """
    if unit := await _borne_out(request, draft, read, tools, how, left_out):
        return [unit]
    there = [one for d in read for one in standing(draft.evidence.splitlines(), d)] or list(told)
    evidence = "\n".join(one.text for one in there)
    if evidence and evidence != draft.evidence:
        question = request["question"] or tools.prompts.about(request["subject"])
        try:
            title, text = await rewritten(question, evidence, evidence, tools.llm, tools.prompts, tools.distil_tokens)
            again = Distilled(title, text, evidence, len(read))
            if unit := await _borne_out(request, again, read, tools, how, left_out):
                return [unit]
        except UnusableReply as error:
            left_out.append(_left("", "unusable", str(error)))
    return verbatim(request, there, read, tools, how, left_out, "fallback")


async def _borne_out(
    request: Row, draft: Distilled, read: list[Document], tools: Tools, how: Units, left_out: list[Row]
) -> Row | None:
    """The unit of the draft's sentences that are borne out, or None where that is less than half of them."""
    sources = [document.contents for document in read]
    held = checked(draft.title, draft.text, sources, request["question"] or "")
    held = await settled(held, sources, critic_of(how.critic, tools.llm, tools.prompts))
    left_out += [_left(one.sentence, one.kind, one.reason) for one in held.cut]
    if not held.kept or 2 * len(held.kept) < len(held.sentences):
        return None
    title = "" if held.title_fault else held.title
    text = " ".join(bare(sentence) for sentence in held.kept)
    titled = Distilled(title or request["subject"] or plain_title(read[0].title), text, draft.evidence, len(read))
    doubt = "cut" if held.cut else "supported" if any(one.kind == "supported" for one in held.sentences) else ""
    return _row(request, titled, read, tools, "distilled", doubt)


async def _drafts(
    request: Row, documents: list[Document], tools: Tools, how: Units, left_out: list[Row]
) -> list[tuple[Distilled, list[Document]]]:
    """What the generator writes, each with the documents it is made of: one for a question, for a subject as many as
    its evidence needs. One of these that is no passage does not take the others along: what is held against its
    sources is then asked for once more (`_faithful`), anything else left out.
    """
    question = request["question"]
    if draft := request["draft"]:
        return [(Distilled(draft["title"], draft["text"], draft["evidence"], len(documents)), documents)]
    if not request["subject"]:
        return [(await distil(question, documents, tools.llm, tools.prompts, tools.distil_tokens), documents)]
    asked = question or tools.prompts.about(request["subject"])
    told = once(await extracted(asked, documents, tools))
    drafts = []
    for lines in packed(told, [tools.llm.count_tokens(one.text) for one in told], how.tokens):
        evidence = "\n".join(one.text for one in lines)
        try:
            title, text = await rewritten(asked, evidence, evidence, tools.llm, tools.prompts, tools.distil_tokens)
        except UnusableReply as error:
            left_out.append(_left("", "unusable", str(error)))
            if not how.faithful:
                continue
            title, text = "", ""
        ids = {one.source for one in lines}
        read = [document for document in documents if document.id in ids]
        drafts.append((Distilled(title or request["subject"], text, evidence, len(read)), read))
    return drafts


async def extracted(question: str, documents: Sequence[Document], tools: Tools) -> list[Statement]:
    """The sentences that the generator, shown one document after the other, calls evidence and that stand there."""

    async def of(document: Document) -> list[Statement]:
        def prompt(some: Sequence[Document]) -> str:
            return tools.prompts.extract(question, some)

        asked, _ = fit_documents([document], prompt, tools.llm, tools.distil_tokens)
        reply = await tools.llm.chat(asked, tools.distil_tokens)
        return standing(evidence_lines(reply.text), document)

    found = await asyncio.gather(*[of(document) for document in documents])
    return [statement for statements in found for statement in statements]


def verbatim(
    request: Row,
    told: Sequence[Statement],
    documents: Sequence[Document],
    tools: Tools,
    how: Units,
    left_out: list[Row],
    doubt: str = "",
) -> list[Row]:
    """Units that are the statements as they stand, each once, under the subject's name or their source's title.

    One that is nearly the whole of a single passage says nothing that is not found already: it is left out.
    """
    by_id = {document.id: document for document in documents}
    told = once(told)
    lengths = [tools.llm.count_tokens(one.text) for one in told]
    made = []
    for lines in packed(told, lengths, how.tokens):
        read = [by_id[source] for source in dict.fromkeys(one.source for one in lines)]
        text = " ".join(one.text for one in lines)
        title = request["subject"] or plain_title(read[0].title)
        if len(read) == 1 and len(text) > COPY * len(read[0].text):
            left_out.append(_left(text, "copy", f"is passage {read[0].id} again"))
            continue
        made.append(_row(request, Distilled(title, text, "", len(read)), read, tools, "verbatim", doubt))
    return made


def _left(text: str, kind: str, reason: str) -> Row:
    return {"text": text, "kind": kind, "reason": reason}


def _row(
    request: Row, distilled: Distilled, documents: Sequence[Document], tools: Tools, form: str, doubt: str = ""
) -> Row:
    """A row of `schema.UNIT`."""
    examples = [request["id"]] if request["examples"] is None else request["examples"]
    unit = knowledge_unit(examples, distilled, documents, tools.llm)
    return asdict(replace(unit, subject=request["subject"] or "", form=form, doubt=doubt))


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
