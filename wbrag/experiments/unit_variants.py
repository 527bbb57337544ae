"""Ways to make units and to merge them, held against each other in finished runs: same examples, same base answers.

What decides is the gain on questions that do not overlap with training, pooled over runs, with an interval over topics;
and the difference to the first way, paired question by question.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wbrag.experiments.grid import Point, read_point, read_variant
from wbrag.report.evaluation import SIDES, Answers
from wbrag.report.page import Block, Heading, Table, Text, markdown_table
from wbrag.report.statistics import Floats, mean, paired_bootstrap
from wbrag.report.tables import Column, count, percent, points, tabled
from wbrag.run.folder import read_left_out, read_record, read_rows, read_units, write_text
from wbrag.schema import PREDICTION, WRITTEN

Row = dict[str, Any]
#: One way in one run: its answers question by question, and by name what its units took.
Measured = tuple[Answers, Mapping[str, int]]
#: Tables of a run or variant with the calls that units took beyond Algorithm 1: to write and to validate them.
SPENT = {"written": WRITTEN, "readings": PREDICTION}
#: What the folder of a way begins with (`variants.other_units`).
PREFIX = "units-"
NOTE = (
    "Units of the same kept examples made and merged in other ways, beside the same base answers; each way is held "
    "against the own units of the runs that it was measured in. Points, with 95 % intervals over topics. Unseen: "
    "questions that do not overlap with training. Calls: those beyond Algorithm 1, to write and to validate units."
)


def compared(runs: Sequence[Point]) -> list[Row]:
    """One record for each way (`<run>/variants/units-NAME`), pooled over the runs that have it; first the runs' own."""
    ways: dict[str, list[Measured]] = defaultdict(list)
    for point in runs:
        for folder in sorted((point.run / "variants").glob(f"{PREFIX}*")):
            found = ways[folder.name.removeprefix(PREFIX)]
            found += [measured(point, folder)] if (folder / "metrics.json").is_file() else []
    every = {"own": [measured(point, point.run) for point in runs], **ways}
    return [{"way": name, **record(found)} for name, found in every.items() if found]


def measured(point: Point, folder: Path) -> Measured:
    """A run's own units, or a variant's, with what tells them apart: `more` is the gain above that of the own ones, a
    topic is one of its corpus, the overlap that of the run.
    """
    answers, own = read_variant(point, folder), point.answers
    corpus = str(read_record(point.run / "run.json")["identity"]["corpus"])[:12]
    topics = np.array([f"{corpus} {topic}" for topic in answers["topic"]], dtype=object)
    calls = (row["calls"] or 0 for name, table in SPENT.items() for row in read_rows(folder / name, table, ("calls",)))
    took = {"units": len(read_units(folder)), "left_out": len(read_left_out(folder)), "calls": sum(calls)}
    return {**answers, "topic": topics, "overlap": own["overlap"], "more": answers["gain"] - own["gain"]}, took


def record(some: Sequence[Measured]) -> Row:
    """The figures of one way, pooled over runs; fractions 0..1. Differences are to the runs' own units."""

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([answers[name] for answers, _ in some])

    gains, more, topics, unseen = column("gain"), column("more"), column("topic"), column("overlap") == "none"
    return {
        "runs": len(some),
        "n": len(gains),
        "all": _interval(gains, topics),
        "unseen": _interval(gains[unseen], topics[unseen]),
        "seen": _interval(gains[~unseen], topics[~unseen]),
        "unseen_difference": _interval(more[unseen], topics[unseen]),
        "seen_difference": _interval(more[~unseen], topics[~unseen]),
        "unseen_found": [mean(column(f"retrieval_recall_{side}")[unseen].tolist()) for side in SIDES],
        "unseen_read": mean((column("writeback_hits")[unseen] > 0).tolist()),
        "tokens": [mean(column(f"context_tokens_{side}").tolist()) for side in SIDES],
        **{name: sum(took[name] for _, took in some) for name in ("units", "left_out", "calls")},
    }


def _interval(gains: Floats, topics: npt.NDArray[Any]) -> Row:
    low, high = paired_bootstrap(gains[:, None], topics=topics.tolist())[0]
    told = {"mean": float(gains.mean()) if len(gains) else 0.0, "low": float(low), "high": float(high)}
    return {**told, "n": len(gains), "topics": len(set(topics))}


def with_interval(record: Row) -> str:
    """A mean with its interval, in points."""
    return f"{points(record['mean'])} [{points(record['low'])}, {points(record['high'])}]"


def _moved(told: Callable[[float | None], str]) -> Callable[[Sequence[float | None]], str]:
    return lambda values: " -> ".join(map(told, values))


#: A way's record in a report; scores and gains in points, intervals over topics.
COLUMNS: Sequence[Column] = (
    ("runs", "runs", count),
    ("unseen", "unseen", with_interval),
    ("minus own", "unseen_difference", with_interval),
    ("with overlap", "seen", with_interval),
    ("all", "all", with_interval),
    ("answer found, unseen", "unseen_found", _moved(percent)),
    ("read, unseen", "unseen_read", percent),
    ("tokens", "tokens", _moved(count)),
    ("units", "units", count),
    ("calls", "calls", count),
)


def table(records: Sequence[Row], numbers: bool = True) -> Table:
    """The records as a table of a report."""
    return tabled("way", COLUMNS, ((one["way"], one) for one in records), numbers=numbers)


def text_table(records: Sequence[Row]) -> str:
    """The same as Markdown."""
    return markdown_table(table(records, numbers=False), text=str) + "\n"


def unit_blocks(runs: Sequence[Point], grid: Row) -> list[Block]:
    """The ways that were measured in runs of a grid; what they showed goes into `grid`."""
    grid["units"] = compared(runs)
    return [Heading("Units and merges"), Text(NOTE, "note"), table(grid["units"])] if len(grid["units"]) > 1 else []


def write_comparison(runs: Sequence[Path], report: Path) -> list[Row]:
    """`compared`, also written to units.json and, as a table, to units.md in the folder `report`."""
    records = compared([read_point(run) for run in runs])
    told = {"runs": [str(run) for run in runs], "ways": records}
    write_text(report / "units.json", json.dumps(told, indent=2) + "\n")
    write_text(report / "units.md", text_table(records))
    return records
