"""Which units a person should look at first, and why. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

from wbrag.schema import contents_of
from wbrag.units.faithful import checked
from wbrag.units.sentences import folded, sentences, tokens, words

Row = Mapping[str, Any]
#: In order of what is looked at first.
KINDS = {
    "unfaithful": "a sentence is not borne out by its sources",
    "contradicting": "another unit states another number",
    "harmful": "more test questions got worse than better",
    "near-duplicate": "another unit says nearly the same",
    "never read": "no test question read it",
}
#: Two units that share this part of their words (Jaccard) say nearly the same.
SAME = 0.8
#: Units of one title or source that are held against each other.
MOST = 100


@dataclass(frozen=True, slots=True)
class Doubt:
    """One of `KINDS`, with what there is to see; `other`: the unit that it is about too, "" for none."""

    kind: str
    told: str
    other: str = ""


def doubts_of(
    units: Sequence[Row], sources: Mapping[str, Row], read: Mapping[str, tuple[int, int, int]]
) -> dict[str, list[Doubt]]:
    """For each unit (`schema.UNIT`) its doubts, in order of `KINDS`. `sources`: passages by id; `read`: of each unit
    that test questions read how many, how many of them got better, and worse.
    """
    found: dict[str, dict[str, Doubt]] = {unit["id"]: {} for unit in units}
    harmful = ((key, f"{w} worse, {b} better", "") for key, (_, b, w) in read.items() if w > b and key in found)
    for kind, told in (
        ("unfaithful", ((unit["id"], why, "") for unit in units if (why := unfaithful(unit, sources)))),
        ("contradicting", contradicting(units)),
        ("harmful", harmful),
        ("near-duplicate", repeated(units)),
        ("never read", ((key, KINDS["never read"], "") for key in found if key not in read)),
    ):
        for key, why, other in told:
            found[key].setdefault(kind, Doubt(kind, why, other))
    return {key: list(some.values()) for key, some in found.items()}


def unfaithful(unit: Row, sources: Mapping[str, Row]) -> str:
    """The first fault that the rules find in a unit's text, "" for none; a source that is gone is one."""
    there = [sources[key] for key in unit["source_ids"] or () if key in sources]
    if gone := [key for key in unit["source_ids"] or () if key not in sources]:
        return f"source {gone[0]} is not in the base any more"
    if not there:
        return "it names no source"
    told = checked(unit["title"], unit["text"], list(map(contents_of, there)), "")
    return next((f"{one.kind}, {one.reason}: {one.sentence}" for one in told.cut), "")


def contradicting(units: Iterable[Row]) -> Iterator[tuple[str, str, str]]:
    """Units of one title with a sentence that is another's but for its numbers: id, that sentence, the other's id."""
    said: dict[tuple[str, ...], dict[tuple[str, ...], tuple[str, str]]] = defaultdict(dict)
    for unit in units:
        for sentence in sentences(unit["text"]):
            found = tokens(sentence.lower()).words
            numbers = tuple(word for word in found if word[0].isdigit())
            shape = (folded(unit["title"]), *("#" if word[0].isdigit() else word for word in found))
            if numbers:
                said[shape].setdefault(numbers, (unit["id"], sentence))
    for values in said.values():
        for (one, first), (other, second) in combinations(values.values(), 2):
            if one != other:
                yield one, second, other
                yield other, first, one


def repeated(units: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """Units of one title or source that share `SAME` of their words: id, the other's title and text, its id."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for unit in units:
        for group in {("title", folded(unit["title"])), *(("source", key) for key in unit["source_ids"] or ())}:
            groups[group].append(unit)
    said = {unit["id"]: words(unit["text"]) for unit in units}
    for some in groups.values():
        for one, other in combinations(islice(some, MOST), 2):
            a, b = said[one["id"]], said[other["id"]]
            if len(a & b) >= SAME * len(a | b):
                yield one["id"], f"{other['title']}: {other['text']}", other["id"]
                yield other["id"], f"{one['title']}: {one['text']}", one["id"]
