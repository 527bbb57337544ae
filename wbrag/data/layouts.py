"""Rows of other tools' files as FlashRAG's: which layout a row has is told from its keys, or by the user. Pure.

A layout says which key of a row holds what (`fields`), and which holds an object whose entries become columns
(`inside`). docs/inputs.md has the whole table.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wbrag.config import ConfigError
from wbrag.data.flashrag import KEYS, BadRow, NotTaken, json_object

Row = dict[str, Any]


class Cell(str):
    """A value of a text table, whose type is told by all values of its column."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """`name`: how the terminal calls its rows. `needs`: keys that tell it, beside those of `fields`."""

    name: str
    fields: Mapping[str, str]
    needs: Sequence[str] = ()
    inside: str = ""
    own: frozenset[str] = field(default_factory=frozenset)  # keys that are the tool's and tell nothing of the passage

    def told_by(self, row: Row) -> bool:
        """Whether a row has all keys that tell the layout."""
        return all(key in row for key in (*self.fields.values(), *self.needs))


#: What settings may map, by kind of file.
PASSAGE_FIELDS, QUESTION_FIELDS = ("id", "title", "text"), ("id", "question", "golden_answers", "metadata", "accepted")
_VECTORS = frozenset(("embedding", "embeddings", "vector"))
_NODE = frozenset(
    "relationships excluded_embed_metadata_keys excluded_llm_metadata_keys metadata_template metadata_separator "
    "metadata_seperator text_template class_name mimetype start_char_idx end_char_idx hash text_resource "
    "image_resource audio_resource video_resource".split()
)
#: The first whose keys a file's rows have is taken.
PASSAGES = (
    Layout("FlashRAG passages", {"text": "contents"}),
    Layout("LangChain documents", {"text": "page_content"}, inside="metadata", own=_VECTORS | {"type"}),
    Layout("LlamaIndex nodes", {"id": "id_", "text": "text"}, inside="metadata", own=_VECTORS | _NODE),
    Layout("Chroma documents", {"id": "ids", "text": "documents"}, inside="metadatas", own=_VECTORS | {"uris", "data"}),
    Layout("BEIR passages", {"id": "_id", "text": "text"}, inside="metadata"),
    Layout("MS MARCO passages", {"id": "pid", "text": "passage"}),
    Layout("MS MARCO documents", {"id": "docid", "text": "body"}),
    Layout("passages", {"text": "text"}),
)
QUESTIONS = (
    Layout("FlashRAG questions", {"golden_answers": "golden_answers"}, ("question",)),
    Layout("ragas questions", {"question": "user_input", "golden_answers": "reference"}),
    Layout("ragas questions", {"question": "question", "golden_answers": "ground_truth"}),
    Layout("ragas questions", {"question": "question", "golden_answers": "ground_truths"}),
    Layout("KILT questions", {"question": "input", "golden_answers": "output"}),
    Layout("answers of a log", {"question": "question", "golden_answers": "answer", "accepted": "accepted"}),
    Layout("HotpotQA questions", {"id": "_id", "golden_answers": "answer"}, ("question", "supporting_facts")),
    Layout("SQuAD questions", {"golden_answers": "answers"}, ("question",)),
    Layout("questions with answers", {"golden_answers": "answer"}, ("question",)),
    Layout("questions without answers", {"question": "user_input"}),
    Layout("questions without answers", {"question": "question"}),
    Layout("BEIR queries", {"id": "_id", "question": "text"}),
)
#: Keys that a JSON file may hold all its rows under.
HOLDERS = ("data", "rows", "documents", "passages", "nodes", "items", "questions", "examples", "results")
#: How tables write that an answer was not accepted.
_NO = frozenset(("", "0", "0.0", "false", "f", "no", "n", "none", "null", "rejected"))


def check_columns(columns: Mapping[str, str] | None, known: Sequence[str], setting: str) -> None:
    """ConfigError for a name that no column can be given for, and for what names no column."""
    if not isinstance(columns or {}, Mapping) or not all(isinstance(one, str) for one in (columns or {}).values()):
        raise ConfigError(f"{setting}={columns!r}: give parts with their columns, as {{{known[-1]}: COLUMN}}")
    if strange := [name for name in columns or () if name not in known]:
        raise ConfigError(f"{setting}.{strange[0]}: there is no such part; known are {', '.join(known)}")


def layout_of(rows: Sequence[Row], known: Sequence[Layout], columns: Mapping[str, str]) -> Layout | None:
    """The layout of a file's first rows: that of the `columns` given, else the first of `known` whose keys any row has;
    None where there is none.
    """
    if columns:
        return Layout("passages" if known is PASSAGES else "questions", columns)
    return next((layout for layout in known if any(map(layout.told_by, rows))), None)


def unwrapped(row: Row) -> Row:
    """A row without what its tool wraps it in: LangChain's `dumpd`, LlamaIndex' node in a docstore. BadRow for a node
    that is none.
    """
    if isinstance(row.get("kwargs"), dict) and "lc" in row:
        return dict(row["kwargs"])
    if "__data__" in row:
        node = row["__data__"]
        row = json_object(node.encode(errors="replace")) if isinstance(node, str) else node
        if not isinstance(row, dict):
            raise BadRow(f"__data__ is not an object but {type(row).__name__}")
    if isinstance(resource := row.get("text_resource"), dict) and "text" not in row:
        return row | {"text": resource.get("text")}
    return row


def as_passage(row: Row, layout: Layout) -> Row:
    """A row as FlashRAG has a passage: id, title, text, and every other key with its value."""
    if layout.fields == {"text": "contents"}:
        return row
    fields = {name: name for name in PASSAGE_FIELDS if name in row} | dict(layout.fields)
    found: Row = {name: row.get(key) for name, key in fields.items()}
    taken = {*fields.values(), layout.inside, *layout.own}
    others = {key: value for key, value in row.items() if key not in taken}
    inner = row.get(layout.inside) if layout.inside else None
    for key, value in [*others.items(), *(inner.items() if isinstance(inner, dict) else ())]:
        if key == "title" and not found.get("title") and isinstance(value, str):
            found["title"] = value
        else:
            found[_column(key, found) if layout.inside else key] = value
    return found


def _column(key: str, taken: Row) -> str:
    """A name that a column can have for an entry of a tool's metadata."""
    name = key.replace(".", "_") or "_"
    return f"metadata_{name}" if name in taken or name in KEYS or name == "vector" else name


