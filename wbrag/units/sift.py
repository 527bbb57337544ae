"""Units held against all passages that were read for them: what attacks, what newer passages say otherwise, what nobody
vouches for, what repeats another unit. Pure.

A word-for-word unit loses the sentences that have a fault; any other goes or waits as a whole, as what of it comes from
which source cannot be told. All of it is a function of the set of units and of passages, in whichever order they come.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np

from wbrag.schema import unit_id
from wbrag.units.attacks import attack, cleaned, seen
from wbrag.units.facts import Fact, facts
from wbrag.units.sentences import names, sentences, tokens, words

Row = dict[str, Any]
#: For each id of a passage when it came, as a number: higher is newer.
Came = Callable[[Collection[str]], Mapping[str, float]]

#: The least inner product of two units' vectors of which one repeats the other.
NEAR = 0.95
#: Where more than one in so many passages that say something of somebody give several values, it has several.
SEVERAL = 10
#: Faults of sentences, the gravest first.
FAULTS = ("attack", "superseded", "review")
#: What turns a sentence, and so makes another of it.
_NOT = frozenset("no not never none nobody nothing neither nor without cannot".split())


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that units were made of, or might have been: when it is from (higher is newer; None: not told), and
    whether it is trusted.
    """

    id: str
    title: str
    text: str
    date: float | None = None
    trusted: bool = True


@dataclass(slots=True)
class Evidence:
    """What passages say of what some units say, gathered one passage at a time (`read`)."""

    #: Of each sentence of a unit the passages in which it stands.
    stands: dict[str, list[str]]
    #: Of each fact in them, by its key, the values that trusted passages give, which these are, and their sentence.
    said: dict[str, dict[Fact, dict[str, str]]]
    dates: dict[str, float | None] = field(default_factory=dict)
    trusted: set[str] = field(default_factory=set)
    #: Of each relation how many times a passage says it of somebody, and how many times with several values.
    told: Counter[str] = field(default_factory=Counter)
    several: Counter[str] = field(default_factory=Counter)
    #: What attacked in them (`schema.LEFT`).
    attacks: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, units: Iterable[Row]) -> Evidence:
        """Nothing read yet."""
        stands: dict[str, list[str]] = {one: [] for unit in units for one in sentences(unit["text"])}
        return cls(stands, {fact.key: {} for sentence in stands for fact in facts(sentence)})

    def read(self, passage: Passage) -> None:
        """Take in one passage. One in which something attacks is not trusted with the rest of what it says either."""
        text, left_out = cleaned(passage.text)
        if reason := attack(passage.title):
            left_out = [(passage.title, reason), *left_out]
        self.attacks += [left(passage.id, text, "attack", reason) for text, reason in left_out]
        self.dates[passage.id] = passage.date
        here: dict[str, set[Fact]] = defaultdict(set)
        for sentence in sentences(text):
            if (where := self.stands.get(sentence)) is not None and passage.id not in where:
                where.append(passage.id)
            if not passage.trusted or left_out:
                continue
            for fact in facts(sentence):
                here[fact.key].add(fact)
                if (values := self.said.get(fact.key)) is not None:
                    values.setdefault(fact, {})[passage.id] = sentence
        if passage.trusted and not left_out:
            self.trusted.add(passage.id)
        for some in here.values():
            relation = next(iter(some)).relation
            self.told[relation] += 1
            self.several[relation] += any(one.contradicts(other) for one, other in combinations(some, 2))

    def hear(self, unit: Row) -> None:
        """Take in what a unit says in words of its own, as said by its trusted sources."""
        for sentence in sentences(unit["text"]):
            if not self.stands[sentence]:
                for fact in facts(sentence):
                    own = {key: sentence for key in unit["source_ids"] if key in self.trusted}
                    self.said[fact.key].setdefault(fact, {}).update(own)

    def contested(self) -> set[str]:
        """The passages that give different values of one fact."""
        return {
            key
            for values in self.said.values()
            for one, other in combinations(values, 2)
            if self._differ(one, other)
            for key in (*values[one], *values[other])
        }

    def _differ(self, one: Fact, other: Fact) -> bool:
        return SEVERAL * self.several[one.relation] <= self.told[one.relation] and one.contradicts(other)

    def fault(self, sentence: str, unit: Row) -> tuple[str, str]:
        """What is wrong with a sentence of a unit, one of FAULTS, and the reason; "" for nothing."""
        if reason := attack(sentence) or ("a hidden character" if seen(sentence) != sentence else ""):
            return "attack", reason
        found = [one for fact in facts(sentence) for one in self._against(fact)]
        if found:
            return min(found, key=lambda one: (FAULTS.index(one[0]), one[1]))
        if not self.vouched(sentence, unit):
            return "review", f"nobody trusted says so: {', '.join(self.own(sentence, unit))}"
        return "", ""

    def _against(self, fact: Fact) -> Iterator[tuple[str, str]]:
        values = self.said[fact.key]
        when = self._newest(values.get(fact, {}))
        for other, by in values.items():
            if by and self._differ(fact, other):
                since = self._newest(by)
                source = min(by, key=lambda key: (-(self.dates.get(key) or 0.0), key))
                if when is not None and since is not None and since > when:
                    yield "superseded", f"newer passage {source} says: {by[source]}"
                elif when is None or since is None or since == when:
                    yield "review", f"passage {source}, of which nobody knows that it is older, says: {by[source]}"

    def _newest(self, by: Iterable[str]) -> float | None:
        return max((date for key in by if (date := self.dates.get(key)) is not None), default=None)

    def own(self, sentence: str, unit: Row) -> list[str]:
        """The sources of a unit on which a sentence of it rests: those in which it stands, or all."""
        standing = [key for key in unit["source_ids"] if key in self.stands[sentence]]
        return standing or list(unit["source_ids"])

    def vouched(self, sentence: str, unit: Row) -> bool:
        """Whether a trusted passage says so; of a sentence that stands in none, whether all sources are trusted."""
        if there := self.stands[sentence]:
            return not self.trusted.isdisjoint(there)
        return self.trusted.issuperset(unit["source_ids"])

    def good(self, sentence: str, unit: Row) -> list[str]:
        """The trusted passages on which a sentence rests, the unit's own first."""
        own = [key for key in self.own(sentence, unit) if key in self.trusted]
        return own or sorted(self.trusted.intersection(self.stands[sentence]))[:1]


