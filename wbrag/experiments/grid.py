"""What a grid of runs says together: corrected p-values, pooled gains, variants, why a setting does not gain, cost.

Pure but for reading the run folders: whatever lies in them is told, from whichever cluster it came. All of it is plain
data, the content of grid.json; fractions 0..1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wbrag.experiments.paper import called, cell, known, paper, place
from wbrag.report import statistics
from wbrag.report.construction import SPENT, spent, token_pairs
from wbrag.report.evaluation import BINARY, SIDES, Answers, Setting, answers_of
from wbrag.report.overlap import EXPOSURES, OVERLAPS, READ
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.report.statistics import Flags, Floats, mean, paired_bootstrap
from wbrag.run import folder
from wbrag.run.folder import Reread, RunError
from wbrag.schema import PREDICTION, TRACE, WRITTEN

Record = Mapping[str, Any]
#: One way to make units in one run: its answers question by question, and by name what its units took.
Measured = tuple[Answers, Mapping[str, int]]
TRACE_COLUMNS = ("id", "status", "source_tokens", "unit_tokens")
#: The tables of a variant that say what they took.
TABLES = {"written": WRITTEN, "traces": TRACE, "readings": PREDICTION, "predictions": PREDICTION}
#: What is told as means over methods: of construction, and of what write-back changes about the documents.
MEANS = (
    *("selected_rate", "mean_retained_documents", "source_tokens", "distilled_tokens", "compression_ratio"),
    *("fallback_rate", "lost", "exposed", "writeback_share"),
    *(f"{name}_{side}" for name in ("retrieval_recall", "context_tokens") for side in SIDES),
)
#: What is told of a judge that took the place of labels.
JUDGED = ("examples", "kept", "labels_passed", *(f"judge_{it}" for it in ("compared", "agreement", "kappa", "passed")))
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
    """One run of the grid: its answers, what metrics.json holds, tokens (source, unit) of each kept example, (n, 2)."""

    run: Path
    setting: Setting
    answers: Answers
    metrics: dict[str, Any]
    tokens: Floats
    config: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        """Backbone, method, benchmark."""
        return self.setting.backbone, self.setting.method, self.setting.benchmark

    def those(self, wanted: Mapping[str, str]) -> Flags:
        """Which questions have these values in these columns of the answers."""
        flags: Flags = np.ones(len(self.answers["id"]), dtype=bool)
        for name, value in wanted.items():
            flags &= self.answers[name] == value
        return flags


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
    training = Reread(lambda: folder.read_rows(run / "traces", TRACE, QUESTION_COLUMNS))
    units = Reread(lambda: folder.unit_rows(run, ("id", "example_ids")))
    answers = answers_of(folder.read_predictions(run), setting, training, units)
    pairs = token_pairs(Reread(lambda: folder.read_traces(run, TRACE_COLUMNS)))
    tokens = pairs[pairs[:, 1] > 0]
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
    """All that grid.json holds but for `units` (`ways`) and `failed`; what variants show by their run's setting, and
    beside ours what the `paper` reports.
    """
    records = [_record(point) for point in points]
    for record, adjusted in zip(records, statistics.holm([record["p"] for record in records]), strict=True):
        record["holm_p"] = adjusted
    gains = [record["gain"] for record in records]

    def each(told: Callable[[Point], Any]) -> dict[str, Any]:
        return {called(*point.key): found for point in points if (found := told(point))}

    def classes(kind: str, names: Iterable[str], **wanted: str) -> dict[str, Any]:
        return {name: found for name in names if (found := pooled(points, **{kind: name}, **wanted))}

    everything, splits = pooled(points), classes("overlap", OVERLAPS)
    return {
        "points": records,
        "pooled": everything | {"paper": paper()["table2"]["mean"]},
        "groups": {kind: _group(points, kind) for kind in ("benchmark", "method", "backbone")},
        "splits": splits,
        "exposure": classes("exposure", (*list(EXPOSURES)[1:], "unit")),
        "unseen": {**classes("read", READ, overlap="none"), "together": splits["none"]} if "none" in splits else {},
        "winners": {
            **{"better": sum(gain > 0 for gain in gains), "equal": sum(gain == 0 for gain in gains)},
            **{"worse": sum(gain < 0 for gain in gains), "significant": sum(one["holm_p"] <= ALPHA for one in records)},
        },
        "not_improved": {
            record["setting"]: record | fates(point)
            for point, record in zip(points, records, strict=True)
            if record["gain"] <= 0
        },
        "means": [_means(some) for _, some in grouped(points, "benchmark", "backbone")],
        "placebos": each(lambda point: variants(point, "placebo-")),
        "repeat": each(lambda point: variants(point, "repeat").get("")),
        "transfer": each(lambda point: variants(point, "transfer-")),
        "ablation": each(ablation),
        "judge": each(judge),
        "temperatures": temperatures(points),
        "cost": cost(points, everything["gain"]),
    }


def _record(point: Point) -> dict[str, Any]:
    """A setting's result, with how many questions score `better` and `worse`, and the gain of its `unseen` questions,
    those without overlap; `p` is of McNemar's exact test for 0/1 metrics, for others of turned signs.
    """
    record, gains = point.metrics["results"][0], point.answers["gain"]
    binary, seed = point.setting.metric in BINARY, point.setting.seed
    return {
        **{**record, "run": str(point.run), "setting": called(*point.key), "paper": cell(*point.key)},
        **{"better": int(np.sum(gains > 0)), "worse": int(np.sum(gains < 0))},
        "p": record["mcnemar_p"] if binary else statistics.sign_flips(gains, seed=seed),
        "unseen": pooled([point], overlap="none"),
    }


def grouped(points: Iterable[Point], *kinds: str) -> list[tuple[tuple[str, ...], list[Point]]]:
    """The points grouped by some of "benchmark", "method" and "backbone", in the paper's order."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[tuple(getattr(point.setting, kind) for kind in kinds)].append(point)
    return sorted(groups.items(), key=lambda item: [place(name) for name in item[0]])


