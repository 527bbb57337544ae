"""The report of a run: metrics.json, report.md, report.html and plots/*.svg, from what the pipeline left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wbrag import schema
from wbrag.construction import TRACE_COLUMNS, construction, cost
from wbrag.evaluation import Setting, evaluate
from wbrag.lives import lives_to_show
from wbrag.methods.needs import settings_read
from wbrag.overlap import RULE, TrainingQuestions
from wbrag.page import Block, Heading, Picture, Pictures, Table, Text, Verbatim, html, markdown
from wbrag.plots import compression_figure, gain_figure, rank_figure
from wbrag.runfolder import (
    RunError,
    read_config,
    read_record,
    read_records,
    read_rows,
    setting_of,
    trained_run,
    write_text,
)
from wbrag.statistics import RESAMPLES
from wbrag.tables import (
    EXPOSURE_NAMES,
    METRIC_NAMES,
    SPLIT_NAMES,
    construction_rows,
    headline,
    interval,
    number,
    percent,
    points,
    results_table,
    topics_told,
)
from wbrag.trace import life

__all__ = ["measure", "write_report"]

Row = Mapping[str, Any]
QUESTION_COLUMNS = ("question", "golden_answers", "unit_id")
QUARANTINE_SHOWN = 10
REASONS_SHOWN = 12
METHOD_NOTE = (
    "Scores in percent, gains in points. Each question is answered three times in the same run: closed book (the model "
    "alone), base (with documents of the corpus), + write-back (corpus and write-back index, merged by score). The "
    f"interval is a paired percentile bootstrap of {RESAMPLES:,} resamples of questions; p is McNemar's exact test, "
    "for 0/1 metrics."
)
GAINS_CAPTION = (
    "Left: scores before and after; the whisker is the interval of the gain, set on the base score. Right: the gain by "
    "metric and, in the primary metric, by overlap with training."
)


def write_report(run: Path) -> dict[str, Any]:
    """Write all of a run's report, each file whole or not at all, metrics.json last; returns what it holds.

    Reads config.yaml, run.json, traces/, predictions/ and quarantine.jsonl of the run folder. RunError, naming the
    file, where one cannot be read or there is no prediction.
    """
    config = read_config(run)
    setting, how = setting_of(config), settings_read(config["method"])
    traces = sorted(read_rows(run / "traces", schema.TRACE, TRACE_COLUMNS), key=lambda row: str(row["id"]))
    predictions = sorted(read_rows(run / "predictions", schema.PREDICTION), key=lambda row: str(row["id"]))
    if not predictions:
        raise RunError(f"{run / 'predictions'}: no prediction to report on")
    facts = read_record(run / "run.json")
    training = traces or list(read_rows(trained_run(run) / "traces", schema.TRACE, QUESTION_COLUMNS))
    metrics = measure(traces, predictions, setting, training) | {"seconds": facts.get("seconds", {})}
    pictures = _pictures(metrics, traces)
    blocks = [
        *_result_blocks(metrics, pictures[:1]),
        *_construction_blocks(metrics["construction"], pictures[1:]),
        *_cost_blocks(metrics["cost"], facts),
        *_life_blocks(run, lives_to_show(traces, predictions, setting)),
        *_quarantine_blocks(read_records(run / "quarantine.jsonl")),
        *_reproduction_blocks(run, facts),
    ]
    title = f"{setting.benchmark}: before and after write-back"
    method = f"{setting.method} RAG ({how})" if how else f"{setting.method} RAG"
    subtitle = f"WriteBack-RAG with {method} on {setting.backbone}, seed {setting.seed}"
    for picture in pictures:
        write_text(run / picture.file, picture.svg)
    write_text(run / "report.md", markdown(title, subtitle, blocks))
    write_text(run / "report.html", html(title, subtitle, blocks))
    write_text(run / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics


def measure(
    traces: Sequence[Row], predictions: Sequence[Row], setting: Setting, training: Sequence[Row]
) -> dict[str, Any]:
    """What metrics.json holds but for the run's seconds: `evaluation.evaluate`, construction statistics and cost.

    `training` are the rows behind the units (`QUESTION_COLUMNS`): the run's own traces or, for an evaluation, which has
    none, those of the run that it measures.
    """
    asked = TrainingQuestions(training, labels=bool(setting.labels)) if training else None
    measured = evaluate(predictions, setting, asked)
    return measured | {"construction": construction(traces), "cost": cost(traces, predictions)}


def _result_blocks(metrics: Row, pictures: Sequence[Picture]) -> list[Block]:
    results, splits, exposure = metrics["results"], metrics["splits"], metrics["exposure"]
    primary = results[0]
    blocks: list[Block] = [Text(headline(primary), "lead")]
    if "none" in splits:
        unseen = splits["none"][0]
        told = f"{points(unseen['gain'])} points (95% interval {interval(unseen)}) on {unseen['n']:,} questions"
        blocks.append(Text(f"Where neither the question nor its answer occurs in training, the gain is {told}."))
    blocks += [
        Pictures(tuple(pictures)),
        Heading("Results"),
        results_table("metric", {METRIC_NAMES[r["metric"]]: r for r in results}, frozenset({0})),
        Text(
            f"{METHOD_NOTE} {metrics['questions']['failed']:,} of {primary['n']:,} questions failed and score 0.",
            "note",
        ),
        Text(topics_told(metrics["topics"], primary["n"])),
    ]
    groups = {SPLIT_NAMES[key]: records[0] for key, records in splits.items()}
    groups |= {EXPOSURE_NAMES[key]: records[0] for key, records in exposure.items()}
    if len(groups) > 1:
        blocks += [Heading(f"Who gains ({METRIC_NAMES[primary['metric']]})"), results_table("questions", groups)]
        blocks.append(Text(f"{RULE} Where no unit was read there is nothing to gain by.", "note"))
    return [*blocks, Heading("Retrieval"), _retrieval_table(primary)]


def _retrieval_table(record: Row) -> Table:
    exposed = f"{record['questions_with_writeback']:,} of {record['n']:,}"
    rows = (
        ("golden answer in the documents, % of questions", *_pair(record, "retrieval_recall", percent)),
        ("context tokens, mean", *_pair(record, "context_tokens", number)),
        ("questions for which the method itself retrieved, %", *_pair(record, "retrieval_rate", percent)),
        ("retrievals by the method itself, a question", *_pair(record, "retrievals_per_question", number)),
        ("documents from write-back, %", "-", percent(record["writeback_share"])),
        ("questions with a write-back document", "-", exposed),
    )
    return Table(("", "base", "+ write-back"), rows)


def _pair(record: Row, key: str, text: Callable[[float | None], str]) -> tuple[str, str]:
    return text(record[f"{key}_base"]), text(record[f"{key}_writeback"])


def _construction_blocks(numbers: Row, pictures: Sequence[Picture]) -> list[Block]:
    reasons = list(numbers["reasons"].items())
    blocks: list[Block] = [
        Heading("Construction of the knowledge base"),
        Table(("", "this run"), construction_rows(numbers), numbers=False),
    ]
    blocks.append(Pictures(tuple(pictures)) if pictures else Text("No unit was written, so there is nothing to plot."))
    if reasons:
        rows = tuple((reason, f"{count:,}") for reason, count in reasons[:REASONS_SHOWN])
        more = sum(count for _, count in reasons[REASONS_SHOWN:])
        others = (("other", f"{more:,}"),) if more else ()
        blocks.append(Table(("why examples were not kept", "examples"), rows + others))
    return blocks


def _cost_blocks(cost: Row, facts: Row) -> list[Block]:
    training, evaluation = cost["training"], cost["evaluation"]
    saved = f"{training['calls_saved']:,} ({percent(training['calls_saved'] / max(1, training['paper_calls']))}%)"
    rows = tuple(
        (name, f"{row['calls']:,}", f"{row['prompt_tokens']:,}", f"{row['completion_tokens']:,}")
        for name, row in (("training", training), ("evaluation", evaluation))
    )
    told = f"Training left out {saved} of the {training['paper_calls']:,} calls of the paper's plan"
    stages = ", ".join(f"{stage} {value:,.1f} s" for stage, value in facts.get("seconds", {}).items())
    speed = f" Engine: {facts['tokens_per_second']:,.0f} tokens/s." if facts.get("tokens_per_second") else ""
    return [
        Heading("Cost"),
        Table(("", "LLM calls", "prompt tokens", "completion tokens"), rows),
        Text(f"{told}: none could change a decision."),
        *([Text(f"Time: {stages}.{speed}")] if stages else []),
    ]


def _pictures(metrics: Row, traces: Sequence[Row]) -> list[Picture]:
    results = metrics["results"]
    groups = {METRIC_NAMES[record["metric"]]: record for record in results}
    groups |= {SPLIT_NAMES[key]: records[0] for key, records in metrics["splits"].items()}
    kept = [row for row in traces if row["status"] == "kept"]
    pictures = [
        Picture(
            "plots/gains.svg",
            gain_figure(METRIC_NAMES[results[0]["metric"]], results[0], groups),
            GAINS_CAPTION,
        )
    ]
    if not kept:
        return pictures
    tokens = [(row["source_tokens"], row["unit_tokens"]) for row in kept]
    return [
        *pictures,
        Picture(
            "plots/ranks.svg",
            rank_figure(metrics["construction"]["retained_by_rank"]),
            "Where in the retrieved list the retained documents stood (paper, Figure 3).",
        ),
        Picture(
            "plots/compression.svg",
            compression_figure(tokens),
            "Tokens of each unit against those of the documents it was written from (paper, Figure 5).",
        ),
    ]


def _life_blocks(run: Path, lives: Sequence[tuple[str, str]]) -> list[Block]:
    head = Text("Any other: python -m wbrag.trace RUN ID", "note")
    return [
        Heading("The lives of three examples"),
        head,
        *(Verbatim(life(run, key), caption) for caption, key in lives),
    ]


def _quarantine_blocks(rejected: Sequence[Row]) -> list[Block]:
    if not rejected:
        return [Heading("Quarantine"), Text("No input row was left out.")]
    keys = ("file", "line", "reason")
    shown = tuple(tuple(str(row.get(key, "")) for key in keys) for row in rejected[:QUARANTINE_SHOWN])
    count = f"{len(rejected):,} input row{'s' if len(rejected) > 1 else ''} left out; all are in quarantine.jsonl."
    return [Heading("Quarantine"), Text(count), Table(keys, shown, numbers=False)]


def _reproduction_blocks(run: Path, facts: Row) -> list[Block]:
    versions = tuple((name, str(version)) for name, version in sorted(facts.get("versions", {}).items()))
    config = (run / "config.yaml").read_text(encoding="utf-8").strip()
    return [
        Heading("Reproduce"),
        *([Verbatim(facts["command"])] if facts.get("command") else []),
        *([Table(("package", "version"), versions, numbers=False)] if versions else []),
        Verbatim(config, "The resolved configuration:"),
    ]
