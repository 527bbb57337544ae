"""What runs share in the cache: the hashes of files, and what is found by a question's text, the documents retrieved
for it and its closed-book answer.

A folder of the cache is named by all else that changes what lies there. A run that finds a question missing adds a
file, whole or not at all, and no file is ever changed: runs at once do each other no harm, at worst the same work.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from wbrag.config import fingerprint
from wbrag.run.folder import write_text
from wbrag.run.lookup import FILES, Keyed, Rows, write_batch
from wbrag.store.files import replace_file, scratch_folder, sha256_file

#: A file that was changed so shortly before it was hashed may be changed once more without getting another time.
SETTLED_NS = 2_000_000_000


def content_hash(path: Path, cache: Path) -> str:
    """sha256 of a file's content, 64 hex digits; noted in `cache` by its absolute path, size and times.

    Where these are as noted the file is not read, unless it had been changed less than 2 s before it was hashed. A
    note is one file and is written whole, so that of runs that hash at once the last one's stays.
    """
    path, hashed = path.absolute(), time.time_ns()
    stat = path.stat()
    # The time of the last change of any kind tells apart what was put there with the times of another file.
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    note = cache / "hashes" / f"{fingerprint(str(path))}.json"
    with suppress(FileNotFoundError, ValueError):  # no note, or what a crash of the machine left of one
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == state and known["hashed_ns"] - stat.st_mtime_ns >= SETTLED_NS:
            return str(known["sha256"])
    found = sha256_file(path)
    told = {"file": str(path), "state": state, "hashed_ns": hashed, "sha256": found}
    write_text(note, json.dumps(told) + "\n")
    return found


class SharedRows(Keyed):
    """The rows of a folder as it is now, found by their question; `schema` has the column `question`."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        super().__init__(Rows.of(sorted(folder.glob(FILES)), schema), "question")


def share(folder: Path, rows: pa.Table) -> None:
    """Add these rows, which have the column `question`, to a folder: one file as a rule, of one batch."""
    for batch in rows.combine_chunks().to_batches():
        with scratch_folder(folder) as scratch:
            file = scratch / f"{uuid4().hex}.arrow"
            write_batch(file, batch)
            replace_file(file, folder / file.name)
