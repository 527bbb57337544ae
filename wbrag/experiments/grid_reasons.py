"""Why a setting does not gain, from its traces and predictions: what became of its units and of its test questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wbrag.experiments.grid import Point

Record = Mapping[str, Any]


def fates(point: Point) -> dict[str, Any]:
    """What became of a setting's units and test questions, as counts.

    `read` questions had a unit among their documents; `better` and `worse` are those whose score moved. Of the worse,
    `lost` had a document with a golden answer in their base documents and have none with write-back, `there` still have
    one, `never` had none, and `unread` (in none of these) read no unit: their answers moved by a search of the method's
    own, or by noise. Where labels are the answers nobody knows which documents hold them: all three stay None.
    `example` is the id of a question that got worse, else of one that read a unit.
    """
    units = np.array([facts["writeback_hits"] > 0 for facts in point.facts])
    before, after = (np.array([facts[f"found_{side}"] for facts in point.facts]) for side in ("base", "writeback"))
    worse = point.gains < 0
    read_and_worse = worse & units
    labels = bool(np.isnan(before).any())
    of_worse = {
        "lost": read_and_worse & (before > 0) & (after == 0),
        "there": read_and_worse & (after > 0),
        "never": read_and_worse & (before == 0) & (after == 0),
    }
    shown = np.flatnonzero(worse) if worse.any() else np.flatnonzero(units)
    construction = point.metrics["construction"]
    return {
        "units": construction["units"],
        "kept": construction["kept"],
        "examples": construction["examples"],
        "gated_by": next(iter(construction["reasons"].items()), None),
        "read": int(units.sum()),
        "better": int(np.sum(point.gains > 0)),
        "worse": int(worse.sum()),
        **{name: None if labels else int(found.sum()) for name, found in of_worse.items()},
        "unread": int((worse & ~units).sum()),
        "example": point.ids[shown[0]] if len(shown) else None,
    }


def why(fate: Record) -> str:
    """The chief reason that `fates` give for a setting that does not gain, in one sentence."""
    if not fate["units"]:
        rule, count = fate["gated_by"] or ("no example was there", 0)
        return f"No unit was written: {rule}, for {count:,} of {fate['examples']:,} examples."
    if not fate["read"]:
        return "No test question found a unit among its documents."
    moved = f"{fate['read']:,} questions read a unit; {fate['better']:,} got better, {fate['worse']:,} worse"
    if not fate["worse"]:
        return f"{moved}: units said what the documents had said already."
    if fate["lost"] is None:
        return f"{moved}: units moved labels both ways."
    parts = {
        "units pushed the document with the answer out": fate["lost"],
        "a document with the answer was there and was misread beside the units": fate["there"],
        "no document had held the answer, and a right guess was lost": fate["never"],
        "no unit was read, the method searched or answered otherwise": fate["unread"],
    }
    chief = max(parts, key=parts.__getitem__)
    return f"{moved}: for {parts[chief]:,} of the worse, {chief}."