@dataclass(frozen=True, slots=True)
class Sifted:
    """Units to keep and units that wait for a person, in order of their id, and what was left out (`schema.LEFT`)."""

    kept: list[Row]
    waiting: list[Row]
    left_out: list[Row]


def sifted(units: Sequence[Row], evidence: Evidence, came: Came | None = None) -> Sifted:
    """The units without what has a fault (`Evidence.fault`), after all passages were read. `came`: where passages have
    no dates, the order in which they came; it is asked of those alone that contradict each other.
    """
    for unit in units:
        evidence.hear(unit)
    if came and (ids := evidence.contested()):
        evidence.dates |= came(ids)
    found = Sifted([], [], list(evidence.attacks))
    for unit in units:
        _sift(unit, evidence, found)
    return Sifted(_once(found.kept), _once(found.waiting), found.left_out)


def _sift(unit: Row, evidence: Evidence, found: Sifted) -> None:
    """Put what becomes of one unit where it belongs."""
    said = sentences(unit["text"])
    titled = attack(unit["title"])
    faults = [("attack", titled) if titled else evidence.fault(one, unit) for one in said]
    if unit["form"] != "verbatim" and any(kind for kind, _ in faults):
        worst = min((one for one in faults if one[0]), key=lambda one: FAULTS.index(one[0]))
        faults = [worst] * len(said)
    by_fault: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sentence, fault in zip(said, faults, strict=True):
        by_fault[fault].append(sentence)
    for (kind, reason), some in sorted(by_fault.items()):
        made = part_of(unit, some, evidence, not kind)
        if not kind:
            found.kept.append(made)
            continue
        if kind == "review":
            found.waiting.append(made)
        told = f"{made['id']}: {reason}" if kind == "review" else reason
        found.left_out.append(left(_request(unit), _contents(made), kind, told))


def part_of(unit: Row, some: Sequence[str], evidence: Evidence, kept: bool) -> Row:
    """A unit of some of its sentences, with the sources of these; itself where that is all of it, and what it rests on.

    The tokens of a part are not counted.
    """
    whole, trusted = list(some) == sentences(unit["text"]), evidence.trusted.issuperset(unit["source_ids"])
    if whole and (trusted or not kept):
        return unit
    own = evidence.good if kept else evidence.own
    ids = list(dict.fromkeys(key for sentence in some for key in own(sentence, unit)))
    text = " ".join(some)
    changed = {"text": text, "source_ids": ids, "source_tokens": None, "unit_tokens": None}
    return unit | changed | {"id": unit_id(unit["title"], text, ids)}


