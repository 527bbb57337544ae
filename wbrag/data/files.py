"""Files in: the rows of JSON, text tables, Parquet, Arrow and documents, one at a time, each with its file and line.

Whatever is given, a file, a glob, a folder or several of these, is read in the order of its names; gzip and Zstandard
are told by their first bytes, a zip is read member by member. Nothing but a row is held (of a JSON file that is one
object: that object).
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from wbrag.data.documents import READ_AS as DOCUMENTS
from wbrag.data.documents import parts_of
from wbrag.data.flashrag import BadRow, InputError, NotTaken, json_object
from wbrag.data.layouts import Cell, Row, rows_of

#: A path, a glob, a folder, or several of them.
Given = str | Path | Sequence[str]

#: Characters that a bad row is shown with.
RAW_CHARS = 200
#: A field of a text table that is longer than this has a quote that nothing closes.
csv.field_size_limit(1 << 24)
#: How files begin that are something else than their rows.
PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    # Arrow's tells a file that was cut short; zstandard's own reader ends there without a word.
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
ZIP, TAR = b"PK\x03\x04", (257, b"ustar")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: What a file that breaks off, is damaged or (a member of a zip: RuntimeError) locked raises, whoever reads it.
DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError, pa.ArrowInvalid, csv.Error, RuntimeError)
#: Stands behind the last line of a text table: within a cell it says that a quote was never closed.
END = "\0end"
#: MS MARCO's tables have no header: passages, and documents.
MSMARCO = {2: ("pid", "passage"), 4: ("docid", "url", "title", "body")}
_PID = re.compile(r"D?\d+")
_URL = re.compile(r"\w[\w+.-]+:/")


@dataclass(frozen=True, slots=True)
class File:
    """A file on disk, and what it is called within what was given. `listed`: found in a folder."""

    path: Path
    name: str
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A row, or why it is none, with its file, 1-based line (row, or page) and raw form."""

    file: str
    line: int
    row: Row | BadRow
    raw: object

    @property
    def shown(self) -> str:
        """How the row begins."""
        if isinstance(self.raw, bytes):  # 4 bytes is the longest character, so the cut spoils none of the shown ones
            return self.raw[: 4 * RAW_CHARS].decode(errors="replace")[:RAW_CHARS]
        text = self.raw if isinstance(self.raw, str) else json.dumps(self.raw, ensure_ascii=False, default=str)
        return text[:RAW_CHARS].encode(errors="replace").decode()


def files_of(given: Given) -> list[File]:
    """The files that are given, in the order of their names, each once; InputError names what there is not."""
    many = [given] if isinstance(given, str | Path) else given
    if url := next((one for one in many if _URL.match(str(one))), None):
        raise InputError(
            f"{url}: a URL; what is read lies on this machine, or on a hub (hf://datasets/...): fetch it first"
        )
    found = {file.path: file for one in many for file in _named(Path(one).expanduser())}
    return list(found.values())


def _named(path: Path) -> list[File]:
    if path.is_file():
        return [File(path, path.name)]
    if path.is_dir():
        files = _in_folder(path)
    else:
        parts = path.parts
        first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
        root = Path(*parts[:first])
        found = sorted(root.glob(str(Path(*parts[first:])))) if first < len(parts) else []
        files = [File(one, one.relative_to(root).as_posix()) for one in found if one.is_file()]
    if not files and not (other := _unpacked(path)):
        raise InputError(f"{path}: {_absent(path)}")
    return files or other


def _absent(path: Path) -> str:
    """What to say of a path without files: what is there in its place, or the nearest name that is."""
    if path.is_dir():
        return "an empty folder; give one with files (docs/inputs.md), or a file"
    missing = next(one for one in (path, *path.parents) if one.parent.is_dir())
    near = get_close_matches(missing.name, [one.name for one in missing.parent.iterdir()], 1, 0.5)
    told = "no such file or folder" + ("" if missing == path else f", as there is no {missing}")
    return f"{told}; did you mean {missing.parent / near[0]}?" if near else told


def _unpacked(path: Path) -> list[File]:
    """In place of a zip that is not there: its JSONL, beside it or one folder up."""
    plain = path.with_suffix(".jsonl").name
    there = [folder / plain for folder in (path.parent, path.parent.parent) if path.suffix == ".zip"]
    return [File(one, one.name) for one in there if one.is_file()][:1]


