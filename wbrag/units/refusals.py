"""What can be no part of a unit, whatever the sources say: echoes, answers, empty lists, halves of sentences. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from wbrag.prompts import TEMPLATES
from wbrag.units.sentences import CJK_STOPS, SPACED_STOPS, STOP, STOPS, UNSPACED, folded, tokens

#: So many words of a prompt in a row are no chance.
ECHOED = 5

_LABEL = r"(?:question|query|claim|evidence|answer so far|documents?(?: \d+)?|instructions?|prompt)"
_INSTRUCTION = re.compile(
    rf"(?i)^\W*{_LABEL}\s*:|\bdocument \d+\W*\(title\b|\banswer to (?:the|this|your) (?:\w+ )?question\b|\btitle line\b"
    r"|^\W*(?:the|your) question (?:is|asks)\b|\b(?:given|provided) (?:documents?|evidence|passages?)\b"
    r"|^\W*(?:the|these|this) (?:documents?|passages?|evidence|text) (?:says?|states?|mentions?|do|does|did)\b"
    r"|^\W*(?:please )?(?:give|write|state|extract|rewrite|verify|answer|fill) (?:only|exactly|one|each|the (?:evidence"
    r"|sentences|claim|slot|question|factoid))\b|\b(?:encyclopaedic|encyclopedic|self-contained) passage\b",
)
_ASKING = re.compile(
    r"(?i)(?:who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|has|have|had|can|could|in which"
    r"|in what|on which|by whom|from whom|at what|to what)\b",
)
_ANSWER = re.compile(
    r"(?i)^\W*(?:(?:so|therefore|thus|hence)\W+)?(?:the\s+)?(?:(?:final|correct|right|short|best|only)\s+)?answer\b.{0,80}?"
    r"(?:\b(?:is|was|would be)\b|:)"
    r"|\b(?:is|was) the (?:\w+ )?answer\b|^\W*(?:yes|no|true|false|supports|refutes|unknown)\b\W*(?:$|,)",
)
_MARKER = re.compile(r"\s*(?:[-*\u2022\u2013\u2014#>]+|\(?\d{1,3}[.)\]]+|\[\d{1,3}\])")
#: Verbs among STOP's words.
_VERBS = frozenset(
    "am are be been being can could did do does had has have is may must shall should was were will would".split()
)
#: The end of a sentence: a stop of any script, with what closes after it; Thai and Lao write none.
ENDED = re.compile(
    f"(?:(?<![.\u2026])[.!?\uff0e{SPACED_STOPS}{STOPS}{CJK_STOPS}]+"
    "[\"'\u2019\u201c\u201d\u00bb\u300d\u300f)\\]\uff09]*(?:\\[[^\\]]*\\])*|[\u0e00-\u0eff])\\s*$"
)
_HANGING = re.compile(r"\b(?:the|a|an|and|or|whose|because)\W*$|(?:\.\.|\u2026)\W*$")
#: Small letters that may begin a sentence: "iPhone", "mRNA", and "van Gogh".
_SMALL_FIRST = re.compile(
    r"(?:[a-z]{1,2}[A-Z]|(?:de|da|di|du|dos|la|le|van|von|der|den|ter|ten|al|el|bin|ibn)[ -][A-Z\u00c0-\u00de])"
)


def refused(text: str, title: str, question: str, prompt_words: Sequence[str] = ()) -> str:
    """What is wrong with `text`, a draft or one sentence of it, the name of its class first; "" for nothing.

    `echo`: it repeats the question or asks one, or has five words in a row of a prompt (those of wbrag.prompts and
    `prompt_words`) or other words of an instruction.
    `answer`: a few words, or "The answer is ...". `empty_list`: markers or headings with nothing behind them.
    `half_sentence`: it begins with a small letter, or does not end. Short true sentences are none of these.
    """
    if echo := echoed(text, question, prompt_words):
        return f"echo: {echo}"
    lines = [line for line in text.splitlines() if line.strip()]
    if all(not _MARKER.sub("", line).strip() or line.rstrip().endswith((":", "\uff1a")) for line in lines):
        return "empty_list: nothing behind its markers and headings"
    if answer := _answer(text, title):
        return f"answer: {answer}"
    if half := half_sentence(text):
        return f"half_sentence: {half}"
    return ""


def bare(sentence: str) -> str:
    """A sentence of a reply as a passage has it: without list marker or emphasis."""
    marker = _MARKER.match(sentence)
    return sentence[marker.end() if marker else 0 :].replace("**", "").strip()


def echoed(text: str, question: str, prompt_words: Sequence[str] = ()) -> str:
    """What `text` echoes: the question or an instruction; "" for neither."""
    said, asked = folded(text), folded(question)
    asks = _asks(question) or _ASKING.match(question) or "[SEP]" in question
    if asks and len(tokens(question).words) > 2 and asked in said:
        return "the question"
    if _asks(text):
        return "a question"
    if found := _INSTRUCTION.search(text):
        return f"an instruction, {found[0].strip()!r}"
    shared = _runs(said) & _instructions(tuple(prompt_words))
    return f"an instruction, {min(shared)!r}" if shared else ""


def _asks(text: str) -> bool:
    return text.rstrip().endswith(("?", "\uff1f", "\u061f", "\u055e", "\u037e", "\u1367"))


@lru_cache(maxsize=64)
def _instructions(prompt_words: tuple[str, ...]) -> frozenset[str]:
    pieces = [piece for template in (*TEMPLATES.values(), *prompt_words) for piece in re.split(r"\{\w*\}|\n", template)]
    return frozenset().union(*(_runs(folded(piece)) for piece in pieces))


def _runs(said: str) -> frozenset[str]:
    words = said.split()
    return frozenset(" ".join(words[i : i + ECHOED]) for i in range(len(words) - ECHOED + 1))


def _answer(text: str, title: str) -> str:
    if _ANSWER.search(text):
        return "it says that it is one"
    if title and folded(text) == folded(title):
        return "no more than the title"
    said = tokens(text).words
    unspaced = sum(bool(re.match(f"[{UNSPACED}]", word)) for word in said)
    if len(said) < (5 if 2 * unspaced > len(said) else 3):
        return "a few words"
    return "" if _tells(text, unspaced > 0) else "no word that tells something of another"


def _tells(text: str, unspaced: bool) -> bool:
    """Whether a text in a script with small letters has a verb, or a small word that is more than "of" or "the"."""
    small = [word for word in re.findall(r"\b[^\W\d_]+\b", text) if word.islower()]
    cased = any(letter.isupper() for letter in text) and (small or unspaced)
    return not cased or unspaced or any(word in _VERBS or word not in STOP for word in small)


def half_sentence(text: str, cased: bool = True) -> str:
    """What a sentence lacks at its beginning or end; "" for nothing. One not `cased` may begin with a small letter."""
    said = _MARKER.sub("", text, count=1).strip() if _MARKER.match(text) else text.strip()
    first = re.search(r"\w", said)
    if cased and first and first[0].islower() and not _SMALL_FIRST.match(said[first.start() :]):
        return "it begins with a small letter"
    if re.match(r"[,;:.)\]\u3001\u3002]", said):
        return "it begins in the middle"
    return "" if ENDED.search(said) and not _HANGING.search(said) else "it does not end"
