"""What is asked for: from kept examples to requests for units (`schema.REQUEST`), by question or by subject.

The two things that need a machine come in as functions: `Search`, the base searched by subjects' names, and `Nearest`,
which of some sentences are nearest to a question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from wbrag.config import Units
from wbrag.schema import Document, document_rows, documents_of
from wbrag.units.sentences import folded
from wbrag.units.subjects import (
    Statement,
    Subject,
    candidates,
    grouped,
    mentioned,
    once,
    statements,
    subject_of,
    tells_of,
)

Row = Mapping[str, Any]
#: Documents for each of some names, best first.
Search = Callable[[Sequence[str]], list[list[Document]]]
#: For each question the numbers, in order, of those of its sentences that are nearest to it.
Nearest = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[int]]]

#: The columns of `schema.TRACE` that requests are made from.
TRACE_COLUMNS = ("id", "question", "documents", "kept_ranks", "unit_title", "unit_text", "evidence")
#: Statements that a subject has to have which no kept example asks about: of fewer a passage says as much.
LEAST = 2


def kept_documents(row: Row) -> list[Document]:
    """The documents of a kept example that its document gate kept, in retrieval order."""
    return documents_of([row["documents"][rank - 1] for rank in row["kept_ranks"]])


def by_question(kept: Sequence[Row], how: Units, nearest: Nearest) -> list[dict[str, Any]]:
    """A request for each kept example: its documents, what Algorithm 1 wrote of it, if it did, and, where units are or
    may become verbatim and the encoder chooses, the sentences that are nearest to the question.
    """
    told: list[list[Statement]] = [[] for _ in kept]
    if how.evidence == "encoder" and (how.form == "verbatim" or how.faithful):
        told = chosen([row["question"] for row in kept], [candidates("", kept_documents(row)) for row in kept], nearest)
    return [
        request(row["id"], [row["id"]], row["question"], "", kept_documents(row), evidence, _draft(row))
        for row, evidence in zip(kept, told, strict=True)
    ]


def by_subject(kept: Sequence[Row], how: Units, search: Search, nearest: Nearest) -> list[dict[str, Any]]:
    """A request for each subject of the kept examples and, with `how.hops`, for those that are mentioned in what is
    said of these: the documents that hold its name, and what they say of it, the evidence of the examples first. An
    example without a subject has a request of its own, with its evidence.
    """
    of = {row["id"]: row for row in kept}
    evidence = _evidence(kept, nearest)
    about = {row["id"]: subject_of(row["question"], kept_documents(row)) for row in kept}
    level = grouped((key, name) for key, name in about.items() if name)
    made: dict[str, dict[str, Any]] = {}
    for _ in range(how.hops + 1):
        found = search([subject.name for subject in level]) if level else []
        mentions: list[str] = []
        for subject, documents in zip(level, found, strict=True):
            asked = _of_subject(subject, documents, [of[key] for key in subject.examples], evidence)
            mentions += mentioned([Statement(**one) for one in asked["statements"]], subject.name)
            if subject.examples or len(asked["statements"]) >= LEAST:
                made[folded(subject.name)] = asked
        level = [Subject(name) for name in {folded(name): name for name in reversed(mentions)}.values()]
        level = [subject for subject in reversed(level) if folded(subject.name) not in made]
    alone = [
        request(key, [key], of[key]["question"], "", kept_documents(of[key]), evidence[key])
        for key, name in about.items()
        if not name
    ]
    return [*made.values(), *alone]


def _of_subject(
    subject: Subject, found: Sequence[Document], rows: Sequence[Row], evidence: Mapping[str, Sequence[Statement]]
) -> dict[str, Any]:
    own = [document for row in rows for document in kept_documents(row)]
    naming = [document for document in [*own, *found] if tells_of(document, subject.name)]
    documents = list({document.id: document for document in naming}.values())
    told = once([*(one for row in rows for one in evidence[row["id"]]), *statements(subject.name, documents)])
    question = rows[0]["question"] if rows else ""
    key = f"subject{folded(subject.name).rstrip()}"
    return request(key, list(subject.examples), question, subject.name, documents, told, None)


def _evidence(kept: Sequence[Row], nearest: Nearest) -> dict[str, list[Statement]]:
    """For each kept example the sentence that is nearest to the question, of the documents that name its subject: what
    another one says is no evidence about that.
    """
    there = []
    for row in kept:
        documents = kept_documents(row)
        name = subject_of(row["question"], documents)
        there.append(candidates(name, [document for document in documents if not name or tells_of(document, name)]))
    told = chosen([row["question"] for row in kept], there, nearest)
    return {row["id"]: evidence for row, evidence in zip(kept, told, strict=True)}


def chosen(questions: Sequence[str], there: Sequence[list[Statement]], nearest: Nearest) -> list[list[Statement]]:
    """Of each question's statements those that are nearest to it, in the order in which they stand."""
    numbers = nearest(questions, [[one.text for one in told] for told in there])
    return [[told[i] for i in some] for told, some in zip(there, numbers, strict=True)]


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
        "documents": document_rows(list(documents)),
        "statements": [asdict(one) for one in told],
        "draft": dict(draft) if draft else None,
        "judged": False,
    }


def _draft(row: Row) -> dict[str, str] | None:
    if row["unit_text"] is None:
        return None
    return {"title": row["unit_title"], "text": row["unit_text"], "evidence": row["evidence"]}
