"""What a grid of runs says together: corrected p-values, pooled gains, transfer, ablation, placebos, noise, cost.

Pure but for reading the run folders: whatever lies in them is told, from whichever cluster it came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbrag import schema
from wbrag.experiments.paper import place
from wbrag.report.evaluation import (
    ANSWERS,
    BINARY,
    Setting,
    exposure_of,
    overlap_of,
    retrieval_facts,
    score_rows,
    topic_of,
)
from wbrag.report.overlap import EXPOSURES, OVERLAPS, TrainingQuestions
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.report.statistics import Flags, Floats, flips, holm, paired_bootstrap, pooled_gain, sign_flips, winners
from wbrag.run.folder import RunError, read_config, read_record, read_rows, read_traces, read_units, setting_of

Row = Mapping[str, Any]
TRACE_COLUMNS = (*QUESTION_COLUMNS, "status", "kept_ranks", "source_tokens", "unit_tokens")
SPENT = ("calls", "prompt_tokens", "completion_tokens")
TABLES = {"written": schema.WRITTEN, "traces": schema.TRACE}
TABLES |= dict.fromkeys(("readings", "predictions"), schema.PREDICTION)
ALPHA = 0.05
ENDS = ("ci_low", "ci_high")


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the grid: its primary scores (questions, 3) by question in order of id, and what metrics.json holds.

    `topics` are what each question is about, `overlap` and `exposure` its classes, `facts` what retrieval gave it
    (`evaluation.retrieval_facts`), `tokens` (source, unit) of each kept example.
    """

    run: Path
    setting: Setting
    metrics: dict[str, Any]
    ids: tuple[str, ...]
    scores: Floats
    answers: dict[str, list[str | None]]
    topics: list[str]
    overlap: list[str | None]
    exposure: list[str]
    facts: list[dict[str, float]]
    tokens: list[tuple[int, int]]

    @property
    def gains(self) -> Floats:
        """Score with write-back minus base, by question."""
        gains: Floats = self.scores[:, 2] - self.scores[:, 1]
        return gains

    @property
    def key(self) -> tuple[str, str, str]:
        """Backbone, method, benchmark."""
        return self.setting.backbone, self.setting.method, self.setting.benchmark


def read_points(runs: Iterable[Path]) -> list[Point]:
    """The runs in the paper's order of benchmarks and methods. RunError where two are about the same setting."""
    points = [read_point(run) for run in runs]
    seen: dict[tuple[str, str, str], Path] = {}
    for point in points:
        if (other := seen.setdefault(point.key, point.run)) != point.run:
            raise RunError(f"{point.run}: the same setting as {other}: {' / '.join(point.key)}")

    return sorted(points, key=lambda p: (p.setting.backbone, place(p.setting.benchmark), place(p.setting.method)))


def read_point(run: Path) -> Point:
    """One finished run. RunError, naming the file, where it cannot be read."""
    setting = setting_of(read_config(run))
    metrics = read_record(run / "metrics.json")
    traces = read_traces(run, TRACE_COLUMNS)
    training = TrainingQuestions(traces, bool(setting.labels), read_units(run)) if traces else None
    rows = predictions(run)
    return Point(
        run=run,
        setting=setting,
        metrics=metrics,
        ids=tuple(str(row["id"]) for row in rows),
        scores=primary_scores(rows, setting),
        answers={name: [row[name] for row in rows] for name in ANSWERS},
        topics=[topic_of(row) for row in rows],
        overlap=[overlap_of(row, training) for row in rows],
        exposure=[exposure_of(row, training) for row in rows],
        facts=[retrieval_facts(row, setting) for row in rows],
        tokens=[(row["source_tokens"], row["unit_tokens"]) for row in traces if row["unit_tokens"]],
    )


def predictions(folder: Path) -> list[dict[str, Any]]:
    """The predictions of a run or variant, in order of id; RunError where there are none."""
    rows = sorted(read_rows(folder / "predictions", schema.PREDICTION), key=lambda row: str(row["id"]))
    if not rows:
        raise RunError(f"{folder / 'predictions'}: no prediction to report on")
    return rows


def primary_scores(rows: Sequence[Row], setting: Setting) -> Floats:
    """Scores (questions, 3) in the primary metric: closed book, base, write-back."""
    return score_rows(rows, setting)[:, 0, :]


def measure_grid(points: Sequence[Point]) -> dict[str, Any]:
    """Everything the report shows of the runs themselves, as plain data; fractions 0..1."""
    records = [point.metrics["results"][0] | tested(point) | {"run": str(point.run)} for point in points]
    for record, adjusted in zip(records, holm([record["p"] for record in records]), strict=True):
        record["holm_p"] = adjusted
    return {
        "points": records,
        "pooled": pooled(points, lambda p: np.ones(len(p.ids), dtype=bool)),
        "groups": {
            kind: {name: pooled(some, lambda p: np.ones(len(p.ids), dtype=bool)) for name, some in by(points, kind)}
            for kind in ("benchmark", "method", "backbone")
        },
        "splits": _classes(points, OVERLAPS, lambda p: p.overlap),
        "exposure": _classes(points, (*EXPOSURES, "unit"), lambda p: p.exposure),
        "winners": winners([record["gain"] for record in records])
        | {"significant": sum(record["holm_p"] <= ALPHA for record in records)},
        "cost": cost(points),
    }


