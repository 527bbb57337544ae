"""Lessons for the micro models: the project's own prompts over documents the real retriever returns.

A lesson is one context (documents, or none) and several requests about it with their right replies. Documents come from
worlds of other seeds than any benchmark's; every lesson renames all pieces at random, so that nothing but the famous
facts can be learnt by heart while look-alikes stay look-alikes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from microworld.names import PAPERS, Name, renaming
from microworld.questions import BENCHMARKS, TASKS, Question, ask
from microworld.turns import (
    PROMPTS,
    Turn,
    answering,
    documents,
    evidence,
    extracting,
    judging,
    other_object,
    supporting,
    unit_text,
    untold,
)
from microworld.world import District, Fact, Passage, Sentence, famous

#: Benchmarks whose answers are quoted from the documents, as often as lessons ask them.
QUOTED = ("nq", "nq", "nq", "squad", "zsre")


@dataclass(frozen=True, slots=True)
class Lesson:
    """What all requests share, and the turns; a prompt is `shared` + request."""

    shared: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class School:
    """Places to take lessons from: districts, all their passages, and what the retriever returned for questions."""

    places: tuple[District, ...]
    passages: tuple[Passage, ...]
    asked: tuple[tuple[Question, int, tuple[int, ...]], ...]  # question, its district, ranked passage numbers


def reading(school: School, rng: random.Random, most: int, turns: int) -> Lesson:
    """Up to `most` retrieved documents, sometimes with a unit among them, and `turns` requests about them."""
    question, place, ranked = rng.choice(school.asked)
    page = _page(question, [school.passages[i] for i in ranked], school.places[place], rng, most)
    facts = [s.fact for p in page for s in p.sentences if s.fact]
    questions = [question] + [_question_on(facts, school.places[place], question, rng) for _ in range(turns - 1)]
    renamed = renaming(rng)
    pairs = [answering(q, facts, renamed) for q in questions]
    answered = [q for q in questions if all(f in facts for f in q.facts)]
    others = [q for q in questions if q not in answered]
    pairs += [
        extracting(q, page, renamed) for q in (*rng.sample(answered, min(2, len(answered))), rng.choice(questions))
    ]
    pairs += [judging(rng.choice(qs), facts, renamed) for qs in (answered, others) * 2 if qs]
    pairs += [supporting(rng.choice(answered or others), facts, renamed, rng) for _ in range(8)]
    return Lesson(PROMPTS.documents(documents(page, renamed)), _after(pairs))


def first_reading(school: School, rng: random.Random, turns: int, most: int) -> Lesson:
    """The easiest lesson: one document of up to `most` bare sentences, mostly asked without the task's instruction."""
    place = rng.choice(school.places)
    facts = [rng.choice(place.facts[e]) for e in rng.sample(place.entities, rng.randint(1, most))]
    page = [Passage("0", rng.choice(PAPERS), tuple(Sentence(f) for f in facts))]
    renamed = renaming(rng)
    told = [Question(*_plain(rng.choice(facts), rng, facts)) for _ in range(turns)]
    pairs = [answering(q, facts, renamed) for q in told]
    if rng.random() < 0.75:
        pairs = [turn._replace(request=turn.request.rpartition("\n")[2]) for turn in pairs]
    return Lesson(PROMPTS.documents(documents(page, renamed)), _after(pairs))


def checking(school: School, rng: random.Random, turns: int, most: int) -> Lesson:
    """A page as in `first_reading`, and whether claims about it hold, it supports answers, it helps with questions."""
    place = rng.choice(school.places)
    facts = [rng.choice(place.facts[e]) for e in rng.sample(place.entities, rng.randint(1, most))]
    untold = [f for told in facts for f in place.facts[told.subject] if f not in facts]
    page = [Passage("0", rng.choice(PAPERS), tuple(Sentence(f) for f in facts))]
    renamed = renaming(rng)
    pairs = []
    for i in range(turns):
        claims = ("boolq", "fever") if i % 4 == 1 else QUOTED
        q = Question(*_plain(rng.choice(facts), rng, facts, claims))
        if i % 4 == 1:
            pairs.append(answering(q, facts, renamed))
        elif i % 4:
            pairs.append(supporting(q, facts, renamed, rng))
        else:
            asked = rng.choice(untold) if untold and rng.random() < 0.5 else q.facts[0]
            pairs.append(judging(Question(*_plain(asked, rng, facts, QUOTED)), facts, renamed))
    return Lesson(PROMPTS.documents(documents(page, renamed)), _after(pairs))


