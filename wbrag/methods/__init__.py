"""RAG methods: how a question and its documents become an answer. Each method is a module with one `answer`.

The same method scores, gates and is evaluated (paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wbrag import config
from wbrag.llm import LLM, FirstToken, Reply
from wbrag.llm.fit import require_fit
from wbrag.prompts import Prompts
from wbrag.schema import Document

#: Finds the k nearest documents of a query while an answer is being made.
Search = Callable[[str, int], Awaitable[list[Document]]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a method works with.

    Generator G, prompts, the benchmark's task (a key of the prompts), reply lengths, and the method's own settings.
    `search` is for methods that retrieve while they answer; None where only the documents given may be read.
    """

    llm: LLM
    prompts: Prompts
    task: str
    answer_tokens: int
    distil_tokens: int = 256
    method: config.Method = field(default_factory=config.Method)
    search: Search | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, stripped, and what it took; of the documents given, `dropped_documents` did not fit a prompt.

    `retrievals` are those the method itself decided on: Self-RAG to read the documents, FLARE each search beyond them.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    calls: int
    dropped_documents: int = 0
    retrievals: int = 0


class Method(Protocol):
    """A RAG method. A module with this function is one."""

    async def answer(self, question: str, documents: Sequence[Document], tools: Tools) -> Answer:
        """The answer to `question` given `documents` in retrieval order; without documents, the closed-book answer."""
        ...


def open_method(method: config.Method) -> Method:
    """The method that `method.name` names; ConfigError for an unknown name and for settings that it cannot have."""
    from wbrag.methods import flare, naive, replug, selfrag

    match method.name:
        case "naive":
            return naive
        case "replug":
            replug.check(method)
            return replug
        case "selfrag":
            return selfrag
        case "flare":
            return flare
        case unknown:
            raise config.ConfigError(f"method.name={unknown!r}: not a method; known are naive, replug, selfrag, flare")


def searches(method: config.Method) -> bool:
    """Whether the method searches while it answers, and so needs `Tools.search`."""
    return method.name == "flare"


def answered(
    text: str, asked: Sequence[Reply | FirstToken | Answer], dropped_documents: int = 0, retrievals: int = 0
) -> Answer:
    """An answer that took several calls."""
    prompt_tokens, completion_tokens = sum(r.prompt_tokens for r in asked), sum(r.completion_tokens for r in asked)
    return Answer(text.strip(), prompt_tokens, completion_tokens, len(asked), dropped_documents, retrievals)


async def closed_book(question: str, tools: Tools) -> Answer:
    """The answer from parametric knowledge alone (Algorithm 1, step 1): one call, the same for all methods.

    Raises PromptTooLong where the question alone is too long for the model.
    """
    from wbrag.methods.reflection import spoken

    prompt = require_fit(tools.prompts.closed_book(tools.task, question), tools.llm, tools.answer_tokens)
    reply = await tools.llm.chat(prompt, tools.answer_tokens)
    return answered(spoken(reply.text) if tools.method.mode == "tokens" else reply.text, [reply])
