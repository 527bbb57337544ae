"""The two FAISS files of a segment, written and merged as bytes: flat fp16 and IVF fp16.

FAISS itself builds and merges an index in memory (1.3 times its size, measured) and joins unlike codecs without a
word. Here a file is a header that FAISS made, with the row count filled in, and codes streamed behind it; a shard may
be merged if its header is, byte for byte, the one its size calls for. So merging takes no more memory for a larger
index or more shards. The layout is that of faiss 1.15 (`faiss/impl/index_write.cpp`), and tests hold it against
FAISS's own writer and reader.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from wbrag.store.files import StoreError

#: Offset of the row count in every FAISS header: behind four letters and the dimension.
ROWS_AT = 8
#: The end of a serialised empty IVF: "ilar", nlist, code size, "sprs", no sizes.
EMPTY_LISTS = struct.Struct("<4sQQ4sQ")
#: Bytes of inverted lists that a merge holds at once, times two.
MERGE_BYTES = 64 << 20
ID_BYTES = 8


def flat_header(dimension: int, rows: int, dtype: str = "float16") -> bytes:
    """What stands before the vectors in the file of a flat inner-product index of so many rows."""
    import faiss

    empty: faiss.Index
    if dtype == "float32":
        empty, counted = faiss.IndexFlatIP(dimension), rows * dimension  # FAISS counts floats here, bytes there
    else:
        empty = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        counted = rows * 2 * dimension
    header = _with_rows(faiss.serialize_index(empty).tobytes(), rows)
    return header[:-8] + struct.pack("<Q", counted)


def write_flat(path: Path, blocks: Iterable[np.ndarray], dimension: int, dtype: str = "float16") -> int:
    """Write (n, d) blocks of this dtype, in order, as a flat file and return its rows; memory: one block."""
    rows = 0
    with path.open("wb") as file:
        file.write(flat_header(dimension, 0, dtype))
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            rows += len(block)
        file.seek(0)
        file.write(flat_header(dimension, rows, dtype))
    return rows


def merge_flat(path: Path, shards: Sequence[Path], dimension: int) -> int:
    """Join the rows of flat files, in order, and return their number; StoreError names a file of another kind."""
    length = len(flat_header(dimension, 0))
    counts = [(shard.stat().st_size - length) // (2 * dimension) for shard in shards]
    with path.open("wb") as merged:
        merged.write(flat_header(dimension, sum(counts)))
        for shard, rows in zip(shards, counts, strict=True):
            with shard.open("rb") as file:
                _require(file.read(length) == flat_header(dimension, max(rows, 0)), shard, "a flat fp16 index")
                shutil.copyfileobj(file, merged, 1 << 20)
    return sum(counts)


def ivf_header(template: bytes, sizes: np.ndarray) -> bytes:
    """What stands before the inverted lists in the file of an IVF fp16 index with lists of these sizes (nlist,) int64.

    `template` is the same index, trained and empty, as FAISS serialises it. StoreError when its end is not as expected.
    """
    *head, _, _ = EMPTY_LISTS.unpack(template[-EMPTY_LISTS.size :])
    if template[-EMPTY_LISTS.size :] != EMPTY_LISTS.pack(b"ilar", len(sizes), head[2], b"sprs", 0):
        raise StoreError(f"the template is no empty index of {len(sizes)} lists: it ends {head}")
    lists = struct.pack("<4sQQ4sQ", b"ilar", len(sizes), head[2], b"full", len(sizes))
    body = _with_rows(template[: -EMPTY_LISTS.size], int(sizes.sum()))
    return body + lists + sizes.astype("<i8").tobytes()


def write_ivf(
    path: Path, blocks: Iterable[np.ndarray], template: bytes, nlist: int, assign: Callable[[np.ndarray], np.ndarray]
) -> int:
    """Write (n, d) float16 blocks, in order, as an IVF file and return its rows; memory: twice the file.

    `assign` gives the list of each row of a block; labels are row numbers, and stand in order within a list.
    """
    held = list(blocks)
    lists = np.concatenate([np.zeros(0, dtype=np.int64), *(assign(block) for block in held)])
    order = np.argsort(lists, kind="stable")
    sizes = np.bincount(lists, minlength=nlist).astype(np.int64)
    codes = np.concatenate(held)[order] if held else np.zeros((0, 0), dtype=np.float16)
    ends = np.cumsum(sizes)
    with path.open("wb") as file:
        file.write(ivf_header(template, sizes))
        for start, stop in zip(ends - sizes, ends, strict=True):
            if stop > start:
                file.write(codes[start:stop].data)
                file.write(order[start:stop].astype("<i8").data)
    return len(lists)


def merge_ivf(path: Path, shards: Sequence[Path], template: bytes, nlist: int) -> int:
    """Join the rows of IVF files of one template, in order, and return their number.

    StoreError names a file that was made from another template. Memory: the sizes of all lists in all shards (8 bytes
    each) and runs of lists of together about MERGE_BYTES, or of one list.
    """
    code = EMPTY_LISTS.unpack(template[-EMPTY_LISTS.size :])[2]
    head = len(ivf_header(template, np.zeros(nlist, dtype=np.int64)))
    sizes = np.stack([_sizes(shard, template, nlist, head) for shard in shards])
    first_rows = np.concatenate([[0], np.cumsum(sizes.sum(axis=1))])
    starts = head + np.concatenate([np.zeros((len(shards), 1), np.int64), np.cumsum(sizes, axis=1)], axis=1) * (
        code + ID_BYTES
    )
    with path.open("wb") as merged:
        merged.write(ivf_header(template, sizes.sum(axis=0)))
        for first, stop in _runs(sizes.sum(axis=0) * (code + ID_BYTES)):
            read = [_lists(shard, starts[i], first, stop) for i, shard in enumerate(shards)]
            _write_lists(merged, read, sizes[:, first:stop], code, first_rows)
    return int(first_rows[-1])


def _sizes(shard: Path, template: bytes, nlist: int, head: int) -> np.ndarray:
    """The list sizes that a shard's header tells, once the whole header is what they and the template call for."""
    with shard.open("rb") as file:
        header = file.read(head)
    sizes = np.frombuffer(header[-ID_BYTES * nlist :].ljust(ID_BYTES * nlist, b"\0"), dtype="<i8").astype(np.int64)
    code = EMPTY_LISTS.unpack(template[-EMPTY_LISTS.size :])[2]
    whole = shard.stat().st_size == head + int(sizes.sum()) * (code + ID_BYTES)
    fits = whole and bool((sizes >= 0).all()) and header == ivf_header(template, sizes)
    _require(fits, shard, f"an IVF fp16 index of {nlist} lists from this store's template")
    return sizes


