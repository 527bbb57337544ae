"""Kept only where it helps: units judged by what they did to training questions that did not make them. Pure.

A unit is read by few training questions, too few to be judged by its own readings alone. So units are pooled by what
they have in common (`_pools_of`), and a pool that takes more answers than it gives, by more than chance, goes too.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Row = Mapping[str, Any]

#: A pool goes where, if it did neither good nor harm, so many of its changed answers would be worse in fewer cases.
CHANCE = 0.1
#: Where units stand whose readings found them nearer to the question, on average, than the best passage, and others.
NEARER, FARTHER = "nearer than the best passage", "farther than the best passage"


@dataclass(frozen=True, slots=True)
class Reading:
    """A training question that read units other than its own: its score without and with them, 0..1."""

    question: str
    before: float
    after: float
    nearness: Mapping[str, float]  # unit -> how much nearer than the best passage it was (negative: farther)

    @property
    def change(self) -> float:
        """What it did to each of its units: a reading of n units is 1/n each."""
        return (self.after - self.before) / len(self.nearness)


@dataclass(frozen=True, slots=True)
class Balance:
    """What a unit did: points given and taken over its readings."""

    given: float
    taken: float
    readings: int
    questions: tuple[str, ...]  # whose score changed
    reason: str = ""  # why it goes; "" where it stays


class Readings:
    """What readings say of units, in a few numbers for each unit that each question read, in order of the questions:
    the `unit`, the question (`reading`), how much its score changed for it, how near it was. `changed` are the ids of
    the questions whose score changed.
    """

    def __init__(self, numbers: Mapping[str, int], readings: Iterable[Reading]) -> None:
        units, questions, changes, nearness = array("q"), array("q"), array("d"), array("d")
        self.changed: dict[int, str] = {}
        for number, reading in enumerate(readings):
            for unit, near in reading.nearness.items():
                if unit in numbers:
                    units.append(numbers[unit])
                    questions.append(number)
                    changes.append(reading.change)
                    nearness.append(near)
            if reading.nearness and reading.change:
                self.changed[number] = reading.question
        self.unit, self.reading = np.array(units, dtype=np.int64), np.array(questions, dtype=np.int64)
        self.change, self.nearness = np.array(changes, dtype=np.float64), np.array(nearness, dtype=np.float64)
        self.order = np.argsort(self.unit, kind="stable")
        self.starts = np.searchsorted(self.unit[self.order], np.arange(len(numbers) + 1))

    def summed(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """For each unit the sum over its readings, in their order."""
        return np.bincount(self.unit, values, minlength=len(self.starts) - 1).astype(np.float64)

    def changes_of(self, units: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The questions that read any of these units and whose score changed, each once, and by how much."""
        own = np.concatenate([self.order[self.starts[unit] : self.starts[unit + 1]] for unit in units])
        own = own[self.change[own] != 0]
        questions, first = np.unique(self.reading[own], return_index=True)
        return questions, self.change[own][first]


def balances(units: Iterable[Row], readings: Iterable[Reading]) -> dict[str, Balance]:
    """For every unit (a row of `schema.UNIT`) what its readings say; `reason` is set for those that are to go.

    A unit goes where it takes more than it gives, and where a pool that it belongs to does, beyond chance, unless its
    own readings gave more than they took. One that nobody read goes with its pool alone: nothing else is known of it.
    """
    numbers: dict[str, int] = {}
    pools: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        numbers[unit["id"]] = number
        for pool in _pools_of(unit):
            pools[pool].append(number)
    read = Readings(numbers, readings)
    counts = np.bincount(read.unit, minlength=len(numbers))
    given, taken = (read.summed(np.maximum(sign * read.change, 0.0)) for sign in (1, -1))
    nearness = read.summed(read.nearness)
    for number in np.flatnonzero(counts).tolist():
        pools["nearness", NEARER if nearness[number] >= 0 else FARTHER].append(number)
    reasons = _pooled(pools, read, given, taken)
    found = {}
    for key, number in numbers.items():
        questions = tuple(read.changed[one] for one in read.changes_of([number])[0].tolist()) if counts[number] else ()
        net = round(float(given[number] - taken[number]), 9)  # thirds given and taken back are no harm
        reason = f"takes {taken[number]:.2f} and gives {given[number]:.2f}" if net < 0 else ""
        reason = reasons.get(number, "") if net == 0 else reason
        found[key] = Balance(float(given[number]), float(taken[number]), int(counts[number]), questions, reason)
    return found


def _pooled(
    pools: Mapping[tuple[str, str], Sequence[int]],
    read: Readings,
    given: npt.NDArray[np.float64],
    taken: npt.NDArray[np.float64],
) -> dict[int, str]:
    """For the units of pools that do harm beyond chance: the pool, with its numbers."""
    reasons: dict[int, str] = {}
    for (kind, value), members in sorted(pools.items()):
        gives, takes = (sum(some[list(members)].tolist()) for some in (given, taken))
        if len(members) > 1 and takes > gives:
            _, changes = read.changes_of(members)
            if tail(int(np.sum(changes < 0)), len(changes)) < CHANCE:
                told = f"{kind} {value}: {len(members)} units take {takes:.2f} and give {gives:.2f}"
                for member in members:
                    reasons.setdefault(member, told)
    return reasons


def _pools_of(unit: Row) -> list[tuple[str, str]]:
    pools = [("form", unit["form"]), ("doubt", unit["doubt"]), *(("source", source) for source in unit["source_ids"])]
    pools.append(("asked about", "yes" if unit["example_ids"] else "no"))
    return [(kind, value) for kind, value in pools if value]


def tail(worse: int, changed: int) -> float:
    """The probability of `worse` or more out of `changed` where better and worse are as likely: a sign test."""
    from scipy.special import bdtrc

    return float(bdtrc(worse - 1, changed, 0.5)) if worse else 1.0
