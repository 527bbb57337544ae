"""The LLM protocol: what Algorithm 1 and the methods ask of a generator, whoever runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a reply's text and the natural logarithm of its probability, given all before it."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Reply:
    """One greedy completion: its answer, stripped and without reasoning, and what the whole of it took. `tokens` are
    there only where log-probabilities were asked for; their texts, joined and stripped, are `text`. `cut`: whether the
    token limit ended it; None where that is not told.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    tokens: tuple[Token, ...] = ()
    cut: bool | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """How a reply would begin: for each candidate the probability of its first token, over the whole vocabulary.

    A candidate that begins with the token of an earlier one has 0, so that the sum never exceeds 1.
    """

    probabilities: dict[str, float]
    prompt_tokens: int
    completion_tokens: int = 1


class LLM(Protocol):
    """A generator G. Implementations: `vllm.VllmEngine`, `openai.Endpoint`, `scripted.ScriptedLLM`."""

    #: The longest prompt plus completion, in tokens.
    max_model_len: int

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The greedy answer to one user message in the tokenizer's chat template, or what follows `prefix` in it.

        `reasoning.NoAnswer` where the reply ends before its answer begins.
        """
        ...

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """How probable it is that the answer to one user message, after `prefix`, goes on with each candidate."""
        ...

    async def mixture(
        self, contents: Sequence[str], weights: Sequence[float], max_tokens: int, pooling: str, bad_words: Sequence[str]
    ) -> Reply:
        """One greedy answer to K user messages: each token is the likeliest of their pooled next-token distributions.

        `probabilities` pools them as sum w p, `logits` as softmax(sum w z). `weights` are > 0 and sum to 1, else
        ValueError. `bad_words` are left out of each distribution before. Every message is a call of its own: the reply
        counts the tokens of all prompts, and K times the answer's.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without template."""
        ...

    def prompt_tokens(self, content: str) -> int:
        """Tokens of the rendered prompt that `chat(content)` would send."""
        ...


def between(tokens: Sequence[Token], start: int, end: int) -> tuple[Token, ...]:
    """The tokens of this part of their text; one that lies across its edge is cut there."""
    kept, at = [], 0
    for token in tokens:
        part = token.text[max(start - at, 0) : max(end - at, 0)]
        at += len(token.text)
        if part:
            kept.append(Token(part, token.logprob))
    return tuple(kept)


def require_mixture(contents: Sequence[str], weights: Sequence[float]) -> None:
    """ValueError where `contents` and `weights` make no mixture."""
    if len(contents) != len(weights) or not contents:
        raise ValueError(f"a mixture of {len(contents)} prompts with {len(weights)} weights")
    if min(weights) <= 0 or not math.isclose(math.fsum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"weights of a mixture have to be > 0 and sum to 1, not {list(weights)}")
