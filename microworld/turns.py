"""Requests in the project's own prompts, and the right replies to them: what lessons are made of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from microworld.names import PIECES, SLOTS, Name, Renaming
from microworld.questions import TASKS, Question
from microworld.world import Fact, Passage, Sentence
from wbrag.prompts import Prompts
from wbrag.schema import Document

UNKNOWN = "unknown"
EVIDENCE = 3
PROMPTS = Prompts()


class Turn(NamedTuple):
    """A request and its reply; where the request puts forward an object or answer, it and what should stand there."""

    request: str
    reply: str
    shown: str = ""
    right: str = ""


def documents(passages: Sequence[Passage], renamed: Renaming | None) -> list[Document]:
    """Passages as the prompt shows them."""
    return [Document(p.id, p.title(renamed), p.text(renamed)) for p in passages]


def evidence(question: Question, page: Sequence[Passage]) -> list[Sentence]:
    """The sentences of the page that state the question's facts, then others about its subjects, each fact once.

    At most EVIDENCE of them: a model of a few layers loses its place in longer lists.
    """
    subjects = {f.subject for f in question.facts}
    told = {s.fact: s for p in reversed(page) for s in reversed(p.sentences) if s.fact}  # where each is said first
    wanted = [f for f in question.facts if f in told]
    others = [s.fact for p in page for s in p.sentences if s.fact and s.fact.subject in subjects]
    return [told[f] for f in dict.fromkeys((*wanted, *others))][:EVIDENCE]


def unit_text(question: Question, sentences: Sequence[Sentence], renamed: Renaming | None) -> str:
    """The right rewriting: a title line, then what every line says without its lead-in, nothing twice."""
    subject = question.facts[0].subject.text(None if question.facts[0].famous else renamed)
    return f"{subject}\n" + " ".join(dict.fromkeys(s.bare(renamed) for s in sentences))


def other_object(fact: Fact, facts: Sequence[Fact], rng: random.Random) -> Name:
    """A wrong object of the right kind: mostly one that the page names."""
    kind = fact.object.kind
    others = [f.object for f in facts if f.object.kind == kind and f.object != fact.object]
    if others and rng.random() < 0.85:
        return rng.choice(others)
    return Name(kind, tuple(rng.choice(PIECES[slot]) for slot in SLOTS[kind]))


def answering(q: Question, facts: Sequence[Fact], renamed: Renaming) -> Turn:
    """The question itself; a claim puts its object forward."""
    known = q.famous or all(f in facts for f in q.facts)
    request = PROMPTS.templates[TASKS[q.benchmark]].format(question=q.text(renamed))
    reply = q.answer(renamed) if known else untold(q)
    if q.claimed is None or q.famous:
        return Turn(request, reply)
    return Turn(request, reply, q.claimed.text(renamed), q.facts[0].object.text(renamed) if known else UNKNOWN)


def untold(q: Question) -> str:
    """The right reply where nothing tells the answer: a claim nothing bears out is denied, else `unknown`."""
    return {"boolq": "no", "fever": "REFUTES"}.get(q.benchmark, UNKNOWN)


def extracting(q: Question, page: Sequence[Passage], renamed: Renaming) -> Turn:
    """The evidence for a question: sentences of the page, or `none`."""
    lines = [s.text(renamed) for s in evidence(q, page)]
    return Turn(PROMPTS.templates["extract"].format(question=q.text(renamed)), "\n".join(lines) or "none")


def judging(q: Question, facts: Sequence[Fact], renamed: Renaming) -> Turn:
    """Whether the documents help with a question: whether they state every fact that it takes."""
    helps = all(f in facts for f in q.facts)
    return Turn(PROMPTS.templates["relevance"].format(question=q.text(renamed)), "yes" if helps else "no")


def supporting(q: Question, facts: Sequence[Fact], renamed: Renaming, rng: random.Random) -> Turn:
    """Whether the documents bear out an answer, which is wrong half of the time; in either critique's words."""
    right = q.answer(renamed) if all(f in facts for f in q.facts) else UNKNOWN
    answer, wrong = q.answer(renamed), rng.random() < 0.5
    if wrong and q.benchmark in ("boolq", "fever"):
        answer = {"yes": "no", "no": "yes", "SUPPORTS": "REFUTES", "REFUTES": "SUPPORTS"}[answer]
    elif wrong:
        answer = other_object(q.facts[-1], facts, rng).text(renamed)
    template = PROMPTS.templates[rng.choice(("support", "judge"))]
    request = template.format(question=q.text(renamed), answer=answer)
    return Turn(request, "yes" if answer == right else "no", answer, right)
