"""A store's new version, built on Ray: passages -> fp16 vectors -> fragments with their indices -> one version.

An encoder actor turns 1,024 passages into a file of vectors, a task turns the rows of one fragment into Lance and FAISS
files; the driver passes numbers of rows and names of files. Rows are always encoded in the same groups, so that the
bytes of an index do not depend on how many actors there are. Everything lies in the store's own place until the version
is published, in S3 too: a build that was killed goes on where it stopped when it is asked for again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbrag import config
from wbrag.retrieval.encoder import Encoder, passage_text
from wbrag.retrieval.encoding import Encoders, lent
from wbrag.schema import PASSAGE
from wbrag.store import rows
from wbrag.store.changes import Content, LiveError, publish, write_piece
from wbrag.store.files import StoreError, dump_json, sha256_file
from wbrag.store.place import Place, Where, place_of
from wbrag.store.rows import Piece, check_ids, conform
from wbrag.store.vectors import TRAINING_ROWS, Spec, check_index, spec_of, template_name, train_template
from wbrag.store.versions import Version, current, encoder_note, latest

BLOCK = 16_384
#: Rows that are encoded together, and the unit in which a killed build goes on.
ROW_GROUP = 1024


def build_store(
    passages: Path,
    where: Where,
    encoder: config.Encoder,
    index: config.Index,
    cluster: config.Cluster,
    note: dict[str, Any],
    encoders: Encoders | None = None,
    base: tuple[int, str] | None = None,
) -> Version:
    """Encode the passages and publish them as one new version; returns the version that holds them.

    `passages`: a Parquet file, or a folder of them in order of name, with id, title, text and any other columns, which
    stay. Ids that are live already are skipped; when all are, the current version is returned. `base`: what a version
    of units belongs to (`versions.named`). The note is `note` and the encoder's settings. `ray.init` is the caller's,
    and so are `encoders`, actors that hold this encoder; without them the build starts its own, on CPUs. StoreError,
    naming file and row: null or duplicate ids, null text, no passage at all, an id that is live with another text,
    another encoder, kind of index or dimension than the store's. ConfigError: more lists than rows.
    """
    import ray

    check_index(index)
    place, files = place_of(where), [file.resolve() for file in parquet_files(passages)]
    name = config.fingerprint([sha256_file(file) for file in files], encoder_note(encoder), index.kind, index.nlist)
    while True:
        parent = latest(place)
        if parent and parent.spec.kind != index.kind:
            told = f"version {parent.version} has {parent.spec.kind!r}"
            raise StoreError(f"{place}: index.kind is {index.kind!r}, {told}")
        new = ray.get(ray.remote(new_rows).remote(place, files, parent))
        if not len(new):
            return current(place)
        content = _made(place, files, new, parent, name, encoder, index, cluster, encoders)
        try:
            made = publish(place, replace(content, base=base), {**note, **encoder_note(encoder)})
        except LiveError:  # another writer published some of them meanwhile
            continue
        for left in place.names("pieces"):
            if left.startswith(name):
                place.remove(f"pieces/{left}")
        return made


def _made(
    place: Place,
    files: list[Path],
    new: np.ndarray,
    parent: Version | None,
    name: str,
    encoder: config.Encoder,
    index: config.Index,
    cluster: config.Cluster,
    encoders: Encoders | None,
) -> Content:
    """These rows of the files as pieces."""
    import ray
    from ray.util import ActorPool

    groups = {f"pieces/{name}-{_hash(some)}.npy": some for some in _cut(new, ROW_GROUP)}

    def ask(actor: Any, group: str) -> Any:  # noqa: ANN401 - Ray's handle and reference
        return actor.apply.remote(encode_group, place, files, groups[group], group, parent.encoder if parent else "")

    with lent(encoder, cluster, encoders) as handles:
        made = set(ActorPool(handles).map_unordered(ask, list(groups)))
    if len(made) != 1:
        raise StoreError(f"{place}: encoder actors disagree: {sorted(made)}")
    dimension, fingerprint = made.pop()
    spec = parent.spec if parent else ray.get(ray.remote(new_spec).remote(place, list(groups), index, dimension))
    columns = rows.schema_of(conform(pq.read_schema(files[0]).empty_table(), str(files[0])).schema, dimension)
    schema = rows.joined(rows.opened(place, parent).schema, columns, str(place)) if parent else columns
    size = max(1, index.fragment_rows // ROW_GROUP)
    names, task = list(groups), ray.remote(make_piece)
    cuts = [names[start : start + size] for start in range(0, len(names), size)]
    wanted = [task.remote(place, files, [groups[one] for one in cut], cut, schema, spec) for cut in cuts]
    return Content(tuple(ray.get(wanted)), spec, fingerprint)


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files of a folder, by name, or the one file given; StoreError when there is none."""
    files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    if not files:
        raise StoreError(f"{source}: no Parquet file there")
    return files