def _in_folder(folder: Path) -> list[File]:
    """All files below a folder, hidden ones left out; of saved Hugging Face datasets the files that hold their rows."""
    if files := [file for state in sorted(folder.rglob("state.json")) for file in _saved(state)]:
        return files
    names = [(path, path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    shown = [(path, name) for path, name in names if not any(part[0] in "._" for part in name.parts)]
    return [File(path, name.as_posix(), True) for path, name in shown if path.is_file()]


def _saved(state: Path) -> list[File]:
    """The files of a saved data set; none where its state.json is another tool's."""
    try:
        names = [str(one["filename"]) for one in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, LookupError, TypeError):
        return []
    return [File(state.parent / name, name) for name in names]


def kind_of(name: str) -> str:
    """What a file's name says that it is: its suffix, without those of compression."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    return next((s for s in reversed(suffixes) if s not in (".gz", ".zst", ".bz2", ".xz")), "")


def is_document(name: str) -> bool:
    """Whether a file is a text that has to be cut into passages."""
    return kind_of(name) in DOCUMENTS


def records(file: File, words: int) -> Iterator[Record]:
    """The rows of a file; of a document its passages, of `words` words at most. InputError where it cannot be read."""
    kind = kind_of(file.name)
    if _unknown(file) and kind != ".zip":
        yield _unread(file)
        return
    try:
        with file.path.open("rb") as opened:
            yield from _unzipped(file, opened, words) if kind != ".docx" else _read(file, opened, words)
    except DAMAGED as error:
        raise InputError(f"{file.path}: cannot be read to its end: {type(error).__name__}: {error}") from error


def _unknown(file: File) -> bool:
    """Whether a file that was found, not named, is of a kind that nobody reads."""
    return file.listed and kind_of(file.name) not in (*DOCUMENTS, *READERS)


def _unread(file: File) -> Record:
    why = f"no kind of file that is read: {kind_of(file.name) or 'no suffix'}"
    return Record(str(file.path), 0, NotTaken(why), file.name)


def _unzipped(file: File, opened: BinaryIO, words: int) -> Iterator[Record]:
    """The rows of a file, or of each member of a zip."""
    if opened.read(4) != ZIP:
        opened.seek(0)
        yield from _read(file, opened, words)
        return
    with zipfile.ZipFile(opened) as members:
        shown = [name for name in members.namelist() if not any(part[:1] in ("", ".", "_") for part in name.split("/"))]
        for name in sorted(shown):
            inner = File(file.path / name, name, True)
            if _unknown(inner):
                yield _unread(inner)
                continue
            with members.open(name) as member:
                yield from _read(inner, member, words)


def _read(file: File, opened: Any, words: int) -> Iterator[Record]:  # noqa: ANN401 - what zipfile and open give
    kind, stream = kind_of(file.name), io.BufferedReader(opened) if not hasattr(opened, "peek") else opened
    for start, unpack in PACKED.items():
        if stream.peek(8).startswith(start):
            stream = io.BufferedReader(unpack(stream))
            break
    binary = READERS.get(kind) in (_parquet, _arrow)
    if kind not in DOCUMENTS and (stream.peek(2).startswith(UTF16) or (not binary and b"\0" in stream.peek(2)[:2])):
        raise InputError(f"{file.path}: is UTF-16; save it as UTF-8")
    if kind in DOCUMENTS:
        for line, part in enumerate(parts_of(stream.read(), kind, file.name, words), 1):
            yield Record(str(file.path), line, part, part if isinstance(part, dict) else file.name)
        return
    for line, row, raw in READERS.get(kind, _json)(stream):
        yield Record(str(file.path), line, row, raw)


Told = Iterator[tuple[int, Row | BadRow, object]]


def _lines(stream: BinaryIO) -> Told:
    for line, raw in enumerate(stream, 1):
        text = (raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw).strip()
        if text:
            try:
                yield line, json_object(text), text
            except BadRow as error:
                at, mark = TAR
                tar = "the header of a tar archive stands before it; unpack the file with tar -xf"
                yield line, BadRow(tar) if raw[at:].startswith(mark) else error, text


def _jsonl(stream: Any) -> Told:  # noqa: ANN401
    """Lines, or a list all the same."""
    head = stream.peek(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    first, _, rest = head.partition(b"\n")
    listed = re.match(rb"\[\s*\{", head) and not (rest.strip() and _is_row(first, False))
    yield from (_items if listed else _lines)(stream)


def _json(stream: Any) -> Told:  # noqa: ANN401
    """Rows of a file whose name does not say how they stand: a list, one object, or lines."""
    head = stream.peek(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    if head.startswith(b"["):
        yield from _items(stream)
        return
    first, newline, rest = head.partition(b"\n")
    if not head.startswith(b"{") or (newline and _is_row(first, not rest.strip())):
        yield from _lines(stream)
        return
    raw = stream.read()
    try:
        whole = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # lines after all, the first of them bad or longer than the look ahead
        yield from _lines(io.BytesIO(raw))
        return
    try:
        rows = rows_of(whole)
    except BadRow as error:
        rows = [error]
    for number, row in enumerate(rows, 1):
        if isinstance(row, BadRow):
            yield number, row, whole
            return
        yield number, row if isinstance(row, dict) else BadRow(f"not a JSON object but {type(row).__name__}"), row


def _is_row(line: bytes, alone: bool) -> bool:
    """Whether a line is JSON, and if it is the only one not an object that holds the rows."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError, BadRow):
        return False
    return not alone or rows_of(row) == [row]


def _items(stream: BinaryIO) -> Told:
    """The items of a JSON list, of which one at a time is held; EOFError where it breaks off or is not all."""
    decoder, text = json.JSONDecoder(), io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape")
    held, line, size = text.read(1 << 16).lstrip()[1:], 1, 1 << 16
    while True:
        left = held.lstrip(" \t\r\n,")
        line += held[: len(held) - len(left)].count("\n")
        try:
            if left.startswith("]"):
                if (left[1:] + text.read(size)).strip():
                    raise EOFError(
                        f"line {line}: the list ends, but not the file; is it lines (.jsonl), or several lists?"
                    )
                return
            item, end = decoder.raw_decode(left)
        except (ValueError, RecursionError) as error:
            more = text.read(size) if isinstance(error, ValueError) else ""
            if not more:
                raise EOFError(f"line {line}: malformed JSON: {error}") from error
            held, size = left + more, 2 * size
            continue
        row = item if isinstance(item, dict) else BadRow(f"not a JSON object but {type(item).__name__}")
        yield line, row, item
        line += left[:end].count("\n")
        held, size = left[end:], 1 << 16


def _table(stream: Any) -> Told:  # noqa: ANN401
    """Rows of CSV or TSV, the delimiter that which the first line has most of; without a header MS MARCO's. csv.Error
    for a header that has a name twice, and for a quote that nothing closes: the rows behind it would be one cell.
    """
    head = stream.peek(1 << 16).removeprefix(codecs.BOM_UTF8).splitlines() or [b""]
    delimiter = max("\t,;|", key=lambda one: head[0].count(one.encode()))
    first = head[0].decode(errors="replace").split("\t")
    bare = delimiter == "\t" and len(first) in MSMARCO and _PID.fullmatch(first[0])
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(chain(text, [END]), delimiter=delimiter, quoting=csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL)
    header = MSMARCO[len(first)] if bare else tuple(name.strip() for name in next(rows, ()))
    if twice := [name for name in filter(None, header) if header.count(name) > 1]:
        raise csv.Error(f"the header has {twice[0]!r} twice")
    line = rows.line_num + 1
    for cells in _closed(rows):
        if cells and len(cells) != len(header):
            yield line, BadRow(f"{len(cells)} cells, the header has {len(header)}"), delimiter.join(cells)
        elif cells:
            row = {name: Cell(cell) if cell else None for name, cell in zip(header, cells, strict=True) if name}
            yield line, row, delimiter.join(cells)
        line = rows.line_num + 1


def _closed(rows: Any) -> Iterator[list[str]]:  # noqa: ANN401 - csv's reader
    """The rows of a table before END; csv.Error, with its line, for a quote that is still open there."""
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows, [END])
        except csv.Error as error:
            raise csv.Error(f"line {line}: {error}; is a quote opened there that nothing closes?") from error
        if cells == [END]:
            return
        if cells and cells[-1].endswith(END):
            raise csv.Error(f"line {line}: a quote is opened and never closed: {cells[-1].removesuffix(END)[:40]!r}")
        yield cells


def _parquet(stream: BinaryIO) -> Told:
    yield from _batches(pq.ParquetFile(stream).iter_batches(1024))


def _arrow(stream: BinaryIO) -> Told:
    start = stream.read(6)
    stream.seek(0)
    if start == b"ARROW1":
        opened = pa.ipc.open_file(stream)
        yield from _batches(opened.get_batch(i) for i in range(opened.num_record_batches))
    else:
        yield from _batches(pa.ipc.open_stream(stream))


def _batches(batches: Any) -> Told:  # noqa: ANN401 - Arrow's
    number = 0
    for batch in batches:
        if len(set(names := batch.schema.names)) < len(names):
            raise pa.ArrowInvalid(f"two columns have one name: {', '.join(names)}")
        for start in range(0, batch.num_rows, 1024):
            for row in batch.slice(start, 1024).to_pylist():
                number += 1
                yield number, {key: _plain(value) for key, value in row.items()}, row


def _plain(value: object) -> Any:  # noqa: ANN401 - as JSON would have it
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, bytes):  # texts of writers that do not say so; others are refused as no UTF-8
        return value.decode(errors="surrogateescape")
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


READERS: dict[str, Callable[[Any], Told]] = {
    **dict.fromkeys((".jsonl", ".ndjson"), _jsonl),
    ".json": _json,
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".parquet", ".pq"), _parquet),
    ".arrow": _arrow,
}
