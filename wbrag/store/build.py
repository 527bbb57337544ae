"""A store's new version, built on Ray: passages -> fp16 vectors -> fragments with their indices -> one version.

An encoder actor turns 1,024 passages into a file of vectors, a task turns the rows of one fragment into Lance and FAISS
files; the lists of an IVF base are trained and found on GPUs, by the encoder actors there, where these are. The driver
passes numbers of rows and names of files. Rows are always encoded in the same groups, so that bytes do not depend on
how many actors there are, and a build that was killed finds what is encoded when it is asked again.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbrag import config
from wbrag.retrieval.encoder import Encoder, passage_text
from wbrag.retrieval.encoding import Encoders, with_those_left
from wbrag.schema import PASSAGE
from wbrag.store import rows
from wbrag.store.changes import MovedOnError, exchange, publish, write_piece
from wbrag.store.files import StoreError, sha256_bytes, sha256_file
from wbrag.store.place import Place, Where, place_of
from wbrag.store.rows import BLOCK, Piece, check_ids, conform
from wbrag.store.vectors import TRAINING_ROWS, Spec, check_index, spec_of, template_name, train_template
from wbrag.store.versions import Version, encoder_note, latest

log = logging.getLogger(__name__)

#: Ids that a warning names.
TOLD = 3
#: Rows that are encoded together, and the unit in which a killed build goes on.
ROW_GROUP = 1024

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Difference:
    """What a file of passages has over a version of a store, if there is one: rows of the file, by number, whose ids
    are not live, rows that differ from the live ones of their ids, the ids that are live and in no row, and how many
    rows are as they are.
    """

    added: np.ndarray
    changed: np.ndarray
    gone: pa.Array
    untouched: int


def build_store(
    passages: Path,
    where: Where,
    encoders: Encoders,
    index: config.Index,
    note: dict[str, Any],
    base: tuple[int, str] | None = None,
    follow: bool = False,
    known: Mapping[int, Difference] | None = None,
) -> Version:
    """Encode the passages and publish them as one new version; returns the version that holds them.

    `passages`: a Parquet file with id, title, text and any other columns, which stay. Ids that are live already are
    skipped; when all are, the current version is returned. `follow`: the store is brought to exactly these passages.
    Only rows that are new, or that differ in any column from the live one of their id, are encoded; ids that are in no
    row go; where nothing differs the current version is returned, or, if it belongs to another `base`, one that differs
    in that alone; `known`: by version what the passages have over it, where that was found out before. `base`: what a
    version of units belongs to (`versions.named`). The note is `note` and the encoder's settings. StoreError, naming
    file and row: null or duplicate ids, null text, another encoder or kind of index than the store's; but for `follow`,
    no passage at all, an id that is live with another text. ConfigError: more lists than rows.
    """
    check_index(index)
    place, file, told = place_of(where), passages.resolve(), {**note, **encoder_note(encoders.encoder)}
    while True:
        if (parent := latest(place)) and parent.spec.kind != index.kind:
            there = f"version {parent.version} has {parent.spec.kind!r}"
            raise StoreError(f"{place}: index.kind is {index.kind!r}, {there}")
        exact = follow and parent is not None
        found = (known or {}).get(parent.version) if parent and exact else None
        if found is None:
            found = _made(difference if exact else addition, [(place, file, parent)])[0]
        if not exact and len(found.gone):
            _warn_of_others(place, found.gone)
        new = np.concatenate([found.added, found.changed])
        try:
            if parent and not len(new):
                changes = exact and (len(found.gone) or parent.base != base)
                return exchange(place, parent, [], found.gone, told, base) if changes else parent
            with _pieces(place, file, new, parent, index, encoders) as (pieces, spec, fingerprint):
                if parent and exact:
                    return exchange(place, parent, pieces, found.gone, told, base)
                return publish(place, pieces, spec, fingerprint, told, base)
        except MovedOnError:  # another writer published something meanwhile
            continue


def _warn_of_others(place: Place, ids: pa.Array) -> None:
    few = ", ".join(ids[:TOLD].to_pylist()) + (", ..." if len(ids) > TOLD else "")
    some = f"{len(ids):,} passages of the store are" if len(ids) > 1 else "1 passage of the store is"
    told = f"{some} not in the corpus any more ({few})"
    log.warning("%s: %s and stays: wbrag kb delete %s ID... takes it out", place, told, place)


@contextmanager
def _pieces(
    place: Place, file: Path, new: np.ndarray, parent: Version | None, index: config.Index, encoders: Encoders
) -> Iterator[tuple[list[Piece], Spec, str]]:
    """The rows `new` of a file as pieces beside `parent`, for the block to publish; how their vectors are stored, and
    the encoder's fingerprint. Once they are published, the vectors that a killed build would go on with are removed.
    """
    name = config.fingerprint(sha256_file(file), encoder_note(encoders.encoder))
    groups = {f"pieces/{name}-{sha256_bytes(some.tobytes())[:16]}.npy": some for some in cut(new, ROW_GROUP)}
    dimension, fingerprint = _encoded(place, file, groups, parent.encoder if parent else "", encoders)
    makers = encoders.handles if encoders.on_gpus and index.kind == "ivf_fp16" else []
    spec = parent.spec if parent else _made(new_spec, [(place, list(groups), index, dimension)], makers)[0]
    schema = rows.schema_in(place, parent, pq.read_schema(file), dimension)
    parts = cut(list(groups), max(1, index.fragment_rows // ROW_GROUP))
    wanted = [(place, file, {one: groups[one] for one in part}, schema, spec) for part in parts]
    pieces = _made(make_piece, wanted, makers)
    yield pieces, spec, fingerprint
    for left in place.names("pieces"):
        if left.startswith(name):
            place.remove(f"pieces/{left}")


def _encoded(
    place: Place, file: Path, groups: Mapping[str, np.ndarray], expected: str, encoders: Encoders
) -> tuple[int, str]:
    """The vectors of all groups written (`encode_group`); their dimension and the encoder's fingerprint."""
    from ray.util import ActorPool

    def ask(actor: Any, group: str) -> Any:  # noqa: ANN401 - Ray's handle and reference
        return actor.apply.remote(encode_group, place, file, groups[group], group, expected)

    def encode(actors: Sequence[Any]) -> set[tuple[int, str]]:  # what is encoded already is not encoded again
        found = ActorPool(list(actors)).map_unordered(ask, list(groups))
        return set(encoders.watched("encode", found, sum(map(len, groups.values())), lambda _: ROW_GROUP))

    made = with_those_left(encoders.start(), encode)
    if len(made) != 1:
        raise StoreError(f"{place}: encoder actors disagree: {sorted(made)}")
    return made.pop()


