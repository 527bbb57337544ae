"""The ranked hits of several parts as documents: cut after K (the paper's merge), or units first that supersede."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbrag.index.merge import Candidate, supersede
from wbrag.index.part import Part
from wbrag.index.topk import Search, exact_top, fold
from wbrag.index.vectors import rows_of
from wbrag.schema import Document


@dataclass(frozen=True, slots=True)
class Hit:
    """A document, where it lies, and what it was distilled from."""

    document: Document
    part: int
    row: int
    sources: frozenset[str]


def top(parts: Sequence[Part], searches: Sequence[Search], xq: np.ndarray, k: int) -> list[list[Hit]]:
    """The k best rows of all parts for each query (nq, d) float32, best first; ties as `topk` orders them."""
    found = [exact_top(search, part.segment.rows, xq, k) for part, search in zip(parts, searches, strict=True)]
    D, P, rows = fold(found, k)
    passage: dict[tuple[int, int], tuple[dict[str, Any], frozenset[str]]] = {}
    for number, part in enumerate(parts):  # each part's passages are looked up once for all queries
        wanted = np.unique(rows[(P == number) & (rows >= 0)])
        if len(wanted):
            passage.update(zip(((number, int(row)) for row in wanted), part.passages(wanted), strict=True))
    return [
        [
            _hit(*passage[int(part), int(row)], float(score), parts[part], int(part), int(row))
            for score, part, row in zip(*hits, strict=True)
            if row >= 0
        ]
        for hits in zip(D, P, rows, strict=True)
    ]


def superseding(
    parts: Sequence[Part], searches: Sequence[Search], xq: np.ndarray, k: int, cosine: float, fetch: int = 0
) -> list[list[Hit]]:
    """The k best of each query that are different pieces of evidence (`merge.supersede`).

    A query of whose first `fetch` hits too few are left is asked again for twice as many, so the result is that of the
    whole ranking.
    """
    fetch = fetch or 2 * k
    ranked = top(parts, searches, xq, fetch)
    vectors = _unit_vectors(parts, ranked)
    kept = []
    for hits in ranked:
        candidates = [Candidate(h.document.id, h.document.source == "writeback", h.sources) for h in hits]
        places = supersede(candidates, k, _cosines(hits, vectors), cosine)
        kept.append([hits[place] for place in places])
    short = [n for n, (hits, left) in enumerate(zip(ranked, kept, strict=True)) if len(left) < k and len(hits) == fetch]
    if short:
        again = superseding(parts, searches, xq[short], k, cosine, 2 * fetch)
        for number, hits in zip(short, again, strict=True):
            kept[number] = hits
    return kept


def _hit(passage: dict[str, Any], sources: frozenset[str], score: float, part: Part, number: int, row: int) -> Hit:
    return Hit(Document(**passage, score=score, source=part.source, version=part.version), number, row, sources)


def _unit_vectors(parts: Sequence[Part], ranked: list[list[Hit]]) -> dict[tuple[int, int], np.ndarray]:
    """The vector (d,) float32 of every unit among the hits."""
    vectors: dict[tuple[int, int], np.ndarray] = {}
    for number, part in enumerate(parts):
        if part.source == "writeback":
            rows = np.unique([hit.row for hits in ranked for hit in hits if hit.part == number]).astype(np.int64)
            if len(rows):
                found = rows_of(part.segment.index, rows).astype(np.float32)
                vectors.update(zip(((number, int(row)) for row in rows), found, strict=True))
    return vectors


def _cosines(hits: list[Hit], vectors: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """(n, n) inner products between the units among n hits; zero elsewhere."""
    found = np.zeros((len(hits), len(hits)), dtype=np.float32)
    units = [place for place, hit in enumerate(hits) if (hit.part, hit.row) in vectors]
    if len(units) > 1:
        stacked = np.stack([vectors[hits[place].part, hits[place].row] for place in units])
        found[np.ix_(units, units)] = stacked @ stacked.T
    return found
