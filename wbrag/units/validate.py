"""Kept only where it helps: units judged by what they did to training questions that did not make them. Pure.

A unit is read by few training questions, too few to be judged by its own readings alone. So units are pooled by what
they have in common (`_pools_of`), and a pool that takes more answers than it gives, by more than chance, goes too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

Row = Mapping[str, Any]

#: A pool goes where, if it did neither good nor harm, so many of its changed answers would be worse in fewer cases.
CHANCE = 0.1


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


def balances(units: Sequence[Row], readings: Sequence[Reading]) -> dict[str, Balance]:
    """For every unit (a row of `schema.UNIT`) what its readings say; `reason` is set for those that are to go.

    A unit goes where it takes more than it gives, and where a pool that it belongs to does, beyond chance, unless its
    own readings gave more than they took. One that nobody read goes with its pool alone: nothing else is known of it.
    """
    own: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        for unit in reading.nearness:
            own[unit].append(reading)
    found = {unit["id"]: _balance(own[unit["id"]]) for unit in units}
    reasons = _pooled(units, found, own)
    for key, balance in found.items():
        net = round(balance.given - balance.taken, 9)  # thirds given and taken back are no harm
        if net < 0:
            found[key] = replace(balance, reason=f"takes {balance.taken:.2f} and gives {balance.given:.2f}")
        elif net == 0:
            found[key] = replace(balance, reason=reasons.get(key, ""))
    return found


def _balance(own: Sequence[Reading]) -> Balance:
    given = sum(reading.change for reading in own if reading.change > 0)
    taken = -sum(reading.change for reading in own if reading.change < 0)
    return Balance(given, taken, len(own), tuple(reading.question for reading in own if reading.change))


def _pooled(units: Sequence[Row], found: Mapping[str, Balance], own: Mapping[str, Sequence[Reading]]) -> dict[str, str]:
    """For the units of pools that do harm beyond chance: the pool, with its numbers."""
    pools: dict[tuple[str, str], list[str]] = defaultdict(list)
    for unit in units:
        for pool in _pools_of(unit, own[unit["id"]]):
            pools[pool].append(unit["id"])
    reasons: dict[str, str] = {}
    for (kind, value), members in sorted(pools.items()):
        changed = {reading.question: reading.change for key in members for reading in own[key] if reading.change}
        worse = sum(change < 0 for change in changed.values())
        given, taken = sum(found[key].given for key in members), sum(found[key].taken for key in members)
        if len(members) > 1 and taken > given and tail(worse, len(changed)) < CHANCE:
            told = f"{kind} {value}: {len(members)} units take {taken:.2f} and give {given:.2f}"
            reasons = dict.fromkeys(members, told) | reasons
    return reasons


def _pools_of(unit: Row, own: Sequence[Reading]) -> list[tuple[str, str]]:
    pools = [("form", unit["form"]), ("doubt", unit["doubt"]), *(("source", source) for source in unit["source_ids"])]
    pools.append(("asked about", "yes" if unit["example_ids"] else "no"))
    if own:
        mean = sum(reading.nearness[unit["id"]] for reading in own) / len(own)
        pools.append(("nearness", "nearer than the best passage" if mean >= 0 else "farther than the best passage"))
    return [(kind, value) for kind, value in pools if value]


def tail(worse: int, changed: int) -> float:
    """The probability of `worse` or more out of `changed` where better and worse are as likely: a sign test."""
    return sum(comb(changed, n) for n in range(worse, changed + 1)) / 2**changed if changed else 1.0
