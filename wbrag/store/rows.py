"""The rows of a store in Lance: passages with every key that came with them, and beside them their vectors. A fragment
is written once, by whoever has its rows; a version holds a list of fragments, some with rows deleted.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wbrag.schema import PASSAGE, SEEN_BY
from wbrag.store.files import StoreError, dump_json, sha256_bytes
from wbrag.store.place import DATA, Facts, Place, Where, place_of
from wbrag.store.vectors import INDEX, Spec
from wbrag.store.versions import Version, current
from wbrag.units.access import Label, may_see, together

if TYPE_CHECKING:
    import lance
    from lance.fragment import FragmentMetadata

# Lance says of every new store that there was none. Read when it is imported.
os.environ.setdefault("LANCE_LOG", "error")

#: The column of vectors: this and those of PASSAGE are wbrag's, the others are what the corpus brought.
VECTOR = "vector"
#: Rows of a block.
BLOCK = 16_384


@dataclass(frozen=True, slots=True)
class Piece:
    """A fragment that no version has yet: Lance's description of it, the schema that it was written with, its files."""

    fragment: FragmentMetadata
    schema: pa.Schema
    files: dict[str, Facts]


def schema_in(place: Place, parent: Version | None, columns: pa.Schema, dimension: int) -> pa.Schema:
    """The schema of new rows with these columns (id, title, text and others) and vectors of `dimension`: the columns
    that the store has by `parent`, then those it has not. StoreError, with both types, where one differs.
    """
    others = [pa.field(f.name, f.type) for f in columns if f.name not in (*PASSAGE.names, VECTOR)]
    made = [*PASSAGE, pa.field(VECTOR, pa.list_(pa.float16(), dimension)), *others]
    known = opened(place, parent).schema if parent else pa.schema([])
    for f in made:
        if f.name in known.names and f.type != (there := known.field(f.name).type):
            raise StoreError(f"{place}: column {f.name!r} is {f.type}, the store's is {there}")
    return pa.schema([*known, *(f for f in made if f.name not in known.names)])


def conform(table: pa.Table, where: str, row_start: int = 0) -> pa.Table:
    """id, title, text as strings, then all other columns as they are. StoreError, naming `where`, for a column that is
    not there or a null in a row, which is counted from `row_start`.
    """
    for name in PASSAGE.names:
        if name not in table.column_names:
            raise StoreError(f"{where}: no column {name!r} among {table.column_names}")
        if table[name].null_count:
            row = row_start + pc.index(table[name].is_null(), True).as_py()
            raise StoreError(f"{where}: row {row}: {name} is null")
    return filled(table, pa.schema([*PASSAGE, *(f for f in table.schema if f.name not in PASSAGE.names)]))


def check_ids(ids: pa.ChunkedArray, where: str) -> None:
    """Refuse (StoreError) an id that stands in two rows, naming it and both."""
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        value = repeated[0]["values"]
        first, second = np.flatnonzero(pc.equal(ids, value).to_numpy())[:2]
        raise StoreError(f"{where}: id {value.as_py()!r} stands in row {first} and in row {second}")


def filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`; null where it lacks one."""
    for f in schema:
        if f.name not in table.column_names:
            table = table.append_column(f, pa.nulls(len(table), f.type))
    return table.select(schema.names).cast(schema)


def alike(some: pa.Table, others: pa.Table, schema: pa.Schema) -> np.ndarray:
    """Which rows of two tables, one beside the other, have the same values in all columns of `schema`, (n,) bool; null
    is like null alone.
    """
    same, some, others = np.ones(len(some), dtype=bool), filled(some, schema), filled(others, schema)
    for f in schema:
        a, b = some[f.name], others[f.name]
        if pa.types.is_nested(f.type):
            same &= np.fromiter((x == y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)), bool, len(same))
        else:
            both = pc.and_(a.is_null(), b.is_null())
            same &= pc.or_(both, pc.fill_null(pc.equal(a, b), False)).to_numpy()
    return same


def coded(labels: pa.ChunkedArray) -> tuple[np.ndarray, list[Label | None]]:
    """For each row of a column schema.SEEN_BY the number of its label, (n,) int64, and those labels, each once."""
    whole = labels.cast(SEEN_BY.type).combine_chunks()
    clauses = pc.list_flatten(whole)
    groups = pc.list_flatten(clauses)
    # A group with its length before it: no two labels have one text.
    told = pc.binary_join_element_wise(pc.utf8_length(groups).cast(pa.string()), groups, ":")
    told = pc.binary_join_element_wise("(", _joined(clauses, told), ")", "")
    numbers = _joined(whole, told).dictionary_encode().indices.to_numpy().astype(np.int64)
    _, first = np.unique(numbers, return_index=True)
    return numbers, whole.take(pa.array(first)).to_pylist()


def _joined(lists: pa.Array, texts: pa.Array) -> pa.Array:
    """The texts of the values of each list as one; "-" where either is null."""
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(), dtype=np.int32)
    one = pa.ListArray.from_arrays(pa.array(np.append(np.int32(0), ends)), pc.fill_null(texts, "-"))
    return pc.if_else(lists.is_valid(), pc.binary_join(one, ","), "-")


def readable(labels: pa.ChunkedArray, groups: Collection[str]) -> np.ndarray:
    """Which rows of a column schema.SEEN_BY a reader with these groups sees, (n,) bool."""
    numbers, distinct = coded(labels)
    seen: np.ndarray = np.array([may_see(label, groups) for label in distinct], dtype=bool)[numbers]
    return seen


def with_vectors(passages: pa.Table, vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The passages as rows of `schema`: their (n, d) float16 vectors beside them, null where they lack a column."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return filled(passages.append_column(VECTOR, lists), schema)


def data_files(fragment: FragmentMetadata) -> list[str]:
    """The files of a fragment's rows, deleted ones too."""
    return [f"{DATA}/data/{file.path}" for file in fragment.files]


def index_of(fragment: FragmentMetadata, files: dict[str, Facts], spec: Spec) -> str:
    """The file of the index over a fragment of a version that stands on `files`, named by what it is made from."""
    told = {"data": {name: files[name] for name in data_files(fragment)}, "spec": asdict(spec)}
    return f"{INDEX}/{sha256_bytes(dump_json(told))[:32]}.faiss"


def opened(place: Place, version: Version) -> lance.LanceDataset:
    """The rows of a version; StoreError where Lance cannot read it."""
    import lance

    try:
        return lance.dataset(place.data, version=version.lance, storage_options=place.lance_options)
    except (ValueError, OSError) as error:
        raise StoreError(f"{place.data}: Lance cannot read version {version.lance}: {error}") from error


def prepared(place: Place) -> int:
    """A dataset without rows or columns to write beside, which the first writer makes; its Lance version."""
    import lance

    try:
        empty = pa.table({"id": pa.array([], pa.string())})
        return int(lance.write_dataset(empty, place.data, mode="create", storage_options=place.lance_options).version)
    except OSError:  # it is there, or another one makes it at this moment
        return int(lance.dataset(place.data, storage_options=place.lance_options).version)


def committed(
    place: Place,
    parent: Version,
    pieces: Sequence[Piece],
    gone: Sequence[int],
    thinned: Sequence[FragmentMetadata],
) -> lance.LanceDataset:
    """A detached Lance version: the parent's with these pieces more, without the fragments that are `gone`, and with
    more rows of those that are `thinned` deleted. StoreError where a piece was written with columns that do not fit
    those that the parent has by now.
    """
    import lance
    from lance import LanceOperation
    from lance.schema import LanceSchema

    def told(operation: Any, read: int) -> lance.LanceDataset:  # noqa: ANN401 - any of Lance's
        return lance.LanceDataset.commit(
            place.data, operation, read_version=read, detached=True, storage_options=place.lance_options
        )

    before = opened(place, parent) if parent.version else None
    schemas = [*([before.schema] if before is not None else []), *(piece.schema for piece in pieces)]
    schema = max(schemas, key=len)
    for one in schemas:  # Lance knows a column by its place
        if list(one) != list(schema)[: len(one)]:
            columns = f"columns are {', '.join(one.names)}, and by now {', '.join(schema.names)}"
            raise StoreError(f"{place}: {columns}: others were published meanwhile; do the same again")
    new = [replace(piece.fragment, id=number) for number, piece in enumerate(pieces)]
    if before is None:
        return told(LanceOperation.Overwrite(schema, new), prepared(place))
    read = parent.lance
    if len(schema) > len(before.schema):
        wider = LanceSchema.from_pyarrow(schema)
        read = int(told(LanceOperation.Merge([f.metadata for f in before.get_fragments()], wider), read).version)
    changed = LanceOperation.Update(removed_fragment_ids=list(gone), updated_fragments=list(thinned), new_fragments=new)
    return told(changed, read)


def mask_of(table: pa.Table, fragment: int, rows: int) -> np.ndarray:
    """(rows,) bool, which rows of a fragment are among those scanned: an address is its number << 32 | the row."""
    found, mask = table["_rowaddr"].to_numpy(), np.zeros(rows, dtype=bool)
    mask[found[found >> 32 == fragment] & 0xFFFF_FFFF] = True
    return mask


def vectors_of(table: pa.Table) -> np.ndarray:
    """The vectors of rows, (n, d) float16."""
    flat = table[VECTOR].combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(table), -1)


def all_vectors(fragment: Any) -> np.ndarray:  # noqa: ANN401 - Lance's
    """The vectors of all rows of a fragment, deleted ones too, (n, d) float16."""
    return vectors_of(fragment.scanner(columns=[VECTOR], with_row_id=True, include_deleted_rows=True).to_table())


def passages_of(where: Where) -> list[dict[str, Any]]:
    """id, title and text of all live rows of a store's current version."""
    place = place_of(where)
    found: list[dict[str, Any]] = opened(place, current(place)).to_table(columns=PASSAGE.names).to_pylist()
    return found


def columns_of(where: Where) -> pa.Schema:
    """The columns of a store's current version, vectors too."""
    place = place_of(where)
    return opened(place, current(place)).schema


def rows_of(where: Where, version: Version, ids: Collection[str]) -> pa.Table:
    """The live rows of these ids in a version, vectors too."""
    wanted = pc.field("id").isin(pa.array(sorted(ids), pa.string()))
    return opened(place_of(where), version).to_table(filter=wanted)


def has_labels(where: Where, version: Version) -> bool:
    """Whether the rows of a version say who may see them."""
    return SEEN_BY.name in opened(place_of(where), version).schema.names


def labels_of(where: Where, version: Version, units: Sequence[Collection[str]]) -> list[Label]:
    """Who may see each of the units that are made of these sources (ids), as a version labels them."""
    wanted = pa.array(sorted(frozenset().union(*units)), pa.string())
    labels: dict[str, Label | None] = {}
    for block in blocks(opened(place_of(where), version), ["id", SEEN_BY.name]):
        there = block.filter(pc.is_in(block["id"], value_set=wanted))
        labels |= zip(there["id"].to_pylist(), there[SEEN_BY.name].to_pylist(), strict=True)
    return [together(map(labels.get, sources)) for sources in units]


def blocks(data: lance.LanceDataset, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The live rows in order, a block at a time."""
    for batch in data.to_batches(columns=list(columns) if columns else None, batch_size=BLOCK):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])
