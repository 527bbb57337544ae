"""What a grid says first: of the questions without overlap with training, and what those that gain had read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbrag.experiments import paper
from wbrag.experiments.grid import Point, pooled
from wbrag.experiments.grid_tables import who_gains
from wbrag.report.evaluation import READ, SIDES, read_of
from wbrag.report.overlap import RULE
from wbrag.report.page import Block, Heading, Text
from wbrag.report.statistics import Flags
from wbrag.report.tables import interval, points, read_table

Record = Mapping[str, Any]


def headline(grid: Record) -> str:
    """What the grid says of the questions without overlap (of all, where none is known to be), in one sentence that
    claims no more than the interval over topics does.
    """
    unseen = grid["splits"].get("none")
    record = unseen or grid["pooled"]
    where = "On test questions without overlap with training, write-back" if unseen else "Write-back"
    told = f"{points(record['gain'])} points, 95% interval over topics {interval(record['topics'])}"
    told += f", {record['questions']:,} answers"
    count = record["settings"]
    what = f"the mean score over {count} settings" if count > 1 else "the score of the one setting"
    if record["topics"]["ci_low"] > 0:
        return f"{where} raises {what}: {told}."
    if record["topics"]["ci_high"] < 0:
        return f"{where} lowers {what}: {told}."
    return f"{where} shows no change of {what} ({told}; the interval includes 0)."


def counted(grid: Record) -> str:
    """The mean gain over all test questions, and how many settings gain, beside the paper's."""
    won, every, told = grid["winners"], grid["pooled"], paper.paper()["table2"]
    counts = f"{won['better']} of {len(grid['points'])} settings gain, {won['equal']} are equal, {won['worse']} lose"
    overall = f"Over all test questions the mean gain is {points(every['gain'])} points (over topics "
    overall += f"{interval(every['topics'])}, over questions {interval(every)})"
    theirs = f"the paper reports {told['mean']:+.2f} over {told['settings']} settings, {told['better']} of them better"
    return f"{overall}; {theirs}. {counts}; {won['significant']} change significantly (Holm)."


def summary(grid: Record) -> str:
    """What a job prints at its end."""
    return f"{headline(grid)}\n{counted(grid)}"


def unseen(runs: Sequence[Point]) -> dict[str, Any]:
    """The questions without overlap: `points`, pooled for each run by itself (None where it has none), and `read`,
    pooled over runs by what the units that were read hold (`evaluation.READ`; `together`: all of them), with the share
    of documents that held a golden answer, a mean over runs.
    """
    if not any("none" in run.overlap for run in runs):
        return {"points": [None] * len(runs), "read": {}}
    kinds = {key: record for key in (*READ, "together") if (record := _record(runs, key))}
    return {"points": [_record([run], "together") for run in runs], "read": kinds}


def _record(runs: Sequence[Point], kind: str) -> dict[str, Any] | None:
    record = pooled(runs, lambda run: _members(run, kind))
    return record and record | {f"found_{side}": _found(runs, kind, side) for side in SIDES}


def _members(run: Point, kind: str) -> Flags:
    pairs = zip(run.overlap, run.facts, strict=True)
    return np.array([overlap == "none" and kind in ("together", read_of(facts)) for overlap, facts in pairs])


def _found(runs: Sequence[Point], kind: str, side: str) -> float | None:
    """The share of questions with a golden answer in their documents, a mean over runs; None where labels hide it."""
    means = []
    for run in runs:
        found = np.array([facts[f"found_{side}"] for facts in run.facts])[_members(run, kind)]
        means += [float(found.mean())] if found.size and not np.isnan(found).any() else []
    return sum(means) / len(means) if means else None


def unseen_blocks(runs: Sequence[Point], grid: Record) -> list[Block]:
    """Who gains: by overlap and exposure, and of the questions without overlap by what they read."""
    note = f"{RULE} Each answer is in one class of each kind; without a unit there is nothing to gain by, but for a "
    note += "method that searches by itself."
    blocks: list[Block] = []
    if read := grid["unseen"]["read"]:
        blocks = [Heading("What questions without overlap read"), read_table(read, "answers", "questions", "found")]
        unknown = " It is not known where labels are the answers." if any(run.setting.labels for run in runs) else ""
        blocks.append(Text(f"Answer in the documents: mean over the settings.{unknown}", "note"))
    return [*blocks, Heading("Who gains"), who_gains(grid), Text(note, "note")]
