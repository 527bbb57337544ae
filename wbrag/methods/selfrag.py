"""Self-RAG (Asai et al. 2023, arXiv 2310.11511), short form.

The model decides whether to read, reads each document by itself, and its own critique picks the answer:

    score = likelihood of the answer + w_relevance * relevance + w_support * support + w_utility * utility

Two modes. `tokens`: a Self-RAG checkpoint judges by its reflection tokens. `prompted`: any other model is asked the
same as yes/no questions; utility is not asked, for a model not trained to grade itself says yes to all it wrote.
Either way a judgement is read from the full probabilities of the candidates at one position, none left out. Tokens and
weights are those of the original (sections 3.1 and 3.3).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from wbrag import config
from wbrag.llm import FirstToken, Reply, Token
from wbrag.llm.engine import missing_tokens
from wbrag.llm.fit import PromptTooLong, Render, require_fit
from wbrag.methods import Answer, Tools, answered, check_distributions, check_probabilities, closed_book
from wbrag.metrics import normalise
from wbrag.schema import Document

RETRIEVE = {"[Retrieval]": 1.0, "[No Retrieval]": 0.0}
RELEVANCE = {"[Relevant]": 1.0, "[Irrelevant]": 0.0}
SUPPORT = {"[Fully supported]": 1.0, "[Partially supported]": 0.5, "[No support / Contradictory]": 0.0}
UTILITY = {"[Utility:1]": -1.0, "[Utility:2]": -0.5, "[Utility:3]": 0.0, "[Utility:4]": 0.5, "[Utility:5]": 1.0}
#: The same decisions put to a model without these tokens.
YES_NO = {"yes": 1.0, "Yes": 1.0, "no": 0.0, "No": 0.0}
SETTINGS = ("mode", "threshold", "w_relevance", "w_support", "w_utility")
#: What a checkpoint has to have as single tokens.
REFLECTION = (*RETRIEVE, *RELEVANCE, *SUPPORT, *UTILITY)
#: Where all candidates together are less probable than this, the model has not judged at all.
LEAST = 0.001
#: Tasks whose answers are few: equal answers of several documents add up.
CLOSED_TASKS = ("yes_no", "claim")

_MARK = re.compile("|".join(re.escape(token) for token in (*REFLECTION, "[Continue to Use Evidence]")))
_PARAGRAPH = re.compile(r"<paragraph>.*?</paragraph>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Path:
    """An answer made from one document, its score, and the replies that it took."""

    text: str
    score: float
    asked: Sequence[FirstToken | Reply] = ()


def check(method: config.Method, backbone: config.Backbone | None) -> None:
    """ConfigError for settings that cannot be, and for a generator that tells no whole distribution or, in the mode
    `tokens`, has not the tokens.
    """
    config.check_values(method, "method.", {"mode": ("prompted", "tokens")})
    check_probabilities(method, "threshold")
    if not backbone:
        return
    check_distributions(method, backbone)
    if method.mode != "tokens":
        return
    if missing := missing_tokens(backbone, REFLECTION) if backbone.kind == "vllm" else REFLECTION:
        told = f"method.mode=tokens, but the tokenizer of backbone.model={backbone.model!r} lacks {missing[0]!r}"
        raise config.ConfigError(f"{told} ({len(missing)} of {len(REFLECTION)}); mode=prompted works with any model")


def asks(question: str, tools: Tools) -> list[tuple[Render, int]]:
    """The prompts that each document has to fit beside the task's own, with the tokens of their replies."""
    if tools.method.mode == "tokens":
        told = tools.prompts.message(tools.task, question=question)
        return [(lambda some: "\n".join((told, *map(_paragraph, some))), tools.answer_tokens + 3)]

    def render(some: Sequence[Document]) -> str:
        return tools.prompts.message("support", some, question=question, answer="")

    return [(render, tools.answer_tokens + 1)]


async def answer(question: str, documents: Sequence[Document], tools: Tools) -> Answer:
    """The closed-book answer where the model needs no documents, else the best answer over one of them.

    `retrievals` is 1 where it chose to read. A document that does not fit by itself is dropped; PromptTooLong where
    none fits. Raises ValueError where the model gives no judgement on whether to read.
    """
    if not documents:
        return await closed_book(question, tools)
    by_tokens = tools.method.mode == "tokens"
    weights, key = (RETRIEVE, tools.task) if by_tokens else (YES_NO, "retrieve")
    prompt = require_fit(tools.prompts.message(key, question=question), tools.llm, 1)
    needed = await tools.llm.first_token(prompt, list(weights))
    if (share := judged(needed.probabilities, weights)) is None:
        raise ValueError(f"no judgement on whether to retrieve: {needed.probabilities}")
    if share <= tools.method.threshold:
        alone = await closed_book(question, tools)
        return answered(alone.text, [needed, alone])
    one_path = _by_tokens if by_tokens else _by_prompts
    ended = await asyncio.gather(*[one_path(question, d, tools) for d in documents], return_exceptions=True)
    paths = [path for path in ended if isinstance(path, Path)]
    errors = [error for error in ended if isinstance(error, BaseException)]
    if fatal := [error for error in errors if not paths or not isinstance(error, PromptTooLong)]:
        raise fatal[0]
    asked = [needed, *(reply for path in paths for reply in path.asked)]
    return answered(best_answer(paths, tools.task in CLOSED_TASKS), asked, len(errors), retrievals=1)


