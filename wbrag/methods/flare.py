"""FLARE (Jiang et al. 2023, arXiv 2305.06983): the answer is made sentence by sentence; a doubtful one makes it search.

The documents given are the retrieval up front. The rest of the answer is then drafted; of the draft the first sentence
counts. Where one of its words is less probable than theta, the sentence becomes a query and is written again over what
the search finds, which replaces the documents before it. So it goes on until the text or its tokens end.

Two things differ from the paper, as the answers here are a phrase, not an essay. The first sentence is held against
theta too, and drafts are made over the documents at hand: in the paper's form a one-sentence answer never searches. And
a query begins with the question: a masked phrase alone says nothing of what it is about.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

from wbrag import config
from wbrag.llm import Reply, Token, between
from wbrag.llm.fit import fit_documents, require_fit
from wbrag.methods import Answer, Tools, answered, check_probabilities, closed_book
from wbrag.schema import Document
from wbrag.units.sentences import CJK_STOPS, SPACED_STOPS, STOPS

SETTINGS = ("theta", "beta", "query")
SEARCHES = True
#: The longest generated question.
QUERY_TOKENS = 48

_SENTENCE_END = re.compile(rf"[.!?{SPACED_STOPS}][\"')\]]*(?=\s)|[{STOPS}{CJK_STOPS}]|\S(?=[^\S\n]*\n)")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a draft, its punctuation included, and the probability of its least probable token."""

    text: str
    probability: float


def check(method: config.Method, backbone: config.Backbone | None) -> None:
    """ConfigError for settings that cannot be, and for an endpoint that cannot do what FLARE needs."""
    config.check_values(method, "method.", {"query": ("masked", "generated")})
    check_probabilities(method, "theta", "beta")
    needed = {"token_logprobs": "reads the probability of every token", "continues": "goes on after its own sentences"}
    for key, why in needed.items() if backbone and backbone.kind == "openai" else ():
        if not getattr(backbone, key):
            raise config.ConfigError(
                f"method.name=flare {why}, but backbone.{key}=false says the endpoint cannot do that"
            )


async def answer(question: str, documents: Sequence[Document], tools: Tools) -> Answer:
    """The sentences, joined by spaces; `retrievals` counts the searches, each for as many documents as were given.

    Without `tools.search` doubtful sentences stand. Raises PromptTooLong where not even the first document fits.
    """
    if not documents:
        return await closed_book(question, tools)
    said: list[str] = []
    asked: list[Reply] = []
    at_hand, dropped, retrievals, left = documents, 0, 0, tools.answer_tokens
    while left > 0:
        draft, read = await _continued(question, at_hand, said, left, tools)
        asked.append(draft)
        dropped = dropped if said or retrievals else len(documents) - read
        words = words_of(first_sentence(draft.tokens))
        if tools.search and any(word.probability < tools.method.theta for word in words):
            queries, more = await _queries(question, said, words, tools)
            found = await asyncio.gather(*[tools.search(query, len(documents)) for query in queries])
            at_hand = interleaved(found, len(documents)) or at_hand
            draft, _ = await _continued(question, at_hand, said, left, tools)
            asked += [*more, draft]
            retrievals += 1
        sentence = first_sentence(draft.tokens)
        said += [text] if (text := _text(sentence).strip()) else []
        left -= len(sentence)
        if not text or _text(sentence).rstrip() == _text(draft.tokens).rstrip():
            break  # the draft ended with this sentence, and so does the text
    return answered(" ".join(said), asked, dropped, retrievals)


def first_sentence(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens up to the end of the first sentence; one that goes on beyond it is cut there.

    A sentence ends with `.`, `!` or `?` before white space, a stop of another script, or its line. After an
    abbreviation it ends too early, which costs a round and changes nothing: the next sentence goes on from there.
    """
    match = _SENTENCE_END.search(_text(tokens))
    return between(tokens, 0, match.end()) if match else tuple(tokens)


def words_of(tokens: Sequence[Token]) -> list[Word]:
    """The words of a draft. Tokens are parts of words, and other parts than the retriever's: words can be searched."""
    logprobs = [token.logprob for token in tokens for _ in token.text]
    found = re.finditer(r"\S+", _text(tokens))
    return [Word(word[0], math.exp(min(logprobs[word.start() : word.end()]))) for word in found]


def masked(words: Sequence[Word], beta: float) -> str:
    """The words at least as probable as beta; all of them where none is, for then nothing else is left to search."""
    return " ".join([word.text for word in words if word.probability >= beta] or [word.text for word in words])


def phrases(words: Sequence[Word], beta: float) -> list[str]:
    """The runs of words less probable than beta, each once, in order."""
    runs = groupby(words, key=lambda word: word.probability < beta)
    return list(dict.fromkeys(" ".join(word.text for word in run) for low, run in runs if low))


def interleaved(lists: Sequence[Sequence[Document]], k: int) -> list[Document]:
    """The k best of several lists: the first of each, then the second of each; a document found twice counts once."""
    once: dict[tuple[str, str], Document] = {}
    for document in (one for turn in zip_longest(*lists) for one in turn if one):
        once.setdefault((document.source, document.id), document)
    return list(once.values())[:k]


async def _continued(
    question: str, documents: Sequence[Document], said: Sequence[str], left: int, tools: Tools
) -> tuple[Reply, int]:
    """What follows the sentences `said`, in at most `left` tokens, and how many of the documents were read for it."""
    llm, prompts, prefix = tools.llm, tools.prompts, " ".join(said)
    room = left + llm.count_tokens(prefix)
    prompt, read = fit_documents(
        documents, lambda some: prompts.message(tools.task, some, question=question), llm, room
    )
    return await llm.chat(prompt, left, prefix=prefix, logprobs=True), read


async def _queries(
    question: str, said: Sequence[str], words: Sequence[Word], tools: Tools
) -> tuple[list[str], list[Reply]]:
    """What to search with, and the replies it took (paper, section 3.2.2: implicit or explicit query formulation)."""
    beta = tools.method.beta
    unsure = phrases(words, beta) if tools.method.query == "generated" else []
    if not unsure:
        return [f"{question} {masked(words, beta)}"], []
    text = " ".join([*said, *(word.text for word in words)])
    asked = [tools.prompts.message("ask", question=question, answer=text, phrase=phrase) for phrase in unsure]
    asked = [require_fit(prompt, tools.llm, QUERY_TOKENS) for prompt in asked]
    replies = await asyncio.gather(*[tools.llm.chat(prompt, QUERY_TOKENS) for prompt in asked])
    return [reply.text or question for reply in replies], replies


def _text(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)
