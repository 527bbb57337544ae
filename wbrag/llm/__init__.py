"""The LLM protocol: what Algorithm 1 and the methods ask of a generator, whoever runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    async def mixture(
        self, contents: Sequence[str], weights: Sequence[float], max_tokens: int, pooling: str = "probabilities"
    ) -> Reply:
        """One greedy answer to K user messages: each token is the likeliest of their pooled next-token distributions.

        `probabilities` pools them as sum w p, `logits` as softmax(sum w z). `weights` are > 0 and sum to 1, else
        ValueError. Every message is a call of its own: the reply counts the tokens of all prompts, and K times the
        answer's.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without template."""
        ...

    def prompt_tokens(self, content: str) -> int:
        """Tokens of the rendered prompt that `chat(content)` would send."""
        ...


def require_mixture(contents: Sequence[str], weights: Sequence[float]) -> None:
    """ValueError where `contents` and `weights` make no mixture."""
    if len(contents) != len(weights) or not contents:
        raise ValueError(f"a mixture of {len(contents)} prompts with {len(weights)} weights")
    if min(weights) <= 0 or not math.isclose(math.fsum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"weights of a mixture have to be > 0 and sum to 1, not {list(weights)}")
