"""Prompts that fit: a prompt too long for the model drops whole documents from the tail (design decision 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wbrag.llm import LLM, Reply
from wbrag.prompts import Prompts
from wbrag.schema import Document


class PromptTooLong(ValueError):
    """A prompt that does not fit although nothing is left to drop; the message holds both lengths, in tokens."""


def require_fit(prompt: str, llm: LLM, max_tokens: int) -> str:
    """`prompt`, if it leaves room for a completion of `max_tokens`; else PromptTooLong."""
    if not _fits(prompt, llm, max_tokens):
        raise PromptTooLong(_lengths(prompt, llm, max_tokens))
    return prompt


def fit_documents(
    documents: Sequence[Document], render: Callable[[Sequence[Document]], str], llm: LLM, max_tokens: int
) -> tuple[str, int]:
    """The prompt that `render` makes of the most leading documents that fit, and how many those are (at least 1).

    Raises PromptTooLong where not even the first document fits, ValueError where there is none.
    """
    _require_some(documents)
    for count in range(len(documents), 0, -1):
        prompt = render(documents[:count])
        if _fits(prompt, llm, max_tokens):
            return prompt, count
    raise _alone_too_long(documents[0], prompt, llm, max_tokens)


def each_that_fits(
    documents: Sequence[Document], render: Callable[[Sequence[Document]], str], llm: LLM, max_tokens: int
) -> list[tuple[Document, str]]:
    """The documents whose prompt, made by `render` of each alone, fits, with that prompt; at least 1.

    Raises PromptTooLong where none fits, ValueError where there is none.
    """
    _require_some(documents)
    prompts = [(document, render([document])) for document in documents]
    fitting = [(document, prompt) for document, prompt in prompts if _fits(prompt, llm, max_tokens)]
    if not fitting:
        raise _alone_too_long(*prompts[0], llm, max_tokens)
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


def _require_some(documents: Sequence[Document]) -> None:
    if not documents:
        raise ValueError("no documents to put into a prompt")


def _alone_too_long(document: Document, prompt: str, llm: LLM, max_tokens: int) -> PromptTooLong:
    return PromptTooLong(f"document {document.id!r} alone: {_lengths(prompt, llm, max_tokens)}")


def _fits(prompt: str, llm: LLM, max_tokens: int) -> bool:
    return llm.prompt_tokens(prompt) + max_tokens <= llm.max_model_len


def _lengths(prompt: str, llm: LLM, max_tokens: int) -> str:
    needed = f"prompt of {llm.prompt_tokens(prompt)} tokens + {max_tokens} for the reply"
    return f"{needed} > max_model_len {llm.max_model_len}; the prompt ends in {prompt[-80:]!r}"
