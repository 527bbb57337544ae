"""How one ranked list of passages and units becomes a top-K: the paper's plain merge, or units that supersede. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wbrag.config import ConfigError, Merge


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit as the policy sees it; `sources`: ids of the documents that a unit was distilled from."""

    id: str
    unit: bool = False
    sources: frozenset[str] = frozenset()


def check_merge(merge: Merge) -> None:
    """ConfigError, naming key and value, for a policy or threshold that cannot work."""
    if merge.policy not in ("plain", "supersede"):
        raise ConfigError(f"merge.policy={merge.policy!r} is unknown; known are plain, supersede")
    if not 0 < merge.cosine <= 1:
        raise ConfigError(f"merge.cosine={merge.cosine}: more than 0 and at most 1 is needed")


def other_policy(policy: str) -> str:
    """The policy that a run of this one is held against."""
    return {"plain": "supersede", "supersede": "plain"}[policy]


def supersede(ranked: Sequence[Candidate], k: int, cosines: np.ndarray, threshold: float) -> list[int]:
    """Places, in `ranked` (best first), of the k best candidates that are different pieces of evidence.

    From the top down: a candidate that a unit in the list was distilled from, or a unit that is nearly one in the list
    (the same sources, or a cosine of at least `threshold`), is passed over; a unit that joins the list takes the place
    of those it was distilled from. `cosines` (n, n) is read between units only. What stands below the place where the
    list is full has no part in it, so a longer `ranked` gives the same. Fewer than k: all were seen.
    """
    kept: list[int] = []
    replaced: set[str] = set()
    for place, candidate in enumerate(ranked):
        if len(kept) == k:
            break
        if candidate.id in replaced:
            continue
        if any(_same(ranked, one, place, cosines, threshold) for one in kept):
            continue
        kept = [*(one for one in kept if ranked[one].id not in candidate.sources), place]
        replaced |= candidate.sources
    return kept


def _same(ranked: Sequence[Candidate], one: int, other: int, cosines: np.ndarray, threshold: float) -> bool:
    first, second = ranked[one], ranked[other]
    if not (first.unit and second.unit):
        return False
    return bool(first.sources and first.sources == second.sources) or bool(cosines[one, other] >= threshold)
