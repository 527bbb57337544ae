"""What a grid of runs says together: corrected p-values, pooled gains, variants, why a setting does not gain, cost.

Pure but for reading the run folders: whatever lies in them is told, from whichever cluster it came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wbrag import schema
from wbrag.experiments.paper import place
from wbrag.report import evaluation, statistics
from wbrag.report.construction import SPENT, spent
from wbrag.report.evaluation import ANSWERS, READ, SIDES, Setting
from wbrag.report.overlap import EXPOSURES, OVERLAPS, TrainingQuestions
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.report.statistics import Floats, mean
from wbrag.run.folder import (
    RunError,
    read_config,
    read_predictions,
    read_record,
    read_rows,
    read_traces,
    read_units,
    setting_of,
)

Record = Mapping[str, Any]
#: Which questions of a run count.
Chosen = Callable[["Point"], Iterable[bool]]
TRACE_COLUMNS = (*QUESTION_COLUMNS, "status", "kept_ranks", "source_tokens", "unit_tokens")
#: The tables of a variant that say what they took.
TABLES = {
    **{"written": schema.WRITTEN, "traces": schema.TRACE},
    **dict.fromkeys(("readings", "predictions"), schema.PREDICTION),
}
#: Why a question got worse (`fates`), in words.
CHIEF = {
    "lost": "units pushed the document with the answer out",
    "there": "a document with the answer was there and was misread beside the units",
    "never": "no document had held the answer, and a right guess was lost",
    "unread": "no unit was read, the method searched or answered otherwise",
}
ALPHA = 0.05
ENDS = ("ci_low", "ci_high")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the predictions of a run or variant say, by question in order of id.

    `scores` (questions, 3) in the primary metric: closed book, base, write-back. `topics` are what each question is
    about, `overlap` and `exposure` its classes, `facts` what retrieval gave it (`evaluation.retrieval_facts`).
    """

    ids: tuple[str, ...]
    scores: Floats
    answers: dict[str, list[str | None]]
    topics: list[str]
    overlap: list[str | None]
    exposure: list[str]
    facts: list[dict[str, float]]

    @property
    def gains(self) -> Floats:
        """Score with write-back minus base, by question."""
        gains: Floats = self.scores[:, 2] - self.scores[:, 1]
        return gains


@dataclass(frozen=True, slots=True)
class Point(Answers):
    """One run of the grid: its answers, what metrics.json holds, tokens (source, unit) of each kept example."""

    run: Path
    setting: Setting
    metrics: dict[str, Any]
    tokens: list[tuple[int, int]]
    config: dict[str, Any] = field(default_factory=dict)

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
    config = read_config(run)
    setting = setting_of(config)
    metrics = read_record(run / "metrics.json")
    traces = read_traces(run, TRACE_COLUMNS)
    training = TrainingQuestions(traces, bool(setting.labels), read_units(run)) if traces else None
    tokens = [(row["source_tokens"], row["unit_tokens"]) for row in traces if row["unit_tokens"]]
    answers = answers_of(run, setting, training)
    return Point(**answers, run=run, setting=setting, metrics=metrics, tokens=tokens, config=config)


def answers_of(folder: Path, setting: Setting, training: TrainingQuestions | None = None) -> dict[str, Any]:
    """The fields of `Answers`, of a run or variant; RunError where there are none."""
    rows = read_predictions(folder)
    return {
        "ids": tuple(str(row["id"]) for row in rows),
        "scores": evaluation.score_rows(rows, setting)[:, 0, :],
        "answers": {name: [row[name] for row in rows] for name in ANSWERS},
        "topics": [evaluation.topic_of(row) for row in rows],
        "overlap": [evaluation.overlap_of(row, training) for row in rows],
        "exposure": [evaluation.exposure_of(row, training) for row in rows],
        "facts": [evaluation.retrieval_facts(row, setting) for row in rows],
    }


