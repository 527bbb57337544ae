"""What a grid of runs says together: corrected p-values, pooled gains, variants, why a setting does not gain, cost.

Pure but for reading the run folders: whatever lies in them is told, from whichever cluster it came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from wbrag.experiments.paper import place
from wbrag.report import statistics
from wbrag.report.construction import SPENT, spent
from wbrag.report.evaluation import BINARY, SIDES, Answers, Setting, answers_of
from wbrag.report.overlap import EXPOSURES, OVERLAPS, READ
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.report.statistics import Flags, mean
from wbrag.run import folder
from wbrag.run.folder import RunError
from wbrag.schema import PREDICTION, TRACE, WRITTEN

Record = Mapping[str, Any]
#: Which questions of a run count.
Chosen = Callable[["Point"], Flags]
TRACE_COLUMNS = (*QUESTION_COLUMNS, "source_tokens", "unit_tokens")
#: The tables of a variant that say what they took.
TABLES = {"written": WRITTEN, "traces": TRACE, "readings": PREDICTION, "predictions": PREDICTION}
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
class Point:
    """One run of the grid: its answers, what metrics.json holds, tokens (source, unit) of each kept example."""

    run: Path
    setting: Setting
    answers: Answers
    metrics: dict[str, Any]
    tokens: list[tuple[int, int]]
    config: dict[str, Any]

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
    config = folder.read_config(run)
    setting = folder.setting_of(config)
    traces = folder.read_traces(run, TRACE_COLUMNS)
    answers = answers_of(folder.read_predictions(run), setting, traces, folder.read_units(run))
    tokens = [(row["source_tokens"], row["unit_tokens"]) for row in traces if row["unit_tokens"]]
    return Point(run, setting, answers, folder.read_record(run / "metrics.json"), tokens, config)


def read_variant(point: Point, variant: Path) -> Answers:
    """The answers of a variant of a run, or the run's own; RunError where it answers other questions."""
    if variant == point.run:
        return point.answers
    answers = answers_of(folder.read_predictions(variant), point.setting)
    if list(answers["id"]) != list(point.answers["id"]):
        raise RunError(f"{variant / 'predictions'}: other questions than those of {point.run}")
    return answers


def measure_grid(points: Sequence[Point]) -> dict[str, Any]:
    """Everything the report shows of the runs themselves, as plain data; fractions 0..1."""
    records = [point.metrics["results"][0] | tested(point) | {"run": str(point.run)} for point in points]
    for record, adjusted in zip(records, statistics.holm([record["p"] for record in records]), strict=True):
        record["holm_p"] = adjusted
    kinds = ("benchmark", "method", "backbone")
    return {
        "points": records,
        "pooled": pooled(points),
        "groups": {kind: {name: pooled(some) for (name,), some in grouped(points, kind)} for kind in kinds},
        "splits": _classes(points, "overlap", OVERLAPS),
        "exposure": _classes(points, "exposure", (*list(EXPOSURES)[1:], "unit")),
        "winners": {
            "better": sum(record["gain"] > 0 for record in records),
            "equal": sum(record["gain"] == 0 for record in records),
            "worse": sum(record["gain"] < 0 for record in records),
            "significant": sum(record["holm_p"] <= ALPHA for record in records),
        },
        "cost": cost(points),
    }


def tested(point: Point) -> dict[str, Any]:
    """How many questions of a point score `better` and `worse` with write-back, and the p-value `p` of its gain.

    McNemar's exact test for 0/1 metrics, turned signs for the others.
    """
    gains, p = point.answers["gain"], point.metrics["results"][0]["mcnemar_p"]
    if point.setting.metric not in BINARY:
        p = statistics.sign_flips(gains, seed=point.setting.seed)
    return {"p": p, "better": int(np.sum(gains > 0)), "worse": int(np.sum(gains < 0))}


