"""The report of a run: metrics.json, report.md, report.html, plots/*.svg and the lists beside them, from what the
pipeline left behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wbrag import schema
from wbrag.methods import settings_read
from wbrag.report.construction import SPENT, TRACE_COLUMNS, construction, construction_rows, cost
from wbrag.report.evaluation import Setting, evaluate
from wbrag.report.harms import harm_blocks, harms, sources_of, tell_sources
from wbrag.report.overlap import TrainingQuestions
from wbrag.report.page import Block, Heading, Picture, Pictures, Table, Text, Verbatim, write_page
from wbrag.report.plots import compression_figure, rank_figure
from wbrag.report.results import gain_picture, result_blocks
from wbrag.report.tables import COST, count, percent, tabled
from wbrag.report.trace import lives, lives_to_show
from wbrag.report.unit_sections import drawn, judged, left_out_blocks, sample_page, unit_blocks, verdicts_told
from wbrag.run import folder
from wbrag.store.versions import latest

Row = Mapping[str, Any]
QUESTION_COLUMNS = ("id", "question", "golden_answers")
QUARANTINE_SHOWN = 10
REASONS_SHOWN = 12
#: What the units took after training, in the order in which `construction.cost` takes it.
LATER = {"written": schema.WRITTEN, "readings": schema.PREDICTION}
#: The parts of `construction.cost` that the report calls otherwise.
STAGES = {"writing": "writing units", "validating": "validating units"}


def write_report(run: Path) -> dict[str, Any]:
    """Write all of a run's report, each file whole or not at all, metrics.json last; returns what it holds.

    Reads config.yaml, run.json, the tables of the run folder and quarantine.jsonl; beside the report lie harms.jsonl
    and, where units were rewritten, units_sample.md. RunError, naming the file, where one cannot be read or there is
    no prediction.
    """
    config = folder.read_config(run)
    setting, how = folder.setting_of(config), settings_read(config["method"])
    traces = sorted(folder.read_traces(run, TRACE_COLUMNS), key=lambda row: str(row["id"]))
    predictions = folder.read_predictions(run)
    facts = folder.read_record(run / "run.json")
    own = run if traces else folder.trained_run(run)
    training = traces or list(folder.read_rows(own / "traces", schema.TRACE, QUESTION_COLUMNS))
    units = folder.read_units(own)
    later = [list(folder.read_rows(run / name, table, SPENT)) for name, table in LATER.items()]
    asked = asked_before(training, setting, units)
    metrics = evaluate(predictions, setting, asked)
    metrics |= {"construction": construction(traces, len(units)), "cost": cost(traces, predictions, *later)}
    metrics |= {"seconds": facts.get("seconds", {})}
    worse = harms(predictions, setting, units, asked)
    sample = drawn(units, setting.seed) if traces else []
    passages = folder.read_passages(own, {*sources_of(worse), *(key for unit in sample for key in unit["source_ids"])})
    tell_sources(worse, passages)
    checked = judged(sample, passages, {row["id"]: row["question"] for row in training}, prompt_words(config))
    left_out = folder.read_left_out(own)
    harmful = any(row["kind"] == "harmful" for row in left_out)
    readings = list(folder.read_rows(own / "readings", schema.PREDICTION)) if harmful else []
    shown = lives_to_show(traces, predictions, setting)
    told = lives(run, [key for _, key in shown], setting, predictions)
    pictures = [gain_picture(metrics), *_pictures(metrics, traces)]
    blocks = [
        *result_blocks(metrics, pictures[:1]),
        *harm_blocks(worse, len(predictions)),
        *unit_blocks(config, units, corpus_size(own)),
        *([Text(f"{verdicts_told(checked)} They are in units_sample.md, beside their sources.")] if checked else []),
        *left_out_blocks(left_out, readings, setting),
        *_construction_blocks(metrics["construction"], pictures[1:]),
        *_cost_blocks(metrics["cost"], facts),
        *(Heading("The lives of three examples"), Text("Any other: python -m wbrag.report.trace RUN ID", "note")),
        *(Verbatim(text, caption) for text, (caption, _) in zip(told, shown, strict=True)),
        *_quarantine_blocks(folder.read_records(run / "quarantine.jsonl")),
        *_reproduction_blocks(run, facts),
    ]
    method = f"{setting.method} RAG ({how})" if how else f"{setting.method} RAG"
    subtitle = f"WriteBack-RAG with {method} on {setting.backbone}, seed {setting.seed}"
    folder.write_text(run / "harms.jsonl", "".join(json.dumps(harm, ensure_ascii=False) + "\n" for harm in worse))
    if checked:
        folder.write_text(run / "units_sample.md", sample_page(checked, setting.seed))
    write_page(run, f"{setting.benchmark}: before and after write-back", subtitle, blocks)
    folder.write_text(run / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics


def measure(
    traces: Sequence[Row],
    predictions: Sequence[Row],
    setting: Setting,
    training: Sequence[Row],
    units: Sequence[Row] = (),
) -> dict[str, Any]:
    """What metrics.json holds but for the run's seconds: `evaluation.evaluate`, construction statistics and cost.

    `training` are the rows behind the units (`QUESTION_COLUMNS`): the run's own traces or, for an evaluation, which has
    none, those of the run that it measures; `units` those that are searched (`schema.UNIT`).
    """
    told = {"construction": construction(traces, len(units)), "cost": cost(traces, predictions)}
    return evaluate(predictions, setting, asked_before(training, setting, units)) | told


def asked_before(training: Sequence[Row], setting: Setting, units: Sequence[Row]) -> TrainingQuestions | None:
    """The training questions, to be looked up; None where there are none."""
    return TrainingQuestions(training, bool(setting.labels), units) if training else None


def corpus_size(run: Path) -> int | None:
    """How many passages the base of a run has; None where it is not there any more."""
    version = latest(run / "base") if (run / "base").is_dir() else None
    return version.rows if version else None


def prompt_words(config: Row) -> list[str]:
    """The prompts that a configuration has in place of wbrag.prompts'."""
    given = (config["backbone"].get("prompts"), config.get("prompts"))
    return [str(text) for texts in given for text in (texts or {}).values()]


