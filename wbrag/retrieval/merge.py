"""How the best passages and the best units of a question become the documents that are read. Pure.

`plain` is the paper's: K places, taken by score alone. `beside` takes no passage's place: the K passages stay, and
units come before them, as `merge.reach` says: those that are near enough, of these those that the question names, and
with `linked` those that these name, as a question of two steps names only where it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from wbrag.config import ConfigError, Merge, Retrieval, check_values
from wbrag.schema import Document
from wbrag.units.sentences import folded, holds, names

#: How much the first ranks count in a fusion: the constant of Cormack et al.
RANK = 60
KNOWN = {"policy": ("plain", "beside"), "reach": ("near", "named", "linked")}


def check_merge(merge: Merge) -> None:
    """ConfigError, naming key and value, for a policy, reach or bound that cannot work."""
    check_values(merge, "merge.", KNOWN)
    for key in ("margin", "room"):
        if not 0 <= getattr(merge, key) <= 2:
            raise ConfigError(f"merge.{key}={getattr(merge, key)}: a number from 0 to 2 is needed")


def check_retrieval(retrieval: Retrieval) -> None:
    """ConfigError, with both values, for a kind of retrieval that is not known."""
    check_values(retrieval, "retrieval.", {"kind": ("dense", "bm25", "hybrid")})


def by_name(merge: Merge) -> bool:
    """Whether the words of a question say which units it is given."""
    return merge.policy == "beside" and merge.reach != "near"


def best_of(lists: Sequence[Sequence[Document]], k: int) -> list[Document]:
    """The k best of a store, given the k best of each of its shards: score descending, of equal scores by id, which is
    the order of a search of all (`wbrag.store.search`).
    """
    return sorted(chain(*lists), key=lambda document: (-document.score, document.id))[:k]


def fused(lists: Sequence[Sequence[Document]], k: int) -> list[Document]:
    """The k best of several lists, each best first, by reciprocal rank fusion (Cormack et al. 2009): their scores are
    its, scaled so that the first of all lists has 1.0; of equal scores by id.
    """
    scores: dict[str, float] = {}
    for some in lists:
        for rank, one in enumerate(some, 1):
            scores[one.id] = scores.get(one.id, 0.0) + (RANK + 1) / (RANK + rank) / len(lists)
    there = {one.id: one for one in chain(*lists)}
    best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    return [replace(there[key], score=score) for key, score in best]


def plain(passages: Sequence[Document], units: Sequence[Document], k: int) -> list[Document]:
    """The k best of both lists, each best first; of equal scores passages come first."""
    return sorted([*passages, *units], key=lambda document: -document.score)[:k]


def beside(
    passages: Sequence[Document], units: Sequence[Document], k: int, merge: Merge, question: str = ""
) -> list[Document]:
    """The units that stand beside the passages, of `units`, best first: at most k.

    A unit has to be as near to the question as the best passage, up to `margin` in score, and has to fit: units may
    hold `room` times the characters of the passages. One that is too long is passed over. Without passages all fit.
    Where the question decides (`by_name`) it has to name the unit's title (`is_named`).
    """
    if by_name(merge):
        units = [unit for unit in units if is_named(question, unit.title)]
    least = passages[0].score - merge.margin if passages else -float("inf")
    return _fitting([], [unit for unit in units if unit.score >= least], passages, k, merge)


def is_named(question: str, title: str) -> bool:
    """Whether the title, or a heading of one that is a path ("Guide > Setup"), stands in the question, in any case, and
    not only in a longer name ("Act" in "Schools Act").
    """
    return any(_stands(question, one) for one in title.split(" > "))


def _stands(question: str, title: str) -> bool:
    if not holds(question, title):
        return False
    holding = [name.removesuffix("'s").removesuffix("\u2019s") for name in names(question) if holds(name, title)]
    return not holding or any(folded(name) == folded(title) for name in holding)


def mentions(units: Sequence[Document]) -> frozenset[str]:
    """The names in the units' texts, but those that a unit's own title holds, or that hold it."""
    return frozenset(
        name for unit in units for name in names(unit.text) if not (holds(unit.title, name) or holds(name, unit.title))
    )


def linked(
    passages: Sequence[Document], first: Sequence[Document], units: Sequence[Document], k: int, merge: Merge
) -> list[Document]:
    """`first`, and of `units`, best first, those whose title is mentioned there, as far as room and places are left.

    They may be as far from the question as they like: it does not name them.
    """
    named, there = mentions(first), {unit.id for unit in first}
    more = [unit for unit in units if unit.title in named and unit.id not in there]
    return _fitting(first, more, passages, k, merge)


def _fitting(
    first: Sequence[Document], units: Sequence[Document], passages: Sequence[Document], k: int, merge: Merge
) -> list[Document]:
    """`first` and those of the units that fit beside the passages behind it; one that does not is passed over."""
    room = merge.room * sum(len(passage.contents) for passage in passages) if passages else float("inf")
    room -= sum(len(unit.contents) for unit in first)
    found = list(first)
    for unit in units:
        if len(found) < k and len(unit.contents) <= room:
            found.append(unit)
            room -= len(unit.contents)
    return found
