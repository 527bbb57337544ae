"""Faithful or not at all: each sentence of a unit held against its sources, by rules that ask no model. Pure.

What stands there word for word is `stated`. A sentence with a name, number, date or quotation that no source has is
`foreign`. The rest is `open`: its words may be the sources', what it says of them need not be, and a `Critic` is asked.
A source is a passage's title, a line break and its text.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise, product
from typing import Literal

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
class Verdict:
    """What the rules say of a sentence; `what` is the name, number, date or quotation that is foreign."""

    kind: Literal["stated", "foreign", "open"]
    what: str = ""


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
    def open(self) -> tuple[str, ...]:
        """The sentences that a critic has to be asked about."""
        return tuple(one.sentence for one in self.sentences if one.kind == "open")

    @property
    def cut(self) -> tuple[Judged, ...]:
        """The sentences that are not borne out, each with its class and reason."""
        return tuple(one for one in self.sentences if one.kind not in ("stated", "supported", "open"))


@dataclass(frozen=True, slots=True)
class _Known:
    """What the sources have: their words, with commas between clauses and without; each word; those without a capital;
    numbers; dates; days, each with a word near it; the words of any two neighbouring sentences.
    """

    clauses: str
    joined: str
    words: frozenset[str]
    small: frozenset[str]
    numbers: frozenset[str]
    dates: frozenset[tuple[str, str, str]]
    days: frozenset[tuple[str, str]]
    pairs: tuple[frozenset[str], ...]


def checked(title: str, text: str, sources: Sequence[str], question: str, prompt_words: Sequence[str] = ()) -> Checked:
    """Each sentence of a unit's text, refused, or held against the sources; and its title, which has to stand there.

    A title with a fault resolves no pronoun and makes no name known.
    """
    fault = _title_fault(title, sources, question, prompt_words)
    known = "" if fault else title

    def judged(sentence: str) -> Judged:
        kind, _, reason = refused(sentence, title, question, prompt_words).partition(": ")
        if kind:
            return Judged(sentence, kind, reason)
        found = verdict(sentence, sources, known)
        return Judged(sentence, found.kind, found.what)

    return Checked(title, fault, tuple(judged(sentence) for sentence in sentences(text)))


def verdict(sentence: str, sources: Sequence[str], title: str = "") -> Verdict:
    """How a sentence stands to its sources; see `stated.stated` for what may be left out and replaced.

    `title` is the unit's, and trusted: its words are known, and a passage's first "he" may be it.
    """
    held = tuple(sources)
    if stated(sentence, held, title):
        return Verdict("stated")
    foreign = _foreign(sentence, _known(held, title))
    return Verdict("foreign", foreign) if foreign else Verdict("open")


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
    """Whether a name stands in the sources, word beside word; inflected it does too, and behind words that are no part
    of it there ("the River Thames" of "the Thames, a river"). A word that only begins a sentence may be no name.
    """
    words = tokens(name).words
    if _stands(words, known) or all(word[0].isdigit() for word in words):
        return True
    first = re.sub(r"^\W+", "", sentence).startswith(name)
    if first and len(words) == 1 and _ADVERB.match(sentence):
        return True
    while words and ((first and words[0] in _OPENERS) or any(_akin(word, words[0]) for word in known.small)):
        words = words[1:]
        if _stands(words, known) if words else first:
            return True
    return False


def _stands(words: Sequence[str], known: _Known) -> bool:
    options = [[word] if word in known.words else [own for own in known.words if _akin(word, own)] for word in words]
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
    """Whether a date may be put together from the sources: they have its day and month, with no other year behind them,
    and near by its year.
    """
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
    words = {word for one in every for word in one.words}
    small = {word for one in every for i, word in enumerate(one.words) if i not in one.capitals}
    pairs = (frozenset((*one.words, *other.words)) for text in texts for one, other in pairwise([*text, tokens("")]))
    return _Known(
        f" {' . '.join(' '.join(_with_commas(one.words, one.edges)) for one in every)} ",
        f" {' . '.join(' '.join(word for one in text for word in one.words) for text in texts)} ",
        frozenset(words),
        frozenset(small),
        frozenset(_numbers(words)),
        frozenset(date for one in every for date in _dates(one.words)),
        frozenset(day for one in every for day in _days(one.words)),
        tuple(pairs),
    )


def _with_commas(words: Sequence[str], edges: frozenset[int]) -> Iterator[str]:
    for i, word in enumerate(words):
        yield from (",", word) if i in edges else (word,)


def _numbers(words: Iterable[str]) -> Iterator[str]:
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
    parts = [tokens(part).words for part in re.split(r"\s+(?:of|in|and|the|de|von|at|for|by|on)\s+|[,:()]", title)]
    foreign = [words for words in parts if words and not _stands(words, known)]
    mixed = [words for words in foreign if any(w in known.words - known.small or w[0].isdigit() for w in words)]
    if mixed or len(foreign) == len([words for words in parts if words]):
        return f"foreign: {' '.join((mixed or foreign)[0])!r}" if foreign else "foreign: no word"
    return ""
