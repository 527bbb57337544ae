"""FlashRAG JSONL in: benchmark files to examples, a corpus file to Parquet.

A file that cannot be used is refused (`InputError`); a single bad row is quarantined (`Rejected`) and the rest goes
on, until the share of such rows passes the error budget (`OverErrorBudget`). Rows: `wbrag.data.flashrag`.
"""

from __future__ import annotations

import codecs
import os
import random
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag import metrics
from wbrag.config import Benchmark, ConfigError
from wbrag.data.columns import columns_of, fitted
from wbrag.data.flashrag import BadRow, json_object, parse_example, passage_of
from wbrag.prompts import TASKS
from wbrag.schema import EXAMPLE, PASSAGE, Example

#: Passages per Parquet row group, and examples that are read at once: about 5 MB of 100-word passages.
GROUP_ROWS = 8192
#: With so many rejected rows the budget is judged on the rows read so far, so that a wrong file fails soon and the
#: rejected rows, which are held in memory, stay few.
EARLY_REJECTED = 10_000
#: Characters of a bad row that the quarantine shows.
RAW_CHARS = 200
#: The key of a corpus file's metadata for the passages that it is without.
LEFT_OUT = "left_out"

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A quarantined row: its file, 1-based line, why it was left out, and the start of its text."""

    file: str
    line: int
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What became of a corpus file: passages written, rows left out."""

    passages: int
    rejected: list[Rejected]


class InputError(ValueError):
    """A file that cannot be used at all; the message names it (jobs exit with 2)."""


class OverErrorBudget(RuntimeError):
    """More rows of a file were bad than `max_error_rate` allows (jobs exit with 3); `rejected` holds them."""

    def __init__(self, message: str, rejected: Sequence[Rejected] = ()) -> None:
        super().__init__(message)
        self.rejected = rejected


def read_examples(
    path: Path, rejected: list[Rejected], max_error_rate: float = 0.01, labelled: bool = True
) -> Iterator[pa.Table]:
    """The valid examples of a benchmark file (schema.EXAMPLE), in file order, some thousands at a time; rows left out
    go to `rejected`. Without golden answers a row is valid where it need not be `labelled`.

    InputError: no such file, no valid example, an id twice. OverErrorBudget: rejected / read rows > `max_error_rate`.
    Both may come after the last example. Memory: as `write_corpus`.
    """

    def parse(raw: bytes) -> tuple[str, Example]:
        example = parse_example(raw, labelled)
        return example.id, example

    examples = _read(path, parse, max_error_rate, rejected)
    while group := list(islice(examples, GROUP_ROWS)):
        yield examples_table(group)


