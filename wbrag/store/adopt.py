"""A base that others built - FlashRAG's corpus JSONL and flat FAISS index - as a store, without encoding it again.

The label of the index is the line of the corpus, so every line has to be a passage. Whether the vectors are what the
encoder would make of these passages is tried on a few rows before anything is published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wbrag import config
from wbrag.data.benchmarks import InputError, write_corpus
from wbrag.data.flashrag import BadRow, parse_passage
from wbrag.retrieval.encoder import Encoder, open_encoder
from wbrag.store.build import new_rows, read_rows
from wbrag.store.changes import Content, publish, write_piece
from wbrag.store.files import StoreError
from wbrag.store.notes import encoder_note
from wbrag.store.place import Place, Where, place_of
from wbrag.store.rows import Piece, schema_of, with_vectors
from wbrag.store.vectors import Spec, check_vectors, spec_of
from wbrag.store.versions import Version, current, latest

#: Rows that are encoded again.
PROBES = 16
#: Least inner product of a stored vector with the encoder's own. Two runs of one model in fp16 differ by some 1e-4;
#: another prefix, pooling or length by more than 1e-2.
AGREEMENT = 0.999


def adopt(
    corpus: Path,
    index: Path,
    store: Where,
    encoder: config.Encoder,
    note: dict[str, Any],
    opened: Encoder | None = None,
) -> Version:
    """Publish a corpus (FlashRAG JSONL) and its flat inner-product index (float32 or fp16) as one version of `store`.

    `encoder` is what the vectors were made with (`opened`: the same, open already). The store holds them rounded to
    fp16, and the titles without FlashRAG's quotes; probe passages are encoded as their line has them. StoreError, with
    both values: another number of rows, another kind of index, a dimension that is not the encoder's, a probe row that
    does not agree, vectors that are not unit norm. InputError or OverErrorBudget for a line that is no passage.
    """
    place = place_of(store)
    owner, made = open_flat(index)
    opened = opened or open_encoder(encoder)
    if made.shape[1] != opened.dimension:
        raise StoreError(f"{index}: dimension is {made.shape[1]}, encoder {encoder.name!r} has {opened.dimension}")
    _probe(corpus, index, made, opened)
    with place.scratch() as scratch:
        table = scratch / "corpus.parquet"
        lines = write_corpus(corpus, table, max_error_rate=0.0).passages
        if lines != len(made):
            raise StoreError(f"{index}: {len(made)} vectors for the {lines} passages of {corpus}")
        spec = spec_of("flat_fp16", made.shape[1])
        new = new_rows(place, [table], latest(place))
        pieces = tuple(_pieces(place, table, index, made, new, spec))
    del made, owner  # the map of the file goes with its index
    if not pieces:
        return current(place)
    return publish(place, Content(pieces, spec, opened.fingerprint), {**note, **encoder_note(encoder)})


def _pieces(place: Place, table: Path, index: Path, made: np.ndarray, new: np.ndarray, spec: Spec) -> Iterator[Piece]:
    """The `new` rows of the table with their vectors, rounded to fp16, as fragments."""
    for start in range(0, len(new), config.Index.fragment_rows):
        numbers = new[start : start + config.Index.fragment_rows]
        vectors = made[numbers].astype(np.float16)
        check_vectors(vectors, f"{index}: from row {numbers[0]} on")
        passages = read_rows([table], numbers)
        yield write_piece(place, with_vectors(passages, vectors, schema_of(passages.schema, spec.dimension)), spec)


def open_flat(index: Path) -> tuple[Any, np.ndarray]:
    """A flat inner-product FAISS file and its vectors, (n, d) float32 or float16, mapped while the first lives.

    StoreError for any other kind of index: its labels need not be the lines of a corpus.
    """
    import faiss

    try:
        flat: Any = faiss.read_index(str(index), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise StoreError(f"{index}: FAISS cannot read it: {error}") from error
    fp16 = getattr(getattr(flat, "sq", None), "qtype", None) == faiss.ScalarQuantizer.QT_fp16
    known = isinstance(flat, faiss.IndexFlat) or (isinstance(flat, faiss.IndexScalarQuantizer) and fp16)
    if not known or flat.metric_type != faiss.METRIC_INNER_PRODUCT:
        found = f"{type(flat).__name__} with metric {flat.metric_type}"
        raise StoreError(f"{index}: is {found}, not IndexFlat or fp16 IndexScalarQuantizer with inner product (0)")
    codes = np.asarray(faiss.rev_swig_ptr(flat.codes.data(), flat.ntotal * flat.code_size))
    return flat, codes.view(np.float16 if fp16 else np.float32).reshape(flat.ntotal, flat.d)


def _probe(corpus: Path, index: Path, made: np.ndarray, encoder: Encoder) -> None:
    """StoreError, with both vectors' beginnings, for the first probe row that the encoder makes another vector of."""
    rows = sorted({int(row) for row in np.linspace(0, len(made) - 1, PROBES)})
    lines = dict(_contents(corpus, rows))
    if len(lines) < len(rows):
        raise StoreError(f"{index}: {len(made)} vectors, but {corpus} has no passage {rows[len(lines)]}")
    for row, own in zip(rows, encoder.encode_passages([lines[row] for row in rows]), strict=True):
        agreement = float(made[row].astype(np.float32) @ own.astype(np.float32))
        if not agreement >= AGREEMENT:
            both = f"{_shown(made[row])}, the encoder makes {_shown(own)} of its passage in {corpus}"
            raise StoreError(f"{index}: row {row} is {both}; inner product {agreement:.4f}, {AGREEMENT} is needed")


def _contents(corpus: Path, rows: list[int]) -> Iterator[tuple[int, str]]:
    """Row and text of these passages as their lines have them, for as many as there are."""
    wanted = set(rows)
    with corpus.open("rb") as lines:
        for row, line in enumerate(line for line in lines if line.strip()):
            if row in wanted:
                try:
                    passage = parse_passage(line)
                except BadRow as error:
                    raise InputError(f"{corpus}: passage {row}: {error}") from error
                yield row, json.loads(line).get("contents", passage.contents).strip()
            if row >= rows[-1]:
                return


def _shown(vector: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in vector[:3]) + ", ...]"
