"""A row in FlashRAG's form: to an example or a passage, or the reason why it is neither. Pure.

Benchmark rows: `{"id", "question", "golden_answers": [..], "metadata"?: {..}}`. Corpus rows: `{"id", "contents"}`
with the title in the first line of `contents`, or `{"id", "text", "title"?}`. A row without an id has one made of its
content. Other keys of a corpus row become columns (`wbrag.data.columns`), those of a benchmark row are ignored. Rows of
other forms come here by way of `wbrag.data.layouts`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from wbrag.schema import Document, Example

#: What a passage is made of.
KEYS = frozenset(("id", "title", "text", "contents"))
#: How ids begin that are made of the content.
MADE = ("p-", "q-")


class InputError(ValueError):
    """A file that cannot be used at all; the message names it (jobs exit with 2)."""


class BadRow(ValueError):
    """The reason why one row is left out; a fault, which counts against the error budget."""


class NotTaken(BadRow):
    """The reason why one row is left out that is as it should be: it is told, and is no fault."""


def example_of(row: dict[str, Any], labelled: bool = True) -> Example:
    """The example of a row, an integer id as a string; BadRow, where `labelled` for no golden answer too."""
    metadata = {} if row.get("metadata") is None else row["metadata"]
    if not isinstance(metadata, dict):
        raise BadRow(f"metadata must be an object, got {type(metadata).__name__}")
    question, golden = _text(row.get("question"), "question"), _golden_answers(row, labelled)
    return Example(_id(row, MADE[1], question, *golden), question, golden, json.dumps(metadata, default=str))


def parse_passage(raw: bytes) -> Document:
    """The passage of one line of JSON (title "" where it has none); BadRow says what is wrong with it."""
    return passage_of(json_object(raw))


def passage_of(row: dict[str, Any]) -> Document:
    """`parse_passage` of a line that is parsed already."""
    title, text = row.get("title"), row.get("text")
    if "contents" in row:
        title, newline, text = _text(row["contents"], "contents").partition("\n")
        if not newline:  # one line is a passage without a title; FlashRAG would take it for a title without text
            title, text = "", title
    title, text = _title(title), _text(text, "text")
    return Document(_id(row, MADE[0], title, text), title, text)


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of one line; BadRow says what it is instead."""
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadRow(f"malformed JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets thousands deep
        raise BadRow(f"malformed JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow(f"not a JSON object but {type(row).__name__}")
    return row


def _id(row: dict[str, Any], made: str, *content: str) -> str:
    value = row.get("id")
    if value is None:
        return made + hashlib.sha256("\x1f".join(content).encode()).hexdigest()[:16]
    return str(value) if type(value) is int else _text(value, "id")  # True is an int too


def _golden_answers(row: dict[str, Any], labelled: bool) -> tuple[str, ...]:
    answers = [] if row.get("golden_answers") is None else row["golden_answers"]
    if isinstance(answers, str) or type(answers) in (int, float):
        answers = [answers]
    if not isinstance(answers, list):
        raise BadRow(f"golden_answers must be a string or a list of strings, got {type(answers).__name__}")
    if labelled and not answers:
        raise BadRow("no golden answer")
    plain = [str(one) if type(one) in (int, float) else one for one in answers]  # True is an int too
    return tuple(_text(answer, f"golden_answers[{i}]") for i, answer in enumerate(plain))


def _title(title: object) -> str:
    # One line, for the first line of `Document.contents` is read as the title again; without the double quotes that
    # wiki18_100w wraps all its titles in.
    line = " ".join(unicode_text("" if title is None else title, "title").split())
    return line[1:-1].strip() if len(line) > 1 and line[0] == line[-1] == '"' else line


def _text(value: object, key: str) -> str:
    if value is None:
        raise BadRow(f"{key} is missing or null")
    text = unicode_text(value, key)
    if not text.strip():
        raise BadRow(f"{key} is empty")
    return text


def unicode_text(value: object, key: str) -> str:
    """A text; BadRow for what is none, and for half a character, as "\\ud800" in JSON or a byte that is no UTF-8, which
    Arrow cannot hold.
    """
    if not isinstance(value, str):
        raise BadRow(f"{key} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ord(value[error.start])
        told = f"byte 0x{half - 0xDC00:x} is no UTF-8" if 0xDC80 <= half <= 0xDCFF else "half a character"
        raise BadRow(f"{ascii(key)[1:-1]} is not Unicode text: {told}, at character {error.start}") from error
    return value