def left(request: str, text: str, kind: str, reason: str) -> Row:
    """A row of `schema.LEFT`."""
    return {"request": request, "text": text, "kind": kind, "reason": reason}


def _request(unit: Row) -> str:
    return ", ".join(unit["example_ids"]) or str(unit["subject"])


def _contents(unit: Row) -> str:
    return f"{unit['title']}\n{unit['text']}"


def _once(units: Iterable[Row]) -> list[Row]:
    """Units in order of their id; of equal ones the examples of all."""
    found: dict[str, Row] = {}
    for unit in sorted(units, key=lambda unit: (unit["id"], unit["example_ids"], repr(unit))):
        there = found.setdefault(unit["id"], unit)
        examples = list(dict.fromkeys([*there["example_ids"], *unit["example_ids"]]))
        found[unit["id"]] = there | {"example_ids": examples}
    return list(found.values())


def dated(value: object) -> float | None:
    """A date as a number: of a number itself, of ISO text or a timestamp the seconds; None for anything else."""
    if isinstance(value, (int, float)):
        return None if isinstance(value, bool) or value != value else float(value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return None


def alike(units: Iterable[Row]) -> list[list[Row]]:
    """The units that may repeat each other, as groups of two and more: those whose title and text have the same names,
    numbers and dates, and turn as many sentences. Their vectors are needed.
    """
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for unit in units:
        said = sentences(unit["text"])
        told = [word for one in said for word in tokens(one).words]
        numbers = frozenset(word for word in told if any(letter.isdigit() for letter in word))
        named = frozenset(word for one in (unit["title"], *said) for name in names(one) for word in tokens(name).words)
        first = frozenset(next(iter(names(one)), "") for one in said)
        turned = sum(word in _NOT or word.endswith("n't") for word in told)
        groups[numbers, named, first, turned].append(unit)
    return [some for _, some in sorted((group[0]["id"], group) for group in groups.values()) if len(some) > 1]


def merged(some: Sequence[Row], vectors: np.ndarray) -> tuple[list[Row], list[Row]]:
    """A group of `alike`, each unit that repeats another within that one, and those that went (`schema.LEFT`).

    One repeats another whose vector is near (NEAR) and that has all its words that say something, and all of its title:
    a sentence more, a word in small letters, or a name under which it is found is never lost. The one with most words
    stays, of equals the one with most sources, then examples, then the least id; it gains those of the others.
    """
    said = [words(_contents(unit)) for unit in some]
    named = [frozenset(tokens(unit["title"]).words) for unit in some]
    places = sorted(range(len(some)), key=lambda i: (-len(said[i]), -len(named[i]), *_rank(some[i])))
    near = vectors.astype(np.float32) @ vectors.astype(np.float32).T >= NEAR
    stays: dict[int, list[int]] = {}
    for i in places:
        of = next((j for j in stays if near[i, j] and said[i] <= said[j] and named[i] <= named[j]), None)
        stays.setdefault(i if of is None else of, []).append(i)
    kept = [_joined([some[i] for i in members]) for members in stays.values()]
    left_out = [
        left(_request(some[i]), _contents(some[i]), "duplicate", f"says what {one['id']} says")
        for one, members in zip(kept, stays.values(), strict=True)
        for i in members[1:]
    ]
    return kept, left_out


def _rank(unit: Row) -> tuple[int, int, str]:
    return -len(unit["source_ids"]), -len(unit["example_ids"]), unit["id"]


def _joined(members: Sequence[Row]) -> Row:
    """The first of these with the examples and sources of all; tokens of sources are counted of its own alone."""
    first = members[0]
    examples = list(dict.fromkeys(key for unit in members for key in unit["example_ids"]))
    ids = list(dict.fromkeys([*first["source_ids"], *sorted(key for unit in members for key in unit["source_ids"])]))
    tokens = first["source_tokens"] if len(ids) == len(first["source_ids"]) else None
    new = {"id": unit_id(first["title"], first["text"], ids), "source_ids": ids, "source_tokens": tokens}
    return first | new | {"example_ids": examples}