def _runs(bytes_of_lists: np.ndarray) -> Iterator[tuple[int, int]]:
    """Half-open ranges of lists, in order, of about MERGE_BYTES each."""
    first, held = 0, 0
    for number, size in enumerate(bytes_of_lists.tolist()):
        if held and held + size > MERGE_BYTES:
            yield first, number
            first, held = number, 0
        held += size
    yield first, len(bytes_of_lists)


def _lists(shard: Path, starts: np.ndarray, first: int, stop: int) -> memoryview:
    with shard.open("rb") as file:
        file.seek(int(starts[first]))
        return memoryview(file.read(int(starts[stop] - starts[first])))


def _write_lists(
    merged: IO[bytes], read: list[memoryview], sizes: np.ndarray, code: int, first_rows: np.ndarray
) -> None:
    """Write one run of lists: of each list the codes of all shards, then their labels, which become global."""
    places = [0] * len(read)
    for column in sizes.T.tolist():
        labels = []
        for i, size in enumerate(column):
            start, middle = places[i], places[i] + size * code
            merged.write(read[i][start:middle])
            places[i] = middle + size * ID_BYTES
            labels.append(np.frombuffer(read[i][middle : places[i]], dtype="<i8") + first_rows[i])
        merged.write(np.concatenate(labels).astype("<i8").tobytes())


def _with_rows(header: bytes, rows: int) -> bytes:
    return header[:ROWS_AT] + struct.pack("<q", rows) + header[ROWS_AT + 8 :]


def _require(fits: bool, shard: Path, wanted: str) -> None:
    if not fits:
        raise StoreError(f"{shard}: its header is not that of {wanted} of {shard.stat().st_size} bytes")
