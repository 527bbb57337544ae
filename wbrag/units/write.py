"""Units written, rewritten or word for word, one request at a time: of an example, a subject, a placebo's documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wbrag import distill
from wbrag.algorithm import CountedLLM, failure
from wbrag.config import Units
from wbrag.distill import Distilled, UnusableReply
from wbrag.llm.fit import ask, readable
from wbrag.methods import Tools
from wbrag.schema import WRITTEN, Document, documents_of
from wbrag.units.critics import critic_of
from wbrag.units.faithful import checked, settled
from wbrag.units.refusals import bare
from wbrag.units.requests import Statement, once, packed, standing
from wbrag.units.sentences import plain_title

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
    writing = _Writing(request, replace(tools, llm=llm), how, [])
    row: Row = dict.fromkeys(WRITTEN.names) | {"id": request["id"], "units": [], "left_out": writing.left_out}
    try:
        documents = documents_of(request["documents"])
        if request["judged"]:
            documents = await writing.relevant(documents) or documents[:n_min]
        units = await writing.units(documents)
        told = f"written from {len(documents)} documents" if units else "nothing was left to write"
        row |= {"units": units, "status": "kept" if units else "gated", "reason": told}
    except UnusableReply as error:
        row |= {"status": "gated", "reason": f"not distilled: {error}"}
    except Exception as error:  # one bad request must not take its block along
        row |= {"status": "failed", "reason": failure(error)}
    return row | llm.spent


@dataclass(frozen=True, slots=True)
class _Writing:
    """A request, what it is written with and how, and what was left out so far."""

    request: Row
    tools: Tools
    how: Units
    left_out: list[Row]

    @property
    def question(self) -> str:
        """The request's, or what is known about its subject."""
        return self.request["question"] or self.tools.prompts.message("about", subject=self.request["subject"])

    async def units(self, documents: list[Document]) -> list[Row]:
        """The units (rows of `schema.UNIT`) made of these documents."""
        if not documents:
            return [self.unit(await self.unaided())]
        told = [Statement(**one) for one in self.request["statements"] or []]
        if self.how.form == "verbatim":
            return self.verbatim(told or await self.extracted(self.request["question"], documents), documents)
        try:
            drafts = await self.drafts(documents)
        except UnusableReply as error:
            if not self.how.faithful:
                raise
            self.leave_out("unusable", str(error))
            return self.verbatim(told, documents, "fallback")
        if not self.how.faithful:
            return [self.unit(draft) for draft in drafts]
        return [unit for draft in drafts for unit in await self.faithful(draft, told)]

    async def drafts(self, documents: list[Document]) -> list[Distilled]:
        """What the generator writes: one draft for a question, for a subject as many as its evidence needs.

        One of these that is no passage does not take the others along: what is held against its sources is then asked
        for once more (`faithful`), anything else left out.
        """
        if draft := self.request["draft"]:
            return [Distilled(draft["title"], draft["text"], draft["evidence"], documents)]
        tools, subject = self.tools, self.request["subject"]
        if not subject:
            how = (tools.llm, tools.prompts, tools.distil_tokens)
            one = await distill.distil(self.request["question"], documents, *how)
            return [replace(one, sources=documents) if self.how.faithful else one]  # held against all that were given
        drafts = []
        told = once(await self.extracted(self.question, documents))
        for lines in packed(told, tools.llm.count_tokens, self.how.tokens):
            evidence, ids = "\n".join(said.text for said in lines), {said.source for said in lines}
            sources = [document for document in documents if document.id in ids]
            made = await self.rewrite(evidence, sources)
            if made or self.how.faithful:
                made = made or Distilled("", "", evidence, sources)
                drafts.append(replace(made, title=made.title or subject))
        return drafts

    async def rewrite(self, evidence: str, sources: Sequence[Document]) -> Distilled | None:
        """The evidence as a passage; None where the reply is none, which is left out."""
        how = (self.tools.llm, self.tools.prompts, self.tools.distil_tokens)
        try:
            title, text = await distill.rewritten(self.question, evidence, evidence, *how)
        except UnusableReply as error:
            self.leave_out("unusable", str(error))
            return None
        return Distilled(title, text, evidence, sources)

    async def faithful(self, draft: Distilled, told: Sequence[Statement]) -> list[Row]:
        """The draft without what its sources do not bear out. Where less than half of it is left it is asked for once
        more, from the evidence that stands in the sources; after that the evidence itself is the unit.
        """
        if unit := await self.borne_out(draft):
            return [unit]
        there = [one for d in draft.sources for one in standing(draft.evidence.splitlines(), d)] or list(told)
        evidence = "\n".join(one.text for one in there)
        if evidence and evidence != draft.evidence:
            again = await self.rewrite(evidence, draft.sources)
            if again and (unit := await self.borne_out(again)):
                return [unit]
        return self.verbatim(there, draft.sources, "fallback")

    async def borne_out(self, draft: Distilled) -> Row | None:
        """The unit of the draft's sentences that are borne out, or None where that is less than half of them."""
        sources = [document.contents for document in draft.sources]
        held = checked(draft.title, draft.text, sources, self.request["question"] or "")
        held = await settled(held, sources, critic_of(self.how.critic, self.tools.llm, self.tools.prompts))
        for one in held.cut:
            self.leave_out(one.kind, one.reason, one.sentence)
        if not held.kept or 2 * len(held.kept) < len(held.sentences):
            return None
        own = "" if held.title_fault else held.title
        title = own or self.request["subject"] or plain_title(draft.sources[0].title)
        doubt = "cut" if held.cut else "supported" if any(one.kind == "supported" for one in held.sentences) else ""
        return self.unit(replace(draft, title=title, text=" ".join(map(bare, held.kept))), doubt=doubt)

    def verbatim(self, told: Sequence[Statement], documents: Sequence[Document], doubt: str = "") -> list[Row]:
        """Units that are the statements as they stand, each once, under the subject's name or their source's title.

        One that is nearly the whole of a single passage says nothing that is not found already: it is left out.
        """
        by_id = {document.id: document for document in documents}
        made = []
        for lines in packed(once(told), self.tools.llm.count_tokens, self.how.tokens):
            sources = [by_id[source] for source in dict.fromkeys(one.source for one in lines)]
            text = " ".join(one.text for one in lines)
            title = self.request["subject"] or plain_title(sources[0].title)
            if len(sources) == 1 and len(text) > COPY * len(sources[0].text):
                self.leave_out("copy", f"is passage {sources[0].id} again", text)
            else:
                made.append(self.unit(Distilled(title, text, "", sources), "verbatim", doubt))
        return made

    def unit(self, made: Distilled, form: str = "distilled", doubt: str = "") -> Row:
        """A row of `schema.UNIT`."""
        examples = [self.request["id"]] if self.request["examples"] is None else self.request["examples"]
        more = {"subject": self.request["subject"] or "", "form": form, "doubt": doubt}
        return distill.knowledge_unit(examples, made, self.tools.llm) | more

    def leave_out(self, kind: str, reason: str, text: str = "") -> None:
        """Note what becomes no part of a unit."""
        self.left_out.append({"text": text, "kind": kind, "reason": reason})

    async def of_each(self, key: str, question: str, documents: Sequence[Document], limit: int) -> list[str]:
        """The generator's replies, asked this of each document by itself."""
        llm, prompts = self.tools.llm, self.tools.prompts
        into = ((lambda some: prompts.message(key, some, question=question)), limit)
        read = [readable([document], [into], llm)[0] for document in documents]
        asked = [ask(llm, prompts, key, limit, some, question=question) for some in read]
        return [reply.text for reply, _ in await asyncio.gather(*asked)]

    async def extracted(self, question: str, documents: Sequence[Document]) -> list[Statement]:
        """The sentences that the generator, shown one document after the other, calls evidence and that stand there."""
        replies = await self.of_each("extract", question, documents, self.tools.distil_tokens)
        found = zip(map(distill.evidence_lines, replies), documents, strict=True)
        return [statement for lines, document in found for statement in standing(lines, document)]

    async def relevant(self, documents: Sequence[Document]) -> list[Document]:
        """The documents that the generator, asked of each alone, says yes to: do they help to answer the question?"""
        replies = await self.of_each("relevance", self.request["question"], documents, VERDICT_TOKENS)
        told = zip(documents, replies, strict=True)
        return [document for document, said in told if said.strip().lower().startswith("yes")]

    async def unaided(self) -> Distilled:
        """A passage on the question's subject from the generator's own knowledge: one call, no documents.

        Raises UnusableReply for a reply that can be no passage; its kinship with a source cannot be checked.
        """
        tools, question = self.tools, self.request["question"]
        reply, _ = await ask(tools.llm, tools.prompts, "unaided", tools.distil_tokens, question=question)
        title, text = distill.title_and_text(reply.text)
        distill.require_usable("unaided", reply.text, text, reply.text)
        return Distilled(title, text, "", [])
