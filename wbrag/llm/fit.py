"""Prompts that fit: a prompt too long for the model drops whole documents from the tail (design decision 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wbrag.llm import LLM
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
    if not documents:
        raise ValueError("no documents to put into a prompt")
    for count in range(len(documents), 0, -1):
        prompt = render(documents[:count])
        if _fits(prompt, llm, max_tokens):
            return prompt, count
    raise PromptTooLong(f"document {documents[0].id!r} alone: {_lengths(prompt, llm, max_tokens)}")


def _fits(prompt: str, llm: LLM, max_tokens: int) -> bool:
    return llm.prompt_tokens(prompt) + max_tokens <= llm.max_model_len


def _lengths(prompt: str, llm: LLM, max_tokens: int) -> str:
    needed = f"prompt of {llm.prompt_tokens(prompt)} tokens + {max_tokens} for the reply"
    return f"{needed} > max_model_len {llm.max_model_len}; the prompt ends in {prompt[-80:]!r}"