def drawn(count: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of so many examples are taken, ascending: `limit` drawn at random by `seed`; all for 0 or where there are
    no more.
    """
    if not 0 < limit < count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.array(random.Random(seed).sample(range(count), limit), dtype=np.int64))


def write_corpus(
    path: Path, out: Path, max_error_rate: float = 0.01, without: Callable[[Mapping[str, Any]], bool] | None = None
) -> CorpusReport:
    """Stream a corpus file into the Parquet file `out`, in file order: schema.PASSAGE and every other key that its rows
    have as a typed column (`wbrag.data.columns`). It appears whole or not at all. Passages for which `without` is true
    are left out, and the file's metadata say how many (`left_out`).

    The file is read twice: types first. Memory: one row group, 8 bytes a passage for the duplicate check, the rejected
    rows. Errors as `read_examples`, and InputError for a key that no column can be called.
    """
    rejected: list[Rejected] = []
    others = _other_columns(path)
    schema = pa.schema([*PASSAGE, *others])

    def parse(raw: bytes) -> tuple[str, dict[str, Any]]:
        row = json_object(raw)
        passage = passage_of(row)
        return passage.id, {name: getattr(passage, name) for name in PASSAGE.names} | fitted(row, others)

    passages = _read(path, parse, max_error_rate, rejected)
    rows = left_out = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        temporary = Path(folder) / out.name
        # Parquet has no page checksums by default, and a flipped bit is then read back without a word.
        with pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
            while group := list(islice(passages, GROUP_ROWS)):
                kept = [row for row in group if not (without and without(row))]
                writer.write_table(pa.Table.from_pylist(kept, schema))
                rows, left_out = rows + len(kept), left_out + len(group) - len(kept)
            if left_out:
                writer.add_key_value_metadata({LEFT_OUT: str(left_out)})
        os.replace(temporary, out)
    return CorpusReport(rows, rejected)


def left_out_of(corpus: Path) -> int:
    """How many passages `write_corpus` was told to leave out of a Parquet file."""
    return int((pq.read_metadata(corpus).metadata or {}).get(LEFT_OUT.encode(), b"0"))


def _other_columns(path: Path) -> pa.Schema:
    """A corpus file's columns beside id, title and text; InputError for a name that Lance cannot hold or has taken."""
    found = columns_of(row for _, row in _rows(path, json_object) if isinstance(row, dict))
    for name in found.names:
        if not name or "." in name or name == "vector":
            raise InputError(f"{path}: key {name!r}: a column cannot be called so; rename it (no dot, not 'vector')")
    return found


def examples_table(examples: Sequence[Example]) -> pa.Table:
    """The examples as an Arrow table (schema.EXAMPLE), in the order given."""
    return pa.table({name: [getattr(row, name) for row in examples] for name in EXAMPLE.names}, schema=EXAMPLE)


def check_benchmark(benchmark: Benchmark) -> None:
    """Raise ConfigError, naming key and value, for a task, metric, labels or split that cannot work."""
    if benchmark.task not in TASKS:
        raise ConfigError(f"benchmark.task={benchmark.task!r} is unknown; known are {', '.join(TASKS)}")
    if benchmark.metric not in metrics.METRICS:
        raise ConfigError(f"benchmark.metric={benchmark.metric!r} is unknown; known are {', '.join(metrics.METRICS)}")
    if benchmark.metric == "label" and not benchmark.labels:
        raise ConfigError("benchmark.labels is empty, but benchmark.metric='label' maps answers to labels")
    if strange := set(benchmark.rows) - {"train", "test"}:
        raise ConfigError(f"benchmark.rows.{min(strange)}: no such split; known are train, test")
    try:
        metrics.spellings(benchmark.labels)
    except ValueError as error:
        raise ConfigError(f"benchmark.labels: {error}") from error


def check_labels(examples: Iterable[pa.Table], labels: Mapping[str, Sequence[str]], path: Path) -> None:
    """Raise InputError, naming file and example id, for the first golden answer that is no spelling of a label."""
    for some in examples:
        for key, answers in zip(some["id"].to_pylist(), some["golden_answers"].to_pylist(), strict=True):
            for answer in answers:
                try:
                    metrics.golden_label(answer, labels)
                except ValueError as error:
                    raise InputError(f"{path}: example {key!r}: {error}") from error


def _read(
    path: Path, parse: Callable[[bytes], tuple[str, Row]], max_error_rate: float, rejected: list[Rejected]
) -> Iterator[Row]:
    # The valid rows, parsed with their id; bad ones go to `rejected`. Duplicates are raised after the last row.
    hashes = array("q")
    for _, row in _rows(path, parse):
        if isinstance(row, Rejected):
            rejected.append(row)
            if len(rejected) >= EARLY_REJECTED:
                _check_budget(path, len(hashes), rejected, max_error_rate)
            continue
        key, value = row
        hashes.append(hash(key))
        yield value
    _check_budget(path, len(hashes), rejected, max_error_rate)
    _refuse_duplicates(path, hashes, parse)


def _rows(path: Path, parse: Callable[[bytes], Row]) -> Iterator[tuple[int, Row | Rejected]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as lines:
        for line, raw in enumerate(lines, 1):
            row = (raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw).strip()
            if not row:
                continue
            try:
                yield line, parse(row)
            except BadRow as error:
                # 4 bytes is the longest character, so the cut spoils none of the shown ones.
                shown = row[: 4 * RAW_CHARS].decode(errors="replace")[:RAW_CHARS]
                yield line, Rejected(str(path), line, str(error), shown)


def _check_budget(path: Path, valid: int, rejected: list[Rejected], max_error_rate: float) -> None:
    rows = valid + len(rejected)
    first = f"; the first: line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
    if valid == 0:
        raise InputError(f"{path}: no valid row among {rows}{first}")
    if len(rejected) / rows > max_error_rate:
        share = f"{len(rejected)} of {rows} rows are bad ({len(rejected) / rows:.2%})"
        raise OverErrorBudget(f"{path}: {share}, max_error_rate={max_error_rate}{first}", rejected)


def _refuse_duplicates(path: Path, hashes: array[int], parse: Callable[[bytes], tuple[str, Row]]) -> None:
    # 8 bytes an id, where a set of the strings takes some 150: 170 MB for 21 M passages. Equal hashes are rare, so
    # only then is the file read again, which tells a duplicate (and its two lines) from a collision.
    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    first_lines: dict[str, int] = {}
    for line, row in _rows(path, parse):
        if isinstance(row, Rejected) or hash(row[0]) not in suspects:
            continue
        first = first_lines.setdefault(row[0], line)
        if first != line:
            raise InputError(f"{path}: id {row[0]!r} is on line {first} and again on line {line}")
