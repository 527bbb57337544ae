"""A knowledge base as files that others read: FlashRAG's corpus.jsonl and flat index, and a Parquet table.

corpus.jsonl               {"id", "contents"}; line n is label n of the index
flat.index                 FAISS, inner product; float32 is what FlashRAG makes itself, float16 half the bytes
dataset/passages.parquet   the same rows with provenance: `datasets.load_dataset("<folder>/dataset")`
export.json                rows, versions, encoder, sha256 of each file
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag.store.faissfile import write_flat
from wbrag.store.files import StoreError, dump_json, fsync, move_into_place, scratch_folder, sha256_file, write_durable
from wbrag.store.live import Live
from wbrag.store.manifest import Manifest, latest
from wbrag.store.notes import noted_encoder
from wbrag.store.passages import check_ids
from wbrag.store.segment import open_ref
from wbrag.store.storage import Store
from wbrag.store.vectors import rows_of

CORPUS, INDEX, TABLE, FACTS = "corpus.jsonl", "flat.index", "dataset/passages.parquet", "export.json"
#: Rows held in memory at once.
BLOCK = 16_384
#: A column of the Parquet table: the store that a row came from, by its place among those exported.
STORE = pa.field("store", pa.int32())


@dataclass(frozen=True)
class _Rows:
    """The live rows of one store's current version."""

    store: Store
    manifest: Manifest
    live: Live

    def schema(self) -> pa.Schema:
        files = self.live.files
        return files[0].file.schema_arrow.remove_metadata() if files else pa.schema([])

    def blocks(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Passages and their vectors (n, d) float16, in order of rows."""
        for ref in self.live.refs:
            segment = open_ref(self.store, ref)
            alive = np.setdiff1d(np.arange(ref.rows), self.live.dead - ref.row_start)
            for start in range(0, len(alive), BLOCK):
                rows = alive[start : start + BLOCK]
                yield segment.passages.take(rows), rows_of(segment.index, rows)


def export(stores: Sequence[Store], out: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write the live passages of these stores, one after the other, into the new folder `out`; returns export.json.

    dtype: float32 or float16, of the index. The folder appears whole or not at all. StoreError: `out` is there
    already, a store without a version, stores of unlike encoders or dimensions, an id that lives in two of them.
    """
    if out.exists():
        raise StoreError(f"{out}: is there already")
    sources = [_rows_of_store(store) for store in stores]
    first = sources[0].manifest
    for source in sources:
        _require_like(first, source)
    ids = [chunk for source in sources for chunk in source.live.ids().chunks]
    check_ids(pa.chunked_array(ids, type=pa.string()), " and ".join(map(str, stores)))
    with scratch_folder(out.absolute().parent) as scratch:
        folder = scratch / "export"
        (folder / "dataset").mkdir(parents=True)
        encoder = noted_encoder(stores)
        rows = _write(folder, sources, first.spec.dimension, dtype)
        facts = {
            "rows": rows,
            "dimension": first.spec.dimension,
            "dtype": dtype,
            "fingerprint": first.encoder,
            "encoder": asdict(encoder) if encoder else None,
            "stores": [{"path": str(source.store), "version": source.manifest.version} for source in sources],
            "sha256": {name: sha256_file(folder / name) for name in (CORPUS, INDEX, TABLE)},
        }
        write_durable(folder / FACTS, dump_json(facts))
        for path in (folder / CORPUS, folder / INDEX, folder / TABLE, (folder / TABLE).parent):
            fsync(path)  # or the folder could appear, after a power loss, with files cut short
        if not move_into_place(folder, out.absolute()):
            raise StoreError(f"{out}: is there already")
    return facts


def _rows_of_store(store: Store) -> _Rows:
    manifest = latest(store)
    if manifest is None:
        raise StoreError(f"{store}: no version was ever published there")
    return _Rows(store, manifest, Live(store, manifest))


def _require_like(first: Manifest, source: _Rows) -> None:
    here, wanted = ((manifest.encoder, manifest.spec.space) for manifest in (source.manifest, first))
    if here != wanted:
        raise StoreError(f"{source.store}: (encoder, space) is {here}, that of the first {wanted}")


def _write(folder: Path, sources: list[_Rows], dimension: int, dtype: str) -> int:
    """The three files, in one pass over the rows."""
    fields = pa.unify_schemas([*(source.schema() for source in sources), pa.schema([STORE])])
    with (
        (folder / CORPUS).open("w", encoding="utf-8") as corpus,
        pq.ParquetWriter(folder / TABLE, fields, compression="zstd") as table,
    ):

        def vectors() -> Iterator[np.ndarray]:
            for number, source in enumerate(sources):
                for passages, block in source.blocks():
                    for row in passages.select(["id", "title", "text"]).to_pylist():
                        contents = f"{row['title']}\n{row['text']}"
                        corpus.write(json.dumps({"id": row["id"], "contents": contents}, ensure_ascii=False) + "\n")
                    table.write_table(_widened(passages, fields, number))
                    yield block.astype(dtype)

        return write_flat(folder / INDEX, vectors(), dimension, dtype)


def _widened(passages: pa.Table, fields: pa.Schema, store: int) -> pa.Table:
    """The passages with all columns, null where their store has none."""
    columns = [
        passages[field.name]
        if field.name in passages.column_names
        else pa.array([store] * len(passages), STORE.type)
        if field.name == STORE.name
        else pa.nulls(len(passages), field.type)
        for field in fields
    ]
    return pa.table(columns, schema=fields)
