"""Units by subject: what the evidence of kept examples is about, and all that is said of it, each thing once. Pure.

A question names its subject ("What river is Oakwick on?"); where a kept document holds that name it is the example's
subject. Where a question names nothing, as one in lower case does, the title of the first kept document is. No golden
answer is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wbrag.schema import Document
from wbrag.units.refusals import ENDED, half_sentence
from wbrag.units.sentences import folded, holds, names, sentences, words

#: The share of words in common from which an extracted line is held to be a sentence of its document.
ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of a passage, as it stands there, and that passage's id."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What units are written about: its name and the examples that led to it (none where evidence mentions it)."""

    name: str
    examples: tuple[str, ...] = ()


def subject_of(question: str, documents: Sequence[Document]) -> str:
    """The first name in the question that stands in one of the kept `documents`, else the first document's title; ""
    where that has none either.
    """
    for name in names(question):
        if any(tells_of(document, name) for document in documents):
            return name
    return plain_title(documents[0].title) if documents else ""


def tells_of(document: Document, name: str) -> bool:
    """Whether the name stands in the passage or in its title."""
    return holds(f"{plain_title(document.title)}\n{document.text}", name)


def plain_title(title: str) -> str:
    """A title as a person writes it: without the quotes and underscores that some corpora put around and into it."""
    return " ".join(title.strip("\"' ").replace("_", " ").split())


def grouped(found: Iterable[tuple[str, str]]) -> list[Subject]:
    """One subject for each name among (example id, name), in order of first appearance; letter case does not matter."""
    examples: dict[str, list[str]] = {}
    written: dict[str, str] = {}
    for example, name in found:
        examples.setdefault(folded(name), []).append(example)
        written.setdefault(folded(name), name)
    return [Subject(written[key], tuple(ids)) for key, ids in examples.items()]


def said(document: Document) -> list[str]:
    """The whole sentences of a passage. What its edge cuts off, or a heading, would run into another passage's sentence
    in a unit and say what neither does. A text without capitals and stops has no halves that could be told.
    """
    told, cased = sentences(document.text), document.text != document.text.lower()
    if not cased and not any(ENDED.search(sentence) for sentence in told):
        return told
    return [sentence for sentence in told if not half_sentence(sentence, cased)]


def statements(name: str, documents: Sequence[Document]) -> list[Statement]:
    """What `documents` say of a subject, in order: the sentences that begin with it, whose first name it is."""
    return [Statement(s, d.id) for d in documents for s in said(d) if begins_with(s, name)]


def candidates(name: str, documents: Sequence[Document]) -> list[Statement]:
    """The sentences among which the evidence for a question about `name` is: those that hold the name, or all where
    none does, as where a passage says "he".
    """
    told = [Statement(s, d.id) for d in documents for s in said(d)]
    return [one for one in told if holds(one.text, name)] or told


def begins_with(sentence: str, name: str) -> bool:
    """Whether the first name in the sentence is this one, or holds it ("Nikola Tesla" holds "Tesla")."""
    first = names(sentence)[:1]
    return bool(first) and holds(first[0], name)


def once(told: Sequence[Statement]) -> list[Statement]:
    """`told` without what another one says too: of two whose words are the same, or all among the other's, the one with
    more words stays, of equals the first. Order is kept.
    """
    said = [words(statement.text) for statement in told]
    return [
        statement
        for i, statement in enumerate(told)
        if not any(said[i] < said[j] or (said[i] == said[j] and j < i) for j in range(len(told)) if j != i)
    ]


def mentioned(told: Sequence[Statement], name: str) -> list[str]:
    """Other names in the statements, in order; a word with a capital only because it begins a sentence is none."""
    found: dict[str, str] = {}
    for statement in told:
        for other in names(statement.text):
            if statement.text.startswith(other) and " " not in other:
                continue
            if not holds(name, other) and not holds(other, name):
                found.setdefault(folded(other), other)
    return list(found.values())


def packed(told: Sequence[Statement], lengths: Sequence[int], budget: int) -> list[list[Statement]]:
    """The statements as units of at most `budget` tokens each, in order; `lengths` are theirs. A longer one has a unit
    of its own.
    """
    units: list[list[Statement]] = []
    room = 0
    for statement, length in zip(told, lengths, strict=True):
        if not units or length > room:
            units.append([])
            room = budget
        units[-1].append(statement)
        room -= length
    return units


def standing(lines: Sequence[str], document: Document) -> list[Statement]:
    """The sentences of a document that an extraction names, in the extraction's order, each once: of each line the
    sentence that shares most of its words, if that is at least half of the words of both.
    """
    there = [(sentence, words(sentence)) for sentence in said(document)]
    found: dict[str, None] = {}
    for line in (words(line) for line in lines):
        alike = [(len(line & own) / len(line | own), text) for text, own in there]
        shared, sentence = max(alike, key=lambda one: one[0], default=(0.0, ""))
        if shared >= ALIKE:
            found.setdefault(sentence)
    return [Statement(sentence, document.id) for sentence in found]