def _made(work: Callable[..., Made], calls: Sequence[tuple[Any, ...]], makers: Sequence[Any] = ()) -> list[Made]:
    """What `work` makes of the arguments of each call: in tasks on CPUs, or, with `makers`, on encoder actors' GPUs."""
    import ray
    from ray.util import ActorPool

    if not makers:
        task = ray.remote(work)
        made: list[Made] = ray.get([task.remote(*call) for call in calls])
        return made

    def make(actors: Sequence[Any]) -> list[Made]:
        return list(ActorPool(list(actors)).map(lambda one, call: one.apply.remote(_on_gpu, work, *call), list(calls)))

    return with_those_left(makers, make)


def _on_gpu(encoder: Encoder, work: Callable[..., Made], *given: object) -> Made:
    """`work` where an encoder's GPU is."""
    return work(*given, gpu=True)


def addition(place: Place, file: Path, parent: Version | None) -> Difference:
    """What the passages of a Parquet file add to those live in `parent`, if there is one. StoreError: no passages, an
    id that is live with another title or text.
    """
    found = difference(place, file, parent, PASSAGE)
    if not len(found.added) and not found.untouched + len(found.changed):
        raise StoreError(f"{file}: no passages")
    if parent and len(found.changed):
        told = read_rows(file, found.changed[:1]).select(PASSAGE.names).to_pylist()[0]
        live = rows.rows_of(place, parent, [told["id"]]).select(PASSAGE.names).to_pylist()[0]
        both = f"live {live}, given {told}; wbrag kb delete {place} {told['id']}, then the same again"
        raise StoreError(f"{place}: {file}: an id is live with another text: {both}")
    return found


