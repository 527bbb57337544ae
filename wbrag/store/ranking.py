"""The best rows of several parts as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wbrag.schema import Document
from wbrag.store.part import Part
from wbrag.store.topk import Search, exact_top, fold


def top(parts: Sequence[Part], searches: Sequence[Search], xq: np.ndarray, k: int) -> list[list[Document]]:
    """The k best rows of all parts for each query (nq, d) float32, best first; ties as `topk` orders them."""
    if not parts:
        return [[] for _ in xq]
    found = [exact_top(search, part.segment.rows, xq, k) for part, search in zip(parts, searches, strict=True)]
    D, P, rows = fold(found, k)
    passage: dict[tuple[int, int], dict[str, Any]] = {}
    for number, part in enumerate(parts):  # each part's passages are looked up once for all queries
        wanted = np.unique(rows[(P == number) & (rows >= 0)])
        if len(wanted):
            passage.update(zip(((number, int(row)) for row in wanted), part.passages(wanted), strict=True))
    return [
        [
            Document(**passage[int(p), int(row)], score=float(score), source=parts[p].source, version=parts[p].version)
            for score, p, row in zip(*hits, strict=True)
            if row >= 0
        ]
        for hits in zip(D, P, rows, strict=True)
    ]
