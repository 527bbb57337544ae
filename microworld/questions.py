"""The six benchmarks of a world: who is asked about follows a Zipf law, the wording is drawn at random.

Each mirrors one of the paper's: nq (one fact), boolq (yes/no), fever (claims), zsre (slots), hotpotqa (two hops), squad
(facts of the long, dense passages).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from microworld.names import Name, Renaming
from microworld.relations import BY_NAME, TWO_HOPS, polar
from microworld.world import District, Fact

BENCHMARKS = ("nq", "boolq", "fever", "zsre", "hotpotqa", "squad")
TASKS = {"nq": "factoid", "boolq": "yes_no", "fever": "claim", "zsre": "slot", "hotpotqa": "multi_hop",
         "squad": "factoid"}  # fmt: skip
#: Share of claims that are true: of BoolQ's answers 62 % are yes; of FEVER's training claims with a verdict, 73 % are
#: supported.
TRUE = {"boolq": 0.62, "fever": 0.73}
_SECOND = {first: tuple(b for a, b in TWO_HOPS if a == first) for first, _ in TWO_HOPS}


@dataclass(frozen=True, slots=True)
class Question:
    """A question as structure: the facts it takes to answer it, the wording, and for claims the object put forward."""

    benchmark: str
    facts: tuple[Fact, ...]
    phrasing: int
    claimed: Name | None = None

    def text(self, renaming: Renaming | None = None) -> str:
        """The question in its written form."""
        fact, relation = self.facts[-1], BY_NAME[self.facts[-1].relation]
        match self.benchmark:
            case "zsre":
                return f"{fact.subject.text(None if fact.famous else renaming)} [SEP] {relation.slot}"
            case "boolq" | "fever":
                assert self.claimed is not None
                claimed = self.claimed.text(None if fact.famous and self.true else renaming)
                claim = relation.claims[self.phrasing]
                return fact.fill(polar(claim) if self.benchmark == "boolq" else claim, renaming, object=claimed)
            case "hotpotqa":
                first = self.facts[0]
                described = first.fill(BY_NAME[first.relation].described, renaming)
                return fact.fill(
                    relation.questions[self.phrasing], renaming, subject=described[0].lower() + described[1:]
                )
            case _:
                return fact.fill(relation.questions[self.phrasing], renaming)

    @property
    def true(self) -> bool:
        """Whether the claimed object is the right one."""
        return self.claimed is None or self.claimed == self.facts[-1].object

    def answer(self, renaming: Renaming | None = None) -> str:
        """The golden answer."""
        match self.benchmark:
            case "boolq":
                return "yes" if self.true else "no"
            case "fever":
                return "SUPPORTS" if self.true else "REFUTES"
            case _:
                fact = self.facts[-1]
                return fact.object.text(None if fact.famous else renaming)

    @property
    def famous(self) -> bool:
        """Whether the micro models know the answer by heart."""
        return all(f.famous for f in self.facts)


def ask(benchmark: str, entity: Name, place: District, rng: random.Random) -> Question | None:
    """A question of one benchmark about one entity; None where the world tells nothing of the kind."""
    facts = place.facts[entity]
    if benchmark == "squad":
        facts = _told_in_article(entity, place)
    if not facts:
        return None
    fact = rng.choice(facts)
    if benchmark == "hotpotqa":
        return _two_hops(facts, place, rng)
    claimed = None
    if benchmark in ("boolq", "fever"):
        claimed = fact.object if rng.random() < TRUE[benchmark] else _other_object(fact, place, rng)
    return Question(benchmark, (fact,), rng.randrange(4), claimed)


def _told_in_article(entity: Name, place: District) -> tuple[Fact, ...]:
    article = next((p for p in place.passages if p.about == entity), None)
    sentences = article.sentences if article else ()
    return tuple(s.fact for s in sentences if s.fact is not None)


def _two_hops(facts: Sequence[Fact], place: District, rng: random.Random) -> Question | None:
    firsts = [f for f in facts if f.relation in _SECOND and place.facts.get(f.object)]
    if not firsts:
        return None
    first = rng.choice(firsts)
    told_together = _told_beside(first, place)
    second = rng.choice(told_together or place.facts[first.object])
    return Question("hotpotqa", (first, second), rng.randrange(4))


def _told_beside(first: Fact, place: District) -> list[Fact]:
    """Second hops that a passage tells beside the first: such pairs are what annotators of HotpotQA were shown."""
    pages = [[s.fact for s in p.sentences if s.fact] for p in place.passages]
    return [f for page in pages if first in page for f in page if f.subject == first.object]


def _other_object(fact: Fact, place: District, rng: random.Random) -> Name:
    """A wrong object of the right kind that the same relation has elsewhere; the right one if it is the only one."""
    others = {f.object for fs in place.facts.values() for f in fs if f.relation == fact.relation} - {fact.object}
    return rng.choice(sorted(others, key=lambda n: n.pieces)) if others else fact.object


def popular(entities: int, draws: int, exponent: float, rng: random.Random) -> Iterator[int]:
    """Numbers of entities, drawn with probability proportional to 1 / rank^exponent over a random ranking."""
    import numpy as np

    generator = np.random.default_rng(rng.getrandbits(64))
    weights = np.arange(1, entities + 1) ** -exponent
    ranks = np.searchsorted(np.cumsum(weights / weights.sum()), generator.random(draws))
    ranking = generator.permutation(entities)
    return (int(ranking[min(r, entities - 1)]) for r in ranks)
