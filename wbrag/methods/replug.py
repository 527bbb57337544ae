"""REPLUG: one prompt per document, and every token drawn from the documents' next-token distributions together.

p(y | q, D) = sum_d w_d p(y | d, q), token by token, with w the softmax of the retrieval scores (Shi et al., 2024,
section 3.2). Each document's prompt is naive RAG's with that one document.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from wbrag import config
from wbrag.llm.fit import each_that_fits
from wbrag.methods import Answer, Tools, check_distributions, check_one_of, closed_book
from wbrag.schema import Document

SETTINGS = ("temperature", "pooling", "bad_words")


def check(method: config.Method, backbone: config.Backbone | None) -> None:
    """ConfigError for settings that cannot be, and for a generator that tells no whole distribution."""
    check_one_of(method, "pooling", "probabilities", "logits")
    if not 0 < method.temperature < float("inf"):
        raise config.ConfigError(f"method.temperature={method.temperature}: a number above 0 is needed")
    if backbone:
        check_distributions(method, backbone)


async def answer(question: str, documents: Sequence[Document], tools: Tools) -> Answer:
    """The mixture's greedy answer; a document whose prompt is too long is dropped, and the others share its weight.

    Each document read is a call. One document is a plain call, naive RAG's, prompt and answer, bad words or not.
    Documents whose weight is 0 in floating point are not asked, which changes nothing. Raises PromptTooLong where no
    document fits.
    """
    if not documents:
        return await closed_book(question, tools)
    llm, method, limit = tools.llm, tools.method, tools.answer_tokens
    read = each_that_fits(
        documents, lambda some: tools.prompts.message(tools.task, some, question=question), llm, limit
    )
    weights = mixture_weights([document for document, _ in read], method.temperature)
    prompts = [prompt for (_, prompt), weight in zip(read, weights, strict=True) if weight > 0]
    weights = [weight for weight in weights if weight > 0]
    if len(prompts) == 1:
        reply = await llm.chat(prompts[0], limit)
    else:
        reply = await llm.mixture(prompts, weights, limit, method.pooling, method.bad_words)
    dropped = len(documents) - len(read)
    return Answer(reply.text.strip(), reply.prompt_tokens, reply.completion_tokens, len(prompts), dropped)


def mixture_weights(documents: Sequence[Document], temperature: float) -> list[float]:
    """w = softmax(score / temperature), summing to 1; ValueError names a document whose score is no number."""
    for document in documents:
        if not math.isfinite(document.score):
            raise ValueError(f"document {document.id!r} has the score {document.score}: no weight can be made of it")
    best = max(document.score for document in documents)
    raw = [math.exp((document.score - best) / temperature) for document in documents]
    total = math.fsum(raw)
    return [weight / total for weight in raw]