def as_question(row: Row, layout: Layout | None, labelled: bool) -> Row:
    """A row as FlashRAG has a question. NotTaken for one that says itself that it is no label: an answer that was not
    accepted, a question that cannot be answered. BadRow, where `labelled`, for a layout that has no answers.
    """
    fields = {name: name for name in QUESTION_FIELDS if name != "accepted"} | (dict(layout.fields) if layout else {})
    found: Row = {name: row.get(key) for name, key in fields.items()}
    if "accepted" in fields and str(found["accepted"]).strip().lower() in _NO:
        raise NotTaken(f"{fields['accepted']} is {json.dumps(found['accepted'], default=str)}: no label")
    told = row.get("answers")
    if row.get("is_impossible") or (isinstance(told, dict) and told.get("text") == []):  # SQuAD 2.0
        raise NotTaken("a question that cannot be answered, by its own word")
    if layout in QUESTIONS and labelled and "golden_answers" not in layout.fields:
        qrels = "BEIR's qrels name passages, not answers" if layout.name == "BEIR queries" else ""
        other = "benchmark.columns={golden_answers: KEY} names the one that they are in"
        raise BadRow(f"no golden answer: {layout.name}, with the keys {', '.join(row)}; {qrels or other}")
    found["golden_answers"] = answers(found["golden_answers"])
    if not isinstance(found["metadata"], dict):
        found["metadata"] = found["metadata"] if layout and layout.name.startswith("FlashRAG") else None
    return found


def answers(value: object) -> object:
    """The golden answers in what a layout holds them in: one text, a list of texts or of objects, an object of either
    (SQuAD's `text`, KILT's and TriviaQA's `answer`, `value`, `aliases`); anything else as it is.
    """
    if isinstance(value, Cell) and value.startswith("["):
        value = _listed(value)
    if isinstance(value, str):
        return [str(value)] if value else []
    if isinstance(value, dict):
        held = [value[key] for key in ("text", "answer", "value", "aliases") if value.get(key)]
        return list(dict.fromkeys(text for one in held for text in (one if isinstance(one, list) else [one])))
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        told = [text for one in value for text in (list(map(str, _texts(one))) if isinstance(one, dict) else [one])]
        return list(dict.fromkeys(told))
    return value


def _listed(cell: Cell) -> list[Any]:
    """The list in a cell, as JSON or Python writes it, else the text. BadRow for texts in quotes that are neither."""
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = read(cell)
            if isinstance(found, list) and (read is json.loads or str(found) == cell):
                return found
    if cell[1:2] in ("'", '"'):
        raise BadRow(f"golden_answers is {cell[:40]!r}, a list that cannot be read; give a JSON list")
    return [str(cell)]


def _texts(one: Row) -> list[Any]:
    found = answers(one)
    return found if isinstance(found, list) else []


def rows_of(whole: object) -> list[Any]:
    """The rows of a JSON file that is one object: SQuAD's articles, Chroma's columns, LlamaIndex' docstore, objects by
    id, a list under one of HOLDERS; else the object itself. BadRow where it is none of these all through.
    """
    if not isinstance(whole, dict):
        return whole if isinstance(whole, list) else [whole]
    if isinstance(whole.get("ids"), list) and isinstance(whole.get("documents"), list):
        return _chroma(whole)
    if isinstance(nodes := whole.get("docstore/data"), dict):
        return list(nodes.values())
    if isinstance(data := whole.get("data"), list) and any(
        isinstance(one, dict) and "paragraphs" in one for one in data
    ):
        return _squad(data)
    if len(whole) > 1 and all(isinstance(one, dict) for one in whole.values()):
        return [{"id": key, **one} for key, one in whole.items()]
    lists = (whole[key] for key in HOLDERS if isinstance(whole.get(key), list) and whole[key])
    return next((one for one in lists if any(isinstance(row, dict) for row in one)), [whole])


def _squad(articles: list[Any]) -> list[Row]:
    try:
        return [
            {"title": article.get("title"), **asked}
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise BadRow(f"SQuAD's articles, but not all of them: {type(error).__name__}: {error}") from error


def _chroma(whole: Row) -> list[Row]:
    """Rows of a collection's columns; those of a query are nested once more."""
    flat = {}
    for key in ("ids", "documents", "metadatas"):
        column = whole.get(key) or []
        flat[key] = [one for some in column for one in some] if column and isinstance(column[0], list) else column
    longest = max(map(len, flat.values()))
    return [{key: column[i] if i < len(column) else None for key, column in flat.items()} for i in range(longest)]
