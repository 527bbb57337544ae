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
from wbrag.retrieval.encoding import Encoders, Watched, lent
from wbrag.schema import PASSAGE
from wbrag.store import rows
from wbrag.store.changes import LiveError, MovedOnError, exchange, publish, write_piece
from wbrag.store.files import StoreError, sha256_bytes, sha256_file
from wbrag.store.place import Place, Where, place_of
from wbrag.store.rows import BLOCK, Piece, check_ids, conform
from wbrag.store.vectors import TRAINING_ROWS, Spec, check_index, spec_of, template_name, train_template
from wbrag.store.versions import Version, current, encoder_note, latest

log = logging.getLogger(__name__)

#: Ids that a warning names.
TOLD = 3
#: Rows that are encoded together, and the unit in which a killed build goes on.
ROW_GROUP = 1024

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Difference:
    """What a file of passages has over a version of a store: rows of the file, by number, whose ids are not live, rows
    that differ from the live ones of their ids, the ids that are live and in no row, and how many rows are as they are.
    """

    added: np.ndarray
    changed: np.ndarray
    gone: pa.Array
    untouched: int

    def __bool__(self) -> bool:
        return bool(len(self.added) or len(self.changed) or len(self.gone))


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

    `passages`: a Parquet file with id, title, text and any other columns, which stay. Ids that are live already are
    skipped; when all are, the current version is returned. `base`: what a version of units belongs to
    (`versions.named`). The note is `note` and the encoder's settings. `ray.init` is the caller's, and so are
    `encoders`, actors that hold this encoder; without them the build starts its own, on CPUs. StoreError, naming file
    and row: null or duplicate ids, null text, no passage at all, an id that is live with another text, another encoder
    or kind of index than the store's. ConfigError: more lists than rows.
    """
    check_index(index)
    place, file = place_of(where), passages.resolve()
    while True:
        parent = latest(place)
        _check_kind(place, parent, index)
        new, gone = _in_task(new_rows, place, file, parent)
        if gone:
            few = ", ".join(gone[:TOLD]) + (", ..." if len(gone) > TOLD else "")
            some = f"{len(gone):,} passages of the store are" if len(gone) > 1 else "1 passage of the store is"
            told = f"{some} not in the corpus any more ({few})"
            log.warning("%s: %s and stays: wbrag kb delete %s ID... takes it out", place, told, place)
        if not len(new):
            return current(place)
        with _pieces(place, file, new, parent, encoder, index, cluster, encoders) as (pieces, spec, fingerprint):
            try:
                return publish(place, pieces, spec, fingerprint, {**note, **encoder_note(encoder)}, base)
            except LiveError:  # another writer published some of them meanwhile
                continue


def follow_passages(
    passages: Path,
    where: Where,
    encoder: config.Encoder,
    index: config.Index,
    cluster: config.Cluster,
    note: dict[str, Any],
    encoders: Encoders | None = None,
    base: tuple[int, str] | None = None,
) -> Version:
    """Bring a store to exactly these passages, as one new version; returns the version that holds them.

    Only rows that are new, or that differ in any column from the live one of their id, are encoded; ids that are in no
    row go. Where nothing differs the current version is returned, or, if it belongs to another `base`, one that differs
    in that alone. Arguments and errors as `build_store`, but that an id may be live with another text; a store without
    a version is built.
    """
    place, file = place_of(where), passages.resolve()
    while (parent := latest(place)) is not None:
        _check_kind(place, parent, index)
        found = _in_task(difference, place, file, parent)
        if not found and parent.base == base:
            return parent
        told, new = {**note, **encoder_note(encoder)}, np.concatenate([found.added, found.changed])
        try:
            if not len(new):
                return exchange(place, parent, [], found.gone, told, base)
            with _pieces(place, file, new, parent, encoder, index, cluster, encoders) as (pieces, _, _):
                return exchange(place, parent, pieces, found.gone, told, base)
        except MovedOnError:
            continue
    return build_store(passages, where, encoder, index, cluster, note, encoders, base)


def _in_task(work: Callable[..., Made], *given: object) -> Made:
    """What `work` makes in a task of Ray; its own error, and not Ray's of it with a traceback for a message."""
    import ray

    try:
        made: Made = ray.get(ray.remote(work).remote(*given))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return made


def _check_kind(place: Place, parent: Version | None, index: config.Index) -> None:
    if parent and parent.spec.kind != index.kind:
        there = f"version {parent.version} has {parent.spec.kind!r}"
        raise StoreError(f"{place}: index.kind is {index.kind!r}, {there}")