def pooled(points: Sequence[Point], **wanted: str) -> dict[str, Any]:
    """The mean gain over the settings that have questions of the `wanted` "overlap", "exposure" and "read" (without any
    all count), with its intervals, and the share of these for which a golden answer was `found`, a mean over settings;
    {} where no setting has such a question.

    Settings of one benchmark that asked the same questions are resampled together (`statistics.pooled_gain`): their
    questions for the interval, their topics (`evaluation.topic_of`) for the second one.
    """
    strata: dict[tuple[str, tuple[str, ...]], list[Point]] = defaultdict(list)
    for point in points:
        strata[point.setting.benchmark, tuple(point.answers["id"])].append(point)
    gains = [np.column_stack([point.answers["gain"] for point in some]) for some in strata.values()]
    flags = [np.column_stack([point.those(wanted) for point in some]) for some in strata.values()]
    if not any(members.any() for members in flags):
        return {}
    topics = [some[0].answers["topic"].tolist() for some in strata.values()]
    arms, seed = list(zip(gains, flags, strict=True)), points[0].setting.seed
    gain, *inside = statistics.pooled_gain(arms, seed=seed)
    _, *over_topics = statistics.pooled_gain(arms, seed=seed, topics=topics)

    def found(side: str) -> float | None:
        return mean(mean(point.answers[f"retrieval_recall_{side}"][point.those(wanted)].tolist()) for point in points)

    questions = sum(int(members.sum()) for members in flags)
    return {
        "gain": gain,
        "topics": {**dict(zip(ENDS, over_topics, strict=True)), "questions": questions},
        **dict(zip(ENDS, inside, strict=True)),
        "settings": sum(int(members.any(axis=0).sum()) for members in flags),
        "questions": questions,
        **{f"found_{side}": found(side) for side in SIDES},
    }


def _group(points: Sequence[Point], kind: str) -> dict[str, Any]:
    return {name: pooled(some) | {"paper": known("table2", kind, name)} for (name,), some in grouped(points, kind)}


def _means(points: Sequence[Point]) -> dict[str, Any]:
    """`MEANS` over the methods of one benchmark and backbone, each over the runs that know it."""
    records = []
    for point in points:
        record = point.metrics["construction"] | point.metrics["results"][0]
        before, after = (point.answers[f"retrieval_recall_{side}"] for side in SIDES)
        lost = mean(np.maximum(before - after, 0.0).tolist())  # NaN: not known
        records.append(record | {"lost": lost, "exposed": record["questions_with_writeback"] / record["n"]})
    about = {name: records[0][name] for name in ("benchmark", "backbone")}
    return about | {name: mean(record[name] for record in records) for name in MEANS}


def finished(point: Point, prefix: str) -> dict[str, Path]:
    """The folders of a run's finished variants whose names begin with `prefix`, by the rest of the name."""
    found = sorted((point.run / "variants").glob(f"{prefix}*"))
    return {one.name.removeprefix(prefix): one for one in found if (one / "metrics.json").is_file()}


