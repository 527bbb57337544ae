"""A generator without a model: a Python function answers. For tests, dry runs and `backbone.kind=scripted`."""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from wbrag.llm import FirstToken, Reply, Token, require_mixture

#: What the scripted reader knows closed book: a question that holds all words of a key is answered with its value.
FAMOUS = {"capital france": "Paris", "largest ocean": "the Pacific"}
#: A question with this word makes the scripted reader raise, so that failed rows can be had.
RAISES = "unanswerable"
#: The probability of a word that the scripted reader has read, and of one that it guesses.
SURE, UNSURE = 0.95, 0.1

_CRITIQUE = re.compile(r"(?:^|\n)(?:Are documents needed|Do the documents help|Do the documents support|Judge by the)")
_STOP = frozenset(
    "a an and are as by did do does for has have in is of on sep that the this to was were what when where which who "
    "whom whose with".split()
)
_DOCUMENT = re.compile(r"^Document \d+ \(Title: (.*?)\): (.*)$", re.MULTILINE)
_FACT = re.compile(r"^(?P<subject>.+?) (?:is|was|are|were) (?P<value>.+?)[.!]?$")


class ScriptedLLM:
    """A generator whose replies are `respond(prompt)`; an exception that `respond` raises is the call's.

    `prompts` holds every prompt sent, in order, unless it is not to `remember` them. Tokens are words between blanks;
    max_tokens does not cut the reply, so that a misbehaving endpoint can be played. `confidence(prompt, word)` is the
    probability of a word of the reply.
    """

    def __init__(
        self,
        respond: Callable[[str], str],
        max_model_len: int = 4096,
        confidence: Callable[[str, str], float] | None = None,
        remember: bool = True,
    ) -> None:
        self.respond, self.max_model_len = respond, max_model_len
        self.confidence = confidence or sure_of_what_it_reads
        self.prompts: list[str] = []
        self.remember = remember

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The scripted reply, or what follows `prefix` in it: nothing, where it does not begin so."""
        text = await self._respond(content, max_tokens, prefix)
        if prefix:
            text = text.removeprefix(prefix).strip() if text.startswith(prefix) else ""
        words = re.findall(r"\s*\S+", text) if logprobs else []
        tokens = tuple(Token(word, math.log(self.confidence(content, word.strip()))) for word in words)
        return Reply(text, self.prompt_tokens(f"{content} {prefix}"), self.count_tokens(text), tokens)

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """SURE for the first candidate that the reply begins with, the rest to the others in equal parts; 0 without."""
        reply = await self._respond(content, 1, prefix)
        meant = next((candidate for candidate in candidates if reply.removeprefix(prefix).startswith(candidate)), None)
        rest = (1 - SURE) / max(1, len(candidates) - 1) if meant is not None else 0.0
        told = {candidate: SURE if candidate == meant else rest for candidate in candidates}
        return FirstToken(told, self.prompt_tokens(f"{content} {prefix}"))

    async def mixture(
        self, contents: Sequence[str], weights: Sequence[float], max_tokens: int, pooling: str, bad_words: Sequence[str]
    ) -> Reply:
        """The reply with the most weight behind it, of equals the first, as there are no tokens to pool: without
        `bad_words`, "" where all are.
        """
        require_mixture(contents, weights)
        replies = await asyncio.gather(*[self.chat(content, max_tokens) for content in contents])
        votes: dict[str, float] = defaultdict(float)
        for reply, weight in zip(replies, weights, strict=True):
            votes[reply.text] += weight
        text = max((text for text in votes if text not in bad_words), key=votes.__getitem__, default="")
        return Reply(text, sum(r.prompt_tokens for r in replies), len(replies) * self.count_tokens(text))

    def count_tokens(self, text: str) -> int:
        """Words of `text`."""
        return len(text.split())

    def prompt_tokens(self, content: str) -> int:
        """Words of the prompt; there is no template."""
        return self.count_tokens(content)

    async def _respond(self, content: str, max_tokens: int, prefix: str) -> str:
        """The whole reply; ValueError where prompt and completion do not fit, as a real engine does."""
        needed = self.prompt_tokens(f"{content} {prefix}") + max_tokens
        if needed > self.max_model_len:
            raise ValueError(f"prompt and completion of {needed} tokens > max_model_len {self.max_model_len}")
        if self.remember:
            self.prompts.append(content)
        await asyncio.sleep(0)  # other coroutines run between a call and its reply, as with a real engine
        return self.respond(content).strip()


def sure_of_what_it_reads(prompt: str, word: str) -> float:
    """SURE of a word that stands in the prompt, without punctuation and case; UNSURE of any other."""
    said, there = (set(re.findall(r"\w+", text.lower())) for text in (word, prompt))
    return SURE if said <= there else UNSURE


def read(prompt: str) -> str:
    """The reply of a reader who knows sentences of the form "subject is value." and the wbrag.prompts defaults.

    With documents, the answer is the value of the first sentence whose subject's words all are in the question, else
    "unknown"; closed book it is what FAMOUS holds. Claims and yes/no questions hold when one sentence has all their
    words. Documents are relevant when they answer, they support an answer (and a judge passes it) when a sentence holds
    its words, and are needed for what is not in FAMOUS. Asked for a question, the reader asks for the value of the
    first sentence that has one. Extraction returns the sentences that share a word with the question, rewriting joins
    the evidence under its first subject. RuntimeError for a question with the word RAISES.
    """
    asked = _question(prompt)
    if RAISES in _words(asked):
        raise RuntimeError(f"scripted failure for {asked!r}")
    sentences = [s for _, text in _DOCUMENT.findall(prompt) for s in re.split(r"(?<=[.!])\s+", text.strip()) if s]
    if prompt.startswith("Evidence:\n"):
        return _rewritten(prompt.removeprefix("Evidence:\n").split("\n\n")[0])
    if "\n\nExtract " in prompt:
        return "\n".join(s for s in sentences if _words(s) & _words(asked))
    if "Ask one question that the document answers" in prompt:
        fact = next(filter(None, map(_FACT.match, sentences)), None)
        return f"Question: What is {fact['subject']}?\nAnswer: {fact['value']}" if fact else "unknown"
    if _CRITIQUE.search(prompt):
        return _critique(prompt, sentences, asked)
    if "Give exactly" in prompt:
        holds = any(_words(asked) <= _words(s) for s in sentences)
        return ("SUPPORTS" if holds else "REFUTES") if "Verify the claim" in prompt else ("yes" if holds else "no")
    return _value(sentences, asked) if sentences else _famous(asked)


def _critique(prompt: str, sentences: list[str], asked: str) -> str:
    if "Are documents needed" in prompt:
        holds = _famous(asked) == "unknown"
    elif "Do the documents help" in prompt:
        holds = _value(sentences, asked) != "unknown" or any(_words(asked) <= _words(s) for s in sentences)
    else:
        answer = _words(prompt.rpartition("\nAnswer: ")[2])
        holds = any(frozenset() < answer <= _words(s) for s in sentences)
    return "yes" if holds else "no"


def _question(prompt: str) -> str:
    found = re.findall(r"^(?:Question|Claim|Query): (.*)$", prompt, re.MULTILINE)
    return found[-1] if found else ""


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower())) - _STOP


def _value(sentences: list[str], asked: str) -> str:
    facts = (fact for s in sentences if (fact := _FACT.match(s)))
    known = (fact["value"] for fact in facts if frozenset() < _words(fact["subject"]) <= _words(asked))
    return next(known, "unknown")


def _famous(asked: str) -> str:
    return next((value for key, value in FAMOUS.items() if set(key.split()) <= _words(asked)), "unknown")


def _rewritten(evidence: str) -> str:
    lines = evidence.splitlines()
    fact = _FACT.match(lines[0])
    return f"{fact['subject'] if fact else lines[0]}\n{' '.join(lines)}"
