"""What several runs bring into one knowledge base: each unit once, with the runs that made it. Pure.

A run's contribution is what it brought last, whatever it brought before. A unit that no run brings any more goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def merged(live: Sequence[Row], run: str, units: Sequence[Row]) -> list[Row]:
    """The units of a knowledge base in which `run` has brought exactly `units`, in order of their id.

    Rows are those of `schema.UNIT` with `runs`: who made a unit, each {run, example_ids}; of `units` that is not read.
    What others brought stays theirs, and a unit's `example_ids` are those of all its runs.
    """
    found = {row["id"]: row | {"runs": [one for one in row["runs"] or () if one["run"] != run]} for row in live}
    for unit in units:
        others = found[unit["id"]]["runs"] if unit["id"] in found else []
        own = {"run": run, "example_ids": sorted(unit["example_ids"])}
        found[unit["id"]] = unit | {"runs": sorted([*others, own], key=lambda one: str(one["run"]))}
    rows = (found[key] for key in sorted(found) if found[key]["runs"])
    return [row | {"example_ids": sorted({key for one in row["runs"] for key in one["example_ids"]})} for row in rows]


def shares(live: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """For each run how many units it made, and how many of them nobody else did."""
    found: dict[str, tuple[int, int]] = {}
    for runs in ([one["run"] for one in row["runs"] or ()] for row in live):
        for run in runs:
            units, alone = found.get(run, (0, 0))
            found[run] = units + 1, alone + (len(runs) == 1)
    return dict(sorted(found.items()))


def at_home(units: Sequence[Row], own: Mapping[str, str], here: Mapping[str, str]) -> list[Row]:
    """Those of a run's units whose sources say in a knowledge base what they say to the run; `own` and `here` are
    hashes of passages by id.
    """
    return [unit for unit in units if all(key in here and here[key] == own.get(key) for key in unit["source_ids"])]
