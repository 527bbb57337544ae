"""Faithful or not at all: each sentence of a unit held against its sources, by rules that ask no model. Pure.

What stands there word for word is `stated`. A sentence with a name, number, date or quotation that no source has is
`foreign`. The rest is `open`: its words may be the sources', what it says of them need not be, and a `Critic` is asked.
A source is a passage's title, a line break and its text.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise, product

from wbrag.units.refusals import echoed, refused
from wbrag.units.sentences import STOP, names, sentences, tokens
from wbrag.units.stated import stated

#: Asked of a sentence and its sources: do they bear it out?
Critic = Callable[[str, Sequence[str]], Awaitable[bool]]

_QUOTED = re.compile(
    '\u201c([^\u201d]+)\u201d|\u201e([^\u201c\u201d]+)[\u201c\u201d]|"([^"]+)"|\u00ab([^\u00bb]+)\u00bb'
    "|\u300c([^\u300d]+)\u300d|\u300e([^\u300f]+)\u300f"
)
#: Words that begin a sentence with a capital and are no name although STOP lacks them.
_OPENERS = frozenset(
    "additionally another born built currently eventually finally formerly given historically initially known made "
    "originally overall people previously recently set subsequently traditionally various written".split()
)
_ADVERB = re.compile(r"\W*(?:\w+ly(?:,|\s+[a-z])|\w+(?:ed|ing)\s+(?:in|on|at|by|from|to|as|for|with|near|the|a|an)\b)")


@dataclass(frozen=True, slots=True)
class Judged:
    """A sentence of a unit: `stated`, `open`, `supported`, or cut: `foreign`, `unsupported`, a class of `refused`."""

    sentence: str
    kind: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A unit after the rules: all its sentences in order, and what is wrong with its title ("": nothing)."""

    title: str
    title_fault: str
    sentences: tuple[Judged, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """The sentences that are borne out, in order."""
        return tuple(one.sentence for one in self.sentences if one.kind in ("stated", "supported"))

    @property
    def cut(self) -> tuple[Judged, ...]:
        """The sentences that are not borne out, each with its class and reason."""
        return tuple(one for one in self.sentences if one.kind not in ("stated", "supported", "open"))


@dataclass(frozen=True, slots=True)
class _Known:
    """What the sources have."""

    clauses: str  # their words, with commas between clauses
    joined: str  # and without
    words: frozenset[str]
    small: frozenset[str]  # words without a capital
    numbers: frozenset[str]
    dates: frozenset[tuple[str, str, str]]
    days: frozenset[tuple[str, str]]  # each with a word near it
    pairs: tuple[frozenset[str], ...]  # the words of any two neighbouring sentences


def checked(title: str, text: str, sources: Sequence[str], question: str, prompt_words: Sequence[str] = ()) -> Checked:
    """Each sentence of a unit's text, refused, or held against the sources; and its title, which has to stand there.

    A title with a fault resolves no pronoun and makes no name known.
    """
    fault = _title_fault(title, sources, question, prompt_words)

    def judged(sentence: str) -> Judged:
        kind, _, reason = refused(sentence, title, question, prompt_words).partition(": ")
        return Judged(sentence, kind, reason) if kind else verdict(sentence, sources, "" if fault else title)

    return Checked(title, fault, tuple(map(judged, sentences(text))))


def verdict(sentence: str, sources: Sequence[str], title: str = "") -> Judged:
    """How a sentence stands to its sources; see `stated.stated` for what may be left out and replaced.

    `title` is the unit's, and trusted: its words are known, and a passage's first "he" may be it.
    """
    if stated(sentence, sources, title):
        return Judged(sentence, "stated")
    foreign = _foreign(sentence, _known(tuple(sources), title))
    return Judged(sentence, "foreign" if foreign else "open", foreign)


async def settled(checked: Checked, sources: Sequence[str], critic: Critic | None) -> Checked:
    """A checked unit with nothing open: what the critic says yes to is `supported`, the rest `unsupported`.

    The critic is asked about each sentence once, of all at the same time; without one, or without sources, nothing
    open is supported.
    """
    said = dict.fromkeys((one.sentence for one in checked.sentences if one.kind == "open"), False)
    if critic is not None and sources:
        said = dict(zip(said, await asyncio.gather(*[critic(sentence, sources) for sentence in said]), strict=True))
    no = ("unsupported", "the critic says no" if critic else "no critic to ask")
    told = (
        Judged(one.sentence, *(("supported", "") if said[one.sentence] else no)) if one.kind == "open" else one
        for one in checked.sentences
    )
    return replace(checked, sentences=tuple(told))


def _foreign(sentence: str, known: _Known) -> str:
    """The first quotation, number, date or name of a sentence that no source has; "" where there is none."""
    said = tokens(sentence).words
    for match in _QUOTED.finditer(sentence):
        quoted = next(filter(None, match.groups()))
        if f" {' '.join(tokens(quoted).words)} " not in known.joined:
            return f"quotation {quoted!r}"
    for number in said:
        if number[0].isdigit() and number not in known.numbers:
            return f"number {number!r}"
    for date in _dates(said):
        if date not in known.dates and not _may_be(date, known):
            return f"date {' '.join(date)!r}"
    return next((f"name {name!r}" for name in names(sentence) if not _has_name(name, sentence, known)), "")


def _has_name(name: str, sentence: str, known: _Known) -> bool:
    """Whether a name stands in the sources, word beside word, or inflected, or behind words that are no part of it
    there ("the River Thames" of "the Thames, a river"). A word that only begins a sentence may be no name.
    """
    words, first = tokens(name).words, re.sub(r"^\W+", "", sentence).startswith(name)
    if _stands(words, known) or all(word[0].isdigit() for word in words):
        return True
    if first and len(words) == 1 and _ADVERB.match(sentence):
        return True
    while words and ((first and words[0] in _OPENERS) or any(_akin(word, words[0]) for word in known.small)):
        words = words[1:]
        if _stands(words, known) if words else first:
            return True
    return False


def _stands(words: Sequence[str], known: _Known) -> bool:
    options = [
        [word] if word in known.words else sorted(own for own in known.words if _akin(word, own)) for word in words
    ]
    return any(f" {' '.join(option)} " in known.clauses for option in islice(product(*options), 64))


def _akin(one: str, other: str) -> bool:
    """Whether two words may be forms of one: equal, or different behind the fourth letter, in one letter and two."""
    short, long = sorted((one, other), key=len)
    stem = max(4, len(short) - 1)
    return one == other or (len(short) >= 4 and long.startswith(short[:stem]) and len(long) - stem <= 2)


def _dates(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Day, month and year where they follow each other, in whichever order; the month is any word that is not small."""
    told = [word.removesuffix("th") if word[0].isdigit() else word for word in words if word not in ("of", "de", "del")]
    for three in zip(told, told[1:], told[2:], strict=False):
        shape = "".join("m" if not w.isdigit() else "y" if len(w) == 4 else "d" if len(w) < 3 else "?" for w in three)
        if shape in ("dmy", "mdy", "ymd") and (STOP - {"may"}).isdisjoint(three):
            yield three[shape.index("d")], three[shape.index("m")], three[shape.index("y")]


def _may_be(date: tuple[str, str, str], known: _Known) -> bool:
    """Whether the sources have a date's day and month, with no other year behind them, and near by its year."""
    day, month, year = date
    elsewhere = any(other[:2] == date[:2] for other in known.dates)
    return not elsewhere and (day, month) in known.days and any({month, year} <= pair for pair in known.pairs)


def _days(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each number that may be a day, with each word near enough to be its month ("7 and 9 of May")."""
    for i, word in enumerate(words):
        day = word.removesuffix("th")
        if day.isdigit() and len(day) < 3:
            yield from ((day, other) for other in words[max(0, i - 3) : i + 4])


@lru_cache(maxsize=512)
def _known(sources: tuple[str, ...], title: str) -> _Known:
    texts = [[tokens(one) for one in sentences(source)] for source in (*sources, title)]
    every = [one for text in texts for one in text]
    words = frozenset(word for one in every for word in one.words)
    clauses = (" ".join(f", {w}" if i in one.edges else w for i, w in enumerate(one.words)) for one in every)
    pairs = (frozenset((*one.words, *other.words)) for text in texts for one, other in pairwise([*text, tokens("")]))
    return _Known(
        clauses=f" {' . '.join(clauses)} ",
        joined=f" {' . '.join(' '.join(word for one in text for word in one.words) for text in texts)} ",
        words=words,
        small=frozenset(word for one in every for i, word in enumerate(one.words) if i not in one.capitals),
        numbers=frozenset(_numbers(words)),
        dates=frozenset(date for one in every for date in _dates(one.words)),
        days=frozenset(day for one in every for day in _days(one.words)),
        pairs=tuple(pairs),
    )


def _numbers(words: frozenset[str]) -> Iterator[str]:
    """The numbers among words, an ordinal as its number too, a percentage as well."""
    yield from (number for word, number in (("one", "1"), ("first", "1"), ("second", "2")) if word in words)
    for word in words:
        if word[0].isdigit():
            yield from (word, re.sub(r"(?:th|%)$", "", word), re.sub(r"%?$", "", word) + "th")


def _title_fault(title: str, sources: Sequence[str], question: str, prompt_words: Sequence[str]) -> str:
    """What is wrong with a title: it echoes, or a name or number in it is not the sources'; "" for nothing.

    Parts of a title that no source has ("Early life of") are no fault beside one that a source has, unless they hold a
    word that is part of a name there.
    """
    if not title.strip():
        return ""
    if echo := echoed(title, question, prompt_words):
        return f"echo: {echo}"
    known = _known(tuple(sources), "")
    pieces = re.split(r"\s+(?:of|in|and|the|de|von|at|for|by|on)\s+|[,:()]", title)
    parts = [words for piece in pieces if (words := tokens(piece).words)]
    foreign = [words for words in parts if not _stands(words, known)]
    mixed = [words for words in foreign if any(w in known.words - known.small or w[0].isdigit() for w in words)]
    if not parts:
        return "foreign: no word"
    return f"foreign: {' '.join((mixed or foreign)[0])!r}" if mixed or len(foreign) == len(parts) else ""
