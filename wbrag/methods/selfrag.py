"""Self-RAG (Asai et al. 2023, arXiv 2310.11511), short form.

The model decides whether to read, reads each document by itself, and its own critique picks the answer:

    score = likelihood of the answer + w_relevance * relevance + w_support * support + w_utility * utility

Two modes. `tokens`: a Self-RAG checkpoint judges by its reflection tokens. `prompted`: any other model is asked the
same as yes/no questions; utility is not asked, for a model not trained to grade itself says yes to all it wrote.
Either way a judgement is read from the full probabilities of the candidates at one position, none left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from wbrag.llm import FirstToken, Reply
from wbrag.llm.fit import PromptTooLong, require_fit
from wbrag.methods import Answer, Tools, answered, closed_book
from wbrag.methods.reflection import (
    RELEVANCE,
    RETRIEVE,
    SUPPORT,
    UTILITY,
    YES_NO,
    Path,
    answer_tokens,
    best_answer,
    judged,
    likelihood,
)
from wbrag.schema import Document

#: Tasks whose answers are few: equal answers of several documents add up.
CLOSED_TASKS = ("yes_no", "claim")

Asked = list[FirstToken | Reply]


async def answer(question: str, documents: Sequence[Document], tools: Tools) -> Answer:
    """The closed-book answer where the model needs no documents, else the best answer over one of them.

    `retrievals` is 1 where it chose to read. A document that does not fit by itself is dropped; PromptTooLong where
    none fits. Raises ValueError where the model gives no judgement on whether to read.
    """
    if not documents:
        return await closed_book(question, tools)
    needed = await _needed(question, tools)
    weights = RETRIEVE if tools.method.mode == "tokens" else YES_NO
    if (share := judged(needed.probabilities, weights)) is None:
        raise ValueError(f"no judgement on whether to retrieve: {needed.probabilities}")
    if share <= tools.method.threshold:
        alone = await closed_book(question, tools)
        return answered(alone.text, [needed, alone])
    one_path = _by_tokens if tools.method.mode == "tokens" else _by_prompts
    ended = await asyncio.gather(*[one_path(question, d, tools) for d in documents], return_exceptions=True)
    made = [path for path in ended if not isinstance(path, BaseException)]
    errors = [error for error in ended if isinstance(error, BaseException)]
    if fatal := [error for error in errors if not made or not isinstance(error, PromptTooLong)]:
        raise fatal[0]
    text = best_answer([path for path, _ in made], tools.task in CLOSED_TASKS)
    return answered(text, [needed, *(call for _, calls in made for call in calls)], len(errors), retrievals=1)


async def _needed(question: str, tools: Tools) -> FirstToken:
    """How probable it is that documents are needed."""
    if tools.method.mode == "tokens":
        prompt = require_fit(tools.prompts.request(tools.task, question), tools.llm, 1)
        return await tools.llm.first_token(prompt, list(RETRIEVE))
    return await tools.llm.first_token(require_fit(tools.prompts.retrieve(question), tools.llm, 1), list(YES_NO))


async def _by_prompts(question: str, document: Document, tools: Tools) -> tuple[Path, Asked]:
    """The answer over one document, judged by yes/no questions on relevance and support."""
    llm, prompts = tools.llm, tools.prompts
    answering = require_fit(prompts.answer(tools.task, question, [document]), llm, tools.answer_tokens)
    relevance, reply = await asyncio.gather(
        llm.first_token(require_fit(prompts.relevance(question, [document]), llm, 1), list(YES_NO)),
        llm.chat(answering, tools.answer_tokens, logprobs=True),
    )
    support = await llm.first_token(
        require_fit(prompts.support(question, reply.text, [document]), llm, 1), list(YES_NO)
    )
    score = likelihood(reply.tokens) + _critique(relevance, YES_NO) * tools.method.w_relevance
    score += _critique(support, YES_NO) * tools.method.w_support
    return Path(reply.text, score), [relevance, reply, support]


async def _by_tokens(question: str, document: Document, tools: Tools) -> tuple[Path, Asked]:
    """The answer over one document, judged by the reflection tokens that stand around it in the original's order."""
    llm, prompt = tools.llm, tools.prompts.request(tools.task, question)
    given = f"[Retrieval]<paragraph>{document.contents}</paragraph>"
    # Before the document, the answer and, after it, two reflection tokens.
    require_fit(prompt, llm, llm.count_tokens(given) + tools.answer_tokens + 3)
    relevance = await llm.first_token(prompt, list(RELEVANCE), prefix=given)
    given += max(RELEVANCE, key=relevance.probabilities.__getitem__)
    reply = await llm.chat(prompt, tools.answer_tokens, prefix=given, logprobs=True)
    tokens = answer_tokens(reply.tokens)
    given += "".join(token.text for token in tokens)
    support = await llm.first_token(prompt, list(SUPPORT), prefix=given)
    given += max(SUPPORT, key=support.probabilities.__getitem__)
    utility = await llm.first_token(prompt, list(UTILITY), prefix=given)
    score = likelihood(tokens) + _critique(relevance, RELEVANCE) * tools.method.w_relevance
    score += _critique(support, SUPPORT) * tools.method.w_support
    score += _critique(utility, UTILITY) * tools.method.w_utility
    text = "".join(token.text for token in tokens).strip()
    return Path(text, score), [relevance, reply, support, utility]


def _critique(said: FirstToken, weights: Mapping[str, float]) -> float:
    """A judgement as a number; one that was not given counts nothing, as in the original."""
    value = judged(said.probabilities, weights)
    return 0.0 if value is None else value
