"""Search by words: a full-text index (Okapi BM25, Lance's) over the passages of a store's version.

Like FAISS's files it is made of the rows, named by them, and made again where it is missing: beside a store in a
folder, in this machine's cache for one in S3. Words are what stands between blanks and punctuation, in small letters
and without accents; nothing is taken for a stop word and nothing is stemmed, so no language is preferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from wbrag.retrieval.encoder import passage_text
from wbrag.schema import PASSAGE
from wbrag.store import rows
from wbrag.store.files import move_into_place, scratch_folder
from wbrag.store.place import DATA, Place
from wbrag.store.versions import Version

FOLDER = "fulltext"
#: What is indexed of a passage: the address of its row, its id, and what an encoder reads of it.
INDEXED = pa.schema([("address", pa.uint64()), ("id", pa.string()), ("contents", pa.string())])
#: Address of the row, id, BM25 score.
Hit: TypeAlias = tuple[int, str, float]
HOW: dict[str, Any] = {"base_tokenizer": "simple", "lower_case": True, "ascii_folding": True}
HOW |= {"stem": False, "remove_stop_words": False, "with_position": False}


def fulltext_name(version: Version) -> str:
    """What the index of a version is called: by its rows, so that versions with the same rows share it."""
    return version.files[f"{DATA}/_versions/d{version.lance}.manifest"][1][:32]


class FullText:
    """The passages of a version, searched by words; made if it is not there, which reads them all once."""

    def __init__(self, place: Place, version: Version) -> None:
        import lance

        self.live = version.rows
        folder = (place.kept.parent if place.remote else Path(place.root)) / FOLDER / fulltext_name(version)
        if not folder.is_dir():
            _made(place, version, folder)
        self.data = lance.dataset(str(folder))

    def best(self, question: str, n: int) -> list[Hit]:
        """The n best passages of a question, best first, of equal scores by id; fewer where fewer share a word."""
        from lance.query import MatchQuery

        if not n or not self.live:
            return []
        words = MatchQuery(question, "contents")
        asked = self.data.scanner(columns=["address", "id", "_score"], full_text_query=words, limit=n)
        found = sorted(asked.to_table().to_pylist(), key=lambda row: (-row["_score"], row["id"]))
        return [(row["address"], row["id"], row["_score"]) for row in found]


def _made(place: Place, version: Version, folder: Path) -> None:
    import lance

    with scratch_folder(folder.parent) as scratch:
        reader = pa.RecordBatchReader.from_batches(INDEXED, _contents(place, version))
        data = lance.write_dataset(reader, str(scratch / "made"), schema=INDEXED)
        if version.rows:
            data.create_scalar_index("contents", "INVERTED", **HOW)
        move_into_place(scratch / "made", folder)  # another process may have made it meanwhile


def _contents(place: Place, version: Version) -> Iterator[pa.RecordBatch]:
    scanner = rows.opened(place, version).scanner(columns=PASSAGE.names, with_row_address=True, batch_size=rows.BLOCK)
    for batch in scanner.to_batches():
        pairs = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
        contents = pa.array([passage_text(*pair) for pair in pairs], pa.string())
        yield pa.record_batch([batch["_rowaddr"], batch["id"], contents], schema=INDEXED)
