"""The k best of a fragment's rows for each query, whichever way they are searched: as a FAISS index, block by block, or
held on a device. How rows are cut into blocks changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from wbrag.store.vectors import flat_index, gpu_resources, gpus

#: (nq, d) float32 queries and n, at most as many as there are rows, to the scores and rows of the n best of each, both
#: (nq, n), best first; where the lists of an IVF index hold fewer, the row is -1.
Search: TypeAlias = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
#: Vectors that become float32 at once on their way to a device.
SENT_ROWS = 65_536


def candidates(search: Search, rows: int, xq: np.ndarray, k: int) -> list[list[tuple[float, int]]]:
    """For each query the (score, row) that may be among its k best of `rows`: k of them, and all whose score is that of
    the last of these. FAISS leaves open which of equal scores it keeps; a query whose tie reaches past what was fetched
    is asked again for twice as much.
    """
    found: list[list[tuple[float, int]]] = [[] for _ in xq]
    asked, k, fetch = np.arange(len(xq)), min(k, rows), min(k + 1, rows)
    while rows and len(asked):
        D, I = search(xq[asked], fetch)  # noqa: E741 - FAISS's names
        open_end = (D[:, -1] == D[:, k - 1]) & (I[:, -1] >= 0) & (fetch < rows)
        for at in np.flatnonzero(~open_end):
            hits = zip(D[at].tolist(), I[at].tolist(), strict=True)
            found[asked[at]] = [(score, row) for score, row in hits if row >= 0 and score >= D[at, k - 1]]
        asked, fetch = asked[open_end], min(2 * fetch, rows)
    return found


def block_search(codes: np.ndarray, visible: np.ndarray | None, block_rows: int, gpu: bool = False) -> Search:
    """A search over (n, d) float16 vectors, `block_rows` of them at a time: by FAISS's fp16 scan, with the very scores
    that one flat index gives, or on the current CUDA device. `visible` (n,) bool: what may be found, None: all; picked
    before it is sent, because FAISS's own GPU index takes an IDSelector and ignores it.
    """
    rows = np.arange(len(codes)) if visible is None else np.flatnonzero(visible)

    def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        D, found = np.empty((len(xq), 0), dtype=np.float32), np.empty((len(xq), 0), dtype=np.int64)
        for start in range(0, len(rows), block_rows):
            some = rows[start : start + block_rows]
            block = codes[start : start + block_rows] if visible is None else codes[some]
            best = min(n, len(some))
            scores, places = _gpu_knn(xq, block, best) if gpu else flat_index(block).search(xq, best)
            D, found = np.hstack([D, scores]), np.hstack([found, some[places]])
            order = np.argsort(-D, axis=1)[:, :n]
            D, found = np.take_along_axis(D, order, axis=1), np.take_along_axis(found, order, axis=1)
        return D, found

    return search


def held_search(codes: np.ndarray, visible: np.ndarray | None) -> Search:
    """The same with all visible vectors put on the CUDA device, if there is one, for as long as the search lives."""
    rows = np.arange(len(codes)) if visible is None else np.flatnonzero(visible)
    index = (_gpu_index if gpus() else flat_index)(codes if visible is None else codes[rows])

    def search(xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        D, places = index.search(xq, n)
        return D, rows[places]

    return search


def _gpu_index(vectors: np.ndarray) -> Any:  # noqa: ANN401 - a class that only FAISS's GPU build has
    import faiss

    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    index: Any = faiss.GpuIndexFlatIP(gpu_resources(), vectors.shape[1], config)
    for start in range(0, len(vectors), SENT_ROWS):  # FAISS takes float32 and rounds it back
        index.add(vectors[start : start + SENT_ROWS].astype(np.float32))
    return index


def _gpu_knn(xq: np.ndarray, block: np.ndarray, n: int) -> Any:  # noqa: ANN401 - a pair of arrays
    import faiss

    # FAISS wants queries and vectors of one type, and n <= 2048; queries of wbrag's encoders are float16 to begin with.
    return faiss.knn_gpu(gpu_resources(), xq.astype(np.float16), block, n, metric=faiss.METRIC_INNER_PRODUCT)
