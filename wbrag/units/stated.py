"""Whether a sentence stands in its sources word for word, in whole clauses: supported without asking anybody. Pure.

A source is a passage's title, a line break and its text. Where rules name words these are English: of other languages
nothing but brackets is left out, and no pronoun is replaced.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from wbrag.units.sentences import STOP, Tokens, folded, holds, names, plain_title, sentences, tokens

#: Words that turn what is said; a clause or bracket with one is not left out.
_TURNS = re.compile(
    r"(?:no|not|never|none|nothing|nobody|neither|nor|cannot|\w+n't|without|except|unless|if|whether|may|might|could"
    r"|would|should|hardly|barely|scarcely|rarely|seldom|almost|nearly|unlikely|false\w*|untrue|wrong\w*|fail\w*|refus\w*"
    r"|deny|denie[sd]|disput\w*|doubt\w*|alleged\w*|reported\w*|supposed\w*|claim\w*|said|says?|rumou?r\w*|myth\w*"
    r"|legend\w*|fiction\w*|nicht|kein\w*|nie|pas|jamais|non|nunca)"
)
#: What makes "... that" and "According to ..." a mere lead-in: nobody's opinion.
_FACTIVE = re.compile(
    r"(?:confirm\w*|records?|recorded|note[sd]?|show[sn]?|showed|know|known|facts?|clear|evident|prove[sdn]?|reveal\w*"
    r"|establish\w*|true|census|registers?|archives?|documents?|statistics|data)"
)
#: What a lead-in otherwise is made of, and numbers: it says when, or links to what was said before.
_LINKS = frozenset(
    "however moreover furthermore additionally also then later thus therefore hence consequently subsequently finally "
    "eventually meanwhile today now in by on since during addition year years century early late and but".split()
)
#: What a last clause that adds to a sentence begins with.
_ADDS = frozenset("which who whose where but and while whereas although though".split())
_BRACKETED = re.compile(r"\s*[(\uff08]([^()\uff08\uff09]*)[)\uff09]|\[(?:\d+|citation needed)\]")
#: So many words in brackets, or fewer, may be about the word before them: "(allegedly)", "(not by him)".
_HEDGE = 4
#: Pronouns that may begin a sentence on a passage's subject, and who they stand for.
_PRONOUNS = {
    word: one
    for one, some in (("m", "he his"), ("f", "she her"), ("n", "it its"), ("p", "they their"))
    for word in some.split()
}
#: First words of names whose last word alone is another's name: "New York" is not "York".
_PLACED = frozenset("new old north south east west saint st san santa los las el la great united upper lower".split())


@dataclass(frozen=True, slots=True)
class _Text(Tokens):
    """The tokens of a source; `starts` are the places where its sentences begin, and where the last one ends."""

    starts: tuple[int, ...]
    joined: str


def stated(sentence: str, sources: Sequence[str], title: str = "") -> bool:
    """Whether one source has the words of `sentence`, one after the other, from a sentence's beginning to one's end.

    Left out may be a lead-in that says when or that it is on record, a last clause that adds something, and brackets. A
    first pronoun or a surname may be replaced by the name it stands for: the passage's own title, or `title`, the
    unit's. What "and" joins in the sentence may be stated apart, each time of the same name.
    """
    parts = _joined_by_and(sentence)
    return _whole(sentence, sources, title) or (bool(parts) and all(_whole(part, sources, title) for part in parts))


def own_title(source: str) -> str:
    """The title that a source has in its first line, as `bare_title`; "" where it has one line only."""
    first, line_break, _ = source.partition("\n")
    return bare_title(first) if line_break else ""


def bare_title(title: str) -> str:
    """A title as a name: without quotes, underscores and a bracket at its end."""
    return re.sub(r"\s+\([^()]*\)$", "", plain_title(title))


def _whole(sentence: str, sources: Sequence[str], title: str) -> bool:
    said = tokens(sentence).words
    if not said:
        return False
    if any(_stands(said, text) for source in sources for text in _texts(source)):
        return True
    for source in sources:
        for name in {bare_title(title), own_title(source)} - {""}:
            if holds(sentence, name.split()[-1]):
                full = tokens(_in_full(sentence, name)).words
                if any(_stands(full, text) for text in _texts(_resolved(source, name))):
                    return True
    return False


def _stands(said: tuple[str, ...], text: _Text) -> bool:
    needle = f" {' '.join(said)} "
    at = text.joined.find(needle)
    while at >= 0:
        first = text.joined.count(" ", 0, at)
        last = first + len(said)
        start = text.starts[bisect_right(text.starts, first) - 1]
        end = text.starts[bisect_left(text.starts, last)]
        if _lead_in(text, start, first) and _last_clause(text, last, end):
            return True
        at = text.joined.find(needle, at + 1)
    return False


def _lead_in(text: _Text, start: int, end: int) -> bool:
    """Whether the words from `start`, where a sentence begins, to `end` are none or a mere lead-in."""
    span = text.words[start:end]
    if not span or end not in text.edges or any(i in text.capitals for i in range(start + 1, end)):
        return not span
    if span[-1] == "that" or span[0] in ("according", "as"):
        return any(map(_FACTIVE.fullmatch, span)) and not any(map(_TURNS.fullmatch, span))
    return all(word in _LINKS or word[0].isdigit() for word in span)


def _last_clause(text: _Text, start: int, end: int) -> bool:
    """Whether the words from `start` to `end`, where a sentence ends, are none, or a clause that turns nothing."""
    span = text.words[start:end]
    return not span or (start in text.edges and span[0] in _ADDS and not any(map(_TURNS.fullmatch, span)))


@lru_cache(maxsize=8192)
def _texts(source: str) -> tuple[_Text, ...]:
    """A source as it stands, and without its brackets."""

    def left_out(bracket: re.Match[str]) -> str:
        words = tokens(bracket[1] or "").words
        return bracket[0] if len(words) <= _HEDGE and any(map(_TURNS.fullmatch, words)) else ""

    return tuple(_text(one) for one in dict.fromkeys((source, _BRACKETED.sub(left_out, source))))


def _text(source: str) -> _Text:
    words: list[str] = []
    capitals, edges, starts = set(), set(), []
    for one in map(tokens, sentences(source)):
        at = len(words)
        starts.append(at)
        capitals |= {at + i for i in one.capitals}
        edges |= {at + i for i in one.edges} | {at + i for i, word in enumerate(one.words, 1) if word == "that"}
        words += one.words
    return _Text(tuple(words), frozenset(capitals), frozenset(edges), (*starts, len(words)), f" {' '.join(words)} ")


def _joined_by_and(sentence: str) -> list[str]:
    """The statements that a sentence makes of the name it begins with and joins by "and"; none where it joins none."""
    subject = next(iter(names(sentence)), "")
    parts = re.split(r",?\s+and\s+(?=[a-z])", sentence)
    if len(parts) < 2 or not subject or not sentence.removeprefix("The ").startswith(subject):
        return []
    return [parts[0], *(f"{subject} {part}" for part in parts[1:])]


@lru_cache(maxsize=8192)
def _resolved(source: str, name: str) -> str:
    """A source in which `name` stands in full: for its last word alone, and for a sentence's first pronoun where the
    sentence before, or the title, is on the same and names nobody else but places.
    """
    lines = []
    subject, gender = folded(own_title(source)) in (folded(""), folded(name)), ""
    for line in sentences(source.partition("\n")[2] or source):
        pronoun = _PRONOUNS.get(re.split(r"\W", line, maxsplit=1)[0].lower(), "")
        full = _in_full(line, name)
        if pronoun:
            subject = subject and gender in ("", pronoun)
            full = re.sub(r"^\w+", lambda _: name, full) if subject else full
        else:
            subject = full.removeprefix("The ").startswith(name)
        subject, gender = subject and not _names_others(line, name), pronoun
        lines.append(full)
    return "\n".join(lines)


def _names_others(line: str, name: str) -> bool:
    """Whether a line names somebody or something else that a pronoun after it may stand for: neither a place that it
    is in, nor a date, nor what only tells a kind ("a Serbian inventor").
    """
    bare = _BRACKETED.sub("", line)
    others = [other for other in names(bare) if not holds(name, other) and not holds(other, name)]
    told = r"\b(?:in|at|on|near|\d+)\s+(?:the\s+)?{0}\b|\b{0}\s+\d|\b(?:an?|the)\s+{0}\s+[a-z]"
    return not all(re.search(told.format(re.escape(other)), bare, re.I) for other in others)


def _in_full(line: str, name: str) -> str:
    """A line in which the last word of `name`, where it stands alone, is the whole name."""
    first, last = name.split()[0], name.split()[-1]
    if first == last or first.lower() in _PLACED or not all(word[0].isupper() for word in name.split()):
        return line

    def full(match: re.Match[str]) -> str:
        before = match[1] or ""
        alone = not before[:1].isupper() or before.strip().lower() in STOP
        return f"{before}{name}" if alone else match[0]

    return re.sub(rf"\b(\w+\s+)?{re.escape(last)}\b(?!\s+[A-Z])", full, line)


def unled(sentence: str) -> Tokens:
    """The tokens of a sentence without a lead-in that says no more than that it is on record ("As the almanac notes,").
    One that says when stays: it is part of what is said.
    """
    told = tokens(sentence)
    edges = told.edges | {i for i, word in enumerate(told.words, 1) if word == "that"}
    text = _Text(told.words, told.capitals, edges, (0, len(told.words)), "")
    begins = told.words[:1] in (("according",), ("as",))
    ends = [i for i in edges if i and (begins or told.words[i - 1] == "that") and _lead_in(text, 0, i)]
    start = max(ends, default=0)
    moved = (frozenset(i - start for i in some if i >= start) for some in (told.capitals, told.edges))
    return Tokens(told.words[start:], *moved)