def variants(point: Point, prefix: str) -> dict[str, dict[str, Any]]:
    """`compared` for each of the `finished` variants of a run."""
    return {name: compared(point, one) for name, one in finished(point, prefix).items()}


def compared(point: Point, variant: Path) -> dict[str, Any]:
    """A variant of a run beside it: its gain over base, and its score minus the run's own, each with its interval.

    `flips` are the shares of answers that differ from the run's own, base and write-back.
    """
    own, other = point.answers, read_variant(point, variant)
    score, gain = other["scores"][:, 0, 2], other["gain"]
    difference = score - own["scores"][:, 0, 2]
    inside, between = paired_bootstrap(np.column_stack([gain, difference]), seed=point.setting.seed)
    return {
        **{side: float(other["scores"][:, 0, 1 + i].mean()) for i, side in enumerate(SIDES)},
        "gain": float(gain.mean()),
        **dict(zip(ENDS, map(float, inside), strict=True)),
        "difference": float(difference.mean()),
        **{"difference_low": float(between[0]), "difference_high": float(between[1])},
        **{f"flips_{side}": float(np.mean(other[f"answer_{side}"] != own[f"answer_{side}"])) for side in SIDES},
        "exposed": float(np.mean(other["exposure"] != "none")),
    }


def ablation(point: Point) -> list[dict[str, Any]]:
    """The variants of a run's gates (`ablation.ablate`), each `compared`."""
    file = point.run / "ablation.json"
    records = folder.read_record(file)["variants"] if file.is_file() else []
    told = [one | {"paper": known("table4", *one["name"].split("="))} for one in records]
    return [one | compared(point, point.run / one["folder"]) for one in told]


def judge(point: Point) -> dict[str, Any] | None:
    """A run trained once more with a judge in place of labels, `compared`; with what the run `kept` and gained."""
    own = {"labels_kept": point.metrics["construction"]["kept"], "labels_gain": point.metrics["results"][0]["gain"]}
    for variant in finished(point, "judge").values():
        told = folder.read_record(variant / "metrics.json")["construction"]
        return compared(point, variant) | own | {key: told[key] for key in JUDGED}
    return None


def temperatures(points: Iterable[Point]) -> dict[str, dict[str, Any]]:
    """REPLUG's runs at their own temperature and at others: by temperature the pooled gain of `all` questions and of
    those without overlap (`none`), and each of the `settings`.
    """
    at: dict[str, list[Point]] = defaultdict(list)
    settings: dict[str, dict[str, Any]] = defaultdict(dict)
    for point in points:
        own = f"{point.config['method'].get('temperature', 1.0):g}"
        others = {value: variant for value, variant in finished(point, "temperature-").items() if value != own}
        for value, variant in {own: point.run, **others}.items() if others else ():
            read = read_variant(point, variant)
            moved = {"scores": read["scores"], "gain": read["gain"]}
            at[value].append(replace(point, answers={**point.answers, **moved}))
            record = point.metrics["results"][0] if value == own else compared(point, variant)
            settings[value][called(*point.key)] = record
    return {
        value: {"all": pooled(some), "none": pooled(some, overlap="none"), "settings": settings[value]}
        for value, some in at.items()
    }


