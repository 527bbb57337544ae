"""Planted sentences: true ones of the microworld and of real passages, and the same with one thing made wrong."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from microworld.names import Name
from microworld.relations import BY_NAME, RELATIONS
from microworld.world import Fact, Passage, district
from wbrag.units.refusals import refused
from wbrag.units.sentences import STOP, names, plain, sentences, tokens

XQUAD = Path(__file__).resolve().parents[1] / "../shared/data/xquad_en/corpus.jsonl"


@dataclass(frozen=True, slots=True)
class Planted:
    """A sentence of a unit, its sources, the kind of change ("" for none), and what a strict critic says of it."""

    sentence: str
    sources: tuple[str, ...]
    title: str
    change: str
    supported: bool


def contents(passage: Passage) -> str:
    """A passage as a source: its title, a line break, its text."""
    return f"{passage.title()}\n{passage.text()}"


def from_microworld(seed: int, each: int) -> list[Planted]:
    """`each` false sentences a kind (name, number, relation), and as many true ones a kind (as it stands, without its
    lead-in, one of a subject unit made from several passages). The critic is the world itself: it says yes to the facts
    that the sources tell, in whichever words.
    """
    rng = random.Random(seed)
    places = [district(seed, number) for number in range(1, 4)]
    told = [(p, s) for place in places for p in place.passages for s in p.sentences if s.fact]
    entities: dict[str, list[Name]] = defaultdict(list)
    for place in places:
        for name in place.entities:
            entities[name.kind].append(name)
    made: dict[str, list[Planted]] = defaultdict(list)
    rng.shuffle(told)
    for passage, sentence in told:
        assert sentence.fact is not None
        held, subject = (contents(passage),), sentence.fact.subject.text()
        facts = [s.fact for s in passage.sentences if s.fact]
        made["as it stands"].append(Planted(sentence.text(), held, subject, "", True))
        if sentence.lead:
            made["no lead-in"].append(Planted(sentence.bare(), held, subject, "", True))
        for change, wrong in _false(sentence.fact, facts, entities, rng):
            claim = Planted(wrong, held, subject, change, wrong in _sayable(facts))
            if not claim.supported:
                made[change].append(claim)
    for place in places:
        for entity in place.entities:
            made["by subject"] += _unit(entity, place.passages)
    rng.shuffle(made["by subject"])
    return [one for some in made.values() for one in some[:each]]


def _false(
    fact: Fact, facts: Sequence[Fact], entities: dict[str, list[Name]], rng: random.Random
) -> Iterator[tuple[str, str]]:
    """The fact with another name (half of them one that the passage tells of), another year, or in another relation."""
    statement = BY_NAME[fact.relation].statement
    if fact.object.kind == "year":
        yield "number", replace(fact, object=Name("year", (str(rng.randrange(1500, 1990)),))).fill(statement)
    else:
        near = [n for f in facts for n in (f.subject, f.object) if n.kind == fact.object.kind and n != fact.object]
        pool = near if near and rng.random() < 0.5 else entities.get(fact.object.kind, [])
        if pool:
            yield "name", replace(fact, object=rng.choice(pool)).fill(statement)
    others = [r for r in RELATIONS if r.subject == fact.subject.kind and r.name != fact.relation]
    yield "relation", fact.fill(rng.choice(others).statement)


def _unit(entity: Name, passages: Sequence[Passage]) -> list[Planted]:
    """The sentences of a unit on one subject, each from another passage, held against all those passages."""
    found = {s.fact: p for p in passages for s in p.sentences if s.fact and s.fact.subject == entity}
    held = tuple(dict.fromkeys(contents(p) for p in found.values()))
    said = [fact.fill(BY_NAME[fact.relation].statement) for fact in found]
    return [Planted(one, held, entity.text(), "", True) for one in said] if len(held) > 2 else []


def _sayable(facts: Sequence[Fact]) -> set[str]:
    """All ways to say the facts, in the microworld's words."""
    return {fact.fill(claim) for fact in facts for claim in BY_NAME[fact.relation].claims}


def from_xquad(seed: int, each: int) -> list[Planted]:
    """`each` false sentences a kind (name, number, order) in real passages, and as many true ones a kind (as it stands,
    without brackets, numbers and accents written otherwise). The critic says yes to what one sentence of a source holds
    all words of, in their order.
    """
    rng = random.Random(seed)
    passages = [json.loads(line)["contents"] for line in XQUAD.read_text(encoding="utf-8").splitlines()]
    rng.shuffle(passages)
    pool = {name: p.partition("\n")[0] for p in passages for name in names(p.partition("\n")[2])}
    made: dict[str, list[Planted]] = defaultdict(list)
    for source in passages:
        title, _, text = source.partition("\n")
        whole = [s for s in sentences(text) if not refused(s, "", "") and len(tokens(s).words) > 5]
        for sentence in rng.sample(whole, min(3, len(whole))):
            bare, respelled = re.sub(r" \([^()]*\)", "", sentence), _respelled(sentence)
            for way, true in (("as it stands", sentence), ("no brackets", bare), ("respelled", respelled)):
                if way == "as it stands" or true != sentence:
                    made[way].append(Planted(true, (source,), title, "", in_order(true, source)))
            for change, make in CHANGES.items():
                other = rng.choice([name for name, at in pool.items() if at != title and name not in source])
                if (wrong := make(sentence, other, rng)) and wrong not in source:
                    made[change].append(Planted(wrong, (source,), title, change, in_order(wrong, source)))
    return [one for some in made.values() for one in some[:each]]


def in_order(sentence: str, source: str) -> bool:
    """Whether one sentence of the source has all words of `sentence`, in their order, others between them."""
    for one in sentences(source):
        left = iter(tokens(one).words)
        if all(word in left for word in tokens(sentence).words):
            return True
    return False


def _other_name(sentence: str, other: str, rng: random.Random) -> str:
    found = [name for name in names(sentence) if len(name) > 2]
    return _replaced(sentence, rng.choice(found), other) if found else ""


def _other_number(sentence: str, other: str, rng: random.Random) -> str:
    found = re.findall(r"(?<![\w.,])\d+(?![\w]|[.,]\d)", sentence)
    if not found:
        return ""
    number = rng.choice(found)
    return _replaced(sentence, number, str(int(number) + rng.choice((1, 2, 3, 10, 17))))


def _other_order(sentence: str, other: str, rng: random.Random) -> str:
    """Two names in each other's place, or where there are none two words that say something."""
    found = [name for name in names(sentence) if sentence.count(name) == 1]
    if len(found) < 2:
        found = [w for w in re.findall(r"\b[a-z]{4,}\b", sentence) if w not in STOP and sentence.count(w) == 1]
    if len(found) < 2:
        return ""
    first, second = rng.sample(found, 2)
    return re.sub(
        rf"\b({re.escape(first)}|{re.escape(second)})\b", lambda m: second if m[0] == first else first, sentence
    )


def _respelled(sentence: str) -> str:
    """Without separators in numbers and without accents, small numbers in words."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain(sentence))
    return re.sub(r"(?<=[a-z] )([3-9])(?= [a-z])", lambda m: SMALL[int(m[1]) - 3], text)


def _replaced(sentence: str, old: str, new: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, sentence)


SMALL = "three four five six seven eight nine".split()
CHANGES: dict[str, Callable[[str, str, random.Random], str]] = {
    "name": _other_name,
    "number": _other_number,
    "order": _other_order,
}
