"""Exact top-k as a fold: whatever is searched apart - blocks of vectors on a device - merges into one list.

The order is total and stated: score descending, then part, then row; so how rows are cut into parts changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

#: (nq, d) float32 queries and a number n to the n best (scores, rows) of each, (nq, n); row -1 where there are fewer.
Search: TypeAlias = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
#: Float16 vectors (n, d), put where they are searched, to a `Search` over them.
Hold: TypeAlias = Callable[[np.ndarray], Search]
#: Queries, a block of float16 vectors and a number n to the n best scores and places in the block, each (nq, n).
Nearest: TypeAlias = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
#: Vectors that become float32 at once on their way to a device.
SENT_ROWS = 65_536


def exact_top(search: Search, rows: int, xq: np.ndarray, k: int, fetch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The k best of `rows` rows for each query by (score descending, row ascending).

    Returns scores and rows, each (nq, min(k, rows)); the row is -1 where fewer can be seen. FAISS leaves open which of
    several equal scores it keeps at place k: a query whose tie reaches past what was fetched is asked again for twice
    as much, so that the answer does not depend on how rows are cut into blocks.
    """
    k = min(k, rows)
    fetch = min(fetch or k + 1, rows)
    D, found = search(xq, fetch)
    cut = (D[:, -1] == D[:, k - 1]) & (found[:, -1] >= 0) & (fetch < rows)
    order = np.lexsort((found, -D))[:, :k]
    D, found = np.take_along_axis(D, order, axis=1), np.take_along_axis(found, order, axis=1)
    if cut.any():
        D[cut], found[cut] = exact_top(search, rows, xq[cut], k, 2 * fetch)
    return D, found


def fold(found: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge (scores, rows) of the parts, given in order of preference: scores, parts and rows, each (nq, <= k).

    A stable sort keeps equal scores in the order of parts and, within a part, of rows. Where nothing was left to
    find, the row is -1 and stands last.
    """
    D = np.concatenate([scores for scores, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    P = np.concatenate([np.full(rows.shape, part) for part, (_, rows) in enumerate(found)], axis=1)
    order = np.argsort(np.where(rows < 0, np.inf, -D), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(D, order, 1), np.take_along_axis(P, order, 1), np.take_along_axis(rows, order, 1)


def block_search(codes: np.ndarray, visible: np.ndarray | None, block_rows: int, nearest: Nearest) -> Search:
    """A search over (n, d) float16 vectors of which a device holds `block_rows` at a time.

    `visible`: the rows that may be found, sorted; None: all. They are picked before they are sent, because FAISS's own
    GPU index takes an IDSelector and ignores it.
    """
    total = len(codes) if visible is None else len(visible)

    def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        best = np.full((len(xq), n), -np.inf, dtype=np.float32), np.full((len(xq), n), -1, dtype=np.int64)
        for start in range(0, total, block_rows):
            stop = min(start + block_rows, total)
            rows = np.arange(start, stop) if visible is None else visible[start:stop]
            block = codes[start:stop] if visible is None else codes[rows]
            scores, places = nearest(xq, block, min(n, len(rows)))
            D, _, found = fold([best, (scores, rows[places])], n)
            best = D, found
        return best

    return search


def warm_search(codes: np.ndarray, visible: np.ndarray | None, hold: Hold) -> Search:
    """A search over (n, d) float16 vectors that are sent to the device once; `visible` as in `block_search`."""
    rows = np.arange(len(codes)) if visible is None else visible
    held = hold(codes if visible is None else codes[visible])

    def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        best = np.full((len(xq), n), -np.inf, dtype=np.float32), np.full((len(xq), n), -1, dtype=np.int64)
        if some := min(n, len(rows)):
            D, places = held(xq, some)
            best[0][:, :some], best[1][:, :some] = D, rows[places]
        return best

    return search


def gpu_hold(vectors: np.ndarray) -> Search:
    """`Hold` on the current CUDA device: a float16 index that stays there as long as the search does."""
    import faiss

    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    index: Any = faiss.GpuIndexFlatIP(_gpu_resources(), vectors.shape[1], config)
    for start in range(0, len(vectors), SENT_ROWS):  # FAISS takes float32 and rounds it back
        index.add(vectors[start : start + SENT_ROWS].astype(np.float32))

    def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        D, places = index.search(xq, n)
        return D, places

    return search


def cpu_hold(vectors: np.ndarray) -> Search:
    """`Hold` without a device: FAISS's fp16 index in memory."""
    return functools.partial(_scanned, scan_index(vectors))


def gpu_nearest(xq: np.ndarray, block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`Nearest` on the current CUDA device; only `block` and the scores lie there. FAISS allows n <= 2048."""
    import faiss

    # FAISS wants queries and vectors of one type; those of wbrag's encoders are float16 to begin with.
    D, places = faiss.knn_gpu(_gpu_resources(), xq.astype(np.float16), block, n, metric=faiss.METRIC_INNER_PRODUCT)
    return D, places


def scan_nearest(xq: np.ndarray, block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`Nearest` by FAISS's fp16 scan: bit for bit the scores that one flat fp16 index over all blocks gives."""
    return _scanned(scan_index(block), xq, n)


def scan_index(vectors: np.ndarray) -> Any:  # noqa: ANN401 - SWIG
    """FAISS's flat fp16 index over (n, d) float16 vectors, as they are."""
    import faiss

    index: Any = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
    return index


def _scanned(index: Any, xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401 - SWIG
    D, places = index.search(xq, n)
    return D, places


def cpu_nearest(xq: np.ndarray, block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`Nearest` without a device; float32 throughout, so that scores may differ from the GPU's by 1e-3."""
    import faiss

    D, places = faiss.knn(xq, block.astype(np.float32), n, metric=faiss.METRIC_INNER_PRODUCT)
    return D, places


def gpus() -> int:
    """CUDA devices that this process's FAISS can use; 0 with the CPU build."""
    import faiss

    return int(faiss.get_num_gpus())


@functools.cache
def _gpu_resources() -> Any:  # noqa: ANN401 - a class that only FAISS's GPU build has
    import faiss

    return faiss.StandardGpuResources()