def grouped(points: Iterable[Point], *kinds: str) -> list[tuple[tuple[str, ...], list[Point]]]:
    """The points grouped by some of "benchmark", "method" and "backbone", in the paper's order."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[tuple(getattr(point.setting, kind) for kind in kinds)].append(point)
    return sorted(groups.items(), key=lambda item: [place(name) for name in item[0]])


def pooled(points: Sequence[Point], chosen: Chosen | None = None) -> dict[str, Any] | None:
    """The mean gain over the settings that have questions that count, with its intervals; None where none has.

    Settings of one benchmark that asked the same questions are resampled together (`statistics.pooled_gain`): their
    questions for the interval, their topics (`evaluation.topic_of`) for the second one.
    """
    strata: dict[tuple[str, tuple[str, ...]], list[Point]] = defaultdict(list)
    for point in points:
        strata[point.setting.benchmark, tuple(point.answers["id"])].append(point)
    gains = [np.column_stack([point.answers["gain"] for point in some]) for some in strata.values()]
    flags = [np.ones(one.shape, dtype=bool) for one in gains]
    if chosen:
        flags = [np.column_stack([chosen(point) for point in some]) for some in strata.values()]
    if not any(members.any() for members in flags):
        return None
    topics = [some[0].answers["topic"].tolist() for some in strata.values()]
    arms, seed = list(zip(gains, flags, strict=True)), points[0].setting.seed
    gain, *inside = statistics.pooled_gain(arms, seed=seed)
    _, *over_topics = statistics.pooled_gain(arms, seed=seed, topics=topics)
    return {
        "gain": gain,
        "topics": dict(zip(ENDS, over_topics, strict=True)),
        **dict(zip(ENDS, inside, strict=True)),
        "settings": sum(int(members.any(axis=0).sum()) for members in flags),
        "questions": sum(int(members.sum()) for members in flags),
    }


def _classes(points: Sequence[Point], kind: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Pooled gains by the classes of "overlap" or "exposure"."""

    def inside(name: str) -> Chosen:
        return lambda point: point.answers[kind] == name

    return {name: record for name in names if (record := pooled(points, inside(name)))}


def unseen(runs: Sequence[Point]) -> dict[str, Any]:
    """The questions without overlap: `points`, pooled for each run by itself (None where it has none), and `read`,
    pooled over runs by what the units that were read hold (`overlap.READ`; `together`: all of them), with the share
    of documents that held a golden answer, a mean over runs.
    """
    read = {kind: record for kind in (*READ, "together") if (record := _unseen(runs, kind))}
    return {"points": [_unseen([run], "together") for run in runs], "read": read}


def _unseen(runs: Sequence[Point], kind: str) -> dict[str, Any] | None:
    def chosen(run: Point) -> Flags:
        flags: Flags = (run.answers["overlap"] == "none") & ((run.answers["read"] == kind) | (kind == "together"))
        return flags

    def found(side: str) -> float | None:
        return mean(mean(run.answers[f"retrieval_recall_{side}"][chosen(run)].tolist()) for run in runs)

    record = pooled(runs, chosen)
    return record and record | {f"found_{side}": found(side) for side in SIDES}


def compared(point: Point, variant: Path) -> dict[str, Any]:
    """A variant of a run beside it: its gain over base, and its score minus the run's own, each with its interval.

    `flips` are the shares of answers that differ from the run's own, base and write-back.
    """
    own, other = point.answers, read_variant(point, variant)
    score, gain = other["scores"][:, 0, 2], other["gain"]
    difference = score - own["scores"][:, 0, 2]
    inside, between = statistics.paired_bootstrap(np.column_stack([gain, difference]), seed=point.setting.seed)
    return {
        **{side: float(other["scores"][:, 0, 1 + i].mean()) for i, side in enumerate(SIDES)},
        "gain": float(gain.mean()),
        **dict(zip(ENDS, map(float, inside), strict=True)),
        "difference": float(difference.mean()),
        **{"difference_low": float(between[0]), "difference_high": float(between[1])},
        **{f"flips_{side}": float(np.mean(other[f"answer_{side}"] != own[f"answer_{side}"])) for side in SIDES},
        "exposed": float(np.mean(other["exposure"] != "none")),
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
    folders = [variant for point in points for variant in sorted((point.run / "variants").glob("*/"))]
    tables = [folder.read_rows(one / name, table, SPENT) for one in folders for name, table in TABLES.items()]
    seconds = [point.metrics["seconds"] for point in points]
    seconds += [folder.read_record(one / "run.json")["seconds"] for one in folders]
    return {
        **spent([*parts, *chain(*tables)]),
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
    answers, construction = point.answers, point.metrics["construction"]
    units, worse = answers["writeback_hits"] > 0, answers["gain"] < 0
    before, after = (answers[f"retrieval_recall_{side}"] for side in SIDES)
    of_worse = {"lost": (before > 0) & (after == 0), "there": after > 0, "never": (before == 0) & (after == 0)}
    known = not np.isnan(before).any()
    return {
        **{key: construction[key] for key in ("units", "kept", "examples")},
        "gated_by": next(iter(construction["reasons"].items()), None),
        **{"read": int(units.sum()), "better": int(np.sum(answers["gain"] > 0)), "worse": int(worse.sum())},
        **{name: int(np.sum(worse & units & found)) if known else None for name, found in of_worse.items()},
        "unread": int((worse & ~units).sum()),
        "example": next(iter(answers["id"][worse if worse.any() else units]), None),
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
