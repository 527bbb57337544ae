"""Who may see a passage, and a unit made of passages. Pure.

A label is a list of clauses, each a list of groups: a reader sees a row who holds a group of every clause. So a passage
with groups has one clause, and a unit, which is seen by whoever may see all its sources, has the clauses of all of
them. No clause: everybody. A clause without a group: nobody. Where rows have labels, one without is seen by nobody.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

Label: TypeAlias = list[list[str]]

EVERYBODY: Label = []
NOBODY: Label = [[]]


def label_of(value: object) -> Label:
    """The label of a passage whose key says this: None everybody, a group or a list of groups whoever holds one of
    them, a list of such lists whoever holds one of each. A list without a group, and an empty text, let nobody in.
    ValueError for any other value.
    """
    if value is None:
        return EVERYBODY
    some: list[Any] = value if isinstance(value, list) else [value]
    clauses: list[list[Any]] = some if some and all(isinstance(one, list) for one in some) else [some]
    if not all(isinstance(group, str) for clause in clauses for group in clause):
        raise ValueError(f"is {json.dumps(value, ensure_ascii=False)[:40]}, not a group or a list of groups")
    return together([[[group for group in clause if group] for clause in clauses]])


def together(labels: Iterable[Label | None]) -> Label:
    """The label of what is seen by whoever may see all that have these (None: no label): its least clauses, in order.
    A clause that holds all groups of another asks for nothing more.
    """
    clauses = {frozenset(clause) for label in labels for clause in (NOBODY if label is None else label)}
    least = [one for one in clauses if not any(other < one for other in clauses)]
    return sorted(sorted(clause) for clause in least)


def may_see(label: Label | None, groups: Collection[str]) -> bool:
    """Whether a reader with these groups sees what has this label."""
    return label is not None and all(any(group in groups for group in clause or ()) for clause in label)


def seen_by_nobody(label: Label) -> bool:
    """Whether no reader sees what has this label, whichever groups there are."""
    return any(not clause for clause in label)
