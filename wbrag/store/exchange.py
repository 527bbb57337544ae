"""A knowledge base as FlashRAG's files: its corpus JSONL and flat FAISS index, and a Parquet table.

corpus.jsonl               {"id", "contents"}, "seen_by" where not everybody may see it; line n is label n of the index
flat.index                 FAISS, inner product; float32 is what FlashRAG makes itself, float16 half the bytes
dataset/passages.parquet   the same rows with provenance: `datasets.load_dataset("<folder>/dataset")`
export.json                rows, versions, encoder, sha256 of each file

`export` writes these; `adopt` makes a store of the first two without encoding the corpus again, once a few rows have
shown that the vectors are the encoder's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag import config
from wbrag.data.benchmarks import InputError, corpus_rows, passage_row, write_corpus
from wbrag.data.files import Given
from wbrag.data.flashrag import BadRow, passage_of
from wbrag.retrieval.encoder import Encoder
from wbrag.retrieval.encoding import open_encoder
from wbrag.schema import PASSAGE, SEEN_BY, contents_of
from wbrag.store import rows
from wbrag.store.build import addition, cut, read_rows
from wbrag.store.changes import publish, write_piece
from wbrag.store.files import StoreError, dump_json, move_into_place, scratch_folder, sha256_file
from wbrag.store.place import Where, place_of
from wbrag.store.search import check_groups
from wbrag.store.vectors import Spec, check_vectors, codes_of, empty_index, mapped, spec_of
from wbrag.store.versions import Version, check_encoder, current, encoder_note, latest, noted_encoder
from wbrag.units.access import EVERYBODY, NOBODY

CORPUS, INDEX, TABLE, FACTS = "corpus.jsonl", "flat.index", "dataset/passages.parquet", "export.json"
#: A column of the Parquet table: the store that a row came from, by its place among those exported.
STORE = pa.field("store", pa.int32())
#: Rows that are encoded again.
PROBES = 16
#: Least inner product of a stored vector with the encoder's own. Two runs of one model in fp16 differ by some 1e-4;
#: another prefix, pooling or length by more than 1e-2.
AGREEMENT = 0.999


def export(
    stores: Sequence[Where], out: Path, dtype: str = "float32", groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write the live passages of these stores, one after the other, into the new folder `out`; returns export.json.

    dtype: float32 or float16, of the index, which is held in memory. `groups`: only what a reader with these sees, as
    in `KnowledgeBase.search`; None: all. The folder appears whole or not at all. StoreError: `out` is there already, a
    store without a version, stores of unlike encoders, an id twice. ValueError: groups in one text.
    """
    check_groups(groups)
    if out.exists():
        raise StoreError(f"{out}: is there already")
    sources = [(place_of(store), current(store)) for store in stores]
    _, first = sources[0]
    for place, version in sources:
        check_encoder(str(place), version.encoder, *sources[0])
    opened = [rows.opened(place, version) for place, version in sources]
    ids = pa.concat_tables([data.to_table(columns=["id"]) for data in opened])["id"]
    rows.check_ids(ids, " and ".join(map(str, stores)))
    encoder = noted_encoder(*sources[0])
    with scratch_folder(out.absolute().parent) as scratch:
        folder = scratch / "export"
        (folder / "dataset").mkdir(parents=True)
        facts = {
            "rows": _write(folder, opened, first.spec.dimension, dtype, groups),
            "dimension": first.spec.dimension,
            "dtype": dtype,
            "groups": None if groups is None else sorted(groups),
            "fingerprint": first.encoder,
            "encoder": asdict(encoder) if encoder else None,
            "stores": [{"path": str(place), "version": version.version} for place, version in sources],
            "sha256": {name: sha256_file(folder / name) for name in (CORPUS, INDEX, TABLE)},
        }
        (folder / FACTS).write_bytes(dump_json(facts))
        if not move_into_place(folder, out.absolute()):
            raise StoreError(f"{out}: is there already")
    return facts