def tested(point: Point) -> dict[str, Any]:
    """How many questions of a point score `better` and `worse` with write-back, and the p-value `p` of its gain.

    McNemar's exact test for 0/1 metrics, turned signs for the others.
    """
    told = point.metrics["results"][0]["mcnemar_p"]
    p = told if point.setting.metric in BINARY else sign_flips(point.gains, seed=point.setting.seed)
    return {"p": p, "better": int(np.sum(point.gains > 0)), "worse": int(np.sum(point.gains < 0))}


def by(points: Sequence[Point], kind: str) -> list[tuple[str, list[Point]]]:
    """The points grouped by "benchmark", "method" or "backbone", in the paper's order."""
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        groups[getattr(point.setting, kind)].append(point)
    return sorted(groups.items(), key=lambda item: place(item[0]))


def pooled(points: Sequence[Point], counts: Callable[[Point], Flags]) -> dict[str, Any] | None:
    """The mean gain over the settings that have questions that count, with its intervals; None where none has.

    Settings of one benchmark that asked the same questions are resampled together (`statistics.pooled_gain`): their
    questions for the interval, their topics (`evaluation.topic_of`) for the second one.
    """
    strata: dict[tuple[str, tuple[str, ...]], list[Point]] = defaultdict(list)
    for point in points:
        strata[point.setting.benchmark, point.ids].append(point)
    members = {id(point): counts(point) for point in points}
    chosen = [point for point in points if members[id(point)].any()]
    if not chosen:
        return None
    columns = [([p.gains for p in some], [members[id(p)] for p in some]) for some in strata.values()]
    arms = [(np.column_stack(gains), np.column_stack(count)) for gains, count in columns]
    seed, topics = points[0].setting.seed, [some[0].topics for some in strata.values()]
    gain, *inside = pooled_gain(arms, seed=seed)
    _, *over_topics = pooled_gain(arms, seed=seed, topics=topics)
    intervals = {"topics": dict(zip(ENDS, over_topics, strict=True)), **dict(zip(ENDS, inside, strict=True))}
    questions = sum(int(members[id(point)].sum()) for point in points)
    return {"gain": gain, **intervals, "settings": len(chosen), "questions": questions}


def _classes(
    points: Sequence[Point], names: Sequence[str], of: Callable[[Point], Sequence[str | None]]
) -> dict[str, dict[str, Any]]:
    def inside(name: str) -> Callable[[Point], Flags]:
        return lambda point: np.array([found == name for found in of(point)])

    pools = {name: pooled(points, inside(name)) for name in names}
    return {name: record for name, record in pools.items() if record}


def compared(point: Point, folder: Path) -> dict[str, Any]:
    """A variant of a run beside it: its gain over base, and its score minus the run's own, each with its interval.

    `flips` are the shares of answers that differ from the run's own, base and write-back. RunError where the variant
    answers other questions.
    """
    rows = variant_predictions(point, folder)
    scores = primary_scores(rows, point.setting)
    gain, difference = scores[:, 2] - scores[:, 1], scores[:, 2] - point.scores[:, 2]
    both = np.column_stack([gain, difference])
    intervals = paired_bootstrap(both, seed=point.setting.seed)
    return {
        "writeback": float(scores[:, 2].mean()),
        "gain": float(gain.mean()),
        "ci_low": float(intervals[0, 0]),
        "ci_high": float(intervals[0, 1]),
        "difference": float(difference.mean()),
        "difference_low": float(intervals[1, 0]),
        "difference_high": float(intervals[1, 1]),
        "flips_base": flips([row["answer_base"] for row in rows], point.answers["answer_base"]),
        "flips_writeback": flips([row["answer_writeback"] for row in rows], point.answers["answer_writeback"]),
        "exposed": sum(exposure_of(row) == "unit" for row in rows) / len(rows),
    }


def variant_predictions(point: Point, folder: Path) -> list[dict[str, Any]]:
    """The predictions of a variant of a run, in order of id. RunError where it answers other questions."""
    rows = predictions(folder)
    if tuple(str(row["id"]) for row in rows) != point.ids:
        raise RunError(f"{folder / 'predictions'}: other questions than those of {point.run}")
    return rows


def variants(point: Point, prefix: str) -> dict[str, dict[str, Any]]:
    """`compared` for each finished variant of a run whose name begins with `prefix`, by the rest of the name."""
    folders = sorted((point.run / "variants").glob(f"{prefix}*"))
    return {f.name.removeprefix(prefix): compared(point, f) for f in folders if (f / "metrics.json").is_file()}


def read_ablation(run: Path) -> list[dict[str, Any]]:
    """The records that `gate_variants.ablate` left in a run; [] where it never ran."""
    file = run / "ablation.json"
    return list(read_record(file)["variants"]) if file.is_file() else []


def cost(points: Sequence[Point]) -> dict[str, Any]:
    """Calls, tokens and seconds of all runs and of everything measured in them afterwards.

    `paper_calls` is what the paper's plan asks in training, `saved` those of them that were not sent.
    """
    spent = [point.metrics["cost"] for point in points]
    training = [record["training"] for record in spent]
    total = {key: sum(sum(part[key] for part in record.values()) for record in spent) for key in SPENT}
    folders = [folder for point in points for folder in sorted((point.run / "variants").glob("*/"))]
    for folder in folders:
        for table, columns in TABLES.items():
            for row in read_rows(folder / table, columns, SPENT):
                total = {key: total[key] + (row[key] or 0) for key in SPENT}
    seconds = [point.metrics["seconds"] for point in points]
    seconds += [read_record(folder / "run.json")["seconds"] for folder in folders]
    return {
        **total,
        "paper_calls": sum(record["paper_calls"] for record in training),
        "saved": sum(record["calls_saved"] for record in training),
        "seconds": sum(sum(stages.values()) for stages in seconds),
    }
