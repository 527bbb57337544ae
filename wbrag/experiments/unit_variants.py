"""Ways to make units and to merge them, held against each other in finished runs: same examples, same base answers.

What decides is the gain on questions that do not overlap with training, pooled over runs, with an interval over topics;
and the difference to the first way, paired question by question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wbrag.experiments.grid import Answers, Point, answers_of
from wbrag.report.evaluation import SIDES, Setting
from wbrag.report.overlap import TrainingQuestions
from wbrag.report.page import Block, Heading, Table, Text, markdown_table
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.report.statistics import Flags, Floats, mean, paired_bootstrap
from wbrag.report.tables import Column, count, percent, points, tabled
from wbrag.run.folder import read_config, read_left_out, read_record, read_rows, read_units, setting_of, write_text
from wbrag.schema import PREDICTION, TRACE, WRITTEN

Row = dict[str, Any]
#: Tables of a run or variant with the calls that units took beyond Algorithm 1: to write and to validate them.
SPENT = {"written": WRITTEN, "readings": PREDICTION}
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

    @property
    def gains(self) -> Floats:
        """Score after minus before, by question."""
        gains: Floats = self.scores[:, 1] - self.scores[:, 0]
        return gains


def compared(runs: Sequence[Path], points: Iterable[Point] = ()) -> list[Row]:
    """One record for each way that was measured in any of the finished runs (`<run>/variants/units-NAME`), pooled over
    the runs that have it, and held against these runs' own units; first the own of all. `points` are runs that are
    read already.
    """
    known = {point.run: point for point in points}
    own: list[Measured] = []
    ways: dict[str, list[tuple[Measured, Measured]]] = {}
    for run in runs:
        setting, answers = (known[run].setting, known[run]) if run in known else _read(run)
        corpus = str(read_record(run / "run.json")["identity"]["corpus"])[:12]
        own.append(measured(run, corpus, answers, answers.overlap))
        for folder in sorted((run / "variants").glob(f"{PREFIX}*")):
            found = ways.setdefault(folder.name.removeprefix(PREFIX), [])
            if (folder / "metrics.json").is_file():
                others = Answers(**answers_of(folder, setting))
                found.append((measured(folder, corpus, others, answers.overlap), own[-1]))
    pairs = {"own": [(one, one) for one in own], **{name: found for name, found in ways.items() if found}}
    return [{"way": name, **record(*zip(*found, strict=True))} for name, found in pairs.items()]


def _read(run: Path) -> tuple[Setting, Answers]:
    setting = setting_of(read_config(run))
    training = TrainingQuestions(read_rows(run / "traces", TRACE, QUESTION_COLUMNS), bool(setting.labels))
    return setting, Answers(**answers_of(run, setting, training))


def measured(folder: Path, corpus: str, answers: Answers, overlap: Sequence[str | None]) -> Measured:
    """What the answers of a run, or of a variant of it, show; `overlap` is that of the run's questions."""
    facts = answers.facts
    left_out, rows = read_left_out(folder), [read_rows(folder / name, t, ("calls",)) for name, t in SPENT.items()]
    return Measured(
        scores=answers.scores[:, 1:],
        topics=tuple(f"{corpus} {topic}" for topic in answers.topics),
        unseen=np.array([found == "none" for found in overlap], dtype=bool),
        found=np.array([[one[f"found_{side}"] for side in SIDES] for one in facts]),
        tokens=np.array([[one[f"tokens_{side}"] for side in SIDES] for one in facts]),
        units=len(read_units(folder)),
        read=np.array([one["writeback_hits"] > 0 for one in facts], dtype=bool),
        left_out=len(left_out),
        calls=sum(row["calls"] or 0 for some in rows for row in some),
    )


def record(some: Sequence[Measured], own: Sequence[Measured]) -> Row:
    """The figures of one way, pooled over runs; fractions 0..1. Differences are to `own`, the first way."""
    topics = [topic for one in some for topic in one.topics]
    gains = np.concatenate([one.gains for one in some])
    more = gains - np.concatenate([one.gains for one in own])
    unseen, read, found, tokens = (
        np.concatenate([getattr(one, name) for one in some]) for name in ("unseen", "read", "found", "tokens")
    )
    return {
        "runs": len(some),
        "n": len(gains),
        "all": _interval(gains, np.ones(len(gains), dtype=bool), topics),
        "unseen": _interval(gains, unseen, topics),
        "seen": _interval(gains, ~unseen, topics),
        "unseen_difference": _interval(more, unseen, topics),
        "seen_difference": _interval(more, ~unseen, topics),
        "unseen_found": [mean(column) for column in found[unseen].T.tolist()],
        "unseen_read": mean(read[unseen].tolist()),
        "tokens": [mean(column) for column in tokens.T.tolist()],
        **{name: sum(getattr(one, name) for one in some) for name in ("units", "left_out", "calls")},
    }


def _interval(gains: Floats, chosen: Flags, topics: Sequence[str]) -> Row:
    some = [topic for topic, yes in zip(topics, chosen, strict=True) if yes]
    low, high = paired_bootstrap(gains[chosen][:, None], topics=some)[0]
    told = {"mean": float(gains[chosen].mean()) if some else 0.0, "low": float(low), "high": float(high)}
    return {**told, "n": len(some), "topics": len(set(some))}


def _told(record: Row) -> str:
    return f"{points(record['mean'])} [{points(record['low'])}, {points(record['high'])}]"


def _moved(told: Callable[[float | None], str]) -> Callable[[Sequence[float | None]], str]:
    return lambda values: " -> ".join(map(told, values))


#: A way's record in a report; scores and gains in points, intervals over topics.
COLUMNS: Sequence[Column] = (
    ("runs", "runs", count),
    ("unseen", "unseen", _told),
    ("minus own", "unseen_difference", _told),
    ("with overlap", "seen", _told),
    ("all", "all", _told),
    ("answer found, unseen", "unseen_found", _moved(percent)),
    ("read, unseen", "unseen_read", percent),
    ("tokens", "tokens", _moved(count)),
    ("units", "units", count),
    ("calls", "calls", count),
)


def table(records: Sequence[Row]) -> Table:
    """The records as a table of a report."""
    return tabled("way", COLUMNS, ((one["way"], one) for one in records))


def text_table(records: Sequence[Row]) -> str:
    """The same as Markdown."""
    return markdown_table(replace(table(records), numbers=False), text=str) + "\n"


def unit_blocks(runs: Sequence[Path], grid: Row, points: Iterable[Point] = ()) -> list[Block]:
    """The ways that were measured in runs of a grid; what they showed goes into `grid`."""
    grid["units"] = compared(runs, points)
    return [Heading("Units and merges"), Text(NOTE, "note"), table(grid["units"])] if len(grid["units"]) > 1 else []


def write_comparison(runs: Sequence[Path], report: Path) -> list[Row]:
    """`compared`, also written to units.json and, as a table, to units.md in the folder `report`."""
    records = compared(runs)
    told = {"runs": [str(run) for run in runs], "ways": records}
    write_text(report / "units.json", json.dumps(told, indent=2) + "\n")
    write_text(report / "units.md", text_table(records))
    return records
