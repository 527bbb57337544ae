"""Ways to make units and to merge them, held against each other in finished runs: same examples, same base answers.

What decides is the gain on questions that do not overlap with training, pooled over runs, with an interval over topics;
and the difference to the first way, paired question by question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from wbrag.report.evaluation import overlap_of, retrieval_facts, score_rows, topic_of
from wbrag.report.overlap import TrainingQuestions
from wbrag.report.page import Block, Heading, Table, Text
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.report.statistics import Flags, Floats, paired_bootstrap
from wbrag.report.tables import number, percent, points
from wbrag.run.folder import read_config, read_left_out, read_record, read_rows, read_units, setting_of, write_text
from wbrag.schema import PREDICTION, TRACE

Row = dict[str, Any]
#: Tables of a run or variant with the calls that units took beyond Algorithm 1: to write and to validate them.
SPENT = ("written", "readings")
#: What the folder of a way begins with (`variants.other_units`).
PREFIX = "units-"
NOTE = (
    "Units of the same kept examples made and merged in other ways, beside the same base answers; each way is held "
    "against the own units of the runs that it was measured in. Points, with 95 % intervals over topics. Unseen: "
    "questions that do not overlap with training. Calls: those beyond Algorithm 1, to write and to validate units."
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One way in one run: scores (questions, 2) before and after, topics, which questions do not overlap with training,
    whether the documents hold a golden answer (questions, 2), context tokens (questions, 2), and what it took.
    """

    scores: Floats
    topics: tuple[str, ...]
    unseen: Flags
    found: Floats
    tokens: Floats
    units: int
    read: Flags
    left_out: int
    calls: int


def compared(runs: Sequence[Path]) -> list[Row]:
    """One record for each way that was measured in any of the finished runs (`<run>/variants/units-NAME`), pooled over
    the runs that have it, and held against these runs' own units; first the own of all.
    """
    names = dict.fromkeys(folder.name for run in runs for folder in sorted((run / "variants").glob(f"{PREFIX}*")))
    own = {run: measured(run, run) for run in runs}
    records = [{"way": "own", **record(list(own.values()), list(own.values()))}]
    for name in names:
        there = {run: run / "variants" / name for run in runs if (run / "variants" / name / "metrics.json").is_file()}
        if there:
            some = [measured(run, folder) for run, folder in there.items()]
            records.append({"way": name.removeprefix(PREFIX), **record(some, [own[run] for run in there])})
    return records


def unit_blocks(runs: Sequence[Path], grid: Row) -> list[Block]:
    """The ways that were measured in runs of a grid; what they showed goes into `grid`."""
    grid["units"] = compared(runs)
    if len(grid["units"]) == 1:
        return []
    return [Heading("Units and merges"), Text(NOTE, "note"), table(grid["units"])]


def write_comparison(runs: Sequence[Path], report: Path) -> list[Row]:
    """`compared`, also written to units.json and, as a table, to units.md in the folder `report`."""
    records = compared(runs)
    told = {"runs": [str(run) for run in runs], "ways": records}
    write_text(report / "units.json", json.dumps(told, indent=2) + "\n")
    write_text(report / "units.md", text_table(records))
    return records


def measured(run: Path, folder: Path) -> Measured:
    """What the predictions in `folder` (of a run, or of a variant of it) show."""
    config = read_config(run)
    setting = setting_of(config)
    training = TrainingQuestions(read_rows(run / "traces", TRACE, QUESTION_COLUMNS), bool(setting.labels))
    rows = sorted(read_rows(folder / "predictions", PREDICTION), key=lambda row: str(row["id"]))
    facts = [retrieval_facts(row, setting) for row in rows]
    corpus = str(read_record(run / "run.json")["identity"]["corpus"])[:12]
    return Measured(
        scores=score_rows(rows, setting)[:, 0, 1:],
        topics=tuple(f"{corpus} {topic_of(row)}" for row in rows),
        unseen=np.array([overlap_of(row, training) == "none" for row in rows], dtype=bool),
        found=np.array([[one["found_base"], one["found_writeback"]] for one in facts]),
        tokens=np.array([[one["tokens_base"], one["tokens_writeback"]] for one in facts]),
        units=len(read_units(folder)),
        read=np.array([one["writeback_hits"] > 0 for one in facts], dtype=bool),
        left_out=len(read_left_out(folder)),
        calls=sum(sum(row["calls"] or 0 for row in _calls(folder / name)) for name in SPENT),
    )


def record(some: Sequence[Measured], own: Sequence[Measured]) -> Row:
    """The figures of one way, pooled over runs; fractions 0..1. Differences are to `own`, the first way."""
    topics = [topic for one in some for topic in one.topics]
    gains = np.concatenate([one.scores[:, 1] - one.scores[:, 0] for one in some])
    more = gains - np.concatenate([one.scores[:, 1] - one.scores[:, 0] for one in own])
    unseen = np.concatenate([one.unseen for one in some])
    found, tokens = (np.concatenate([getattr(one, name) for one in some]) for name in ("found", "tokens"))
    return {
        "runs": len(some),
        "n": len(gains),
        "all": _interval(gains, np.ones(len(gains), dtype=bool), topics),
        "unseen": _interval(gains, unseen, topics),
        "seen": _interval(gains, ~unseen, topics),
        "unseen_difference": _interval(more, unseen, topics),
        "seen_difference": _interval(more, ~unseen, topics),
        "unseen_found": _means(found[unseen]),
        "unseen_read": _means(np.concatenate([one.read for one in some])[unseen][:, None].astype(float))[0],
        "tokens": _means(tokens),
        "units": sum(one.units for one in some),
        "left_out": sum(one.left_out for one in some),
        "calls": sum(one.calls for one in some),
    }


def table(records: Sequence[Row]) -> Table:
    """The records as a table of a report; scores and gains in points, intervals over topics."""
    head = ("way", "runs", "unseen", "minus own", "with overlap", "all", "answer found, unseen", "read, unseen")
    rows = tuple(
        (
            str(one["way"]),
            str(one["runs"]),
            *(_told(one[key]) for key in ("unseen", "unseen_difference", "seen", "all")),
            " -> ".join(percent(value) for value in one["unseen_found"]),
            percent(one["unseen_read"]),
            " -> ".join(number(value, 0) for value in one["tokens"]),
            *(f"{one[key]:,}" for key in ("units", "calls")),
        )
        for one in records
    )
    return Table((*head, "tokens", "units", "calls"), rows)


def text_table(records: Sequence[Row]) -> str:
    """The same as Markdown."""
    made = table(records)
    rows = (made.header, ("---",) * len(made.header), *made.rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _told(interval: Row) -> str:
    return f"{points(interval['mean'])} [{points(interval['low'])}, {points(interval['high'])}]"


def _interval(gains: Floats, chosen: Flags, topics: Sequence[str]) -> Row:
    some = [topic for topic, yes in zip(topics, chosen, strict=True) if yes]
    low, high = paired_bootstrap(gains[chosen][:, None], topics=some)[0]
    mean = float(gains[chosen].mean()) if len(some) else 0.0
    return {"mean": mean, "low": float(low), "high": float(high), "n": len(some), "topics": len(set(some))}


def _means(values: Floats) -> list[float | None]:
    """The means of columns without what is not a number; None where nothing else is there."""
    return [float(np.nanmean(column)) if np.isfinite(column).any() else None for column in values.T]


def _calls(folder: Path) -> list[Row]:
    rows: list[Row] = []
    for file in sorted(folder.glob("*.parquet")):
        rows += pq.read_table(file, columns=["calls"]).to_pylist()
    return rows
