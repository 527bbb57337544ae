"""The two merge policies beside each other (`wbrag.index.merge`), in runs that were measured with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wbrag import paper
from wbrag.config import Merge
from wbrag.grid import Point, pooled, primary_scores, variant_predictions
from wbrag.index.merge import other_policy
from wbrag.page import Block, Heading, Table, Text
from wbrag.runfolder import read_config, read_record
from wbrag.tables import interval, percent, points

Record = Mapping[str, Any]

NOTE = (
    "The same units and questions, merged by score alone (plain, the paper's) and with units in the place of what they "
    "were distilled from and of their near-duplicates (supersede). Intervals are those of the grid."
)


def merge_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Plain and superseding merge of each run that was measured with both; what they showed goes into `grid`."""
    both = {"/".join(run.key): found for run in runs if (found := with_both(run))}
    grid["merge"] = {name: _record(*found) for name, found in both.items()}
    if not both:
        return []
    pools = {"all settings": pooled([one for one, _ in both.values()], lambda p: np.ones(len(p.ids), dtype=bool))}
    pools["all settings, no overlap with training"] = pooled(
        [one for one, _ in both.values()], lambda p: np.array([overlap == "none" for overlap in p.overlap])
    )
    grid["merge"] |= {name: record for name, record in pools.items() if record}
    return [Heading("Plain or superseding merge"), Text(NOTE, "note"), _table(grid["merge"]), Text(verdict(grid))]


def with_both(point: Point) -> tuple[Point, tuple[float | None, ...]] | None:
    """The run with its plain score in the place of base and its superseding one in that of write-back, and how often
    each found a golden answer; None where it was measured with its own policy alone.
    """
    own = read_config(point.run).get("merge", {}).get("policy", Merge().policy)
    folder = point.run / "variants" / f"merge-{other_policy(own)}"
    if not (folder / "metrics.json").is_file():
        return None
    other = primary_scores(variant_predictions(point, folder), point.setting)
    measured = (point.metrics, read_record(folder / "metrics.json"))
    found = [record["results"][0]["retrieval_recall_writeback"] for record in measured]
    scores = [point.scores[:, 2], other[:, 2]]
    order = (0, 1) if own == "plain" else (1, 0)
    arms = np.column_stack([point.scores[:, 0], *(scores[i] for i in order)])
    return replace(point, scores=arms), tuple(found[i] for i in order)


def verdict(grid: Record) -> str:
    """Which policy the runs speak for, claiming no more than the interval over all settings does."""
    record = grid["merge"]["all settings"]
    told = f"Superseding moves the mean score by {points(record['gain'])} points, 95% interval {interval(record)}"
    if record["ci_low"] > 0:
        return f"{told}: the evidence is for merge.policy=supersede."
    if record["ci_high"] < 0:
        return f"{told}: the evidence is for merge.policy=plain."
    return f"{told}, which includes 0: no reason to leave merge.policy=plain, the paper's."


def _record(both: Point, found: tuple[float | None, ...]) -> dict[str, Any]:
    gained = pooled([both], lambda p: np.ones(len(p.ids), dtype=bool)) or {}
    means = dict(zip(("plain", "supersede"), both.scores[:, 1:].mean(axis=0).tolist(), strict=True))
    return {**means, **gained, "found_plain": found[0], "found_supersede": found[1]}


def _table(records: Mapping[str, Record]) -> Table:
    header = ("setting", "n", "plain", "supersede", "difference", "95% interval", "answer found, %")
    rows: list[tuple[str, ...]] = []
    strong: list[int] = []
    for name, record in records.items():
        told, found = ["-", "-"], "-"
        if "plain" in record:
            name = ", ".join(paper.called(part) for part in name.split("/"))
            told = [percent(record[policy]) for policy in ("plain", "supersede")]
            found = " / ".join(percent(record[f"found_{policy}"]) for policy in ("plain", "supersede"))
        else:
            strong.append(len(rows))
        rows.append((name, f"{record['questions']:,}", *told, points(record["gain"]), interval(record), found))
    return Table(header, tuple(rows), frozenset(strong))
