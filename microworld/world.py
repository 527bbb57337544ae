"""The seeded world: districts of entities, their facts, and the passages that scatter and dilute them.

A world is a row of districts, each made from (seed, number) alone, so that a corpus of any size streams to disk with
one district in memory. The two diseases of a real knowledge base (paper, section 1) are built in: an entity's facts are
spread over several passages (fragmentation), and a passage speaks of several entities and of nothing much (dilution).
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from microworld.names import PAPERS, PIECES, SLOTS, Name, Renaming, name
from microworld.relations import BY_NAME, BY_SUBJECT, FILLERS, LEADS

#: Entities of a district by kind.
DISTRICT = {"person": 45, "place": 20, "company": 15, "book": 20}
FAMOUS = {"person": 8, "place": 4, "company": 3, "book": 5}
FAMOUS_SEED = 0  # the same in every world: what the micro models know by heart


@dataclass(frozen=True, slots=True)
class Fact:
    """subject, relation, object; `famous` facts are the same in every world."""

    subject: Name
    relation: str
    object: Name
    famous: bool = False

    def fill(self, template: str, renaming: Renaming | None = None, subject: str = "", object: str = "") -> str:
        """A template with this fact's names; `subject` and `object` replace the written names."""
        renaming = None if self.famous else renaming
        text = template.format(s=subject or self.subject.text(renaming), o=object or self.object.text(renaming))
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        return text[0].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A statement of a fact, perhaps behind a lead-in, or a filler that states nothing."""

    fact: Fact | None
    lead: str = ""
    filler: str = ""

    def text(self, renaming: Renaming | None = None) -> str:
        """The sentence as it stands in a passage."""
        bare = self.bare(renaming)
        if not self.lead or self.fact is None:
            return bare
        return self.lead + bare

    def bare(self, renaming: Renaming | None = None) -> str:
        """The sentence without its lead-in."""
        if self.fact is None:
            return self.filler
        return self.fact.fill(BY_NAME[self.fact.relation].statement, renaming)


@dataclass(frozen=True, slots=True)
class Passage:
    """A corpus row: `about` is the entity of a dense article, None for a scattered notice."""

    id: str
    heading: str
    sentences: tuple[Sentence, ...]
    about: Name | None = None

    def title(self, renaming: Renaming | None = None) -> str:
        """The passage's title: the entity of an article, else the paper and number it appeared in."""
        return self.about.text(renaming) if self.about else self.heading

    def text(self, renaming: Renaming | None = None) -> str:
        """The passage's sentences, joined."""
        return " ".join(s.text(renaming) for s in self.sentences)


@dataclass(frozen=True, slots=True)
class District:
    """One part of the world: its entities, facts by subject, and passages."""

    entities: tuple[Name, ...]
    facts: dict[Name, tuple[Fact, ...]]
    passages: tuple[Passage, ...]


def size() -> int:
    """Ordinary entities of one district."""
    return sum(DISTRICT.values())


@cache
def famous() -> dict[Name, tuple[Fact, ...]]:
    """The facts that every world shares, by subject."""
    entities = _entities(FAMOUS, FAMOUS_SEED, 0, famous=True)
    return _facts(entities, random.Random("famous"), famous=True)


def district(seed: int, number: int) -> District:
    """The `number`-th district of the world of `seed`; district 0 also tells of the famous."""
    rng = random.Random(f"{seed}/{number}")
    entities = _entities(DISTRICT, seed, number)
    facts = _facts(entities, rng)
    told = facts | famous() if number == 0 else facts
    return District(tuple(entities), facts, tuple(_passages(told, rng, number)))


def _entities(counts: dict[str, int], seed: int, number: int, famous: bool = False) -> list[Name]:
    return [name(kind, number * n + i, seed, famous) for kind, n in counts.items() for i in range(n)]


def _facts(entities: Sequence[Name], rng: random.Random, famous: bool = False) -> dict[Name, tuple[Fact, ...]]:
    by_kind: dict[str, list[Name]] = defaultdict(list)
    for entity in entities:
        by_kind[entity.kind].append(entity)
    facts: dict[Name, tuple[Fact, ...]] = {}
    for entity in entities:
        relations = BY_SUBJECT[entity.kind]
        chosen = [r for r in relations if rng.random() < 0.85] or list(relations[:1])
        objects = [_object(r.object, by_kind, rng, entity) for r in chosen]
        facts[entity] = tuple(Fact(entity, r.name, o, famous) for r, o in zip(chosen, objects, strict=True))
    return facts


