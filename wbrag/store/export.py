"""A knowledge base as files that others read: FlashRAG's corpus.jsonl and flat index, and a Parquet table.

corpus.jsonl               {"id", "contents"}; line n is label n of the index
flat.index                 FAISS, inner product; float32 is what FlashRAG makes itself, float16 half the bytes
dataset/passages.parquet   the same rows with provenance: `datasets.load_dataset("<folder>/dataset")`
export.json                rows, versions, encoder, sha256 of each file
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag.store import rows
from wbrag.store.files import (
    StoreError,
    dump_json,
    fsync,
    move_into_place,
    scratch_folder,
    sha256_file,
    write_durable,
)
from wbrag.store.notes import noted_encoder
from wbrag.store.place import Place, Where, place_of
from wbrag.store.versions import Version, current

CORPUS, INDEX, TABLE, FACTS = "corpus.jsonl", "flat.index", "dataset/passages.parquet", "export.json"
#: A column of the Parquet table: the store that a row came from, by its place among those exported.
STORE = pa.field("store", pa.int32())


def export(stores: Sequence[Where], out: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write the live passages of these stores, one after the other, into the new folder `out`; returns export.json.

    dtype: float32 or float16, of the index, which is held in memory. The folder appears whole or not at all.
    StoreError: `out` is there already, a store without a version, stores of unlike encoders or dimensions, an id twice.
    """
    if out.exists():
        raise StoreError(f"{out}: is there already")
    sources = [(place_of(store), current(store)) for store in stores]
    for place, version in sources[1:]:
        _require_like(sources[0][1], place, version)
    ids = [chunk for place, version in sources for chunk in rows.ids_of(rows.opened(place, version)).chunks]
    rows.check_ids(pa.chunked_array(ids, type=pa.string()), " and ".join(map(str, stores)))
    with scratch_folder(out.absolute().parent) as scratch:
        folder = scratch / "export"
        (folder / "dataset").mkdir(parents=True)
        encoder = noted_encoder(*sources[0])
        facts = {
            "rows": _write(folder, sources, dtype),
            "dimension": sources[0][1].spec.dimension,
            "dtype": dtype,
            "fingerprint": sources[0][1].encoder,
            "encoder": asdict(encoder) if encoder else None,
            "stores": [{"path": str(place), "version": version.version} for place, version in sources],
            "sha256": {name: sha256_file(folder / name) for name in (CORPUS, INDEX, TABLE)},
        }
        write_durable(folder / FACTS, dump_json(facts))
        for path in (folder / CORPUS, folder / INDEX, folder / TABLE, (folder / TABLE).parent):
            fsync(path)  # or the folder could appear, after a power loss, with files cut short
        if not move_into_place(folder, out.absolute()):
            raise StoreError(f"{out}: is there already")
    return facts


def _require_like(first: Version, place: Place, version: Version) -> None:
    here, wanted = ((one.encoder, one.spec.space) for one in (version, first))
    if here != wanted:
        raise StoreError(f"{place}: (encoder, space) is {here}, that of the first {wanted}")


def _write(folder: Path, sources: Sequence[tuple[Place, Version]], dtype: str) -> int:
    """The three files, in one pass over the rows."""
    import faiss

    opened = [rows.opened(place, version) for place, version in sources]
    fields = pa.unify_schemas([*(data.schema for data in opened), pa.schema([STORE])])
    fields = fields.remove(fields.get_field_index(rows.VECTOR))
    dimension = sources[0][1].spec.dimension
    index: Any = faiss.IndexFlatIP(dimension)
    if dtype == "float16":
        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    with (
        (folder / CORPUS).open("w", encoding="utf-8") as corpus,
        pq.ParquetWriter(folder / TABLE, fields, compression="zstd") as table,
    ):
        for number, data in enumerate(opened):
            for block in rows.blocks(data):
                for row in block.select(["id", "title", "text"]).to_pylist():
                    contents = f"{row['title']}\n{row['text']}"
                    corpus.write(json.dumps({"id": row["id"], "contents": contents}, ensure_ascii=False) + "\n")
                table.write_table(_widened(block, fields, number))
                index.add(rows.vectors_of(block).astype(np.float32))
    faiss.write_index(index, str(folder / INDEX))
    return int(index.ntotal)


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