def ways(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Ways to make units of the same kept examples and to merge them, beside the same base answers: one record for each
    (variants `units-NAME`), pooled over the runs that have it; first the runs' "own".
    """
    found = {"own": [measured(point, point.run) for point in points]}
    for point in points:
        for name, variant in finished(point, "units-").items():
            found.setdefault(name, []).append(measured(point, variant))
    return [{"way": name, **pooled_way(some)} for name, some in found.items() if some]


def measured(point: Point, variant: Path) -> Measured:
    """A run's own units, or a variant's, with what tells them apart: `more` is the gain above that of the own ones, a
    topic is one of its corpus, the overlap that of the run; calls are those beyond Algorithm 1.
    """
    answers, own = read_variant(point, variant), point.answers
    corpus = str(folder.read_record(point.run / "run.json")["identity"]["corpus"])[:12]
    topics = np.array([f"{corpus} {topic}" for topic in answers["topic"]], dtype=object)
    asked = (folder.read_rows(variant / name, TABLES[name], ("calls",)) for name in ("written", "readings"))
    took = {"units": len(folder.read_units(variant)), "left_out": len(folder.read_left_out(variant))}
    took["calls"] = sum(row["calls"] or 0 for row in chain(*asked))
    return {**answers, "topic": topics, "overlap": own["overlap"], "more": answers["gain"] - own["gain"]}, took


def pooled_way(some: Sequence[Measured]) -> dict[str, Any]:
    """The figures of one way, over the questions of all runs; a `_difference` is to the runs' own units, intervals are
    over topics; `unseen`: questions that do not overlap with training, `seen`: those that do.
    """

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([answers[name] for answers, _ in some])

    def interval(gains: Floats, topics: npt.NDArray[Any]) -> dict[str, Any]:
        low, high = paired_bootstrap(gains[:, None], topics=topics.tolist())[0]
        told = {"mean": float(gains.mean()) if len(gains) else 0.0, "low": float(low), "high": float(high)}
        return {**told, "n": len(gains), "topics": len(set(topics))}

    topics, unseen = column("topic"), column("overlap") == "none"
    classes = {"all": np.ones(len(unseen), dtype=bool), "unseen": unseen, "seen": ~unseen}
    gains = {"": column("gain"), "_difference": column("more")}
    return {
        **{"runs": len(some), "n": len(topics)},
        **{
            f"{name}{kind}": interval(values[inside], topics[inside])
            for (name, inside), (kind, values) in product(classes.items(), gains.items())
        },
        "unseen_found": [mean(column(f"retrieval_recall_{side}")[unseen].tolist()) for side in SIDES],
        "unseen_read": mean((column("writeback_hits")[unseen] > 0).tolist()),
        "tokens": [mean(column(f"context_tokens_{side}").tolist()) for side in SIDES],
        **{name: sum(took[name] for _, took in some) for name in ("units", "left_out", "calls")},
    }


def cost(points: Sequence[Point], gain: float) -> dict[str, Any]:
    """Calls, tokens and seconds of all runs and of everything measured in them afterwards.

    `paper_calls` is what the paper's plan asks in training, `saved` those of them that were not sent; `tokens_a_point`
    is what each point of a mean `gain` took, None where there is none.
    """
    parts = [part for point in points for part in point.metrics["cost"].values()]
    training = [point.metrics["cost"]["training"] for point in points]
    folders = [variant for point in points for variant in sorted((point.run / "variants").glob("*/"))]
    tables = [folder.read_rows(one / name, table, SPENT) for one in folders for name, table in TABLES.items()]
    seconds = [point.metrics["seconds"] for point in points]
    seconds += [folder.read_record(one / "run.json")["seconds"] for one in folders]
    bill = spent([*parts, *chain(*tables)])
    planned, saved = (sum(record[name] for record in training) for name in ("paper_calls", "calls_saved"))
    return {
        **{**bill, "paper_calls": planned, "saved": saved, "saved_share": saved / max(1, planned)},
        "seconds": sum(sum(stages.values()) for stages in seconds),
        "tokens_a_point": (bill["prompt_tokens"] + bill["completion_tokens"]) / (100 * gain) if gain > 0 else None,
    }


def fates(point: Point) -> dict[str, Any]:
    """What became of a setting's units and test questions, as counts.

    `read` questions had a unit among their documents; `better` and `worse` are those whose score moved. Of the worse,
    `lost` had a document with a golden answer in their base documents and have none with write-back, `there` still have
    one, `never` had none, and `unread` (in none of these) read no unit: their answers moved by a search of the method's
    own, or by noise. Where labels are the answers nobody knows which documents hold them: all three stay None.
    `example` is the id of a question that got worse, else of one that read a unit; `why` the chief reason.
    """
    answers, construction = point.answers, point.metrics["construction"]
    units, worse = answers["writeback_hits"] > 0, answers["gain"] < 0
    before, after = (answers[f"retrieval_recall_{side}"] for side in SIDES)
    of_worse = {"lost": (before > 0) & (after == 0), "there": after > 0, "never": (before == 0) & (after == 0)}
    told = not np.isnan(before).any()
    fate: dict[str, Any] = {
        **{key: construction[key] for key in ("units", "kept", "examples")},
        "gated_by": next(iter(construction["reasons"].items()), None),
        **{"read": int(units.sum()), "better": int(np.sum(answers["gain"] > 0)), "worse": int(worse.sum())},
        **{name: int(np.sum(worse & units & found)) if told else None for name, found in of_worse.items()},
        "unread": int((worse & ~units).sum()),
        "example": next(iter(answers["id"][worse if worse.any() else units]), None),
    }
    return fate | {"why": why(fate)}


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
