"""What of a reply is its answer: reasoning models think aloud before it, between marks of their own. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wbrag.llm import Token, between

_NAME = (
    r"(?:\w+[:_])?(?:think(?:ing)?|thoughts?|reasoning|reflections?|scratchpad|analysis|monologue|cot)(?:_(?!of)\w+)?"
)
#: The brackets of a tag, as they are or as a page or an input method writes them.
_LT, _GT = r"(?:<|&lt;|\uff1c)\s*", r"\s*(?:>|&gt;|\uff1e)"
#: What opens a block of reasoning and what closes one: tags (DeepSeek-R1, Qwen3, Seed-OSS), Mistral's, Kimi's,
#: Cohere's, OpenThinker's, Gemma's, Granite's, Ollama's, and the channels of gpt-oss, as such or as what is left where
#: a decoder drops its special tokens.
OPENS = re.compile(
    rf"(?i){_LT}{_NAME}(?:\s[^<>]*)?{_GT}|\[THINK\]|\u25c1think\u25b7|<\|(?!end){_NAME}\|>"
    rf"|<unused94>thought|<\|channel>{_NAME}"
    r"|<\|channel\|>\s*(?!final)\w+[^<]*<\|message\|>|\A\s*analysis(?=[A-Z\"'])"
    r"|\A\s*here(?: is|'s) my thought process:|\A\s*thinking\.\.\.\n"
)
CLOSES = re.compile(
    rf"(?i){_LT}/\s*{_NAME}{_GT}|\[/THINK\]|\u25c1/think\u25b7|<(?:\|(?:/|end_)|/\|){_NAME}\|>|<unused95>|<channel\|>"
    r"|<\|channel\|>\s*final[^<]*<\|message\|>|(?<=\S)assistantfinal|\nhere(?: is|'s) my response:"
    r"|\n\.\.\.done thinking\."
)
_ANSWER = r"(?:(?:final_?)?answer|output|response|solution)"
#: What may stand before the answer and behind it: tags of its own, and special tokens that a server lets through.
_BEGINS = re.compile(rf"(?i)\s*(?:<{_ANSWER}>|<\|(?:START|begin)_(?:of_)?(?:response|text|solution|box)\|>)")
_ENDS = re.compile(rf"(?i)(?:(?:</{_ANSWER}>|<\|\w+\|>|</s>)\s*)+\Z")
#: What to do where a reply has no answer.
REMEDY = "raise backbone.thinking_tokens, which come to answer_tokens, or turn the model's thinking off"


class NoAnswer(RuntimeError):
    """A reply that holds no answer: its text never began, ended inside its reasoning, or was withheld. The message says
    which, and what can be done about it.
    """


def answer_of(reply: str, opened: bool = False) -> tuple[int, int]:
    """Where the answer of a reply begins and ends: behind its last block of reasoning, before one that is not closed.

    `opened`: the prompt itself ends in the mark that opens a block. NoAnswer where the reply ends inside its reasoning.
    """
    start = max((match.end() for match in CLOSES.finditer(reply)), default=0)
    begun = OPENS.search(reply, start)
    if (opened and not start) or (begun and not reply[start : begun.start()].strip()):
        raise NoAnswer(f"the reply ends inside its reasoning, {reply.strip()[-60:]!r}; {REMEDY}")
    start = begins.end() if (begins := _BEGINS.match(reply, start)) else start
    ended = begun or _ENDS.search(reply, start)
    return start, ended.start() if ended else len(reply)


def spoken(reply: str, opened: bool = False) -> str:
    """The answer of a reply, stripped. NoAnswer as `answer_of`."""
    start, end = answer_of(reply, opened)
    return reply[start:end].strip()


def spoken_tokens(tokens: Sequence[Token], opened: bool = False) -> tuple[Token, ...]:
    """The tokens of `spoken`; none of none."""
    return between(tokens, *answer_of("".join(token.text for token in tokens), opened)) if tokens else ()


def is_mark(token: str) -> bool:
    """Whether a special token is a mark of reasoning, or part of one."""
    parts = ("<|channel|>", "<|message|>", "<|channel>", "<unused94>")
    return token in parts or bool(OPENS.fullmatch(token) or CLOSES.fullmatch(token))


def closes_alone(reply: str) -> bool:
    """Whether a block of reasoning is closed in a reply that did not open it: its prompt ended in the opening mark."""
    close, begun = CLOSES.search(reply), OPENS.search(reply)
    return close is not None and (begun is None or begun.start() > close.start())


def opens(prompt: str) -> bool:
    """Whether a prompt ends in the mark that opens a block of reasoning."""
    marks = list(OPENS.finditer(prompt))
    return bool(marks) and not prompt[marks[-1].end() :].strip()