def _write(folder: Path, opened: Sequence[Any], dimension: int, dtype: str, groups: Sequence[str] | None) -> int:
    """The three files, in one pass over the rows of these datasets; how many rows they have."""
    import faiss

    every = pa.unify_schemas([*(data.schema for data in opened), pa.schema([STORE])])
    fields = every.remove(every.get_field_index(rows.VECTOR))
    labelled = SEEN_BY.name in fields.names
    index: Any = empty_index(Spec("flat_fp16", dimension)) if dtype == "float16" else faiss.IndexFlatIP(dimension)
    with (
        (folder / CORPUS).open("w", encoding="utf-8") as corpus,
        pq.ParquetWriter(folder / TABLE, fields, compression="zstd") as table,
    ):
        for number, data in enumerate(opened):
            for block in rows.blocks(data):
                told = rows.filled(block.append_column(STORE, pa.array([number] * len(block), STORE.type)), every)
                if labelled and groups is not None:
                    told = told.filter(pa.array(rows.readable(told[SEEN_BY.name], groups)))
                for row in told.select([*PASSAGE.names, *([SEEN_BY.name] if labelled else [])]).to_pylist():
                    corpus.write(json.dumps(_line(row), ensure_ascii=False) + "\n")
                if len(told):
                    index.add(rows.vectors_of(told).astype(np.float32))
                table.write_table(told.drop_columns([rows.VECTOR]))
    faiss.write_index(index, str(folder / INDEX))
    return int(index.ntotal)


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a line of the corpus; its label, if it has one, so that `write_corpus` reads the same again."""
    line = {"id": row["id"], "contents": contents_of(row)}
    label = row.get(SEEN_BY.name, EVERYBODY)
    return line if label == EVERYBODY else line | {SEEN_BY.name: NOBODY if label is None else label}


def adopt(
    corpus: Given,
    index: Path,
    store: Where,
    encoder: config.Encoder,
    note: dict[str, Any],
    columns: Mapping[str, str] | None = None,
    access: str = "",
) -> Version:
    """Publish a corpus, as `write_corpus` reads it, and its flat inner-product index (float32 or fp16) as one version
    of `store`.

    Label n of the index is passage n of the corpus; `encoder` is what the vectors were made with, `access` as in
    `write_corpus`. The store holds them rounded to fp16, and the titles without FlashRAG's quotes; probe passages are
    encoded as their line has them.
    StoreError, with both values: another number of rows, kind of index or dimension, a probe row that does not agree,
    vectors that are not unit norm. InputError or OverErrorBudget: a line that is no passage.
    """
    place, flat = place_of(store), _open_flat(index)
    made, opened = codes_of(flat), open_encoder(encoder)
    if made.shape[1] != opened.dimension:
        raise StoreError(f"{index}: dimension is {made.shape[1]}, encoder {encoder.name!r} has {opened.dimension}")
    _probe(corpus, index, made, opened, columns or {})
    spec = spec_of("flat_fp16", opened.dimension)
    with place.scratch() as scratch:
        table = scratch / "corpus.parquet"
        lines = write_corpus(corpus, table, max_error_rate=0.0, columns=columns, access=access).passages
        if lines != len(made):
            raise StoreError(f"{index}: {len(made)} vectors for the {lines} passages of {corpus}")
        parent = latest(place)
        schema = rows.schema_in(place, parent, pq.read_schema(table), spec.dimension)

        def piece(numbers: np.ndarray) -> rows.Piece:
            vectors = made[numbers].astype(np.float16)
            check_vectors(vectors, f"{index}: from row {numbers[0]} on")
            return write_piece(place, rows.with_vectors(read_rows(table, numbers), vectors, schema), spec)

        pieces = tuple(map(piece, cut(addition(place, table, parent).added, config.Index.fragment_rows)))
    if not pieces:
        return current(place)
    return publish(place, pieces, spec, opened.fingerprint, {**note, **encoder_note(encoder)})


def _open_flat(index: Path) -> Any:  # noqa: ANN401 - one of two classes
    """A flat inner-product FAISS file, mapped. StoreError for any other: its labels need not be a corpus' lines."""
    import faiss

    flat = mapped(index)
    fp16 = getattr(getattr(flat, "sq", None), "qtype", None) == faiss.ScalarQuantizer.QT_fp16
    known = isinstance(flat, faiss.IndexFlat) or (isinstance(flat, faiss.IndexScalarQuantizer) and fp16)
    if not known or flat.metric_type != faiss.METRIC_INNER_PRODUCT:
        found = f"{type(flat).__name__} with metric {flat.metric_type}"
        told = f"{found}, not IndexFlat or fp16 IndexScalarQuantizer with inner product (0)"
        raise StoreError(f"{index}: is {told}; a flat one of its vectors, in the corpus' order, is taken")
    if not flat.ntotal:
        raise StoreError(f"{index}: holds no vectors")
    return flat


def _probe(corpus: Given, index: Path, made: np.ndarray, encoder: Encoder, columns: Mapping[str, str]) -> None:
    """StoreError, with both where they differ most, for the first probe row whose vector is not the encoder's."""
    wanted = sorted({int(row) for row in np.linspace(0, len(made) - 1, PROBES)})
    texts = []
    for row, (record, layout) in enumerate(islice(corpus_rows(corpus, columns), wanted[-1] + 1)):
        if row in wanted:
            try:
                told = passage_row(record, layout)
                passage = passage_of(told)
            except BadRow as error:
                raise InputError(f"{corpus}: passage {row}: {error}") from error
            texts.append(told.get("contents", passage.contents).strip())
    if len(texts) < len(wanted):
        raise StoreError(f"{index}: {len(made)} vectors, but {corpus} has no passage {wanted[len(texts)]}")
    for row, own in zip(wanted, encoder.encode_passages(texts), strict=True):
        theirs, ours = made[row].astype(np.float32), own.astype(np.float32)
        if not (agreement := float(theirs @ ours)) >= AGREEMENT:
            most = np.argsort(-np.abs(theirs - ours))[:3]
            told, wants = (np.round(vector[most].astype(float), 4).tolist() for vector in (theirs, ours))
            both = f"has {told} where the encoder makes {wants} of its passage in {corpus}"
            raise StoreError(f"{index}: row {row} {both}; inner product {agreement:.4f}, {AGREEMENT} is needed")
