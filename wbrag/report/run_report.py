"""The report of a run: metrics.json, report.md, report.html, plots/*.svg and the lists beside them, from what the
pipeline left behind; and what a terminal shows of it. The questions without overlap with training come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from wbrag import schema
from wbrag.methods import settings_read
from wbrag.report.construction import SPENT, TRACE_COLUMNS, beside, construction, cost, token_pairs
from wbrag.report.evaluation import SIDES, Setting, answers_of, evaluate, metric_called
from wbrag.report.harms import harm_blocks, harms
from wbrag.report.overlap import EXPOSURES, OVERLAPS, READ, RULE, without_overlap
from wbrag.report.page import Block, Heading, Picture, Pictures, Table, Text, Verbatim, terminal, write_page
from wbrag.report.plots import gain_figure, ranks_figures, scores_figure, tokens_figures
from wbrag.report.statistics import RESAMPLES, Floats
from wbrag.report.tables import (
    Column,
    cells,
    count,
    hundredths,
    interval,
    number,
    p_value,
    percent,
    points,
    tabled,
    too_few,
)
from wbrag.report.trace import lives, lives_to_show
from wbrag.report.unit_sections import (
    drawn,
    fitting,
    fitting_told,
    judged,
    left_out_blocks,
    sample_page,
    unit_blocks,
    verdicts_told,
)
from wbrag.report.version import versions_of, versions_told
from wbrag.run import folder
from wbrag.run.folder import Reread
from wbrag.run.progress import working
from wbrag.store.versions import latest

Row = Mapping[str, Any]
Rows = Sequence[Row]
QUESTION_COLUMNS = ("id", "question", "golden_answers")
#: What tells the fate of a training example, and of a unit all but its text.
FATE_COLUMNS = ("id", "status", "unit_id", "source_tokens", "unit_tokens")
UNIT_COLUMNS = ("id", "title", "text", "example_ids", "source_ids", "unit_tokens", "form", "doubt")
QUARANTINE_SHOWN = 10
REASONS_SHOWN = 12
#: What the units took after training, in the order in which `construction.cost` takes it.
LATER = {"written": schema.WRITTEN, "readings": schema.PREDICTION}
#: The parts of `construction.cost` that the report calls otherwise.
STAGES = {"writing": "writing units", "validating": "validating units"}
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
#: The columns of the questions without overlap by what the units that they read hold (`overlap.READ`).
UNSEEN: Sequence[Column] = (
    ("n", "n", count),
    ("share, %", "share", percent),
    ("gain", "gain", points),
    ("95% over topics", "topics", interval),
    ("answer in the documents, base, %", "retrieval_recall_base", percent),
    ("+ write-back, %", "retrieval_recall_writeback", percent),
)
NOTE = (
    "Scores in percent, gains (+ write-back minus base) in points. Each question is answered three times in the same "
    "run: closed book (the model alone), base (with documents of the corpus), + write-back (corpus and write-back "
    f"index). Intervals are paired percentile bootstraps of {RESAMPLES:,} resamples; where one leaves out 0, the "
    "difference is more than chance. p is McNemar's exact test, for 0/1 metrics. Over topics: questions with the same "
    "first base document, which the same units help, are drawn together."
)
SCORES_CAPTION = "Before and after; the whisker is the interval of the gain over questions, set on the base score."
GAINS_CAPTION = (
    "By overlap with training in the primary metric, and by metric of all test questions; a full dot is a gain whose "
    "interval leaves out 0."
)
#: How rules end an example, in words; any other speaks for itself.
WHY = {
    "delta <= tau_delta": "no better with documents than without: delta <= tau_delta",
    "delta <= tau_delta, before the call": "right without documents, so no call could show a gain: delta <= tau_delta",
    "s_rag <= tau_s": "wrong with documents too: s_rag <= tau_s",
}
#: What retrieval gave, base and write-back side by side.
FOUND: Sequence[Column] = (
    ("golden answer in the documents, % of questions", "retrieval_recall", percent),
    ("context tokens, mean", "context_tokens", number),
    ("questions for which the method itself retrieved, %", "retrieval_rate", percent),
    ("retrievals by the method itself, a question", "retrievals_per_question", number),
)
#: What calls took, as a record tells it.
COST: Sequence[Column] = (
    ("LLM calls", "calls", count),
    ("prompt tokens", "prompt_tokens", count),
    ("completion tokens", "completion_tokens", count),
)
#: The same beside what was planned.
PLANNED = [one for name, key, form in COST for one in ((f"{name}, planned", f"planned.{key}", form), (name, key, form))]
#: Construction statistics, one below the other; that of a judge only where there was one.
CONSTRUCTION: Sequence[Column] = (
    ("training examples", "", "{examples:,}: {kept:,} kept, {gated:,} gated out, {failed:,} failed".format_map),
    ("selected rate", "selected_rate", lambda rate: f"{percent(rate)}%"),
    ("knowledge units", "units", count),
    ("retained documents, mean", "mean_retained_documents", hundredths),
    ("source tokens, mean", "source_tokens", number),
    ("distilled tokens, mean", "distilled_tokens", number),
    ("compression, mean", "compression_ratio", lambda ratio: f"{hundredths(ratio)} to 1"),
    ("fallback rate", "fallback_rate", lambda rate: f"{percent(rate)}%"),
    ("documents dropped, prompt too long", "dropped_documents", count),
    ("judge and labels agree", "", lambda numbers: _agreed(numbers)),
)


@working("writing the report")
def write_report(run: Path) -> dict[str, Any]:
    """Write all of a run's report, each file whole or not at all, metrics.json last; returns what it holds.

    Reads config.yaml, run.json, the tables of the run folder and quarantine.jsonl; beside the report lie harms.jsonl
    and, of a run that wrote units, units_sample.md. RunError, naming the file, where one cannot be read or there is
    no prediction. Training examples and units are gone through, each time with the columns that are needed, and not
    held.
    """
    config = folder.read_config(run)
    setting, how = folder.setting_of(config), settings_read(config["method"])
    fates = Reread(lambda: folder.read_traces(run, FATE_COLUMNS))
    predictions = folder.read_predictions(run)
    facts = folder.read_record(run / "run.json")
    trained = bool(fates)
    own = run if trained else folder.trained_run(run)
    training = Reread(lambda: folder.read_rows(own / "traces", schema.TRACE, QUESTION_COLUMNS))
    units = Reread(lambda: folder.unit_rows(own, UNIT_COLUMNS))
    answers = answers_of(predictions, setting, training, units)
    traces = Reread(lambda: folder.read_traces(run, TRACE_COLUMNS))
    later = [_spent(run, name, table) for name, table in LATER.items()]
    found = {"construction": construction(traces, sum(1 for _ in units))}
    found["cost"] = cost(_spent(run, "traces", schema.TRACE, "calls_saved"), predictions, *later)
    metrics = evaluate(answers, setting) | found | {"seconds": facts.get("seconds", {}), "versions": versions_of(run)}
    if room := fitting(config, units, predictions):
        metrics["room"] = room
    worse, better = (harms(predictions, answers, units, which) for which in (False, True))
    sample = drawn(Reread(lambda: folder.unit_rows(own)), setting.seed) if trained else []
    changed = [source for harm in (*worse, *better) for unit in harm["units"] for source in unit["sources"]]
    wanted = {source["id"] for source in changed} | {key for unit in sample for key in unit["source_ids"]}
    passages = folder.read_passages(own, wanted)
    for source in changed:
        source |= {key: passages.get(source["id"], {}).get(key) for key in ("title", "text")}
    prompts = [str(text) for told in (config["backbone"], config) for text in (told.get("prompts") or {}).values()]
    behind = {key for unit in sample for key in unit["example_ids"]}
    asked = {row["id"]: row["question"] for row in (training if behind else ()) if row["id"] in behind}
    checked = judged(sample, passages, asked, prompts)
    left_out = folder.read_rows(own, schema.LEFT, pattern=folder.LEFT_OUT)
    readings = folder.read_rows(own / "readings", schema.PREDICTION)
    base = latest(own / "base") if (own / "base").is_dir() else None
    shown = lives_to_show(fates, predictions, setting)
    told = lives(run, [key for _, key in shown], setting, predictions)
    told_versions = versions_told(run, metrics["versions"])
    blocks = [
        *([Text(told_versions, "version")] if told_versions else []),
        *result_blocks(metrics),
        *harm_blocks(worse, len(predictions)),
        *harm_blocks(better, len(predictions), better=True),
        *unit_blocks(config, units, base.rows if base else None),
        *([Text(fitting_told(room))] if room else []),
        *([Text(f"{verdicts_told(checked)} They are in units_sample.md, beside their sources.")] if checked else []),
        *left_out_blocks(left_out, readings, setting),
        *_construction_blocks(metrics["construction"], token_pairs(fates), setting),
        *_cost_blocks(metrics["cost"], facts),
        *(Heading("Lives of examples"), Text("Any other: wbrag trace RUN ID", "note")),
        *(Verbatim(text, caption) for text, (caption, _) in zip(told, shown, strict=True)),
        *_quarantine_blocks(folder.read_records(run / "quarantine.jsonl")),
        *_reproduction_blocks(run, facts),
    ]
    method = f"{setting.method} RAG ({how})" if how else f"{setting.method} RAG"
    subtitle = f"WriteBack-RAG with {method} on {setting.backbone}, seed {setting.seed}"
    folder.write_records(run / "harms.jsonl", worse)
    if checked:
        folder.write_text(run / "units_sample.md", sample_page(checked, setting.seed))
    write_page(run, f"{setting.benchmark}: before and after write-back", subtitle, blocks)
    folder.write_record(run / "metrics.json", metrics)
    return metrics


def _spent(run: Path, name: str, table: Any, *more: str) -> Reread:  # noqa: ANN401 - pyarrow has no types
    """What the rows of a table of the run say of their cost."""
    return Reread(lambda: folder.read_rows(run / name, table, (*SPENT, *more)))


def headline(metrics: Row) -> str:
    """One sentence on questions without overlap (all, if none is known), no bolder than the interval over topics."""
    unseen = metrics["splits"].get("none")
    record = (unseen or metrics["results"])[0]
    n = f"{record['n']:,} test questions of {record['benchmark']}{' without overlap with training' if unseen else ''}"
    metric, over = metric_called(record["metric"]), record["topics"]
    told = f"{points(record['gain'])} points, 95% interval over topics {interval(over)}"
    if too_few(record) or too_few(over):
        topics = f"{over['topics']:,} topic{'s' * (over['topics'] != 1)}"
        few = f"{points(record['gain'])} points; of {topics} there is no interval"
        return f"Too few questions to tell: write-back takes {metric} on {n} {_moved(record)} ({few})."
    verb = "raises" if over["ci_low"] > 0 else "lowers" if over["ci_high"] < 0 else ""
    if verb:
        return f"Write-back {verb} {metric} on {n} {_moved(record)}: {told}."
    return f"No change shown: write-back takes {metric} on {n} {_moved(record)} ({told}, which includes 0)."


def all_told(metrics: Row) -> str:
    """What a run says of all its test questions, beside the headline; both intervals."""
    record, splits = metrics["results"][0], metrics["splits"]
    unseen = f"{splits['none'][0]['n']:,} without overlap" if "none" in splits else "none known to be without overlap"
    told = f"95% interval {interval(record['topics'])} over topics, {interval(record)} over questions"
    told = "too few for an interval" if too_few(record) or too_few(record["topics"]) else told
    return f"All {record['n']:,} test questions, {unseen}: {_moved(record)}, {points(record['gain'])} points, {told}."


def _moved(record: Row) -> str:
    return f"from {percent(record['base'])}% to {percent(record['writeback'])}%"


def terminal_table(metrics: Row) -> str:
    """The results as plain text for a terminal: questions without overlap, all questions, and how to read them."""
    record, unseen = metrics["results"][0], metrics["splits"].get("none")
    rows = [*([(OVERLAPS["none"], unseen[0])] if unseen else []), (EVERY, record)]
    table = tabled(f"{record['benchmark']}, {metric_called(record['metric'])}", RESULTS, rows)
    told = [without_overlap([metrics["labels"]])] if unseen else []
    room = metrics.get("room")
    told += [fill(fitting_told(room), 119)] if room and 2 * room["fit"] < room["units"] else []
    return "\n".join([terminal(table), "", fill(NOTE, 119), *told])


def recall_line(record: Row, k: int) -> str:
    """How often the first `k` documents hold a golden answer (recall@k), in percent, base only and with write-back."""
    base, both = (percent(record[f"retrieval_recall_{key}"]) for key in ("base", "writeback"))
    return f"recall@{k}, questions with a golden answer in their documents: base {base}, + write-back {both}"


def result_blocks(metrics: Row) -> list[Block]:
    """What write-back changed, the questions without overlap first; `metrics` as metrics.json has them."""
    results, unseen = metrics["results"], metrics["splits"].get("none")
    primary, over = results[0], results[0]["topics"]
    name = metric_called(primary["metric"])
    splits = {OVERLAPS[key]: records[0] for key, records in metrics["splits"].items()}
    by_metric = {metric_called(record["metric"]): record for record in results}
    gains = splits | {f"all: {metric}": record for metric, record in by_metric.items()}
    about = f"{name}{' without overlap' if unseen else ''}, % of {(unseen or results)[0]['n']:,} test questions"
    scores, of_gains = scores_figure(about, (unseen or results)[0]), "gain in points, 95% interval"
    figures = (
        Picture("plots/scores.svg", scores, f"{about}: closed book, base, + write-back", SCORES_CAPTION),
        Picture("plots/gains.svg", gain_figure(of_gains, gains), of_gains, GAINS_CAPTION),
    )
    n = f"{primary['n']:,} questions"
    topics = f"Here they are {over['topics']:,} topics, the largest with {over['largest']:,} of {n}."
    failed = f"{metrics['questions']['failed']:,} of {n} failed and score 0."
    found = [(heading, *(form(primary[f"{path}_{side}"]) for side in SIDES)) for heading, path, form in FOUND]
    found += [("documents from write-back, %", "-", percent(primary["writeback_share"]))]
    exposed = f"{primary['questions_with_writeback']:,} of {primary['n']:,}"
    found += [("questions with a write-back document", "-", exposed)]
    return [
        Text(headline(metrics), "lead"),
        *([Text(all_told(metrics))] if unseen else []),
        Text(f"{without_overlap([metrics['labels']])} {RULE}" if splits else "Overlap with training is not known."),
        Pictures(figures),
        Heading(f"Results ({name})"),
        tabled("questions", RESULTS, (splits | {EVERY: primary}).items(), {0}),
        Text(f"{NOTE} {topics} {failed}", "note"),
        *_read_blocks(metrics),
        *(Heading("Every metric, all test questions"), tabled("metric", RESULTS, by_metric.items(), {0})),
        *(Heading("Retrieval, all test questions"), Table(("", "base", "+ write-back"), tuple(found))),
    ]


def _read_blocks(metrics: Row) -> list[Block]:
    """What the units that were read gave away: to the questions without overlap, or to all where none is without."""
    if "none" in metrics["splits"]:
        note = "A document holds the golden answer where that stands in it, normalised."
        if metrics["labels"]:
            note = "Answers are labels: which documents hold one is not known."
        note += " Without a unit there is nothing to gain by, but for a method that searches by itself."
        whole = metrics["splits"]["none"][0]
        found = {READ[key]: records[0] for key, records in metrics["unseen"].items()} | {"together": whole}
        rows = [(name, {**record, "share": record["n"] / whole["n"]}) for name, record in found.items()]
        table = tabled("without overlap", UNSEEN, rows, {len(rows) - 1})
        return [Heading("What questions without overlap read"), table, Text(note, "note")]
    groups = [(EXPOSURES[key], records[0]) for key, records in metrics["exposure"].items()]
    return [Heading("What the questions read"), tabled("questions", RESULTS, groups)] if len(groups) > 1 else []


def construction_rows(numbers: Row) -> list[tuple[str, str]]:
    """Name and value of each construction statistic (paper, Table 3); that of a judge only where there was one."""
    told = CONSTRUCTION if numbers["judge_compared"] else CONSTRUCTION[:-1]
    return list(zip((name for name, _, _ in told), cells(told, numbers), strict=True))


def none_kept(numbers: Row) -> str:
    """Why there is no unit, in words, where the gates kept no example; "" where they kept one."""
    if numbers["kept"] or not numbers["reasons"]:
        return ""
    why, examples = next(iter(numbers["reasons"].items()))
    return f"units: none; of {numbers['examples']:,} training examples {examples:,} are {WHY.get(why, why)}"


def _agreed(numbers: Row) -> str:
    told = f"{percent(numbers['judge_agreement'])}% of {numbers['judge_compared']:,} decisions"
    return f"{told}, kappa {hundredths(numbers['judge_kappa'])}"


def _construction_blocks(numbers: Row, pairs: Floats, setting: Setting) -> list[Block]:
    """Construction statistics, ranks and, where a kept example has a unit, compression (`construction.token_pairs`)."""
    pictures, pairs = [], pairs[pairs[:, 1] > 0]
    if numbers["kept"]:
        told = "Where in the retrieved list the retained documents stood, in % (paper, Figure 3)."
        ranks = ranks_figures({setting.benchmark: {setting.backbone: [*numbers["retained_by_rank"].values()]}})
        pictures += [Picture("plots/ranks.svg", svg, "Ranks of the retained documents", told) for svg in ranks.values()]
    if len(pairs):
        told = "Tokens of each unit against those of the documents it was written from (paper, Figure 5)."
        tokens = tokens_figures({setting.benchmark: {setting.backbone: pairs}})
        pictures += [Picture("plots/compression.svg", svg, "Source and unit tokens", told) for svg in tokens.values()]
    reasons = list(numbers["reasons"].items())
    more = sum(examples for _, examples in reasons[REASONS_SHOWN:])
    rows = [*((WHY.get(why, why), n) for why, n in reasons[:REASONS_SHOWN]), *([("other", more)] if more else [])]
    table = Table(("why examples were not kept", "examples"), tuple((why, f"{n:,}") for why, n in rows))
    return [
        Heading("Construction of the knowledge base"),
        Table(("", "this run"), tuple(construction_rows(numbers)), numbers=False),
        Pictures(tuple(pictures)) if pictures else Text("No unit was written, so there is nothing to plot."),
        *([table] if rows else []),
    ]


def _cost_blocks(cost: Row, facts: Row) -> list[Block]:
    training = cost["training"]
    saved = f"{training['calls_saved']:,} ({percent(training['calls_saved'] / max(1, training['paper_calls']))}%)"
    columns, parts = (PLANNED, beside(facts["plan"], cost)) if "plan" in facts else (COST, cost)
    told = f"Training left out {saved} of the {count(training['paper_calls'])} calls of the paper's plan"
    stages = ", ".join(f"{stage} {value:,.1f} s" for stage, value in facts.get("seconds", {}).items())
    speed = f" Engine: {facts['tokens_per_second']:,.0f} tokens/s." if facts.get("tokens_per_second") else ""
    return [
        Heading("Cost"),
        tabled("", columns, ((STAGES.get(name, name), row) for name, row in parts.items())),
        Text(f"{told}: none could change a decision."),
        *([Text(f"Time: {stages}.{speed}")] if stages else []),
    ]


def _quarantine_blocks(rejected: Rows) -> list[Block]:
    if not rejected:
        return [Heading("Quarantine"), Text("No input row was left out.")]
    keys = ("file", "line", "reason")
    shown = tuple(tuple(str(row.get(key, "")) for key in keys) for row in rejected[:QUARANTINE_SHOWN])
    told = f"{len(rejected):,} input row{'s' * (len(rejected) > 1)} left out; all are in quarantine.jsonl."
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
