"""The LLM protocol: what Algorithm 1 and the methods ask of a generator, whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reply:
    """One greedy completion: the decoded text, stripped, and the tokens it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class LLM(Protocol):
    """A generator G. Implementations: `vllm.VllmEngine`, `scripted.ScriptedLLM`."""

    #: The longest prompt plus completion, in tokens.
    max_model_len: int

    async def chat(self, content: str, max_tokens: int) -> Reply:
        """The greedy answer to one user message, rendered with the tokenizer's own chat template."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without template."""
        ...

    def prompt_tokens(self, content: str) -> int:
        """Tokens of the rendered prompt that `chat(content)` would send."""
        ...
