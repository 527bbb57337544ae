"""What a sentence says as a fact that has one value, by templates: the same words, another value. Pure.

"Oakton was governed by Ada Elm." and "... by Tom Ash." say different values of one fact; so do "The mayor of Oakton
is ..." and "Tom Ash is the mayor of Oakton.", years in which something was founded, and numbers that something has. The
words around a value have to be the same, but for a lead-in that it is on record. A value is a name, a number or a date;
what has one value is told by English words, and what a passage itself gives several values has many.
Not told: values in small letters ("worked as a baker"), the same fact in other words, sentences without a name of what
they are about ("He was born ..."), other languages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from wbrag.units.sentences import STOP, Tokens
from wbrag.units.stated import unled

_MONTHS = frozenset("january february march april may june july august september october november december".split())
_INSIDE = frozenset("of de la le del della di da dos du des van von der den al el bin ibn".split())
#: In these `_` is the place of a name, `#` that of a number or a date.
_BY = (
    "governed|ruled|led|headed|chaired|run|managed|owned|operated|employed|written|composed|painted|directed|designed|"
    "built|founded|established|invented|discovered|set up|started|published|produced|succeeded|preceded"
)
_ONCE = (
    "born|died|founded|established|opened|built|completed|published|released|incorporated|settled|created|formed|"
    "launched|introduced|abolished|closed|dissolved|demolished|consecrated|inaugurated|dates|printed"
)
_ONE_VALUE = re.compile(
    rf"\b(?:{_BY}) by _|\b(?:born|died|buried) (?:in|at|near) _"
    r"|\b(?:seat|headquarters|office|capital|set|based) (?:is |was )?in _"
    rf"|\b(?:{_ONCE}) (?:in|on|from)(?: year)? #"
    r"|\b(?:has|is|are|was|were|costs?|measures?|employs?|holds?|seats?|covers?) #"
    r"|\b(?:population|height|length|area|total) of #"
)
_IS = re.compile(r"\b(?:is|was)(?: now| currently)? _$")
_IS_THE = re.compile(r"(?i)\bis (?:now |currently )?the\b")
_INVERSE = re.compile(r"^_ is (?:now |currently )?(?:[^\W\d_]+ ){1,4}(?:of|in) \w")
_ANY = re.compile(r"(?i)^\W*(?:an?|one|some|another|among|other|two|three|many|several)\b")


@dataclass(frozen=True, slots=True)
class Fact:
    """A value and the words around it, `key`; `relation` is these with no name and number in them."""

    key: str
    value: tuple[str, ...]
    relation: str

    def contradicts(self, other: Fact) -> bool:
        """Whether both are values of one fact, neither a part of the other ("1920", "May 1920")."""
        one, two = set(self.value), set(other.value)
        return self.key == other.key and not (one <= two or two <= one)


@lru_cache(maxsize=16384)
def facts(sentence: str) -> tuple[Fact, ...]:
    """What a sentence says that has one value; () for most."""
    told = unled(sentence)
    runs = _runs(told)
    if len(runs) < 2:
        return ()
    marks = ["#" if _is_number(told, run) else "_" for run in runs]
    relation = _filled(told, runs, marks)
    found = []
    for i, (start, end) in enumerate(runs):
        key = _filled(told, runs[i : i + 1], marks[i : i + 1])
        if "_" in marks[:i] + marks[i + 1 :] and _one_value(key, sentence, told.words[:start], runs[:i]):
            found.append(Fact(key, told.words[start:end], f"{i} {relation}"))
    return tuple(found)


def _one_value(key: str, sentence: str, before: tuple[str, ...], runs: list[tuple[int, int]]) -> bool:
    if _ONE_VALUE.search(key):
        return True
    if _IS.search(key):  # of a name and what of it: "Oakton's mayor is _"
        small = [w for i, w in enumerate(before[:-1]) if w not in STOP and not any(a <= i < b for a, b in runs)]
        return bool(small) and not _ANY.match(sentence)
    return bool(_INVERSE.match(key) and _IS_THE.search(sentence))


def _filled(told: Tokens, runs: list[tuple[int, int]], marks: list[str]) -> str:
    """The words, with marks in the places of runs."""
    words, at = list[str](), 0
    for (start, end), mark in zip(runs, marks, strict=True):
        words += [*told.words[at:start], mark]
        at = end
    return " ".join([*words, *told.words[at:]])


def _runs(told: Tokens) -> list[tuple[int, int]]:
    """Where names, numbers and dates begin and end: words with a capital beside each other, small ones inside."""
    words, found, i = told.words, list[tuple[int, int]](), 0
    while i < len(words):
        end = i + 1
        if not _is_value(told, i):
            i += 1
            continue
        while end < len(words):
            inside = words[end] in _INSIDE and {end - 1, end + 1} <= told.capitals and not {end, end + 1} & told.edges
            if inside:
                end += 2
            elif _is_value(told, end) and _joins(told, end):
                end += 1
            else:
                break
        found.append((i, end))
        i = end
    return found


def _is_value(told: Tokens, i: int) -> bool:
    return told.words[i][0].isdigit() or (i in told.capitals and not (i == 0 and told.words[0] in STOP))


def _joins(told: Tokens, i: int) -> bool:
    """Whether a value goes on at `i`: a name, or a date, in which a comma may stand before the year."""
    one, two = told.words[i - 1], told.words[i]
    if two[0].isdigit():
        dated = one in _MONTHS or (one[0].isdigit() and i > 1 and told.words[i - 2] in _MONTHS)
        return dated or (i not in told.edges and not one[0].isdigit())
    return i not in told.edges and (not one[0].isdigit() or two in _MONTHS)


def _is_number(told: Tokens, run: tuple[int, int]) -> bool:
    said = told.words[slice(*run)]
    return said[0][0].isdigit() or (len(said) > 1 and said[0] in _MONTHS and said[1][0].isdigit())
