"""What is asked for: from kept examples to requests for units (`schema.REQUEST`), by question or by subject. Pure.

A question names its subject ("What river is Oakwick on?"); where a kept document holds that name it is the example's
subject. Where a question names nothing, as one in lower case does, the title of the first kept document is. Units by
subject are all that is said of it, each thing once. No golden answer is read here.

The two things that need a machine come in as functions: `Search`, the base searched by subjects' names, and `Nearest`,
which of some sentences are nearest to a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from wbrag.config import Units
from wbrag.schema import Document, document_rows, documents_of
from wbrag.units.refusals import ENDED, half_sentence
from wbrag.units.sentences import folded, holds, names, plain_title, sentences, words

Row = Mapping[str, Any]
#: Documents for each of some names, best first.
Search = Callable[[Sequence[str]], list[list[Document]]]
#: For each question the numbers, in order, of those of its sentences that are nearest to it.
Nearest = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[int]]]

#: The columns of `schema.TRACE` that requests are made from.
TRACE_COLUMNS = ("id", "question", "documents", "kept_ranks", "unit_title", "unit_text", "evidence")
#: Statements that a subject has to have which no kept example asks about: of fewer a passage says as much.
LEAST = 2
#: The share of words in common from which an extracted line is held to be a sentence of its document.
ALIKE = 0.5
#: Kept examples with their documents that are in memory at once, and whose sentences are compared in one call.
AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of a passage, as it stands there, and that passage's id."""

    text: str
    source: str


def by_question(kept: Iterable[Row], how: Units, nearest: Nearest) -> Iterator[dict[str, Any]]:
    """A request for each kept example: its documents, what Algorithm 1 wrote of it, if it did, and, where units are or
    may become verbatim and the encoder chooses, the sentences that are nearest to the question.
    """
    chosen = how.evidence == "encoder" and (how.form == "verbatim" or how.faithful)
    for some in _some(kept):
        told = _evidence(some, [""] * len(some), nearest) if chosen else [[] for _ in some]
        for row, evidence in zip(some, told, strict=True):
            yield request(row["id"], [row["id"]], row["question"], "", kept_documents(row), evidence, _draft(row))


def by_subject(kept: Iterable[Row], how: Units, search: Search, nearest: Nearest) -> Iterator[dict[str, Any]]:
    """A request for each subject of the kept examples and, with `how.hops`, for those that are mentioned in what is
    said of these: the documents that hold its name, and what they say of it, the evidence of the examples first. An
    example without a subject has a request of its own, with its evidence.

    `kept` is gone through twice. In memory are the subjects with what is said of them, once, and some examples.
    """
    level, made = _subjects(kept, nearest), set[str]()
    for _ in range(how.hops + 1):
        found = search(list(level)) if level else []
        mentions: list[str] = []
        for (name, subject), documents in zip(level.items(), found, strict=True):
            asked = subject.asked(name, documents)
            mentions += mentioned([Statement(**one) for one in asked["statements"]], name)
            if subject.examples or len(asked["statements"]) >= LEAST:
                made.add(folded(name))
                yield asked
        names = list({folded(name): name for name in reversed(mentions)}.values())
        level = {name: Subject() for name in reversed(names) if folded(name) not in made}
    for some in _some(kept):
        if not all(about := [_about(row) for row in some]):
            for row, name, told in zip(some, about, _evidence(some, about, nearest), strict=True):
                if not name:
                    yield request(row["id"], [row["id"]], row["question"], "", kept_documents(row), told)


@dataclass(slots=True)
class Subject:
    """What kept examples bring along for a subject: the question of the first, all ids, and each once the documents
    that name it and the evidence.
    """

    question: str = ""
    examples: list[str] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    evidence: dict[Statement, None] = field(default_factory=dict)

    def add(self, name: str, row: Row, told: Iterable[Statement]) -> None:
        """One more kept example, with its evidence."""
        self.question = self.question or row["question"]
        self.examples.append(row["id"])
        self.documents |= {one.id: one for one in kept_documents(row) if tells_of(one, name)}
        self.evidence |= dict.fromkeys(told)

    def asked(self, name: str, found: Iterable[Document]) -> dict[str, Any]:
        """The request for it (`schema.REQUEST`), with the documents that were found by its name."""
        documents = list((self.documents | {one.id: one for one in found if tells_of(one, name)}).values())
        told = once([*self.evidence, *statements(name, documents)])
        return request(f"subject{folded(name).rstrip()}", self.examples, self.question, name, documents, told)


def _subjects(kept: Iterable[Row], nearest: Nearest) -> dict[str, Subject]:
    """The subjects of the kept examples by their names, as first written, in order of first appearance; letter case
    does not matter.
    """
    found: dict[str, Subject] = {}
    written: dict[str, str] = {}
    for some in _some(kept):
        about = [_about(row) for row in some]
        for row, name, told in zip(some, about, _evidence(some, about, nearest), strict=True):
            if name:
                name = written.setdefault(folded(name), name)
                found.setdefault(name, Subject()).add(name, row, told)
    return found