def measure_grid(points: Sequence[Point]) -> dict[str, Any]:
    """Everything the report shows of the runs themselves, as plain data; fractions 0..1."""
    records = [point.metrics["results"][0] | tested(point) | {"run": str(point.run)} for point in points]
    for record, adjusted in zip(records, statistics.holm([record["p"] for record in records]), strict=True):
        record["holm_p"] = adjusted
    kinds = ("benchmark", "method", "backbone")
    significant = sum(record["holm_p"] <= ALPHA for record in records)
    return {
        "points": records,
        "pooled": pooled(points),
        "groups": {kind: {name: pooled(some) for (name,), some in grouped(points, kind)} for kind in kinds},
        "splits": _classes(points, "overlap", OVERLAPS),
        "exposure": _classes(points, "exposure", (*EXPOSURES, "unit")),
        "winners": statistics.winners([record["gain"] for record in records]) | {"significant": significant},
        "cost": cost(points),
    }


def tested(point: Point) -> dict[str, Any]:
    """How many questions of a point score `better` and `worse` with write-back, and the p-value `p` of its gain.

    McNemar's exact test for 0/1 metrics, turned signs for the others.
    """
    told = point.metrics["results"][0]["mcnemar_p"]
    p = (
        told
        if point.setting.metric in evaluation.BINARY
        else statistics.sign_flips(point.gains, seed=point.setting.seed)
    )
    return {"p": p, "better": int(np.sum(point.gains > 0)), "worse": int(np.sum(point.gains < 0))}


def grouped(points: Iterable[Point], *kinds: str) -> list[tuple[tuple[str, ...], list[Point]]]:
    """The points grouped by some of "benchmark", "method" and "backbone", in the paper's order."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[tuple(getattr(point.setting, kind) for kind in kinds)].append(point)
    return sorted(groups.items(), key=lambda item: [place(name) for name in item[0]])


def pooled(points: Sequence[Point], chosen: Chosen = lambda point: [True] * len(point.ids)) -> dict[str, Any] | None:
    """The mean gain over the settings that have questions that count, with its intervals; None where none has.

    Settings of one benchmark that asked the same questions are resampled together (`statistics.pooled_gain`): their
    questions for the interval, their topics (`evaluation.topic_of`) for the second one.
    """
    strata: dict[tuple[str, tuple[str, ...]], list[Point]] = defaultdict(list)
    for point in points:
        strata[point.setting.benchmark, point.ids].append(point)
    counts = [[np.array(list(chosen(point)), dtype=bool) for point in some] for some in strata.values()]
    members = [flags for some in counts for flags in some]
    if not any(flags.any() for flags in members):
        return None
    gains = [np.column_stack([point.gains for point in some]) for some in strata.values()]
    arms = list(zip(gains, map(np.column_stack, counts), strict=True))
    topics = [some[0].topics for some in strata.values()]
    gain, *inside = statistics.pooled_gain(arms, seed=points[0].setting.seed)
    _, *over_topics = statistics.pooled_gain(arms, seed=points[0].setting.seed, topics=topics)
    return {
        "gain": gain,
        "topics": dict(zip(ENDS, over_topics, strict=True)),
        **dict(zip(ENDS, inside, strict=True)),
        "settings": sum(bool(flags.any()) for flags in members),
        "questions": sum(int(flags.sum()) for flags in members),
    }


def _classes(points: Sequence[Point], kind: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Pooled gains by the classes of "overlap" or "exposure"."""

    def inside(name: str) -> Chosen:
        return lambda point: (found == name for found in getattr(point, kind))

    return {name: record for name in names if (record := pooled(points, inside(name)))}


def unseen(runs: Sequence[Point]) -> dict[str, Any]:
    """The questions without overlap: `points`, pooled for each run by itself (None where it has none), and `read`,
    pooled over runs by what the units that were read hold (`evaluation.READ`; `together`: all of them), with the share
    of documents that held a golden answer, a mean over runs.
    """
    if not any("none" in run.overlap for run in runs):
        return {"points": [None] * len(runs), "read": {}}
    kinds = {kind: record for kind in (*READ, "together") if (record := _unseen(runs, kind))}
    return {"points": [_unseen([run], "together") for run in runs], "read": kinds}


def _unseen(runs: Sequence[Point], kind: str) -> dict[str, Any] | None:
    """The record of the questions without overlap that read units of this kind; None where there are none."""

    def chosen(run: Point) -> list[bool]:
        pairs = zip(run.overlap, run.facts, strict=True)
        return [overlap == "none" and kind in ("together", evaluation.read_of(facts)) for overlap, facts in pairs]

    def found(run: Point, side: str) -> float | None:
        return mean(f[f"found_{side}"] for f, counts in zip(run.facts, chosen(run), strict=True) if counts)

    record = pooled(runs, chosen)
    return record and record | {f"found_{side}": mean(found(run, side) for run in runs) for side in SIDES}


