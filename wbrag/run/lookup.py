"""Tables of any size with a few rows in memory: rows by number, and rows by the text in a column.

A table lies in Arrow files of one batch each. A file is mapped while rows are copied out of it and then let go, so that
what a process holds of a table is 8 bytes a row, and 16 more where its rows are found by their text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wbrag.store.files import replace_file, scratch_folder

Numbers = npt.NDArray[np.int64]
#: An Arrow array of strings, chunked or not; pyarrow has no types to say so.
Texts = Any

#: What the files of a table are called. Arrow's own format: a row is read without its neighbours.
FILES = "*.arrow"
#: Rows of a table that are in memory at once, and rows of a file.
BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of files, or of batches in memory, laid end to end: those that `numbers` names, in that order.

    `starts` are the numbers at which the `parts` begin, and the one after the last.
    """

    parts: tuple[Path | pa.RecordBatch, ...]
    starts: Numbers
    numbers: Numbers
    schema: pa.Schema

    @classmethod
    def of(cls, parts: Iterable[Path | pa.RecordBatch], schema: pa.Schema) -> Rows:
        """All rows of these parts."""
        parts = tuple(parts)
        starts = np.cumsum([0, *(_opened(part).num_rows for part in parts)], dtype=np.int64)
        return cls(parts, starts, np.arange(starts[-1], dtype=np.int64), schema)

    @classmethod
    def written(cls, folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> Rows:
        """The rows of these tables, each written into a file of its own in a folder that has none yet, or is new."""
        folder.mkdir(exist_ok=True)
        for number, table in enumerate(tables):
            for batch in table.combine_chunks().to_batches():  # one, or none of a table without rows
                write_batch(folder / f"{number:06d}.arrow", batch)
        return cls.of(sorted(folder.glob(FILES)), schema)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for some in self.batches():
            yield from some.to_pylist()

    def __add__(self, other: Rows) -> Rows:
        """These rows and then the others, which have the same schema."""
        end = self.starts[-1]
        starts = np.concatenate([self.starts[:-1], other.starts + end])
        numbers = np.concatenate([self.numbers, other.numbers + end])
        return replace(self, parts=(*self.parts, *other.parts), starts=starts, numbers=numbers)

    def chosen(self, places: Numbers) -> Rows:
        """The rows at these places, in this order."""
        return replace(self, numbers=self.numbers[places])

    def take(self, places: Numbers, columns: Sequence[str] | None = None) -> pa.Table:
        """A copy of the rows at these places, in this order; of these columns alone, where they are given."""
        names = list(columns or self.schema.names)
        numbers = self.numbers[places]
        of = np.searchsorted(self.starts, numbers, side="right") - 1
        order, taken = np.argsort(of, kind="stable"), []
        for here in np.split(order, np.flatnonzero(np.diff(of[order])) + 1) if len(order) else ():
            part = of[here[0]]
            rows = pa.array(numbers[here] - self.starts[part])
            taken.append(_opened(self.parts[part]).select(names).take(rows))
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches(taken, schema).combine_chunks().take(pa.array(back))

    def column(self, name: str) -> pa.Array:
        """One column of all rows."""
        parts = [chunk for some in self.batches([name]) for chunk in some[name].chunks]
        return pa.chunked_array(parts, self.schema.field(name).type).combine_chunks()

    def batches(self, columns: Sequence[str] | None = None, size: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """All rows, so many at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))), columns)


class Keyed:
    """Rows that are found by the text in a column: sorted 64-bit hashes say where it may stand, and it is compared."""

    def __init__(self, table: Rows, key: str) -> None:
        self.table, self.key = table, key
        hashes = hashed(some[key] for some in table.batches([key]))
        self.places = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.places]

    def find(self, keys: Texts) -> Numbers:
        """The place of each key among the rows, of equal rows the first one's; -1 where none has it."""
        wanted, found = hashed([keys]), np.full(len(keys), -1, dtype=np.int64)
        at, left = np.searchsorted(self.hashes, wanted), np.arange(len(keys))
        while True:  # one turn, but for hashes that two texts share
            left = left[at[left] < len(self.hashes)]
            left = left[self.hashes[at[left]] == wanted[left]]
            if not len(left):
                return found
            places = self.places[at[left]]
            there = self.table.take(places, [self.key])[self.key]
            same = np.asarray(pc.equal(there, keys.take(pa.array(left))))
            found[left[same]] = places[same]
            left = left[~same]
            at[left] += 1

    def known(self, keys: Texts) -> Numbers:
        """As `find`; KeyError for a key that no row has."""
        places = self.find(keys)
        if (places < 0).any():
            raise KeyError(keys[int(np.argmin(places))].as_py())
        return places

    def rows(self, keys: Texts, columns: Sequence[str]) -> pa.Table:
        """These columns of the keys' rows, in the order of the keys; KeyError as `known`."""
        return self.table.take(self.known(keys), columns)

    def missing(self, asked: Rows) -> Rows:
        """Those of the rows asked for whose key no row here has, of equal ones the first, in order."""
        known = [self.find(some[self.key]) >= 0 for some in asked.batches([self.key])]
        new = asked.chosen(np.flatnonzero(~np.concatenate([np.empty(0, dtype=bool), *known])))
        own = Keyed(new, self.key)
        first = [own.find(some[self.key]) for some in new.batches([self.key])]
        return new.chosen(np.unique(np.concatenate([np.empty(0, dtype=np.int64), *first])))


class SharedRows(Keyed):
    """The rows of a folder as it is now, found by their question; `schema` has the column `question`.

    A folder of the cache holds what runs share of a question: its documents, or its closed-book answer, and is named by
    all else that changes what lies there. A run that finds a question missing adds a file, whole or not at all, and no
    file is ever changed: runs at once do each other no harm, at worst the same work.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        super().__init__(Rows.of(sorted(folder.glob(FILES)), schema), "question")


def share(folder: Path, rows: pa.Table) -> None:
    """Add these rows, which have the column `question`, to a folder: one file as a rule, of one batch."""
    for batch in rows.combine_chunks().to_batches():
        with scratch_folder(folder) as scratch:
            file = scratch / f"{uuid4().hex}.arrow"
            write_batch(file, batch)
            replace_file(file, folder / file.name)


def hashed(parts: Iterable[Texts]) -> Numbers:
    """The 64-bit hashes of strings, one array after the other: Python's own, so the same within this process alone."""
    every = [np.fromiter(map(hash, part.to_pylist()), np.int64, len(part)) for part in parts]
    return np.concatenate([np.empty(0, dtype=np.int64), *every])


def distinct(parts: Callable[[], Iterable[Texts]]) -> tuple[int, int]:
    """How many strings there are, and how many different ones; `parts` gives them anew each time."""
    hashes = np.sort(hashed(parts()))
    alike = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(alike):
        return len(hashes), len(hashes)
    suspects = [key for part in parts() for key in part.filter(pa.array(np.isin(hashed([part]), alike))).to_pylist()]
    return len(hashes), len(hashes) - len(suspects) + len(set(suspects))


def sorted_places(keys: Iterable[str]) -> Numbers:
    """The places of strings in their order; equal ones stay as they are. Held of them are their own bytes, by Arrow."""
    parts = (pa.array(some, pa.string()) for some in batched(keys))
    texts = pa.chunked_array(list(parts), pa.string()).combine_chunks()
    return np.asarray(pc.sort_indices(texts), dtype=np.int64)


def batched(some: Iterable[Any]) -> Iterator[list[Any]]:
    """The things in lists of BATCH_ROWS."""
    left = iter(some)
    while part := list(islice(left, BATCH_ROWS)):
        yield part


def write_batch(file: Path, batch: pa.RecordBatch) -> None:
    """Write an Arrow file of one batch."""
    with pa.ipc.new_file(str(file), batch.schema) as writer:
        writer.write_batch(batch)


def _opened(part: Path | pa.RecordBatch) -> pa.RecordBatch:
    if isinstance(part, pa.RecordBatch):
        return part
    with pa.memory_map(str(part)) as source:  # closed, it stays mapped as long as the batch is there
        return pa.ipc.open_file(source).get_batch(0)
