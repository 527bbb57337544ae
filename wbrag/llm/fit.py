"""Prompts that fit: a prompt too long for the model drops whole documents from the tail, and of a document that is too
long by itself the end.
"""

from __future__ import annotations

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


def readable(
    documents: Sequence[Document], asked: Sequence[tuple[Render, int]], llm: LLM
) -> tuple[Sequence[Document], int]:
    """The documents, and how many of them were cut: each that does not fit a prompt alone to its share of the room, so
    that the others are read beside it. `asked`: the prompts that they are to fit, and the tokens of their replies.
    """
    long = [  # no tokenizer makes more tokens than bytes, and most documents are far from the limit
        4 * len(one.contents.encode()) > llm.max_model_len
        and not all(_fits(render([one]), llm, reply) for render, reply in asked)
        for one in documents
    ]
    if not any(long):
        return documents, 0
    nothing = Document("", "", "")
    room = min(llm.max_model_len - reply - llm.prompt_tokens(render([nothing])) for render, reply in asked)
    return [_cut(d, room // len(documents), llm) if cut else d for d, cut in zip(documents, long, strict=True)], sum(
        long
    )


def _cut(document: Document, tokens: int, llm: LLM) -> Document:
    """The beginning of a document of fewer than so many tokens, title included; the whole where there is no room."""
    text = document.text
    while tokens > 0 and text and (count := llm.count_tokens(f"{document.title}\n{text}")) >= tokens:
        text = text[: int(0.98 * len(text) * tokens / count)]
        text = text.rsplit(maxsplit=1)[0] if len(text.split(maxsplit=2)) > 2 else text
    return replace(document, text=text or document.text)


def fit_documents(documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int) -> tuple[str, int]:
    """The prompt that `render` makes of the most leading documents that fit, and how many those are (at least 1).

    PromptTooLong where not even the first fits, ValueError where there is none.
    """
    for count in range(len(documents), 0, -1):
        prompt = render(documents[:count])
        if _fits(prompt, llm, max_tokens):
            return prompt, count
    raise _nothing_fits(documents, render, llm, max_tokens)


def each_that_fits(
    documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int
) -> list[tuple[Document, str]]:
    """The documents whose prompt, made by `render` of each alone, fits, with that prompt; errors as `fit_documents`."""
    prompts = [(document, render([document])) for document in documents]
    fitting = [(document, prompt) for document, prompt in prompts if _fits(prompt, llm, max_tokens)]
    if not fitting:
        raise _nothing_fits(documents, render, llm, max_tokens)
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


def _fits(prompt: str, llm: LLM, max_tokens: int) -> bool:
    return llm.prompt_tokens(prompt) + max_tokens <= llm.max_model_len


def _nothing_fits(documents: Sequence[Document], render: Render, llm: LLM, max_tokens: int) -> ValueError:
    if not documents:
        return ValueError("no documents to put into a prompt")
    return _too_long(render(documents[:1]), llm, max_tokens, f"document {documents[0].id!r} alone: ")


def _too_long(prompt: str, llm: LLM, max_tokens: int, what: str = "") -> PromptTooLong:
    needed = f"{what}prompt of {llm.prompt_tokens(prompt)} tokens + {max_tokens} for the reply"
    return PromptTooLong(f"{needed} > max_model_len {llm.max_model_len}; the prompt ends in {prompt[-80:]!r}")
