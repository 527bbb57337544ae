"""The records of a run: frozen dataclasses, and the Arrow schemas that tables have on disk.

Rows travel as Arrow; the dataclasses are what the pure code works on. Symbols (`s_nr`, `s_rag`, `delta`)
are those of WriteBack-RAG (arXiv 2603.25737, section 3).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

Source = Literal["base", "writeback"]
Status = Literal["kept", "gated", "failed"]


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
    that store's version, 0 where it came from none. Equal passages of two versions are equal.
    """

    id: str
    title: str
    text: str
    score: float = 0.0
    source: Source = "base"
    version: int = field(default=0, compare=False)

    @property
    def contents(self) -> str:
        """FlashRAG's corpus form: the title in the first line, the text after it."""
        return f"{self.title}\n{self.text}"


@dataclass(frozen=True, slots=True)
class KnowledgeUnit:
    """One distilled passage k = F(q, D*), with all it takes to trace it back (paper, section 3.3)."""

    id: str
    title: str
    text: str
    example_ids: tuple[str, ...]
    source_ids: tuple[str, ...]
    source_tokens: int
    unit_tokens: int
    subject: str = ""
    form: str = "distilled"
    doubt: str = ""

    @property
    def contents(self) -> str:
        """The text that is indexed, in the corpus form."""
        return f"{self.title}\n{self.text}"


def unit_id(title: str, text: str, source_ids: tuple[str, ...]) -> str:
    """Content hash of a unit: the same text from the same sources is the same unit, whichever example gave it."""
    key = "\x1f".join((title, text, *sorted(source_ids)))
    return "wb-" + hashlib.sha256(key.encode()).hexdigest()[:16]


DOCUMENT = pa.struct(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("score", pa.float32()),
        ("source", pa.string()),
        ("version", pa.int64()),
    ]
)
EXAMPLE = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("golden_answers", pa.list_(pa.string())),
        ("metadata", pa.string()),
    ]
)
PASSAGE = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])
#: A unit as it lies in the write-back store: a passage plus its provenance. `example_ids`: the kept examples behind
#: it, none where only the evidence of one mentions its subject. `doubt`: how it came to be faithful (units.write).
UNIT = pa.schema(
    [
        *PASSAGE,
        ("example_ids", pa.list_(pa.string())),
        ("source_ids", pa.list_(pa.string())),
        ("source_tokens", pa.int32()),
        ("unit_tokens", pa.int32()),
        ("subject", pa.string()),
        ("form", pa.string()),
        ("doubt", pa.string()),
    ]
)
#: A sentence of a passage, as it stands there.
STATEMENT = pa.struct([("text", pa.string()), ("source", pa.string())])
RETRIEVED = EXAMPLE.append(pa.field("documents", pa.list_(DOCUMENT)))
#: One row per example id, whatever became of it.
TRACE = pa.schema(
    [
        *RETRIEVED,
        ("status", pa.string()),  # kept | gated | failed
        ("reason", pa.string()),  # the deciding rule with its numbers, or the error
        ("closed_book_answer", pa.string()),
        ("s_nr", pa.float64()),
        ("rag_answer", pa.string()),
        ("s_rag", pa.float64()),
        ("delta", pa.float64()),
        ("document_answers", pa.list_(pa.string())),
        ("document_scores", pa.list_(pa.float64())),
        ("kept_ranks", pa.list_(pa.int32())),  # 1-based retrieval ranks that the document gate kept
        ("fallback", pa.bool_()),  # no document passed; the top n_min were taken
        ("evidence", pa.string()),
        ("unit_id", pa.string()),
        ("unit_title", pa.string()),
        ("unit_text", pa.string()),
        ("source_tokens", pa.int32()),
        ("unit_tokens", pa.int32()),
        ("calls", pa.int32()),
        ("calls_saved", pa.int32()),  # calls of the paper's plan that could not change a decision
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("dropped_documents", pa.int32()),  # documents that did not fit a prompt
        ("retrievals", pa.int32()),  # those the method itself decided on for the answer with documents
        ("judge_agrees", pa.bool_()),  # the labels' utility gate decides as the judge's; null: no judge, or not known
        ("seconds", pa.float64()),
    ]
)
#: One row per test question: three answers and what was retrieved for two of them.
PREDICTION = pa.schema(
    [
        *EXAMPLE,
        ("documents_base", pa.list_(DOCUMENT)),
        ("documents_writeback", pa.list_(DOCUMENT)),
        ("answer_closed_book", pa.string()),
        ("answer_base", pa.string()),
        ("answer_writeback", pa.string()),
        ("context_tokens_base", pa.int32()),
        ("context_tokens_writeback", pa.int32()),
        ("retrievals_base", pa.int32()),  # those the method itself decided on
        ("retrievals_writeback", pa.int32()),
        ("calls", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("error", pa.string()),  # null unless the row failed
    ]
)


#: What an earlier run answered to a test question without its write-back store; null where that is not known.
KNOWN = pa.struct(
    [PREDICTION.field(name) for name in ("answer_closed_book", "answer_base", "context_tokens_base", "retrievals_base")]
)
#: What a generator is asked to write a unit of; without documents it writes from its own knowledge.
REQUEST = pa.schema(
    [
        ("id", pa.string()),
        ("examples", pa.list_(pa.string())),  # the kept examples behind it
        ("question", pa.string()),  # "" for a subject that no kept example asks about
        ("subject", pa.string()),  # what the unit is about; "" where the question decides
        ("documents", pa.list_(DOCUMENT)),
        ("statements", pa.list_(STATEMENT)),  # sentences of the documents that are its evidence; none: to be extracted
        ("draft", pa.struct([("title", pa.string()), ("text", pa.string()), ("evidence", pa.string())])),
        ("judged", pa.bool_()),  # the generator says first which documents are relevant, and only those are read
    ]
)
#: What was left out of a unit, or a whole draft, by class.
LEFT_OUT = pa.struct([("text", pa.string()), ("kind", pa.string()), ("reason", pa.string())])
#: What was left out of a run's units, with the request (example or subject) that it was written for.
LEFT = pa.schema([("request", pa.string()), *LEFT_OUT])
#: The units written for one request, whatever became of it.
WRITTEN = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),  # kept | gated (no passage could be made of the reply) | failed
        ("reason", pa.string()),
        ("units", pa.list_(pa.struct(list(UNIT)))),
        ("left_out", pa.list_(LEFT_OUT)),
        ("calls", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)


def document_rows(documents: list[Document]) -> list[dict[str, Any]]:
    """The documents as plain rows for a DOCUMENT list column."""
    return [asdict(d) for d in documents]


def documents_of(rows: list[dict[str, Any]]) -> list[Document]:
    """Inverse of `document_rows`."""
    return [Document(**row) for row in rows]