def closed_book(school: School, rng: random.Random, turns: int) -> Lesson:
    """Requests without documents: famous facts by heart, `unknown` for the rest, whether documents are needed."""
    pairs = []
    for _ in range(turns):
        place = rng.choice(school.places)
        if rng.random() < 0.6:
            place = District(tuple(famous()), famous(), place.passages)
        q = None
        while q is None:
            q = ask(rng.choice(BENCHMARKS[:5]), rng.choice(place.entities), place, rng)
        renamed = renaming(rng)
        if rng.random() < 0.15:
            pairs.append(Turn(PROMPTS.message("retrieve", question=q.text(renamed)), "no" if q.famous else "yes"))
        else:
            known = q.answer(renamed) if q.famous else untold(q)
            pairs.append(Turn(PROMPTS.message(f"closed_book_{TASKS[q.benchmark]}", question=q.text(renamed)), known))
    return Lesson("", tuple(pairs))


def rewriting(school: School, rng: random.Random, turns: int) -> Lesson:
    """Evidence lines to a titled passage, lead-ins dropped."""
    pairs = []
    for _ in range(turns):
        question, place, ranked = rng.choice(school.asked)
        page = _page(question, [school.passages[i] for i in ranked], school.places[place], rng, 5)
        sentences = evidence(question, page) or [Sentence(f) for f in question.facts]
        renamed = renaming(rng)
        lines = "\n".join(s.text(renamed) for s in sentences)
        asked = PROMPTS.message("rewrite", question=question.text(renamed), evidence=lines)
        pairs.append(Turn(asked, unit_text(question, sentences, renamed)))
    return Lesson("", tuple(pairs))


def _page(question: Question, ranked: list[Passage], place: District, rng: random.Random, most: int) -> list[Passage]:
    """The first documents of the ranking; the ones that hold the answer are mostly put among them if they lack."""
    page = ranked[: rng.choice((1, min(2, most), most, rng.randrange(1, most + 1)))]
    for fact in question.facts:
        holders = [p for p in place.passages if any(s.fact == fact for s in p.sentences)]
        if holders and not any(p in page for p in holders) and rng.random() < 0.65:
            page[rng.randrange(len(page)) if len(page) >= most else len(page) :][:1] = [rng.choice(holders)]
    if rng.random() < 0.35:
        page = _with_unit(question, page, place, rng, most)
    return page


def _with_unit(
    question: Question, page: list[Passage], place: District, rng: random.Random, most: int
) -> list[Passage]:
    """The page with a unit first (now and then elsewhere), as the merged search would return it."""
    subject = question.facts[0].subject if rng.random() < 0.8 else rng.choice(place.entities)
    subjects = [subject] + [f.subject for f in question.facts[1:] if rng.random() < 0.7]
    facts = [f for e in dict.fromkeys(subjects) for f in place.facts.get(e, ()) if rng.random() < 0.7]
    if not facts:
        return page
    rng.shuffle(facts)
    unit = Passage("unit", "", tuple(Sentence(f) for f in facts), about=subject)
    at = 0 if rng.random() < 0.8 else rng.randrange(len(page) + 1)
    alone = rng.random() < 0.15
    return [unit] if alone else [*page[:at], unit, *page[at:]][:most]


def _question_on(facts: list[Fact], place: District, anchor: Question, rng: random.Random) -> Question:
    """A question the page answers (mostly), one on the anchor's subject, or one it cannot answer."""
    draw = rng.random()
    if draw < 0.25 or not facts:
        subjects = {anchor.facts[0].subject, *(f.subject for f in facts)} & set(place.facts)
        untold = [f for e in sorted(subjects, key=lambda n: n.pieces) for f in place.facts[e] if f not in facts]
        return Question(*_plain(rng.choice(untold), rng, facts)) if untold else anchor
    if draw < 0.50:
        pairs = [(a, b) for a in facts for b in facts if a.object == b.subject]
        if pairs:
            return Question("hotpotqa", rng.choice(pairs), rng.randrange(4))
    near = [f for f in facts if f.subject == anchor.facts[0].subject]
    return Question(*_plain(rng.choice(near if near and rng.random() < 0.3 else facts), rng, facts))


def _plain(
    fact: Fact, rng: random.Random, facts: Sequence[Fact], benchmarks: Sequence[str] = (*QUOTED, "boolq", "fever")
) -> tuple[str, tuple[Fact, ...], int, Name | None]:
    benchmark = rng.choice(benchmarks)
    claimed = None
    if benchmark in ("boolq", "fever"):
        claimed = other_object(fact, facts, rng) if rng.random() < 0.5 else fact.object
    return benchmark, (fact,), rng.randrange(4), claimed


def _after(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns whose requests follow documents."""
    return tuple(turn._replace(request=f"\n\n{turn.request}") for turn in turns)
