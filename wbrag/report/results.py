"""What write-back changed in a run, told: one sentence, the table of a terminal, the first sections of the report.

The questions without overlap with training come first, then all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wbrag.report.overlap import RULE, without_overlap
from wbrag.report.page import Block, Heading, Picture, Pictures, Table, Text, terminal
from wbrag.report.plots import gain_figure
from wbrag.report.statistics import RESAMPLES
from wbrag.report.tables import (
    EXPOSURE_NAMES,
    METRIC_NAMES,
    SPLIT_NAMES,
    Column,
    Record,
    count,
    interval,
    number,
    p_value,
    percent,
    points,
    read_table,
    tabled,
)

EVERY = "all test questions"
#: The columns of a record of `evaluation.result_records`; only a primary one knows its interval over topics.
RESULTS: Sequence[Column] = (
    ("n", "n", count),
    ("closed book", "closed_book", percent),
    ("base", "base", percent),
    ("+ write-back", "writeback", percent),
    ("gain", "gain", points),
    ("95% over topics", "topics", interval),
    ("95% over questions", "", interval),
    ("McNemar p", "mcnemar_p", p_value),
)
LEGEND = """\
Scores in %. closed book: the model alone. base: the model with documents of the corpus. + write-back: with documents
of the corpus and of the trained write-back index. gain: + write-back minus base, in points; where its 95% interval
leaves out 0, the difference is more than chance. Over topics: questions with the same first base document are drawn
together, as the same units help them."""
METHOD_NOTE = (
    "Scores in percent, gains in points. Each question is answered three times in the same run: closed book (the model "
    "alone), base (with documents of the corpus), + write-back (corpus and write-back index). Intervals are paired "
    f"percentile bootstraps of {RESAMPLES:,} resamples; p is McNemar's exact test, for 0/1 metrics."
)
GAINS_CAPTION = (
    "Left: scores before and after; the whisker is the gain's interval over questions, set on the base score. Right: "
    "the gain by overlap with training in the primary metric, and by metric of all test questions."
)


def headline(metrics: Record) -> str:
    """What a run says of the questions without overlap (of all, where none is known to be), in one sentence that claims
    no more than the interval over topics does.
    """
    unseen = metrics["splits"].get("none")
    record = unseen[0] if unseen else metrics["results"][0]
    which = " without overlap with training" if unseen else ""
    n = f"{record['n']:,} test questions of {record['benchmark']}{which}"
    metric, over = METRIC_NAMES[record["metric"]], record["topics"]
    told = f"{points(record['gain'])} points, 95% interval over topics {interval(over)}"
    if over["topics"] > 1 and over["ci_low"] > 0:
        return f"Write-back raises {metric} on {n} {_moved(record)}: {told}."
    if over["topics"] > 1 and over["ci_high"] < 0:
        return f"Write-back lowers {metric} on {n} {_moved(record)}: {told}."
    why = "which includes 0" if over["ci_low"] <= 0 <= over["ci_high"] else "of a single topic"
    return f"No change shown: write-back takes {metric} on {n} {_moved(record)} ({told}, {why})."


def all_told(metrics: Record) -> str:
    """What a run says of all its test questions, beside the headline; both intervals."""
    record, splits = metrics["results"][0], metrics["splits"]
    unseen = f"{splits['none'][0]['n']:,} without overlap" if "none" in splits else "none known to be without overlap"
    told = f"95% interval {interval(record['topics'])} over topics, {interval(record)} over questions"
    return f"All {record['n']:,} test questions, {unseen}: {_moved(record)}, {points(record['gain'])} points, {told}."


def _moved(record: Record) -> str:
    return f"from {percent(record['base'])}% to {percent(record['writeback'])}%"


def terminal_table(metrics: Record) -> str:
    """The results as plain text for a terminal: questions without overlap, all questions, and how to read them."""
    record, unseen = metrics["results"][0], metrics["splits"].get("none")
    rows = [*([(SPLIT_NAMES["none"], unseen[0])] if unseen else []), (EVERY, record)]
    table = tabled(f"{record['benchmark']}, {METRIC_NAMES[record['metric']]}", RESULTS, rows)
    told = [without_overlap([metrics["labels"]])] if unseen else []
    return "\n".join([terminal(table), "", LEGEND, *told])


def recall_line(record: Record, k: int) -> str:
    """How often the first `k` documents hold a golden answer (recall@k), in percent, base only and with write-back."""
    base, both = (percent(record[f"retrieval_recall_{key}"]) for key in ("base", "writeback"))
    return f"recall@{k}, questions with a golden answer in their documents: base {base}, + write-back {both}"


def unseen_table(metrics: Record) -> Table:
    """The questions without overlap by what the units that they read hold, and how many documents held the answer."""
    records = {**metrics["unseen"], "together": metrics["splits"]["none"]}
    return read_table({key: found[0] for key, found in records.items()}, "n", "n", "retrieval_recall")


def result_blocks(metrics: Record, pictures: Sequence[Picture]) -> list[Block]:
    """What write-back changed, the questions without overlap first; `metrics` as `run_report.measure` makes them."""
    results, unseen = metrics["results"], "none" in metrics["splits"]
    primary, over = results[0], results[0]["topics"]
    rule = f"{without_overlap([metrics['labels']])} {RULE}"
    topics = (
        "Over topics: questions with the same first base document, which the same units help, are drawn together; here "
        f"they are {over['topics']:,} topics, the largest with {over['largest']:,} of {primary['n']:,} questions."
    )
    failed = f"{metrics['questions']['failed']:,} of {primary['n']:,} questions failed and score 0."
    overlap = {**_primary(metrics["splits"], SPLIT_NAMES), EVERY: primary}
    metric_rows = [(METRIC_NAMES[record["metric"]], record) for record in results]
    return [
        Text(headline(metrics), "lead"),
        *([Text(all_told(metrics))] if unseen else []),
        Text(rule if metrics["splits"] else "Overlap with training is not known."),
        Pictures(tuple(pictures)),
        Heading(f"Results ({METRIC_NAMES[primary['metric']]})"),
        tabled("questions", RESULTS, overlap.items(), {0}),
        Text(f"{METHOD_NOTE} {topics} {failed}", "note"),
        *_exposure_blocks(metrics, unseen),
        *(Heading("Every metric, all test questions"), tabled("metric", RESULTS, metric_rows, {0})),
        *(Heading("Retrieval, all test questions"), _found_table(primary)),
    ]


def _primary(classes: Mapping[str, Sequence[Record]], names: Mapping[str, str]) -> dict[str, Record]:
    return {names[key]: records[0] for key, records in classes.items()}


def gain_picture(metrics: Record) -> Picture:
    """Scores and gains as a picture, of the questions without overlap where there are any."""
    unseen, results = metrics["splits"].get("none"), metrics["results"]
    name = METRIC_NAMES[results[0]["metric"]] + (" without overlap" if unseen else "")
    groups = _primary(metrics["splits"], SPLIT_NAMES)
    groups |= {f"all: {METRIC_NAMES[record['metric']]}": record for record in results}
    return Picture("plots/gains.svg", gain_figure(name, (unseen or results)[0], groups), GAINS_CAPTION)


def _exposure_blocks(metrics: Record, unseen: bool) -> list[Block]:
    """What the units that were read gave away: to the questions without overlap, or to all where none is without."""
    if unseen:
        note = "A document holds the golden answer where that stands in it, normalised."
        if metrics["labels"]:
            note = "Answers are labels: which documents hold one is not known."
        note += " Without a unit there is nothing to gain by, but for a method that searches by itself."
        return [Heading("What questions without overlap read"), unseen_table(metrics), Text(note, "note")]
    groups = _primary(metrics["exposure"], EXPOSURE_NAMES)
    found = tabled("questions", RESULTS, groups.items())
    return [Heading("What the questions read"), found] if len(groups) > 1 else []


def _found_table(record: Record) -> Table:
    exposed = f"{record['questions_with_writeback']:,} of {record['n']:,}"
    pairs = (
        ("golden answer in the documents, % of questions", "retrieval_recall", percent),
        ("context tokens, mean", "context_tokens", number),
        ("questions for which the method itself retrieved, %", "retrieval_rate", percent),
        ("retrievals by the method itself, a question", "retrievals_per_question", number),
    )
    rows = (
        *((name, told(record[f"{key}_base"]), told(record[f"{key}_writeback"])) for name, key, told in pairs),
        ("documents from write-back, %", "-", percent(record["writeback_share"])),
        ("questions with a write-back document", "-", exposed),
    )
    return Table(("", "base", "+ write-back"), rows)
