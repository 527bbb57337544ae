"""The records of a run: the dataclasses that the pure code works on, and the Arrow schemas of the tables on disk.

Symbols (`s_nr`, `s_rag`, `delta`) are those of WriteBack-RAG (arXiv 2603.25737, section 3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

Source = Literal["base", "writeback"]


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled question in FlashRAG's form; `metadata` is the row's own JSON text, never shown to a model."""

    id: str
    question: str
    golden_answers: tuple[str, ...]
    metadata: str = "{}"


@dataclass(frozen=True, slots=True)
class Document:
    """A retrieved passage: its inner-product score with the question (higher is nearer), the store it came from and
    that store's version, 0 where it came from none. Equal passages of two versions are equal. `columns`: where they
    were asked for, the other keys that its corpus brought, as file or page.
    """

    id: str
    title: str
    text: str
    score: float = 0.0
    source: Source = "base"
    version: int = field(default=0, compare=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def contents(self) -> str:
        """FlashRAG's corpus form: the title in the first line, the text after it."""
        return f"{self.title}\n{self.text}"


TEXT, TEXTS, FLAG = pa.string(), pa.list_(pa.string()), pa.bool_()
INT32, INT64, FLOAT64 = pa.int32(), pa.int64(), pa.float64()


def _all(kind: pa.DataType, *names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, kind) for name in names]


PASSAGE = pa.schema(_all(TEXT, "id", "title", "text"))
DOCUMENT = pa.struct([*PASSAGE, ("score", pa.float32()), ("source", TEXT), ("version", INT64)])
EXAMPLE = pa.schema([("id", TEXT), ("question", TEXT), ("golden_answers", TEXTS), ("metadata", TEXT)])
RETRIEVED = EXAMPLE.append(pa.field("documents", pa.list_(DOCUMENT)))
#: Who may see a passage or a unit, a column of stores that have labels (wbrag.units.access).
SEEN_BY = pa.field("seen_by", pa.list_(TEXTS))
#: A unit as it lies in the write-back store: a passage plus its provenance. `example_ids`: the kept examples behind
#: it, none where only the evidence of one mentions its subject. `doubt`: how it came to be faithful (units.write).
UNIT = pa.schema(
    [
        *PASSAGE,
        *_all(TEXTS, "example_ids", "source_ids"),
        *_all(INT32, "source_tokens", "unit_tokens"),
        *_all(TEXT, "subject", "form", "doubt"),
    ]
)
#: One row per example id, whatever became of it.
TRACE = pa.schema(
    [
        *RETRIEVED,
        ("status", TEXT),  # kept | gated | failed
        ("reason", TEXT),  # the deciding rule with its numbers, or the error
        ("closed_book_answer", TEXT),
        ("s_nr", FLOAT64),
        ("rag_answer", TEXT),
        *_all(FLOAT64, "s_rag", "delta"),
        ("document_answers", TEXTS),
        ("document_scores", pa.list_(FLOAT64)),
        ("kept_ranks", pa.list_(INT32)),  # 1-based retrieval ranks that the document gate kept
        ("fallback", FLAG),  # no document passed; the top n_min were taken
        *_all(TEXT, "evidence", "unit_id", "unit_title", "unit_text"),
        *_all(INT32, "source_tokens", "unit_tokens", "calls"),
        ("calls_saved", INT32),  # calls of the paper's plan that could not change a decision
        *_all(INT64, "prompt_tokens", "completion_tokens"),
        ("dropped_documents", INT32),  # documents that did not fit a prompt
        ("retrievals", INT32),  # those the method itself decided on for the answer with documents
        ("judge_agrees", FLAG),  # the labels' utility gate decides as the judge's; null: no judge, or not known
        ("seconds", FLOAT64),
    ]
)
#: Of an example's trace what still holds when some of its documents have changed.
EARLIER = pa.struct(
    [TRACE.field(name) for name in ("documents", "rag_answer", "retrievals", "document_answers", "kept_ranks")]
    + [TRACE.field(name) for name in ("evidence", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens")]
)
#: One row per test question: three answers and what was retrieved for two of them.
PREDICTION = pa.schema(
    [
        *EXAMPLE,
        *_all(pa.list_(DOCUMENT), "documents_base", "documents_writeback"),
        *_all(TEXT, "answer_closed_book", "answer_base", "answer_writeback"),
        *_all(INT32, "context_tokens_base", "context_tokens_writeback"),
        *_all(INT32, "retrievals_base", "retrievals_writeback"),  # those the method itself decided on
        ("calls", INT32),
        *_all(INT64, "prompt_tokens", "completion_tokens"),
        ("error", TEXT),  # null unless the row failed
    ]
)
#: What an earlier run answered to a test question without its write-back store; null where that is not known.
KNOWN = pa.struct(
    [PREDICTION.field(name) for name in ("answer_closed_book", "answer_base", "context_tokens_base", "retrievals_base")]
)
#: A sentence of a passage, as it stands there.
STATEMENT = pa.struct(_all(TEXT, "text", "source"))
#: What a generator is asked to write a unit of; without documents it writes from its own knowledge.
REQUEST = pa.schema(
    [
        ("id", TEXT),
        ("examples", TEXTS),  # the kept examples behind it
        ("question", TEXT),  # "" for a subject that no kept example asks about
        ("subject", TEXT),  # what the unit is about; "" where the question decides
        ("documents", pa.list_(DOCUMENT)),
        ("statements", pa.list_(STATEMENT)),  # sentences of the documents that are its evidence; none: to be extracted
        ("draft", pa.struct(_all(TEXT, "title", "text", "evidence"))),
        ("judged", FLAG),  # the generator says first which documents are relevant, and only those are read
    ]
)
#: What was left out of a unit, or a whole draft, by class.
LEFT_OUT = pa.struct(_all(TEXT, "text", "kind", "reason"))
#: What was left out of a run's units, with the request (example or subject) that it was written for.
LEFT = pa.schema([("request", TEXT), *LEFT_OUT])
#: The units written for one request, whatever became of it.
WRITTEN = pa.schema(
    [
        ("id", TEXT),
        ("status", TEXT),  # kept | gated (no passage could be made of the reply) | failed
        ("reason", TEXT),
        ("units", pa.list_(pa.struct(list(UNIT)))),
        ("left_out", pa.list_(LEFT_OUT)),
        ("calls", INT32),
        *_all(INT64, "prompt_tokens", "completion_tokens"),
    ]
)


def unit_id(title: str, text: str, source_ids: Sequence[str]) -> str:
    """Content hash of a unit: the same text from the same sources is the same unit, whichever example gave it."""
    key = "\x1f".join((title, text, *sorted(source_ids)))
    return "wb-" + hashlib.sha256(key.encode()).hexdigest()[:16]


def contents_of(row: Mapping[str, Any]) -> str:
    """The contents of a passage or a unit: its title in the first line, its text after it."""
    return f"{row['title']}\n{row['text']}"


def left_row(unit: Mapping[str, Any], kind: str, reason: str) -> dict[str, Any]:
    """A row of LEFT for a unit that was left out as a whole."""
    request = ", ".join(unit["example_ids"]) or unit["subject"]
    return {"request": request, "text": contents_of(unit), "kind": kind, "reason": reason}


def document_rows(documents: Iterable[Document]) -> list[dict[str, Any]]:
    """The documents as plain rows for a DOCUMENT list column."""
    names = [one.name for one in DOCUMENT]
    return [{name: getattr(document, name) for name in names} for document in documents]


def documents_of(rows: Iterable[Mapping[str, Any]]) -> list[Document]:
    """Inverse of `document_rows`."""
    return [Document(**row) for row in rows]
