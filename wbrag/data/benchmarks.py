"""Whatever users have, in: questions to examples, a corpus to Parquet.

A file that cannot be used is refused (`InputError`); a single bad row is quarantined (`Rejected`) and the rest goes
on, until the share of such rows passes the error budget (`OverErrorBudget`). Files: `wbrag.data.files`; layouts of
rows: `wbrag.data.layouts`; rows: `wbrag.data.flashrag`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag import metrics
from wbrag.config import Benchmark, ConfigError, check_values
from wbrag.data.columns import columns_of, fitted
from wbrag.data.documents import READ_AS
from wbrag.data.files import File, Given, Record, files_of, is_document, kind_of, records
from wbrag.data.flashrag import MADE, BadRow, NotTaken, example_of, passage_of, unicode_text
from wbrag.data.flashrag import InputError as InputError
from wbrag.data.layouts import (
    PASSAGES,
    QUESTION_FIELDS,
    QUESTIONS,
    Layout,
    as_passage,
    as_question,
    check_columns,
    layout_of,
    unwrapped,
)
from wbrag.prompts import TASKS
from wbrag.schema import EXAMPLE, PASSAGE, SEEN_BY, Document, Example
from wbrag.units.access import Label, label_of

#: Passages per Parquet row group, and examples that are read at once: about 5 MB of 100-word passages.
GROUP_ROWS = 8192
#: Letters of passages that are held at once, where they are whole documents.
GROUP_LETTERS = 1 << 24
#: With so many rejected rows the budget is judged on the rows read so far, so that a wrong file fails soon and the
#: rejected rows, which are held in memory, stay few.
EARLY_REJECTED = 10_000
#: Rows of a file that are looked at for what it holds.
LOOKED_AT = 100
#: Words of a passage that is cut out of a document: those of DPR's, which retrievers are trained on.
WORDS = 100
#: The share of questions with golden answers that a metric scores badly from which that is told.
DOUBTFUL = 0.1
#: A letter of a script that FlashRAG's normal form is not made for.
_OTHER_SCRIPT = re.compile("[^\\W\\d_\u0000-\u024f\u1e00-\u1eff]")
#: The key of a corpus file's metadata for the passages that it is without.
LEFT_OUT = "left_out"

Made = TypeVar("Made")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was left out: its file, 1-based line (of a document: passage; 0: the file), why, and the start of its
    text. What is no `fault` does not count against the error budget.
    """

    file: str
    line: int
    reason: str
    raw: str
    fault: bool = True


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What became of a corpus: passages written, rows left out, and how many passages there were of each sort."""

    passages: int
    rejected: list[Rejected]
    sorts: Counter[str] = field(default_factory=Counter, compare=False)


class OverErrorBudget(RuntimeError):
    """More rows of a file were bad than `max_error_rate` allows (jobs exit with 3); `rejected` holds them."""

    def __init__(self, message: str, rejected: Sequence[Rejected] = ()) -> None:
        super().__init__(message)
        self.rejected = rejected


def read_examples(
    given: Given,
    rejected: list[Rejected],
    max_error_rate: float = 0.01,
    labelled: bool = True,
    columns: Mapping[str, str] | None = None,
    sorts: Counter[str] | None = None,
    language: str | None = None,
) -> Iterator[pa.Table]:
    """The valid examples of files of questions (schema.EXAMPLE), in file order, some thousands at a time; rows left out
    go to `rejected`, and how many there are of each sort to `sorts`. Without golden answers a row is valid where it
    need not be `labelled`. `columns`: which columns of the file are the parts of a question (layouts.QUESTION_FIELDS).
    Golden answers that normalise to nothing in this `language` are left out, and a row that has no other.

    InputError: no such file, no valid example, an id twice. OverErrorBudget: rejected / read rows > `max_error_rate`.
    Both may come after the last example. Memory: as `write_corpus`.
    """

    def parse(record: Record, layout: Layout | None) -> tuple[str, Example]:
        example = example_of(question_row(record, layout, labelled), labelled)
        return example.id, example if language is None else _scorable(example, language)

    def rows() -> Iterator[tuple[Record, Layout | None]]:
        for file in files_of(given):
            if is_document(file.name):
                raise InputError(f"{file.path}: a document, no questions; wbrag questions makes some of documents")
            yield from _laid_out(file, QUESTIONS, columns or {})

    examples = _read(given, rows, parse, max_error_rate, rejected, Counter() if sorts is None else sorts)
    while group := list(islice(examples, GROUP_ROWS)):
        yield examples_table(group)


def _scorable(example: Example, language: str) -> Example:
    """The example without golden answers that no metric can score; BadRow where there is no other."""
    if not (kept := metrics.scorable(example.golden_answers, language)):
        more = "" if language == "any" else "; benchmark.language=any keeps the letter A and the article The"
        told = f"golden_answers {list(example.golden_answers)} normalise to nothing, which every answer holds"
        raise BadRow(f"{told}; take benchmark.metric=label for options{more}")
    if len(kept) < len(example.golden_answers):
        left = sorted(set(example.golden_answers) - set(kept))
        log.warning("example %r: golden answers %s normalise to nothing and do not count", example.id, left)
    return replace(example, golden_answers=tuple(kept))


def doubts(examples: Iterable[pa.Table], benchmark: Benchmark) -> list[str]:
    """What is to be doubted in the scores of these examples (their first thousands), a sentence each."""
    answers = [one for some in islice(examples, 4) for one in some["golden_answers"].to_pylist()]
    inside = sum(metrics.inside_words(golden, benchmark.language) for golden in answers)
    foreign = sum(any(_OTHER_SCRIPT.search(one) for one in golden) for golden in answers)
    told, of = [], f"of {len(answers)} questions"
    if benchmark.metric == "acc" and inside > DOUBTFUL * len(answers):
        told.append(
            f"golden answers of {inside} {of} are parts of common words, as no is of unknown, and "
            "benchmark.metric=acc finds them there; take em, or label with benchmark.labels"
        )
    if benchmark.language == "en" and foreign > DOUBTFUL * len(answers):
        told.append(
            f"golden answers of {foreign} {of} are in other scripts, whose punctuation and Unicode forms FlashRAG's "
            "metrics tell apart; benchmark.language=any does not"
        )
    return told


def drawn(count: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of so many examples are taken, ascending: `limit` drawn at random by `seed`; all for 0 or where there are
    no more.
    """
    if not 0 < limit < count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.array(random.Random(seed).sample(range(count), limit), dtype=np.int64))