def new_rows(place: Place, files: Sequence[Path], parent: Version | None) -> np.ndarray:
    """The rows of the files, by number, whose ids are not live in `parent`."""
    chunks = [chunk for table in _tables(files, PASSAGE.names) for chunk in table["id"].chunks]
    ids = pa.chunked_array(chunks, pa.string())
    if not len(ids):
        raise StoreError(f"{files[0].parent}: no passages")
    check_ids(ids, str(files[0] if len(files) == 1 else files[0].parent))
    if parent is None:
        return np.arange(len(ids))
    live = np.zeros(len(ids), dtype=bool)
    values = ids.combine_chunks()
    for block in rows.blocks(rows.opened(place, parent), PASSAGE.names):
        at = pc.index_in(block["id"], value_set=values)
        here = block.filter(at.is_valid())
        numbers = np.asarray(at.drop_null().to_numpy(), dtype=np.int64)
        live[numbers] = True
        _check_text(here, read_rows(files, numbers).select(PASSAGE.names), place, files)
    return np.flatnonzero(~live)


def _check_text(live: pa.Table, given: pa.Table, place: Place, files: Sequence[Path]) -> None:
    same = pc.and_(pc.equal(live["title"], given["title"]), pc.equal(live["text"], given["text"])).to_numpy()
    if not same.all():
        both = [table.slice(int(np.flatnonzero(~same)[0]), 1).to_pylist()[0] for table in (live, given)]
        told = f"an id is live with another text: live {both[0]}, given {both[1]}"
        raise StoreError(f"{place}: {files[0]}: {told}")


def _tables(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of all files in order, checked, as tables of at most BLOCK rows; one schema for all."""
    schema: pa.Schema | None = None
    for file in files:
        row = 0
        for batch in pq.ParquetFile(file).iter_batches(BLOCK, columns=list(columns) if columns else None):
            table = conform(pa.Table.from_batches([batch]), str(file), row)
            schema = schema or table.schema
            if table.schema != schema:
                raise StoreError(f"{file}: columns are {table.schema.names}, those of {files[0]} {schema.names}")
            row += len(table)
            yield table


def read_rows(files: Sequence[Path], numbers: np.ndarray) -> pa.Table:
    """Rows by their number over all files, in the order of `numbers`; only the row groups that hold them are read."""
    tables, found, start = [], [], 0
    for file in files:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            here = np.flatnonzero((numbers >= start) & (numbers < start + count))
            if len(here):
                table = parquet.read_row_group(group).take(pa.array(numbers[here] - start))
                tables.append(conform(table, str(file), start))
                found.append(here)
            start += count
    if not tables:
        return PASSAGE.empty_table()
    return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(found))))


def encode_group(
    encoder: Encoder, place: Place, files: Sequence[Path], numbers: np.ndarray, name: str, expected: str
) -> tuple[int, str]:
    """Write the vectors of these rows as .npy, (rows, d) float16; returns d and the encoder's fingerprint."""
    if expected and encoder.fingerprint != expected:
        raise StoreError(f"{place}: encoder is {encoder.fingerprint!r}, the current version has {expected!r}")
    if place.size(name) is None:
        table = read_rows(files, numbers)
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        stream = io.BytesIO()
        np.save(stream, encoder.encode_passages([passage_text(*pair) for pair in zip(titles, texts, strict=True)]))
        place.create(name, stream.getvalue())
    return encoder.dimension, encoder.fingerprint


def make_piece(
    place: Place,
    files: Sequence[Path],
    numbers: Sequence[np.ndarray],
    groups: Sequence[str],
    schema: pa.Schema,
    spec: Spec,
) -> Piece:
    """The rows of some groups as one fragment with its index; what an earlier build made of them is taken."""
    told = f"{groups[0].removesuffix('.npy')}.json"
    if place.size(told) is not None:
        known = json.loads(place.read(told))
        if known["groups"] == list(groups) and known["columns"] == schema.names:
            return Piece(known["fragment"], schema, {name: (one[0], one[1]) for name, one in known["files"].items()})
    made = np.concatenate([np.load(io.BytesIO(place.read(group))) for group in groups])
    table = rows.with_vectors(read_rows(files, np.concatenate(list(numbers))), made, schema)
    piece = write_piece(place, table, spec)
    place.create(told, dump_json({"groups": list(groups), "columns": schema.names, **_told(piece)}))
    return piece


def _told(piece: Piece) -> dict[str, Any]:
    return {"fragment": piece.fragment, "files": piece.files}


def new_spec(place: Place, groups: Sequence[str], index: config.Index, dimension: int) -> Spec:
    """How a new store's vectors are stored: as `index` says, with a template trained on a sample of them."""
    if index.kind == "flat_fp16":
        return spec_of(index.kind, dimension)
    wanted = max(1, index.nlist * TRAINING_ROWS // ROW_GROUP)
    some = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, min(wanted, len(groups))).astype(int))]
    sample = np.concatenate([np.load(io.BytesIO(place.read(group))) for group in some])
    template = train_template(sample, index.nlist)
    spec = spec_of(index.kind, dimension, template, index.nlist)
    place.create(template_name(spec), template)
    return spec


def _hash(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest()[:16]


def _cut(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