def _object(kind: str, by_kind: dict[str, list[Name]], rng: random.Random, subject: Name) -> Name:
    if kind in by_kind:
        return rng.choice([e for e in by_kind[kind] if e != subject])
    return Name(kind, tuple(rng.choice(PIECES[slot]) for slot in SLOTS[kind]))


def _passages(facts: dict[Name, tuple[Fact, ...]], rng: random.Random, number: int) -> list[Passage]:
    groups = _groups(facts, rng)
    by_subject: dict[Name, list[list[Sentence]]] = defaultdict(list)
    for group in groups:
        by_subject[_subject(group)].append(group)
    told: list[tuple[Name | None, list[Sentence]]] = []
    free = {id(g) for g in groups}
    for group in groups:
        if id(group) not in free:
            continue
        free.discard(id(group))
        chosen = [group]
        for related in (True, True, False):
            chosen.append(_companion(chosen[-1], groups, by_subject, free, rng, related))
            free.discard(id(chosen[-1]))
        told.append((None, _diluted([s for g in chosen for s in g], rng)))
    articles = [e for e in facts if rng.random() < 0.12]
    told += [(e, _article(e, facts, rng)) for e in articles]
    rng.shuffle(told)
    heading = (f"{rng.choice(PAPERS)} {rng.randrange(10, 100)}" for _ in told)
    return [
        Passage(f"{number}-{i}", h, tuple(sentences), about)
        for i, (h, (about, sentences)) in enumerate(zip(heading, told, strict=True))
    ]


def _groups(facts: dict[Name, tuple[Fact, ...]], rng: random.Random) -> list[list[Sentence]]:
    """Every fact said once or twice, an entity's sentences cut into groups of one or two, in random order."""
    groups = []
    for entity_facts in facts.values():
        said = [_say(f, rng) for f in entity_facts for _ in range(rng.choice((1, 1, 1, 2)))]
        rng.shuffle(said)
        while said:
            cut = rng.choice((1, 2, 2))
            groups.append(said[:cut])
            said = said[cut:]
    rng.shuffle(groups)
    return groups


def _say(fact: Fact, rng: random.Random) -> Sentence:
    lead = rng.choice(LEADS) if rng.random() < 0.2 else ""
    return Sentence(fact, lead)


def _subject(group: list[Sentence]) -> Name:
    assert group[0].fact is not None
    return group[0].fact.subject


def _companion(
    group: list[Sentence],
    groups: list[list[Sentence]],
    by_subject: dict[Name, list[list[Sentence]]],
    free: set[int],
    rng: random.Random,
    related: bool,
) -> list[Sentence]:
    """Another group for a passage: of an entity the first one mentions where `related`, else any free one."""
    mentioned = [g for s in group if s.fact for g in by_subject.get(s.fact.object, ()) if id(g) in free]
    if mentioned and related:
        return rng.choice(mentioned)
    for _ in range(8):
        other = rng.choice(groups)
        if id(other) in free:
            return other
    return []


def _diluted(sentences: list[Sentence], rng: random.Random) -> list[Sentence]:
    """The groups, now and then interleaved, with up to one filler."""
    if rng.random() < 0.3:
        rng.shuffle(sentences)
    if rng.random() < 0.5:
        sentences.insert(rng.randrange(len(sentences) + 1), Sentence(None, filler=rng.choice(FILLERS)))
    return sentences


def _article(entity: Name, facts: dict[Name, tuple[Fact, ...]], rng: random.Random) -> list[Sentence]:
    """A long, dense passage: the facts of one entity and of one it mentions, at most nine."""
    linked = [f.object for f in facts[entity] if f.object in facts]
    subjects = [entity, *rng.sample(linked, min(1, len(linked)))]
    sentences = [_say(f, rng) for e in subjects for f in facts[e]]
    return sentences[:9]
