"""What is asked for: from kept examples to requests for units (`schema.REQUEST`), by question or by subject. Pure.

A question names its subject ("What river is Oakwick on?"); where a kept document holds that name it is the example's
subject. Where a question names nothing, as one in lower case does, the title of the first kept document is. Units by
subject are all that is said of it, each thing once. No golden answer is read here.

The two things that need a machine come in as functions: `Search`, the base searched by subjects' names, and `Nearest`,
which of some sentences are nearest to a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from wbrag.config import Units
from wbrag.schema import Document, document_rows, documents_of
from wbrag.units.refusals import ENDED, half_sentence
from wbrag.units.sentences import folded, holds, names, plain_title, sentences, words

Row = Mapping[str, Any]
Thing = TypeVar("Thing")
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


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of a passage, as it stands there, and that passage's id."""

    text: str
    source: str


def by_question(kept: Sequence[Row], how: Units, nearest: Nearest) -> list[dict[str, Any]]:
    """A request for each kept example: its documents, what Algorithm 1 wrote of it, if it did, and, where units are or
    may become verbatim and the encoder chooses, the sentences that are nearest to the question.
    """
    told: list[list[Statement]] = [[] for _ in kept]
    if how.evidence == "encoder" and (how.form == "verbatim" or how.faithful):
        told = _evidence(kept, [""] * len(kept), nearest)
    return [
        request(row["id"], [row["id"]], row["question"], "", kept_documents(row), evidence, _draft(row))
        for row, evidence in zip(kept, told, strict=True)
    ]


def by_subject(kept: Sequence[Row], how: Units, search: Search, nearest: Nearest) -> list[dict[str, Any]]:
    """A request for each subject of the kept examples and, with `how.hops`, for those that are mentioned in what is
    said of these: the documents that hold its name, and what they say of it, the evidence of the examples first. An
    example without a subject has a request of its own, with its evidence.
    """
    about = [subject_of(row["question"], kept_documents(row)) for row in kept]
    evidence = dict(zip([row["id"] for row in kept], _evidence(kept, about, nearest), strict=True))
    level = grouped([(row, name) for row, name in zip(kept, about, strict=True) if name])
    made: dict[str, dict[str, Any]] = {}
    for _ in range(how.hops + 1):
        found = search(list(level)) if level else []
        mentions: list[str] = []
        for (name, rows), documents in zip(level.items(), found, strict=True):
            asked = _of_subject(name, documents, rows, evidence)
            mentions += mentioned([Statement(**one) for one in asked["statements"]], name)
            if rows or len(asked["statements"]) >= LEAST:
                made[folded(name)] = asked
        level = {name: [] for name in {folded(name): name for name in reversed(mentions)}.values()}
        level = {name: [] for name in reversed(level) if folded(name) not in made}
    alone = [
        request(row["id"], [row["id"]], row["question"], "", kept_documents(row), evidence[row["id"]])
        for row, name in zip(kept, about, strict=True)
        if not name
    ]
    return [*made.values(), *alone]


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


def _of_subject(
    name: str, found: Sequence[Document], rows: Sequence[Row], evidence: Mapping[str, Sequence[Statement]]
) -> dict[str, Any]:
    own = [document for row in rows for document in kept_documents(row)]
    documents = list({document.id: document for document in [*own, *found] if tells_of(document, name)}.values())
    told = once([*(one for row in rows for one in evidence[row["id"]]), *statements(name, documents)])
    question = rows[0]["question"] if rows else ""
    return request(f"subject{folded(name).rstrip()}", [row["id"] for row in rows], question, name, documents, told)


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


def grouped(found: Iterable[tuple[Thing, str]]) -> dict[str, list[Thing]]:
    """What has the same name, as first written, in order of first appearance; letter case does not matter."""
    groups: dict[str, list[Thing]] = {}
    written: dict[str, str] = {}
    for thing, name in found:
        groups.setdefault(written.setdefault(folded(name), name), []).append(thing)
    return groups


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
    said = [words(statement.text) for statement in told]
    return [
        statement
        for i, statement in enumerate(told)
        if not any(said[i] < other or (said[i] == other and j < i) for j, other in enumerate(said))
    ]


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
