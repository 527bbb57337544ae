"""What is left of passages that were purged: their ids and the hashes of what they said, so that none comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wbrag.run.folder import read_record, write_record, write_rows
from wbrag.schema import PASSAGE

#: The file of a run's tombstones.
TOMBSTONES = "purged.json"
#: By id, the hashes (`said`) of all that a passage was known to say.
Tombstones = Mapping[str, Collection[str]]


def tombstones(run: Path) -> dict[str, list[str]]:
    """The passages that were purged from a run's knowledge base; {} where there are none."""
    file = run / TOMBSTONES
    return {key: list(hashes) for key, hashes in read_record(file).items()} if file.exists() else {}


def bury(run: Path, stones: Tombstones) -> None:
    """Keep these tombstones, in place of those that there were; without any there is no file."""
    if not stones:
        (run / TOMBSTONES).unlink(missing_ok=True)
        return
    write_record(run / TOMBSTONES, {key: sorted(hashes) for key, hashes in sorted(stones.items())})


def said(title: str, text: str) -> str:
    """64 hex digits of what a passage says."""
    return hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()


def purged_by(stones: Tombstones) -> Callable[[Mapping[str, str]], bool]:
    """Tells of a passage whether it may not come back: its id was purged, whatever it says by now, or what it says was,
    whatever it is called.
    """
    hashes = {one for told in stones.values() for one in told}
    return lambda row: row["id"] in stones or said(row["title"], row["text"]) in hashes


def corpus_without(corpus: Path, stones: Tombstones, copy: Path) -> Path:
    """A Parquet file of passages without those that may not come back, a copy where there are such tombstones."""
    if not stones:
        return corpus
    away, file = purged_by(stones), pq.ParquetFile(corpus)

    def left() -> Iterator[pa.Table]:
        for batch in file.iter_batches():
            some = pa.Table.from_batches([batch])
            yield some.filter(pa.array([not away(row) for row in some.select(PASSAGE.names).to_pylist()], pa.bool_()))

    write_rows(copy, file.schema_arrow, left())
    return copy
