"""What runs share about a question, found by its text: the documents retrieved for it, its closed-book answer.

A folder of the cache is named by all else that changes what lies there. A run that finds a question missing adds a
file, whole or not at all, and no file is ever changed: runs at once do each other no harm, at worst the same work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from wbrag.store.files import replace_file, scratch_folder

#: What such files are called. Arrow's own format: a row is looked up without its neighbours being read.
FILES = "*.arrow"


class SharedRows:
    """The rows of a folder as it is now; `schema` has the column `question`. The files are mapped, not read."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.files = [_mapped(file) for file in sorted(folder.glob(FILES))]
        self.places: dict[str, tuple[int, int]] = {}
        for number, rows in enumerate(self.files):
            for row, question in enumerate(rows["question"].to_pylist()):
                self.places.setdefault(question, (number, row))

    def missing(self, questions: Iterable[str]) -> list[str]:
        """Those of the questions that have no row, each once, in order."""
        return [question for question in dict.fromkeys(questions) if question not in self.places]

    def rows(self, questions: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """These columns of the questions' rows, in the order of the questions; KeyError for one that is `missing`."""
        places = [self.places[question] for question in questions]
        order = sorted(range(len(places)), key=places.__getitem__)
        found = [pa.schema([self.schema.field(name) for name in columns]).empty_table()]
        for number, some in groupby(order, lambda i: places[i][0]):
            rows = self.files[number].select(columns).take(pa.array([places[i][1] for i in some], pa.int64()))
            found.append(pa.Table.from_batches([rows]))
        back = sorted(range(len(order)), key=order.__getitem__)
        return pa.concat_tables(found).take(pa.array(back, pa.int64()))


def share(folder: Path, rows: pa.Table) -> None:
    """Add these rows, which have the column `question`, to a folder: one file as a rule, of one batch."""
    for batch in rows.combine_chunks().to_batches():
        with scratch_folder(folder) as scratch:
            file = scratch / f"{uuid4().hex}.arrow"
            with pa.ipc.new_file(str(file), batch.schema) as writer:
                writer.write_batch(batch)
            replace_file(file, folder / file.name)


def _mapped(file: Path) -> pa.RecordBatch:
    with pa.memory_map(str(file)) as source:  # closed, it stays mapped as long as the rows are there
        return pa.ipc.open_file(source).get_batch(0)