@contextmanager
def _pieces(
    place: Place,
    file: Path,
    new: np.ndarray,
    parent: Version | None,
    encoder: config.Encoder,
    index: config.Index,
    cluster: config.Cluster,
    encoders: Encoders | None,
) -> Iterator[tuple[list[Piece], Spec, str]]:
    """The rows `new` of a file as pieces beside `parent`, for the block to publish; how their vectors are stored, and
    the encoder's fingerprint. Once they are published, the vectors that a killed build would go on with are removed.
    """
    name = config.fingerprint(sha256_file(file), encoder_note(encoder))
    groups = {f"pieces/{name}-{sha256_bytes(some.tobytes())[:16]}.npy": some for some in cut(new, ROW_GROUP)}
    with lent(encoder, cluster, encoders) as actors:
        watched = encoders.watched if encoders else None
        dimension, fingerprint = _encoded(place, file, groups, parent.encoder if parent else "", actors, watched)
        makers = actors if encoders and encoders.on_gpus and index.kind == "ivf_fp16" else []
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
    place: Place,
    file: Path,
    groups: Mapping[str, np.ndarray],
    expected: str,
    actors: list[Any],
    watched: Watched | None,
) -> tuple[int, str]:
    """The vectors of all groups written (`encode_group`); their dimension and the encoder's fingerprint."""
    from ray.util import ActorPool

    def ask(actor: Any, group: str) -> Any:  # noqa: ANN401 - Ray's handle and reference
        return actor.apply.remote(encode_group, place, file, groups[group], group, expected)

    found = ActorPool(actors).map_unordered(ask, list(groups))
    rows = sum(map(len, groups.values()))
    made: set[tuple[int, str]] = set(watched("encode", found, rows, lambda _: ROW_GROUP) if watched else found)
    if len(made) != 1:
        raise StoreError(f"{place}: encoder actors disagree: {sorted(made)}")
    return made.pop()


def _made(work: Callable[..., Made], calls: Sequence[tuple[Any, ...]], makers: list[Any]) -> list[Made]:
    """What `work` makes of the arguments of each call: in tasks on CPUs, or, with `makers`, on encoder actors' GPUs."""
    import ray
    from ray.util import ActorPool

    if not makers:
        task = ray.remote(work)
        made: list[Made] = ray.get([task.remote(*call) for call in calls])
        return made
    return list(ActorPool(makers).map(lambda actor, call: actor.apply.remote(_on_gpu, work, *call), list(calls)))


def _on_gpu(encoder: Encoder, work: Callable[..., Made], *given: object) -> Made:
    """`work` where an encoder's GPU is."""
    return work(*given, gpu=True)


def new_rows(place: Place, file: Path, parent: Version | None) -> tuple[np.ndarray, list[str]]:
    """The rows of a Parquet file, by number, whose ids are not live in `parent`, and the live ids that are in no row.
    StoreError for one that is live with another title or text.
    """
    values = _checked_ids(file)
    if not len(values):
        raise StoreError(f"{file}: no passages")
    live, gone = np.zeros(len(values), dtype=bool), list[str]()
    for block in rows.blocks(rows.opened(place, parent), PASSAGE.names) if parent else ():
        here, numbers = _in_file(block, values)
        gone += block["id"].filter(pc.invert(pc.is_in(block["id"], value_set=values))).to_pylist()
        if len(numbers):
            live[numbers] = True
            given = read_rows(file, numbers)
            if len(differ := np.flatnonzero(~rows.alike(here, given, PASSAGE))):
                told, other = (t.select(PASSAGE.names).slice(int(differ[0]), 1).to_pylist()[0] for t in (here, given))
                both = f"live {told}, given {other}; wbrag kb delete {place} {told['id']}, then the same again"
                raise StoreError(f"{place}: {file}: an id is live with another text: {both}")
    return np.flatnonzero(~live), gone


def difference(place: Place, file: Path, parent: Version) -> Difference:
    """What the passages of a Parquet file, with all their columns, have over those live in `parent`."""
    values, schema = _checked_ids(file), rows.schema_in(place, parent, pq.read_schema(file), parent.spec.dimension)
    kept = pa.schema([f for f in schema if f.name != rows.VECTOR])
    data = rows.opened(place, parent)
    there = [name for name in data.schema.names if name != rows.VECTOR]
    live, other = np.zeros(len(values), dtype=bool), np.zeros(len(values), dtype=bool)
    gone: list[pa.Array] = [pa.array([], pa.string())]
    for block in rows.blocks(data, there):
        here, numbers = _in_file(block, values)
        gone += block.filter(pc.invert(pc.is_in(block["id"], value_set=values)))["id"].chunks
        if len(numbers):
            live[numbers] = True
            other[numbers] = ~rows.alike(here, read_rows(file, numbers), kept)
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


def _in_file(block: pa.Table, values: pa.Array) -> tuple[pa.Table, np.ndarray]:
    """The rows of a block whose ids are among those of the file, and for each the file's row."""
    at = pc.index_in(block["id"], value_set=values)
    return block.filter(at.is_valid()), np.asarray(at.drop_null().to_numpy(), dtype=np.int64)


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
