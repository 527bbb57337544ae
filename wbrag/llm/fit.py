"""Prompts that fit: a prompt too long for the model drops whole documents from the tail. A first document that is too
long by itself is cut, so that one long passage fails no question that retrieves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from wbrag.llm import LLM, Reply
from wbrag.prompts import Prompts
from wbrag.schema import Document

#: The prompt of these documents.
Render = Callable[[Sequence[Document]], str]


class PromptTooLong(ValueError):
    """A prompt that does not fit although nothing is left to drop; the message holds both lengths, in tokens."""


def require_fit(prompt: str, llm: LLM, max_tokens: int) -> str:
    """`prompt`, if it leaves room for a completion of `max_tokens`; else PromptTooLong."""
    if not _fits(prompt, llm, max_tokens):
        raise _too_long(prompt, llm, max_tokens)
    return prompt


def fit_documents(documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int) -> tuple[str, int]:
    """The prompt that `render` makes of the most leading documents that fit, and how many those are (at least 1). Where
    not even the first fits, it is cut to the room that the most others leave.

    PromptTooLong where not a word of the first fits, ValueError where there is none.
    """
    for count in range(len(documents), 0, -1):
        prompt = render(documents[:count])
        if _fits(prompt, llm, max_tokens):
            return prompt, count
    for count in range(len(documents), 0, -1):
        if cut := _cut(documents[:count], render, llm, max_tokens):
            return cut, count
    raise _nothing_fits(documents, render, llm, max_tokens)


def each_that_fits(
    documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int
) -> list[tuple[Document, str]]:
    """The documents whose prompt, made by `render` of each alone, fits, with that prompt; where there is none, that of
    the first one cut. Errors as `fit_documents`.
    """
    prompts = [(document, render([document])) for document in documents]
    fitting = [(document, prompt) for document, prompt in prompts if _fits(prompt, llm, max_tokens)]
    if not fitting:
        return [(documents[0], fit_documents(documents[:1], render, llm, max_tokens)[0])]
    return fitting


async def ask(
    llm: LLM, prompts: Prompts, key: str, max_tokens: int, documents: Sequence[Document] | None = None, **values: str
) -> tuple[Reply, int]:
    """The reply to a template, filled as `Prompts.message` does, and how many of the documents fitted its prompt.

    Errors as `require_fit` has them, with documents as `fit_documents`.
    """
    if documents is None:
        return await llm.chat(require_fit(prompts.message(key, None, **values), llm, max_tokens), max_tokens), 0
    prompt, read = fit_documents(documents, lambda some: prompts.message(key, some, **values), llm, max_tokens)
    return await llm.chat(prompt, max_tokens), read


def _cut(documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int) -> str:
    """The prompt of the documents with the most leading words of the first that fit; "" where not one does."""
    first, others = documents[0], documents[1:]
    words = re.findall(r"\S+\s*", first.text)

    def prompt(count: int) -> str:
        return render([replace(first, text="".join(words[:count]).rstrip()), *others])

    least, most = 0, len(words)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if _fits(prompt(middle), llm, max_tokens) else (least, middle - 1)
    return prompt(least) if least else ""


def _fits(prompt: str, llm: LLM, max_tokens: int) -> bool:
    return llm.prompt_tokens(prompt) + max_tokens <= llm.max_model_len


def _nothing_fits(documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int) -> ValueError:
    if not documents:
        return ValueError("no documents to put into a prompt")
    return _too_long(render(documents[:1]), llm, max_tokens, f"document {documents[0].id!r} alone: ")


def _too_long(prompt: str, llm: LLM, max_tokens: int, what: str = "") -> PromptTooLong:
    needed = f"{what}prompt of {llm.prompt_tokens(prompt)} tokens + {max_tokens} for the reply"
    return PromptTooLong(f"{needed} > max_model_len {llm.max_model_len}; the prompt ends in {prompt[-80:]!r}")