def _some(kept: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(kept)
    while some := list(islice(left, AT_ONCE)):
        yield some


def _about(row: Row) -> str:
    return subject_of(row["question"], kept_documents(row))


def request(
    key: str,
    examples: Sequence[str],
    question: str,
    subject: str,
    documents: Sequence[Document],
    told: Sequence[Statement] = (),
    draft: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A row of `schema.REQUEST`."""
    return {
        "id": key,
        "examples": list(examples),
        "question": question,
        "subject": subject,
        "documents": document_rows(documents),
        "statements": [asdict(one) for one in told],
        "draft": dict(draft) if draft else None,
        "judged": False,
    }


def kept_documents(row: Row) -> list[Document]:
    """The documents of a kept example that its document gate kept, in retrieval order."""
    return documents_of([row["documents"][rank - 1] for rank in row["kept_ranks"]])


def _draft(row: Row) -> dict[str, str] | None:
    if row["unit_text"] is None:
        return None
    return {"title": row["unit_title"], "text": row["unit_text"], "evidence": row["evidence"]}


def _evidence(kept: Sequence[Row], about: Sequence[str], nearest: Nearest) -> list[list[Statement]]:
    """For each kept example the sentences that are nearest to the question, of the documents that name its subject."""
    there = []
    for row, name in zip(kept, about, strict=True):
        there.append(candidates(name, [one for one in kept_documents(row) if not name or tells_of(one, name)]))
    numbers = nearest([row["question"] for row in kept], [[one.text for one in told] for told in there])
    return [[told[i] for i in some] for told, some in zip(there, numbers, strict=True)]


def subject_of(question: str, documents: Sequence[Document]) -> str:
    """The first name in the question that one of the kept `documents` holds, else the first one's title ("": none)."""
    told = (name for name in names(question) if any(tells_of(document, name) for document in documents))
    return next(told, plain_title(documents[0].title) if documents else "")


def tells_of(document: Document, name: str) -> bool:
    """Whether the name stands in the passage or in its title."""
    return holds(f"{plain_title(document.title)}\n{document.text}", name)


def said(document: Document) -> list[str]:
    """The whole sentences of a passage. What its edge cuts off, or a heading, would run into another passage's sentence
    in a unit and say what neither does. A text without capitals and stops has no halves that could be told.
    """
    told, cased = sentences(document.text), document.text != document.text.lower()
    if not cased and not any(ENDED.search(sentence) for sentence in told):
        return told
    return [sentence for sentence in told if not half_sentence(sentence, cased)]


def statements(name: str, documents: Sequence[Document]) -> list[Statement]:
    """What `documents` say of a subject: the sentences whose first name it is, or part of it (of "Nikola Tesla")."""
    told = [(s, d.id, names(s)[:1]) for d in documents for s in said(d)]
    return [Statement(text, source) for text, source, first in told if first and holds(first[0], name)]


def candidates(name: str, documents: Sequence[Document]) -> list[Statement]:
    """The sentences that may be evidence about `name`: those that hold it, or all where none does ("he was ...")."""
    told = [Statement(s, d.id) for d in documents for s in said(d)]
    return [one for one in told if holds(one.text, name)] or told


def once(told: Sequence[Statement]) -> list[Statement]:
    """`told`, in order, without what has the same words as an earlier one, or only words of a longer one."""
    first: dict[frozenset[str], Statement] = {}
    for statement in told:
        first.setdefault(words(statement.text), statement)
    return [statement for said, statement in first.items() if not any(said < other for other in first)]


def mentioned(told: Sequence[Statement], name: str) -> list[str]:
    """Other names in the statements, in order; a word with a capital only because it begins a sentence is none."""
    found: dict[str, str] = {}
    for statement in told:
        for other in names(statement.text):
            begins = statement.text.startswith(other) and " " not in other
            if not (begins or holds(name, other) or holds(other, name)):
                found.setdefault(folded(other), other)
    return list(found.values())


def packed(told: Sequence[Statement], count_tokens: Callable[[str], int], budget: int) -> list[list[Statement]]:
    """The statements, in order, as units of at most `budget` tokens each; a longer one has a unit of its own."""
    units: list[list[Statement]] = []
    room = 0
    for statement in told:
        length = count_tokens(statement.text)
        if not units or length > room:
            units.append([])
            room = budget
        units[-1].append(statement)
        room -= length
    return units


def standing(lines: Sequence[str], document: Document) -> list[Statement]:
    """The sentences of a document that an extraction names, in its order, each once: of each line the one that shares
    most of its words, if that is at least half of the words of both.
    """
    there = [(sentence, words(sentence)) for sentence in said(document)]
    found: dict[str, None] = {}
    for line in map(words, lines):
        alike = [(len(line & own) / len(line | own), text) for text, own in there]
        shared, sentence = max(alike, key=lambda one: one[0], default=(0.0, ""))
        if shared >= ALIKE:
            found.setdefault(sentence)
    return [Statement(sentence, document.id) for sentence in found]