def difference(place: Place, file: Path, parent: Version | None, columns: pa.Schema | None = None) -> Difference:
    """What the passages of a Parquet file have over those live in `parent`, in all or some of their `columns`."""
    values, gone = _checked_ids(file), [pa.array([], pa.string())]
    live, other = np.zeros(len(values), dtype=bool), np.zeros(len(values), dtype=bool)
    if parent:
        kept = columns or rows.schema_in(place, parent, pq.read_schema(file), parent.spec.dimension)
        kept = pa.schema([f for f in kept if f.name != rows.VECTOR])
        data = rows.opened(place, parent)
        for block in rows.blocks(data, [name for name in data.schema.names if name in kept.names]):
            at = pc.index_in(block["id"], value_set=values)
            gone += block.filter(at.is_null())["id"].chunks
            numbers = np.asarray(at.drop_null().to_numpy(), dtype=np.int64)
            if len(numbers):
                live[numbers] = True
                other[numbers] = ~rows.alike(block.filter(at.is_valid()), read_rows(file, numbers), kept)
    untouched = int((live & ~other).sum())
    return Difference(np.flatnonzero(~live), np.flatnonzero(other), pa.concat_arrays(gone), untouched)


def _checked_ids(file: Path) -> pa.Array:
    """The ids of a Parquet file of passages. StoreError: null in one of its columns, an id twice."""
    chunks: list[pa.Array] = []
    row = 0
    for batch in pq.ParquetFile(file).iter_batches(BLOCK, columns=PASSAGE.names):
        chunks += conform(pa.Table.from_batches([batch]), str(file), row)["id"].chunks
        row += len(batch)
    ids = pa.chunked_array(chunks, pa.string())
    check_ids(ids, str(file))
    return ids.combine_chunks()


def read_rows(file: Path, numbers: np.ndarray) -> pa.Table:
    """Rows of a Parquet file in the order of `numbers`, of which there is one at least; only the row groups that hold
    them are read.
    """
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    ends = np.cumsum(counts)
    groups, tables, places = np.searchsorted(ends, numbers, side="right"), [], []
    for group in np.unique(groups).tolist():
        here = np.flatnonzero(groups == group)
        tables.append(parquet.read_row_group(group).take(pa.array(numbers[here] - ends[group] + counts[group])))
        places.append(here)
    return conform(pa.concat_tables(tables), str(file)).take(pa.array(np.argsort(np.concatenate(places))))


def encode_group(
    encoder: Encoder, place: Place, file: Path, numbers: np.ndarray, name: str, expected: str
) -> tuple[int, str]:
    """Write the vectors of these rows as .npy, (rows, d) float16; returns d and the encoder's fingerprint."""
    if expected and encoder.fingerprint != expected:
        raise StoreError(f"{place}: encoder is {encoder.fingerprint!r}, the current version has {expected!r}")
    if place.stat(name) is None:
        table = read_rows(file, numbers)
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        stream = io.BytesIO()
        np.save(stream, encoder.encode_passages([passage_text(*pair) for pair in zip(titles, texts, strict=True)]))
        place.create(name, stream.getvalue())
    return encoder.dimension, encoder.fingerprint


def make_piece(
    place: Place, file: Path, groups: Mapping[str, np.ndarray], schema: pa.Schema, spec: Spec, gpu: bool = False
) -> Piece:
    """The rows of some groups, whose vectors are there, as one fragment with its index; `gpu` as `index_file`."""
    table = read_rows(file, np.concatenate(list(groups.values())))
    return write_piece(place, rows.with_vectors(table, _vectors(place, groups), schema), spec, gpu)


def _vectors(place: Place, groups: Iterable[str]) -> np.ndarray:
    return np.concatenate([np.load(io.BytesIO(place.read(group))) for group in groups])


def new_spec(place: Place, groups: Sequence[str], index: config.Index, dimension: int, gpu: bool = False) -> Spec:
    """How a new store's vectors are stored: as `index` says, with a template trained on a sample of them; `gpu` as
    `train_template`.
    """
    if index.kind == "flat_fp16":
        return spec_of(index.kind, dimension)
    wanted = max(1, index.nlist * TRAINING_ROWS // ROW_GROUP)
    some = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, min(wanted, len(groups))).astype(int))]
    template = train_template(_vectors(place, some), index.nlist, gpu)
    spec = spec_of(index.kind, dimension, template, index.nlist)
    place.create(template_name(spec), template)
    return spec


def cut(some: Any, size: int) -> list[Any]:  # noqa: ANN401 - an array or a list
    """Its parts of `size` each, the last one of what is left."""
    return [some[start : start + size] for start in range(0, len(some), size)]
