"""Sections of a run's report on what write-back changed: questions without overlap first, then all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wbrag.report.overlap import RULE, without_overlap
from wbrag.report.page import Block, Heading, Picture, Pictures, Table, Text
from wbrag.report.plots import gain_figure
from wbrag.report.statistics import RESAMPLES
from wbrag.report.tables import (
    EXPOSURE_NAMES,
    METRIC_NAMES,
    SPLIT_NAMES,
    all_told,
    by_overlap,
    headline,
    number,
    percent,
    results_table,
    topics_told,
    unseen_table,
)

Row = Mapping[str, Any]

METHOD_NOTE = (
    "Scores in percent, gains in points. Each question is answered three times in the same run: closed book (the model "
    "alone), base (with documents of the corpus), + write-back (corpus and write-back index). Intervals are paired "
    f"percentile bootstraps of {RESAMPLES:,} resamples; p is McNemar's exact test, for 0/1 metrics."
)
GAINS_CAPTION = (
    "Left: scores before and after; the whisker is the gain's interval over questions, set on the base score. Right: "
    "the gain by overlap with training in the primary metric, and by metric of all test questions."
)


def result_blocks(metrics: Row, pictures: Sequence[Picture]) -> list[Block]:
    """What write-back changed, the questions without overlap first; `metrics` as `report.measure` makes them."""
    primary, labelled = metrics["results"][0], [metrics["labels"]]
    unseen = "none" in metrics["splits"]
    metric = METRIC_NAMES[primary["metric"]]
    rule = f"{without_overlap(labelled)} {RULE}" if metrics["splits"] else "Overlap with training is not known."
    failed = f"{metrics['questions']['failed']:,} of {primary['n']:,} questions failed and score 0."
    blocks: list[Block] = [Text(headline(metrics), "lead"), *([Text(all_told(metrics))] if unseen else [])]
    blocks += [Text(rule), Pictures(tuple(pictures)), Heading(f"Results ({metric})")]
    blocks += [results_table("questions", by_overlap(metrics), frozenset({0}))]
    blocks += [Text(f"{METHOD_NOTE} {topics_told(primary)} {failed}", "note")]
    return [*blocks, *_exposure_blocks(metrics, unseen), *_metric_blocks(metrics["results"]), *_found_blocks(primary)]


def gain_picture(metrics: Row) -> Picture:
    """Scores and gains as a picture, of the questions without overlap where there are any."""
    unseen, results = metrics["splits"].get("none"), metrics["results"]
    name = METRIC_NAMES[results[0]["metric"]] + (" without overlap" if unseen else "")
    groups = {SPLIT_NAMES[key]: records[0] for key, records in metrics["splits"].items()}
    groups |= {f"all: {METRIC_NAMES[record['metric']]}": record for record in results}
    return Picture("plots/gains.svg", gain_figure(name, (unseen or results)[0], groups), GAINS_CAPTION)


def _exposure_blocks(metrics: Row, unseen: bool) -> list[Block]:
    """What the units that were read gave away: to the questions without overlap, or to all where none is without."""
    if unseen:
        note = "A document holds the golden answer where that stands in it, normalised."
        if metrics["labels"]:
            note = "Answers are labels: which documents hold one is not known."
        note += " Without a unit there is nothing to gain by, but for a method that searches by itself."
        return [Heading("What questions without overlap read"), unseen_table(metrics), Text(note, "note")]
    groups = {EXPOSURE_NAMES[key]: records[0] for key, records in metrics["exposure"].items()}
    return [Heading("What the questions read"), results_table("questions", groups)] if len(groups) > 1 else []


def _metric_blocks(results: Sequence[Row]) -> list[Block]:
    named = {METRIC_NAMES[record["metric"]]: record for record in results}
    return [Heading("Every metric, all test questions"), results_table("metric", named, frozenset({0}))]


def _found_blocks(record: Row) -> list[Block]:
    exposed = f"{record['questions_with_writeback']:,} of {record['n']:,}"
    rows = (
        ("golden answer in the documents, % of questions", *_pair(record, "retrieval_recall", percent)),
        ("context tokens, mean", *_pair(record, "context_tokens", number)),
        ("questions for which the method itself retrieved, %", *_pair(record, "retrieval_rate", percent)),
        ("retrievals by the method itself, a question", *_pair(record, "retrievals_per_question", number)),
        ("documents from write-back, %", "-", percent(record["writeback_share"])),
        ("questions with a write-back document", "-", exposed),
    )
    return [Heading("Retrieval, all test questions"), Table(("", "base", "+ write-back"), rows)]


def _pair(record: Row, key: str, text: Callable[[float | None], str]) -> tuple[str, str]:
    return text(record[f"{key}_base"]), text(record[f"{key}_writeback"])