def held_out(questions: Iterable[str], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of the questions of one file test, the others train: this share, one at least, drawn by the seed. Equal
    questions stand on one side, and rows that come or go later move few of the others.
    """
    told = (hashlib.sha256(f"{seed} {metrics.normalise(one) or one}".encode()).digest() for one in questions)
    drawn_as = np.fromiter((int.from_bytes(one[:8], "big") for one in told), np.uint64)
    if not len(drawn_as):
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(drawn_as <= np.sort(drawn_as)[max(1, round(share * len(drawn_as))) - 1], dtype=np.bool_)


def write_corpus(
    given: Given,
    out: Path,
    max_error_rate: float = 0.01,
    columns: Mapping[str, str] | None = None,
    words: int = WORDS,
    access: str = "",
    without: Callable[[Mapping[str, Any]], bool] | None = None,
) -> CorpusReport:
    """Stream a corpus into the Parquet file `out`, in file order: schema.PASSAGE and every other key that its rows have
    as a typed column (`wbrag.data.columns`). It appears whole or not at all. `columns`: which columns of the files are
    the parts of a passage (layouts.PASSAGE_FIELDS). Documents are cut into passages of `words` words at most.

    Passages for which `without` is true are left out, and the file's metadata say how many (`passages_left_out`).

    The key `access` (`seen_by`, where none is given and rows have that) becomes the column schema.SEEN_BY, the labels
    of `wbrag.units.access`. Files of rows are read twice: types first. Memory: one row group, 8 bytes a passage for the
    duplicate check, 100 where ids are made, the rejected rows. Errors as `read_examples`, and InputError for a key that
    no column can be called, and for `access` where no row has it or most values are no groups.
    """
    rejected, sorts = list[Rejected](), Counter[str]()
    others = _other_columns(given, columns or {}, words)
    key = access or (SEEN_BY.name if SEEN_BY.name in others.names else "")
    if key:
        _check_access(given, key, others)
        others = pa.schema(field for field in others if field.name != key)
    schema = pa.schema([*PASSAGE, *others, *([SEEN_BY] if key else [])])

    def parse(record: Record, layout: Layout | None) -> tuple[str, dict[str, Any]]:
        row = passage_row(record, layout)
        passage = passage_of(row)
        own = {name: getattr(passage, name) for name in PASSAGE.names} | fitted(row, others)
        return passage.id, own | ({SEEN_BY.name: _label(row, key)} if key else {})

    passages = _read(given, lambda: corpus_rows(given, columns or {}, words), parse, max_error_rate, rejected, sorts)
    rows = left_out = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        temporary = Path(folder) / out.name
        # Parquet has no page checksums by default, and a flipped bit is then read back without a word.
        with pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
            for group in _groups(passages):
                kept = [row for row in group if not (without and without(row))]
                writer.write_table(pa.Table.from_pylist(kept, schema))
                rows, left_out = rows + len(kept), left_out + len(group) - len(kept)
            if left_out:
                writer.add_key_value_metadata({LEFT_OUT: str(left_out)})
        os.replace(temporary, out)
    return CorpusReport(rows, rejected, sorts)


def passages_left_out(corpus: Path) -> int:
    """How many passages `write_corpus` was told to leave out of a Parquet file."""
    return int((pq.read_metadata(corpus).metadata or {}).get(LEFT_OUT.encode(), b"0"))


def _groups(passages: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The passages in lists of GROUP_ROWS, of long ones in shorter lists."""
    group, held = list[dict[str, Any]](), 0
    for passage in passages:
        group.append(passage)
        held += len(passage["text"])
        if len(group) == GROUP_ROWS or held >= GROUP_LETTERS:
            yield group
            group, held = [], 0
    if group:
        yield group


def corpus_rows(
    given: Given, columns: Mapping[str, str], words: int = WORDS, documents: bool = True
) -> Iterator[tuple[Record, Layout | None]]:
    """The rows of a corpus with their layouts; without those of `documents`, where they are not wanted."""
    for file in files_of(given):
        if not is_document(file.name):
            yield from _laid_out(file, PASSAGES, columns, words)
        elif documents:
            made = Layout(f"{READ_AS[kind_of(file.name)][0]} passages", {"text": "text"})
            yield from ((record, made) for record in records(file, words))


def some_passages(given: Given, columns: Mapping[str, str], words: int, wanted: int) -> list[Document]:
    """The first passages of a corpus that can be read."""
    found = list[Document]()
    for record, layout in islice(corpus_rows(given, columns, words), 4 * wanted):
        try:
            found.append(passage_of(passage_row(record, layout)))
        except BadRow:  # a run quarantines it, with its reason
            continue
    return found[:wanted]


def _laid_out(
    file: File, known: Sequence[Layout], columns: Mapping[str, str], words: int = WORDS
) -> Iterator[tuple[Record, Layout | None]]:
    """The rows of a file, each with the file's layout, which its first rows tell."""
    rows = records(file, words)
    first = list(islice(rows, LOOKED_AT))
    told = list[dict[str, Any]]()
    for one in first:
        with suppress(BadRow):
            told.append(_whole(one))
    layout = layout_of(told, known, columns)
    yield from ((record, layout) for record in chain(first, rows))


def _whole(record: Record) -> dict[str, Any]:
    """A record's row; BadRow where it has none, or a key that no column can have."""
    if isinstance(record.row, BadRow):
        raise record.row
    return {unicode_text(key, f"key {key}"): value for key, value in unwrapped(record.row).items()}


def question_row(record: Record, layout: Layout | None, labelled: bool) -> dict[str, Any]:
    """A record's row as FlashRAG has it; BadRow names its keys where no layout is known that has them, or the settings
    name others.
    """
    row = _whole(record)
    asked = as_question(row, layout, labelled)
    for part in ("question", "golden_answers") if layout not in QUESTIONS else ():
        key = layout.fields.get(part, part) if layout else part
        if key not in row and (labelled or part == "question"):
            told = f"no {key!r}; the row has {', '.join(row)}"
            raise BadRow(f"{told}: benchmark.columns={{{part}: KEY}} names the one that {part} is in")
    return asked


def passage_row(record: Record, layout: Layout | None) -> dict[str, Any]:
    """A record's row as FlashRAG has it; BadRow names its keys where no layout is known that has them."""
    row = _whole(record)
    if layout is None and "text" not in row and "contents" not in row:
        raise BadRow(
            f"text is missing or null; the row has {', '.join(row)}: corpus_columns.text=KEY names the one it is in"
        )
    return row if layout is None else as_passage(row, layout)


def _other_columns(given: Given, columns: Mapping[str, str], words: int) -> pa.Schema:
    """A corpus' columns beside id, title and text; InputError for a name that Lance cannot hold or has taken."""

    def rows() -> Iterator[dict[str, Any]]:
        for record, layout in corpus_rows(given, columns, words, documents=False):
            with suppress(BadRow):  # told where the rows are read
                row = _whole(record)
                yield as_passage(row, layout) if layout else row
        for file in filter(lambda one: is_document(one.name), files_of(given)):
            yield {key: 1 if key == "page" else key for key in READ_AS[kind_of(file.name)][1]}

    found = columns_of(rows())
    for name in found.names:
        if not name or "." in name or name == "vector":
            raise InputError(
                f"{_named(given)}: key {name!r}: a column cannot be called so; rename it (no dot, not 'vector')"
            )
    return found


def _check_access(given: Given, key: str, others: pa.Schema) -> None:
    """InputError where a corpus has no such key, or holds something else in it than groups."""
    if key not in others.names:
        there = ", ".join(others.names) or "no other"
        raise InputError(f"{_named(given)}: access={key!r}: no row says anything under this key, but under {there}")
    if key != SEEN_BY.name and SEEN_BY.name in others.names:
        raise InputError(
            f"{_named(given)}: has a key {SEEN_BY.name!r}, as labels are called, beside access={key!r}; rename it"
        )
    inner = others.field(key).type
    while pa.types.is_list(inner):
        inner = inner.value_type
    if not pa.types.is_string(inner):
        told = f"is {others.field(key).type} in most rows, not a group or a list of groups"
        raise InputError(f"{_named(given)}: access={key!r}: {told}")


def _label(row: Mapping[str, Any], key: str) -> Label:
    try:
        return label_of(row.get(key))
    except ValueError as error:
        raise BadRow(f"{key} {error}") from error


def examples_table(examples: Sequence[Example]) -> pa.Table:
    """The examples as an Arrow table (schema.EXAMPLE), in the order given."""
    return pa.table({name: [getattr(row, name) for row in examples] for name in EXAMPLE.names}, schema=EXAMPLE)


def check_benchmark(benchmark: Benchmark) -> None:
    """Raise ConfigError, naming key and value, for a task, metric, labels or split that cannot work."""
    known_metrics = (*metrics.METRICS, *metrics.elsewhere())
    known = {"task": TASKS, "metric": known_metrics, "language": metrics.LANGUAGES}
    check_values(benchmark, "benchmark.", known)
    if benchmark.metric == "label" and not benchmark.labels:
        raise ConfigError("benchmark.labels is empty, but benchmark.metric='label' maps answers to labels")
    if strange := set(benchmark.rows) - {"train", "test"}:
        raise ConfigError(f"benchmark.rows.{min(strange)}: no such split; known are train, test")
    check_columns(benchmark.columns, QUESTION_FIELDS, "benchmark.columns")
    if not benchmark.test and not 0 < benchmark.test_share < 1:
        told = "benchmark.test is empty: the share of the training questions that test, between 0 and 1, is needed"
        raise ConfigError(f"benchmark.test_share={benchmark.test_share}: {told}")
    try:
        metrics.spellings(benchmark.labels, benchmark.language)
    except ValueError as error:
        raise ConfigError(f"benchmark.labels: {error}") from error


def check_labels(
    examples: Iterable[pa.Table], labels: Mapping[str, Sequence[str]], path: Path, language: str = "en"
) -> None:
    """Raise InputError, naming file and example id, for the first golden answer that is no spelling of a label."""
    for some in examples:
        for key, answers in zip(some["id"].to_pylist(), some["golden_answers"].to_pylist(), strict=True):
            for answer in answers:
                try:
                    metrics.golden_label(answer, labels, language)
                except ValueError as error:
                    raise InputError(f"{path}: example {key!r}: {error}") from error


Laid = Callable[[], Iterator[tuple[Record, Layout | None]]]
Parse = Callable[[Record, Layout | None], tuple[str, Made]]


def _read(
    given: Given, rows: Laid, parse: Parse[Made], max_error_rate: float, rejected: list[Rejected], sorts: Counter[str]
) -> Iterator[Made]:
    # The valid rows, parsed with their id; bad ones go to `rejected`. Duplicates are raised after the last row; of
    # equal rows without ids the first stays.
    hashes, made, faults = array("q"), set[int](), 0
    for record, layout in rows():
        try:
            key, value = parse(record, layout)
            known = hash(key) in made
            if known and key.startswith(MADE):
                raise NotTaken("the same as a row before it, and without an id")
        except BadRow as error:
            fault = not isinstance(error, NotTaken)
            rejected.append(Rejected(record.file, record.line, str(error), record.shown, fault))
            faults += fault
            if fault and faults >= EARLY_REJECTED:
                _check_budget(given, len(hashes), rejected, max_error_rate)
            continue
        if key.startswith(MADE):
            made.add(hash(key))
        hashes.append(hash(key))
        sorts[layout.name if layout else "rows"] += 1
        yield value
    _check_budget(given, len(hashes), rejected, max_error_rate)
    _refuse_duplicates(hashes, rows, parse, made)


def _named(given: Given) -> str:
    return str(given) if isinstance(given, str | Path) else ", ".join(map(str, given))


def _check_budget(given: Given, valid: int, rejected: list[Rejected], max_error_rate: float) -> None:
    faults = [row for row in rejected if row.fault]
    rows = valid + len(faults)
    where = "" if not faults or faults[0].file == str(given) else f"{faults[0].file}, "
    first = f"; the first: {where}line {faults[0].line}: {faults[0].reason}" if faults else ""
    if valid == 0:
        others = len(rejected) - len(faults)
        more = f"; {others:,} rows were left out: {next(r for r in rejected if not r.fault).reason}" if others else ""
        empty = "" if rejected else "; it is empty"
        raise InputError(f"{_named(given)}: no valid row among {rows}{first}{more}{empty}")
    if len(faults) / rows > max_error_rate:
        share = f"{len(faults)} of {rows} rows are bad ({len(faults) / rows:.2%})"
        raise OverErrorBudget(f"{_named(given)}: {share}, max_error_rate={max_error_rate}{first}", rejected)


def _refuse_duplicates(hashes: array[int], rows: Laid, parse: Parse[Made], made: set[int]) -> None:
    # 8 bytes an id, where a set of the strings takes some 150: 170 MB for 21 M passages. Equal hashes are rare, so
    # only then is the file read again, which tells a duplicate (and its two lines) from a collision.
    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    first_lines: dict[str, tuple[str, int]] = {}
    for record, layout in rows():
        try:
            key = parse(record, layout)[0]
        except BadRow:
            continue
        here = (record.file, record.line)
        first = first_lines.setdefault(key, here) if hash(key) in suspects and hash(key) not in made else here
        if first != here:
            again = f"line {here[1]}" if first[0] == here[0] else f"line {here[1]} of {here[0]}"
            raise InputError(f"{first[0]}: id {key!r} is on line {first[1]} and again on {again}")
