"""What people decided about units: accepted, rejected, edited. Pure.

A decision is about a unit's id, which is made of its title, text and sources: whatever example writes the same again,
it is the same unit, and what was decided of it holds. An edited unit stands in the place of the one that it was made
of, for as long as its sources say what they said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["accepted", "rejected", "edited"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about a unit, why and when; `unit`: what it was then, or is by now that it was edited (a
    row of `schema.UNIT`). `sources`: of an edited one, what each of its sources said, as a hash by id.
    """

    state: State
    why: str
    at: str
    unit: Row
    sources: Mapping[str, str]


def decided(
    units: Sequence[Row], decisions: Mapping[str, Decision], sources: Mapping[str, str]
) -> tuple[list[Row], list[Row]]:
    """The units to publish, in order of their id, and what is left out of them (`schema.LEFT`): those that were
    rejected, those in whose place an edited one stands, and edited ones whose `sources` (what each says now, as a hash
    by id) are gone or say something else.
    """
    refused = {key: one for key, one in decisions.items() if one.state != "accepted"}
    kept = [unit for unit in units if unit["id"] not in refused]
    left_out = [_left(unit, refused[unit["id"]]) for unit in units if unit["id"] in refused]
    made = {unit["id"] for unit in kept} | {key for key, one in decisions.items() if one.state == "rejected"}
    for one in decisions.values():
        if one.state != "edited" or one.unit["id"] in made:
            continue
        if changed := [key for key, said in one.sources.items() if sources.get(key) != said]:
            told = f"edited {one.at}, and {', '.join(changed)} changed since: look at it again"
            left_out.append(_row(one.unit, "review", told))
        else:
            kept.append(one.unit)
            made.add(one.unit["id"])
    return sorted(kept, key=lambda unit: str(unit["id"])), left_out


def _left(unit: Row, decision: Decision) -> Row:
    return _row(unit, decision.state, f"{decision.at}: {decision.why}" if decision.why else decision.at)


def _row(unit: Row, kind: str, reason: str) -> Row:
    request = ", ".join(unit["example_ids"]) or unit["subject"]
    return {"request": request, "text": f"{unit['title']}\n{unit['text']}", "kind": kind, "reason": reason}