async def _by_prompts(question: str, document: Document, tools: Tools) -> Path:
    """The answer over one document, judged by yes/no questions on relevance and support."""
    llm, method = tools.llm, tools.method

    def prompt(key: str, limit: int, **values: str) -> str:
        return require_fit(tools.prompts.message(key, [document], question=question, **values), llm, limit)

    answering = prompt(tools.task, tools.answer_tokens)
    relevance, reply = await asyncio.gather(
        llm.first_token(prompt("relevance", 1), list(YES_NO)),
        llm.chat(answering, tools.answer_tokens, logprobs=True),
    )
    support = await llm.first_token(prompt("support", 1, answer=reply.text), list(YES_NO))
    score = likelihood(reply.tokens) + _critique(relevance, YES_NO) * method.w_relevance
    score += _critique(support, YES_NO) * method.w_support
    return Path(reply.text, score, [relevance, reply, support])


async def _by_tokens(question: str, document: Document, tools: Tools) -> Path:
    """The answer over one document, judged by the reflection tokens that stand around it in the original's order."""
    llm, method, prompt = tools.llm, tools.method, tools.prompts.message(tools.task, question=question)
    given = _paragraph(document)
    # Before the document, the answer and, after it, two reflection tokens.
    require_fit(prompt, llm, llm.count_tokens(given) + tools.answer_tokens + 3)
    relevance = await llm.first_token(prompt, list(RELEVANCE), prefix=given)
    given += max(RELEVANCE, key=relevance.probabilities.__getitem__)
    reply = await llm.chat(prompt, tools.answer_tokens, prefix=given, logprobs=True)
    tokens = answer_tokens(reply.tokens)
    text = "".join(token.text for token in tokens)
    given += text
    support = await llm.first_token(prompt, list(SUPPORT), prefix=given)
    given += max(SUPPORT, key=support.probabilities.__getitem__)
    utility = await llm.first_token(prompt, list(UTILITY), prefix=given)
    score = likelihood(tokens) + _critique(relevance, RELEVANCE) * method.w_relevance
    score += _critique(support, SUPPORT) * method.w_support
    score += _critique(utility, UTILITY) * method.w_utility
    return Path(text.strip(), score, [relevance, reply, support, utility])


def _paragraph(document: Document) -> str:
    return f"[Retrieval]<paragraph>{document.contents}</paragraph>"


def _critique(said: FirstToken, weights: Mapping[str, float]) -> float:
    """A judgement as a number; one that was not given counts nothing, as in the original."""
    return judged(said.probabilities, weights) or 0.0


def judged(probabilities: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The mean of the weights under the candidates' probabilities, normalised; None where they are below LEAST."""
    total = sum(probabilities[candidate] for candidate in weights)
    if total < LEAST:
        return None
    return sum(weight * probabilities[candidate] for candidate, weight in weights.items()) / total


def likelihood(tokens: Sequence[Token]) -> float:
    """The geometric mean of the tokens' probabilities; 0 for no token."""
    return math.exp(sum(token.logprob for token in tokens) / len(tokens)) if tokens else 0.0


def spoken(text: str) -> str:
    """The text without reflection tokens and the paragraphs between them."""
    return _MARK.sub("", _PARAGRAPH.sub("", text)).strip()


def answer_tokens(tokens: Sequence[Token]) -> list[Token]:
    """The tokens before the first reflection token: what a checkpoint says after it is about the answer, not of it."""
    return list(takewhile(lambda token: not _MARK.search(token.text), tokens))


def best_answer(paths: Sequence[Path], closed: bool) -> str:
    """The answer of the best path; of equal ones the first.

    For a `closed` set of answers (yes/no, claims) the scores of paths that give the same answer add up.
    """
    if not closed:
        return max(paths, key=lambda path: path.score).text
    totals: dict[str, float] = {}
    for path in paths:
        totals[normalise(path.text)] = totals.get(normalise(path.text), 0.0) + path.score
    best = max(totals, key=totals.__getitem__)
    return next(path.text for path in paths if normalise(path.text) == best)
