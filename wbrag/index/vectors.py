"""The vectors of a segment as one FAISS file: unit norm, fp16, flat; label = row number.

FAISS merges unlike codecs without a word and keeps the larger label of two equal scores (both measured, faiss 1.15);
so what goes in is checked here, and `exact_top` states and keeps its own order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbrag.config import ConfigError
from wbrag.index.files import StoreError

if TYPE_CHECKING:
    import faiss

#: fp16 rounds each component by at most 2**-11 of itself, so a unit vector's norm by no more than that.
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Spec:
    """How the vectors are stored; two segments are searched together only if their specs are equal."""

    kind: str
    dimension: int
    metric: str = "inner_product"
    codec: str = "fp16"
    template: str | None = None  # sha256 of a trained, empty index; a flat one needs none


def spec_of(kind: str, dimension: int) -> Spec:
    """The spec for `config.Index.kind`; ConfigError for a kind that is not known."""
    if kind != "flat_fp16":
        raise ConfigError(f"index.kind: {kind!r} is not known; choose 'flat_fp16'")
    return Spec(kind, dimension)


def use_threads(threads: int = 0) -> None:
    """Let FAISS use this many threads in this process; 0: every core (a Ray actor would get one otherwise)."""
    import faiss

    faiss.omp_set_num_threads(threads or len(os.sched_getaffinity(0)))


def faiss_version() -> str:
    """The version that writes, for the record."""
    import faiss

    return str(faiss.__version__)


def check_vectors(vectors: np.ndarray, where: str) -> None:
    """Refuse (StoreError) what is not an (n, d) float16 array of finite unit vectors, naming the first bad row."""
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        raise StoreError(f"{where}: vectors are {vectors.dtype} of shape {vectors.shape}, not float16 of shape (n, d)")
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # written so that NaN is bad
    if len(bad):
        raise StoreError(f"{where}: row {bad[0]} has norm {norms[bad[0]]:.6g}, not 1 +- {NORM_TOLERANCE}")


def write_vectors(path: Path, blocks: Iterable[np.ndarray], spec: Spec) -> int:
    """Write (n, d) float16 blocks, in order, as one FAISS file and return its rows; bad vectors are refused."""
    import faiss

    index = _empty_index(spec)
    for number, block in enumerate(blocks):
        where = f"{path}: block {number}"
        check_vectors(block, where)
        if block.shape[1] != spec.dimension:
            raise StoreError(f"{where} has dimension {block.shape[1]}, the spec says {spec.dimension}")
        # Codes straight in: FAISS's own rounding of float32 differs from numpy's where it ties.
        index.add_sa_codes(np.ascontiguousarray(block).view(np.uint8))
    faiss.write_index(index, str(path))
    return int(index.ntotal)


def merge_vectors(path: Path, shards: Iterable[Path], spec: Spec) -> int:
    """Write the rows of several FAISS files, in order, as one and return its rows; an unlike file is refused."""
    import faiss

    merged = _empty_index(spec)
    for shard in shards:
        merged.merge_from(open_vectors(shard, spec, mapped=False), 0)
    faiss.write_index(merged, str(path))
    return int(merged.ntotal)


def open_vectors(path: Path, spec: Spec, *, mapped: bool = True) -> faiss.IndexScalarQuantizer:
    """The FAISS index in a file, memory-mapped unless it is to be merged (merging a mapped one aborts the process).

    StoreError when FAISS cannot read it or its type, dimension, metric or codec is not the spec's.
    """
    import faiss

    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise StoreError(f"{path}: FAISS cannot read it: {error}") from error
    model = _empty_index(spec)
    found = (type(index).__name__, index.d, index.metric_type, getattr(getattr(index, "sq", None), "qtype", None))
    wanted = (type(model).__name__, model.d, model.metric_type, model.sq.qtype)
    if found != wanted:
        raise StoreError(f"{path}: (type, dimension, metric, codec) is {found}, the spec says {wanted}")
    checked: faiss.IndexScalarQuantizer = index
    return checked


def rows_of(index: faiss.IndexScalarQuantizer, rows: np.ndarray | None = None) -> np.ndarray:
    """The stored vectors of these rows, or of all: (n, d) float16, bit for bit those that were written."""
    found = index.reconstruct_n(0, index.ntotal) if rows is None else index.reconstruct_batch(rows)
    return np.asarray(found).astype(np.float16)


def excluding(dead: np.ndarray) -> faiss.SearchParameters | None:
    """Search parameters under which FAISS (CPU) does not see these rows; None when there are none."""
    import faiss

    if not len(dead):
        return None
    selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(dead.astype(np.int64)))
    # As an argument, which FAISS's stubs lack: only so does the object keep the selector alive.
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]


def exact_top(
    index: faiss.IndexScalarQuantizer, xq: np.ndarray, k: int, parameters: faiss.SearchParameters | None, fetch: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of each query by (score descending, row ascending).

    xq: (nq, d) float32. Returns scores and rows, each (nq, min(k, ntotal)); the row is -1 where fewer can be seen.
    FAISS leaves open which of several equal scores it keeps at place k: a query whose tie reaches past what was
    fetched is asked again for twice as much, so that the answer does not depend on how rows are cut into segments.
    """
    k = min(k, index.ntotal)
    fetch = min(fetch or k + 1, index.ntotal)
    D, rows = index.search(xq, fetch, params=parameters)
    cut = (D[:, -1] == D[:, k - 1]) & (rows[:, -1] >= 0) & (fetch < index.ntotal)
    order = np.lexsort((rows, -D))[:, :k]
    D, rows = np.take_along_axis(D, order, axis=1), np.take_along_axis(rows, order, axis=1)
    if cut.any():
        D[cut], rows[cut] = exact_top(index, xq[cut], k, parameters, 2 * fetch)
    return D, rows


def _empty_index(spec: Spec) -> faiss.IndexScalarQuantizer:
    import faiss

    return faiss.IndexScalarQuantizer(spec.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