def _construction_blocks(numbers: Row, pictures: Sequence[Picture]) -> list[Block]:
    reasons = list(numbers["reasons"].items())
    rows = [(reason, f"{examples:,}") for reason, examples in reasons[:REASONS_SHOWN]]
    if more := sum(examples for _, examples in reasons[REASONS_SHOWN:]):
        rows.append(("other", f"{more:,}"))
    return [
        Heading("Construction of the knowledge base"),
        Table(("", "this run"), tuple(construction_rows(numbers)), numbers=False),
        Pictures(tuple(pictures)) if pictures else Text("No unit was written, so there is nothing to plot."),
        *([Table(("why examples were not kept", "examples"), tuple(rows))] if rows else []),
    ]


def _cost_blocks(cost: Row, facts: Row) -> list[Block]:
    training = cost["training"]
    saved = f"{training['calls_saved']:,} ({percent(training['calls_saved'] / max(1, training['paper_calls']))}%)"
    told = f"Training left out {saved} of the {count(training['paper_calls'])} calls of the paper's plan"
    stages = ", ".join(f"{stage} {value:,.1f} s" for stage, value in facts.get("seconds", {}).items())
    speed = f" Engine: {facts['tokens_per_second']:,.0f} tokens/s." if facts.get("tokens_per_second") else ""
    return [
        Heading("Cost"),
        tabled("", COST, ((STAGES.get(name, name), row) for name, row in cost.items())),
        Text(f"{told}: none could change a decision."),
        *([Text(f"Time: {stages}.{speed}")] if stages else []),
    ]


def _pictures(metrics: Row, traces: Sequence[Row]) -> list[Picture]:
    """Ranks and, where a kept example has a unit, compression."""
    kept, pictures = [row for row in traces if row["status"] == "kept"], []
    if kept:
        told = "Where in the retrieved list the retained documents stood (paper, Figure 3)."
        figure = rank_figure(metrics["construction"]["retained_by_rank"])
        pictures.append(Picture("plots/ranks.svg", figure, told))
    if tokens := [(row["source_tokens"], row["unit_tokens"]) for row in kept if row["unit_tokens"]]:
        told = "Tokens of each unit against those of the documents it was written from (paper, Figure 5)."
        pictures.append(Picture("plots/compression.svg", compression_figure(tokens), told))
    return pictures


def _quarantine_blocks(rejected: Sequence[Row]) -> list[Block]:
    if not rejected:
        return [Heading("Quarantine"), Text("No input row was left out.")]
    keys = ("file", "line", "reason")
    shown = tuple(tuple(str(row.get(key, "")) for key in keys) for row in rejected[:QUARANTINE_SHOWN])
    told = f"{len(rejected):,} input row{'s' if len(rejected) > 1 else ''} left out; all are in quarantine.jsonl."
    return [Heading("Quarantine"), Text(told), Table(keys, shown, numbers=False)]


def _reproduction_blocks(run: Path, facts: Row) -> list[Block]:
    versions = tuple((name, str(version)) for name, version in sorted(facts.get("versions", {}).items()))
    config = (run / "config.yaml").read_text(encoding="utf-8").strip()
    return [
        Heading("Reproduce"),
        *([Verbatim(facts["command"])] if facts.get("command") else []),
        *([Table(("package", "version"), versions, numbers=False)] if versions else []),
        Verbatim(config, "The resolved configuration:"),
    ]