def compared(point: Point, folder: Path) -> dict[str, Any]:
    """A variant of a run beside it: its gain over base, and its score minus the run's own, each with its interval.

    `flips` are the shares of answers that differ from the run's own, base and write-back. RunError where the variant
    answers other questions.
    """
    variant = point if folder == point.run else Answers(**answers_of(folder, point.setting))
    if variant.ids != point.ids:
        raise RunError(f"{folder / 'predictions'}: other questions than those of {point.run}")
    gain, difference = variant.gains, variant.scores[:, 2] - point.scores[:, 2]
    inside, between = statistics.paired_bootstrap(np.column_stack([gain, difference]), seed=point.setting.seed)
    return {
        **{side: float(variant.scores[:, 1 + i].mean()) for i, side in enumerate(SIDES)},
        "gain": float(gain.mean()),
        **dict(zip(ENDS, map(float, inside), strict=True)),
        "difference": float(difference.mean()),
        **{"difference_low": float(between[0]), "difference_high": float(between[1])},
        **{
            f"flips_{side}": statistics.flips(variant.answers[f"answer_{side}"], point.answers[f"answer_{side}"])
            for side in SIDES
        },
        "exposed": mean(exposure != "none" for exposure in variant.exposure),
    }


def variants(point: Point, prefix: str) -> dict[str, dict[str, Any]]:
    """`compared` for each finished variant of a run whose name begins with `prefix`, by the rest of the name."""
    folders = sorted((point.run / "variants").glob(f"{prefix}*"))
    return {f.name.removeprefix(prefix): compared(point, f) for f in folders if (f / "metrics.json").is_file()}


def cost(points: Sequence[Point]) -> dict[str, Any]:
    """Calls, tokens and seconds of all runs and of everything measured in them afterwards.

    `paper_calls` is what the paper's plan asks in training, `saved` those of them that were not sent.
    """
    parts = [part for point in points for part in point.metrics["cost"].values()]
    training = [point.metrics["cost"]["training"] for point in points]
    folders = [folder for point in points for folder in sorted((point.run / "variants").glob("*/"))]
    parts += [spent(list(read_rows(f / table, columns, SPENT))) for f in folders for table, columns in TABLES.items()]
    seconds = [point.metrics["seconds"] for point in points]
    seconds += [read_record(folder / "run.json")["seconds"] for folder in folders]
    return {
        **spent(parts),
        "paper_calls": sum(record["paper_calls"] for record in training),
        "saved": sum(record["calls_saved"] for record in training),
        "seconds": sum(sum(stages.values()) for stages in seconds),
    }


def fates(point: Point) -> dict[str, Any]:
    """What became of a setting's units and test questions, as counts.

    `read` questions had a unit among their documents; `better` and `worse` are those whose score moved. Of the worse,
    `lost` had a document with a golden answer in their base documents and have none with write-back, `there` still have
    one, `never` had none, and `unread` (in none of these) read no unit: their answers moved by a search of the method's
    own, or by noise. Where labels are the answers nobody knows which documents hold them: all three stay None.
    `example` is the id of a question that got worse, else of one that read a unit.
    """
    units = np.array([facts["writeback_hits"] > 0 for facts in point.facts])
    before, after = (np.array([facts[f"found_{side}"] for facts in point.facts]) for side in SIDES)
    worse = point.gains < 0
    of_worse = {"lost": (before > 0) & (after == 0), "there": after > 0, "never": (before == 0) & (after == 0)}
    known = not np.isnan(before).any()
    shown = np.flatnonzero(worse) if worse.any() else np.flatnonzero(units)
    construction = point.metrics["construction"]
    return {
        **{key: construction[key] for key in ("units", "kept", "examples")},
        "gated_by": next(iter(construction["reasons"].items()), None),
        **{"read": int(units.sum()), "better": int(np.sum(point.gains > 0)), "worse": int(worse.sum())},
        **{name: int(np.sum(worse & units & found)) if known else None for name, found in of_worse.items()},
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
    chief = max(CHIEF, key=fate.__getitem__)
    return f"{moved}: for {fate[chief]:,} of the worse, {CHIEF[chief]}."
