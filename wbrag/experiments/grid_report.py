"""One report over a grid of runs, in the paper's shape: `python -m wbrag.experiments.grid_report RUN... --out DIR`.

Tables 2, 3 and 4, Figures 3, 4 and 5, the placebos, the noise floor and the cost, the paper's figures beside ours; and
what the paper has not got: who gains, why a setting does not, retrieval, the judge, what was run. It is a function of
the run folders alone, so runs of a laptop and runs of a cluster are told the same way. Scores are in percent, gains in
points. What a section found goes into `grid`, the content of grid.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from wbrag.experiments import paper
from wbrag.experiments.grid import (
    ALPHA,
    Point,
    compared,
    fates,
    grouped,
    measure_grid,
    pooled,
    read_points,
    read_variant,
    unseen,
    variants,
    why,
)
from wbrag.experiments.paper import called
from wbrag.experiments.placebos import PLACEBOS
from wbrag.experiments.unit_variants import unit_blocks, with_interval
from wbrag.methods import SETTINGS, settings_read
from wbrag.report.evaluation import METRIC_NAMES, SIDES
from wbrag.report.overlap import EXPOSURES, OVERLAPS, RULE, without_overlap
from wbrag.report.page import Block, Heading, Picture, Pictures, Table, Text, Verbatim, write_page
from wbrag.report.plots import ranks_figure, tokens_figure, transfer_figure
from wbrag.report.run_report import COST, read_table
from wbrag.report.statistics import RESAMPLES, mean
from wbrag.report.tables import Column, cells, count, hundredths, interval, number, p_value, percent, points, tabled
from wbrag.run.folder import RunError, read_record, write_text

Record = Mapping[str, Any]

#: Pairs of methods that differ by at most so much transfer well.
NEAR = 0.02
#: Methods that decide by themselves whether to retrieve.
DECIDING = ("selfrag", "flare")
DISTILLER = ("prompts.extract", "prompts.rewrite")
METHOD_NOTE = (
    "Scores in percent, gains in points: + write-back minus base, on the same questions. Intervals are paired "
    f"percentile bootstraps of {RESAMPLES:,} resamples of questions; pooled gains count each setting once and resample "
    "the questions of a benchmark for all its settings together. Over topics: the same, drawn by topics, questions "
    "with the same first base document, which units help together. * and Holm p: McNemar's exact test for 0/1 metrics, "
    f"and for F1 {RESAMPLES:,} random turns of the differences' signs, corrected over all settings of the grid. "
    "Settings share questions, corpus and generator: they are not so many independent trials."
)
RETRIEVAL_NOTE = (
    "answer found: a golden answer stands in the documents (unknown where labels are the answers). lost: it stood "
    "in the base documents, and units took their place. All before a method searches by itself."
)
DECISION_NOTE = (
    "What methods decide by themselves, base / + write-back: Self-RAG whether to read the documents at all, FLARE "
    "whether to search again while it answers. The share of questions retrieved for, and retrievals a question."
)
JUDGE_NOTE = (
    "The same gates, with scores of the generator's own judgement (1 or 0) in place of golden answers. Agreement "
    "is of the utility gate's decisions; kappa is what is left of it beyond chance."
)


#: The columns of a pooled gain (`grid.pooled`).
POOLED: Sequence[Column] = (
    ("settings", "settings", count),
    ("gain", "gain", points),
    ("95% over topics", "topics", interval),
    ("95% over questions", "", interval),
)
#: The paper's mean gain, in points already.
PAPER: Column = ("paper", "paper", lambda told: "-" if told is None else f"{told:+.2f}")
#: Those of one setting: its questions without overlap, all of them, and the paper's figures.
SETTING: Sequence[Column] = (
    ("n, without overlap", "unseen.questions", count),
    ("gain", "unseen.gain", points),
    ("95% over topics", "unseen.topics", interval),
    ("n, all", "all.n", count),
    ("base", "all.base", percent),
    ("+ write-back", "all.writeback", percent),
    ("gain", "all.gain", points),
    ("95% over questions", "all", interval),
    ("better / worse", "all", lambda record: f"{record['better']} / {record['worse']}"),
    ("Holm p", "all.holm_p", p_value),
    ("paper", "paper", lambda known: f"{known['score']:.1f} ({known['gain']:+.1f})" if known else "-"),
)
#: Those of a variant beside its run (`grid.compared`).
GAIN: Sequence[Column] = (
    ("score", "writeback", percent),
    ("gain over base", "gain", points),
    ("95% interval", "", interval),
)
#: Those of Table 3, of Table 4 and of the retrieval table.
TABLE_3: Sequence[Column] = (
    ("selected, %", "selected_rate", percent),
    ("documents", "mean_retained_documents", hundredths),
    ("source tokens", "source_tokens", number),
    ("unit tokens", "distilled_tokens", number),
    ("compression", "compression_ratio", hundredths),
    ("fallback, %", "fallback_rate", percent),
)
TABLE_4: Sequence[Column] = (
    ("selected", "selected", count),
    ("units", "units", count),
    ("documents", "retained_documents", hundredths),
    ("fallback, %", "fallback_rate", percent),
    ("score", "writeback", percent),
    ("gain", "gain", points),
    ("95% interval", "", interval),
    ("paper", "paper", lambda known: "-" if known is None else str(known)),
)
RETRIEVAL: Sequence[Column] = (
    ("answer found, base, %", "retrieval_recall_base", percent),
    ("+ write-back, %", "retrieval_recall_writeback", percent),
    ("lost, %", "lost", percent),
    ("units among documents, %", "writeback_share", percent),
    ("questions with a unit, %", "exposed", percent),
    ("context tokens, base", "context_tokens_base", number),
    ("+ write-back", "context_tokens_writeback", number),
)


def difference(heading: str) -> tuple[Column, Column]:
    """The columns of a variant's difference from the run's own score."""
    between = partial(interval, low="difference_low", high="difference_high")
    return (heading, "difference", points), ("95% interval", "", between)


def write_grid_report(out: Path, runs: Sequence[Path], failed: Sequence[str] = ()) -> dict[str, Any]:
    """Write report.html, report.md, plots/ and grid.json over finished runs; returns what grid.json holds.

    `failed` names points of the grid that are not there. RunError, naming the file, for a run that cannot be read.
    """
    if not runs:
        raise RunError("no finished run to report on")
    found = read_points(runs)
    grid = measure_grid(found) | {"unseen": unseen(found), "failed": list(failed)}
    by_run = {point.run: point for point in found}
    transfer = _transfer_blocks(found, grid)
    known = [Text(without_overlap(bool(point.setting.labels) for point in found))] if "none" in grid["splits"] else []
    units = unit_blocks([by_run[run] for run in runs], grid)
    blocks = [
        *(Text(headline(grid), "lead"), Text(counted(grid)), *map(Text, other_ways(grid)), *known),
        Text(METHOD_NOTE, "note"),
        *_unseen_blocks(found, grid),
        *_table_2_blocks(found, grid),
        *_reason_blocks(found, grid),
        *_retrieval_blocks(found),
        *_placebo_blocks(found, grid),
        *_noise_blocks(found, grid),
        *units,
        *transfer,
        *_construction_blocks(found),
        *_ablation_blocks(found, grid),
        *_judge_blocks(found, grid),
        *_temperature_blocks(found, grid),
        *_cost_blocks(grid["cost"], grid["pooled"]["gain"]),
        *_origin_blocks(found, failed),
    ]
    title = f"WriteBack-RAG: the paper's tables from {len(found)} run{'s' if len(found) > 1 else ''}"
    write_page(out, title, f"Beside the figures of {paper.paper()['source']}", blocks)
    write_text(out / "grid.json", json.dumps(grid, indent=2, allow_nan=False) + "\n")
    return grid


def named(point: Point) -> str:
    """A setting as the report calls it."""
    return called(*point.key)


def headline(grid: Record) -> str:
    """One sentence on questions without overlap (all, if none is known), no bolder than the interval over topics."""
    unseen = grid["splits"].get("none")
    record = unseen or grid["pooled"]
    over, settings = record["topics"], record["settings"]
    where = "On test questions without overlap with training, write-back" if unseen else "Write-back"
    told = f"{points(record['gain'])} points, 95% interval over topics {interval(over)}"
    told += f", {record['questions']:,} answers"
    what = f"the mean score over {settings} settings" if settings > 1 else "the score of the one setting"
    if verb := "raises" if over["ci_low"] > 0 else "lowers" if over["ci_high"] < 0 else "":
        return f"{where} {verb} {what}: {told}."
    return f"{where} shows no change of {what} ({told}; the interval includes 0)."


def counted(grid: Record) -> str:
    """The mean gain over all test questions, and how many settings gain, beside the paper's."""
    won, every, told = grid["winners"], grid["pooled"], paper.paper()["table2"]
    counts = f"{won['better']} of {len(grid['points'])} settings gain, {won['equal']} are equal, {won['worse']} lose"
    overall = f"Over all test questions the mean gain is {points(every['gain'])} points (over topics "
    overall += f"{interval(every['topics'])}, over questions {interval(every)})"
    theirs = f"the paper reports {told['mean']:+.2f} over {told['settings']} settings, {told['better']} of them better"
    return f"{overall}; {theirs}. {counts}; {won['significant']} change significantly (Holm)."


def other_ways(grid: Record) -> list[str]:
    """A sentence on each other way in which the runs' kept examples were made units and merged."""
    ways = [record for record in grid.get("units", ()) if record["way"] != "own"]
    return [
        f"The same kept examples' units made and merged as {one['way']!r}, in {one['runs']} of the settings: "
        f"{with_interval(one['unseen'])} points without overlap, {with_interval(one['all'])} over all test questions; "
        "intervals over topics."
        for one in ways
    ]


def summary(grid: Record) -> str:
    """What a job prints at its end."""
    return "\n".join((headline(grid), counted(grid), *other_ways(grid)))


def _unseen_blocks(runs: Sequence[Point], grid: Record) -> list[Block]:
    """Who gains: by overlap and exposure, and of the questions without overlap by what they read."""
    blocks: list[Block] = []
    if read := grid["unseen"]["read"]:
        unknown = " It is not known where labels are the answers." if any(run.setting.labels for run in runs) else ""
        note = f"Answer in the documents: mean over the settings.{unknown}"
        table = read_table(read, "answers", "questions", "found")
        blocks = [Heading("What questions without overlap read"), table, Text(note, "note")]
    groups = [(OVERLAPS[key], record) for key, record in grid["splits"].items()]
    groups += [(EXPOSURES[key], record) for key, record in grid["exposure"].items()]
    table = tabled("questions", (("n", "questions", count), *POOLED), groups, {0} if "none" in grid["splits"] else ())
    note = f"{RULE} Each answer is in one class of each kind; without a unit there is nothing to gain by, but for a "
    return [*blocks, Heading("Who gains"), table, Text(f"{note}method that searches by itself.", "note")]


def _table_2_blocks(runs: Sequence[Point], grid: Record) -> list[Block]:
    """The paper's Table 2, one a generator; the mean gains; every setting by itself, p-values adjusted over all."""
    blocks: list[Block] = [Heading("Table 2: every method, benchmark and generator")]
    records = {point.key: record for point, record in zip(runs, grid["points"], strict=True)}
    for (backbone,), some in grouped(runs, "backbone"):
        blocks += [Text(f"Generator {called(backbone)}:"), _table_2(some, records)]
    splits, mean_gain = grid["splits"], paper.paper()["table2"]["mean"]
    rows = [("all settings, without overlap", splits["none"])] if "none" in splits else []
    rows.append(("all settings", grid["pooled"] | {"paper": mean_gain}))
    for kind, groups in grid["groups"].items():
        rows += [(called(name), record | {"paper": paper.gain(kind, name)}) for name, record in groups.items()]
    settings = [
        (named(point), {"unseen": few, "all": record, "paper": paper.cell(*point.key)})
        for point, record, few in zip(runs, grid["points"], grid["unseen"]["points"], strict=True)
    ]
    blocks += [Text("Mean gains beside the paper's:"), tabled("", (*POOLED, PAPER), rows, {0})]
    return [*blocks, Heading("Table 2, setting by setting"), tabled("setting", SETTING, settings)]


def _table_2(runs: Sequence[Point], records: Mapping[tuple[str, str, str], Record]) -> Table:
    """Methods down, benchmarks across, score with write-back (gain), of one generator; * : significant after Holm."""

    def both(record: Record) -> str:
        mark = "*" if record["holm_p"] <= ALPHA else ""
        return f"{percent(record['writeback'])} ({points(record['gain'])}){mark}"

    metrics = {name: METRIC_NAMES[some[0].setting.metric] for (name,), some in grouped(runs, "benchmark")}
    alone = {run.setting.benchmark: percent(records[run.key]["closed_book"]) for run in reversed(runs)}
    rows = [("no retrieval", alone)]
    for (method,), some in grouped(runs, "method"):
        of = {run.setting.benchmark: records[run.key] for run in some}
        rows.append((called(method), {name: percent(record["base"]) for name, record in of.items()}))
        rows.append((f"{called(method)} + write-back", {name: both(record) for name, record in of.items()}))
    headings = {name: f"{called(name)}, {metric}" for name, metric in metrics.items()}
    return _across(headings, rows, range(2, len(rows), 2))


def _across(headings: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, str]]], strong: Iterable[int]) -> Table:
    """A column a benchmark, under its heading; "-" where a row has no cell of it."""
    told = tuple((name, *(cells.get(key, "-") for key in headings)) for name, cells in rows)
    return Table(("", *headings.values()), told, frozenset(strong))


def _reason_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Why each setting that does not gain does not."""
    rows, grid["not_improved"] = [], {}
    for point, record in zip(runs, grid["points"], strict=True):
        if record["gain"] <= 0:
            fate = fates(point)
            grid["not_improved"][named(point)] = fate | {"why": why(fate)}
            told = f"{points(record['gain'])} ({interval(record)})"
            rows.append((named(point), told, why(fate), f"{point.run.name} {fate['example'] or ''}"))
    heading = Heading("Settings that do not gain, and why")
    if not rows:
        return [heading, Text("There is none: over all test questions every setting gains.")]
    note = "From traces and predictions. The life of an example: python -m wbrag.report.trace RUN ID."
    header = ("setting", "gain (95% interval)", "why", "run and example")
    return [heading, Text(note, "note"), Table(header, tuple(rows), numbers=False)]


def _retrieval_blocks(runs: Sequence[Point]) -> list[Block]:
    """What write-back changes about the documents, means over methods, and how often methods retrieve by themselves."""
    rows = [
        (called(*names), _means(RETRIEVAL, [_retrieval(point) for point in some]))
        for names, some in grouped(runs, "benchmark", "backbone")
    ]
    deciding = [point for point in runs if point.setting.method in DECIDING]
    more: list[Block] = [Text(DECISION_NOTE, "note"), _decisions(deciding)] if deciding else []
    return [Heading("Retrieval"), Text(RETRIEVAL_NOTE, "note"), tabled("", RETRIEVAL, rows), *more]


def _means(columns: Iterable[Column], records: Sequence[Record]) -> Record:
    """The mean of each column over the records that know it."""
    return {path: mean(record[path] for record in records) for _, path, _ in columns}


def _retrieval(point: Point) -> Record:
    record: Record = point.metrics["results"][0]
    before, after = (point.answers[f"retrieval_recall_{side}"] for side in SIDES)
    lost = mean(np.maximum(before - after, 0.0).tolist())  # NaN: not known
    return {**record, "lost": lost, "exposed": record["questions_with_writeback"] / record["n"]}


def _decisions(runs: Sequence[Point]) -> Table:
    """How often methods that decide by themselves retrieve, and how many retrievals a question took, by benchmark."""
    told = (("questions, %", "retrieval_rate", percent), ("a question", "retrievals_per_question", hundredths))
    rows = []
    for (backbone, method), some in grouped(runs, "backbone", "method"):
        of = {point.setting.benchmark: point.metrics["results"][0] for point in some}
        for name, key, form in told:
            both = {b: f"{form(r[f'{key}_base'])} / {form(r[f'{key}_writeback'])}" for b, r in of.items()}
            rows.append((f"{called(method, backbone)}: {name}", both))
    return _across({name: called(name) for (name,), _ in grouped(runs, "benchmark")}, rows, ())


def _placebo_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """The placebos of each run that has any, beside its own write-back."""
    grid["placebos"] = {}
    blocks: list[Block] = []
    for point in runs:
        if records := variants(point, "placebo-"):
            grid["placebos"][named(point)] = records
            rows = [("the run's own units", point.metrics["results"][0])]
            rows += [(told, records[name]) for name, told in PLACEBOS.items() if name in records]
            table = tabled("write-back store", (*GAIN, *difference("minus own units")), rows, {0})
            blocks += [Text(f"{named(point)}:"), table]
    note = "Stores of as many units of the same length, each without one ingredient. The last holds the golden answers."
    return [Heading("Placebos"), Text(note, "note"), *blocks] if blocks else []


def _noise_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """A/A of each run that was asked twice."""
    found = {named(point): variants(point, "repeat").get("") for point in runs}
    grid["repeat"] = {name: record for name, record in found.items() if record}
    flips = (
        ("base answers that differ, %", "flips_base", percent),
        ("write-back answers, %", "flips_writeback", percent),
    )
    table = tabled("setting", (*flips, *difference("score moved by")), grid["repeat"].items())
    note = "A/A: the same questions over the same stores, asked once more in the opposite order. What differs is noise."
    return [Heading("Noise floor"), Text(note, "note"), table] if grid["repeat"] else []


def _transfer_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Figure 4, and its pairs with intervals. Nothing where nobody transferred."""
    panels: dict[str, tuple[list[str], list[list[float | None]]]] = {}
    blocks: list[Block] = []
    grid["transfer"] = {}
    for (backbone, benchmark), some in grouped(runs, "backbone", "benchmark"):
        methods = [point.setting.method for point in some]
        found = {(p.setting.method, writer): r for p in some for writer, r in variants(p, "transfer-").items()}
        if found:
            name = called(benchmark, backbone)
            grid["transfer"][name] = {f"{reader} <- {writer}": record for (reader, writer), record in found.items()}
            cells = {(method, method): 0.0 for method in methods}
            cells |= {pair: 100 * record["difference"] for pair, record in found.items()}
            matrix = [[cells.get((reader, writer)) for writer in methods] for reader in methods]
            panels[name] = [*map(called, methods)], matrix
            rows = [(called(reader), {"of": called(writer), **record}) for (reader, writer), record in found.items()]
            columns: Sequence[Column] = (("corpus of", "of", str), *GAIN, *difference("minus own corpus"))
            blocks += [Text(f"{name}:"), tabled("answered by", columns, rows)]
    if not panels:
        return []
    every = [abs(record["difference"]) for records in grid["transfer"].values() for record in records.values()]
    near = f"{sum(value <= NEAR for value in every)} of {len(every)} pairs are within {100 * NEAR:.0f} points"
    caption = "Score with another method's corpus minus that with the own one, in points. The paper: within "
    caption += f"{paper.paper()['figure4']['largest_difference']} points. Here {near}, the largest difference is "
    picture = Picture("plots/transfer.svg", transfer_figure(panels), f"{caption}{100 * max(every):.1f}.")
    return [Heading("Figure 4: one method's corpus read by another"), Pictures((picture,)), *blocks]


def _construction_blocks(runs: Sequence[Point]) -> list[Block]:
    """Table 3 with the paper's figures below ours, means over methods; Figures 3 and 5."""
    rows: list[tuple[str, ...]] = []
    told = []
    for (benchmark,), some in grouped(runs, "benchmark"):
        for (backbone,), ones in grouped(some, "backbone"):
            means = _means(TABLE_3, [point.metrics["construction"] for point in ones])
            rows.append((called(benchmark, backbone), *cells(TABLE_3, means)))
        told.append(len(rows))
        rows.append(("the paper", *(paper.statistic(path, benchmark) for _, path, _ in TABLE_3)))
    table = Table(("", *(heading for heading, _, _ in TABLE_3)), tuple(rows), frozenset(told))
    return [Heading("Table 3: construction of the knowledge bases"), table, *_figures(runs)]


def _figures(runs: Sequence[Point]) -> list[Block]:
    """Figures 3 and 5; nothing where there is no unit."""
    if not any(point.tokens for point in runs):
        return []
    ranks: dict[str, dict[str, list[float]]] = defaultdict(dict)
    tokens: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(dict)
    for (benchmark, backbone), some in grouped(runs, "benchmark", "backbone"):
        found = [run.metrics["construction"]["retained_by_rank"].values() for run in some if run.tokens]
        means = [sum(shares) / len(found) for shares in zip_longest(*found, fillvalue=0.0)]
        ranks[called(benchmark)][called(backbone)] = means
        tokens[called(benchmark)][called(backbone)] = [pair for run in some for pair in run.tokens]
    shapes = ", ".join(f"{called(name)} {shape}" for name, shape in paper.paper()["figure3"].items())
    place = f"Where in the retrieved list the retained documents stood, mean over methods. The paper: {shapes}."
    length = "Tokens of each unit against those of the documents it was written from, all methods."
    return [
        Heading("Figure 3: ranks of the retained documents"),
        Pictures((Picture("plots/ranks.svg", ranks_figure(ranks), place),)),
        Heading("Figure 5: source and distilled tokens"),
        Pictures((Picture("plots/tokens.svg", tokens_figure(tokens), length),)),
    ]


def _ablation_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Table 4 of each run whose gates were varied (`ablation.ablate`)."""
    grid["ablation"] = {}
    known = paper.paper()["table4"]
    blocks: list[Block] = []
    for point in runs:
        file = point.run / "ablation.json"
        records = read_record(file)["variants"] if file.is_file() else []
        if records:
            records = [record | compared(point, point.run / record["folder"]) for record in records]
            grid["ablation"][named(point)] = records
            base = {"writeback": point.metrics["results"][0]["base"], "paper": known["base"]}
            rows = [("no write-back", base)]
            for record in records:
                name, _, value = record["name"].partition("=")
                rows.append((f"{name} = {value}", record | {"paper": known.get(name, {}).get(value)}))
            blocks += [Text(f"{named(point)}:"), tabled("gates", TABLE_4, rows)]
    note = (
        "One threshold is changed at a time, from recorded scores; what keeps the same documents is the same store. "
        "A score of 0 or 1, as accuracy is of one answer, is on the same side of most thresholds. "
        f"The paper's column: NQ with {called('naive')}, where tau_s moves accuracy by at most "
        f"{known['tau_s']['span']} points."
    )
    return [Heading("Table 4: the gates' thresholds"), Text(note, "note"), *blocks] if blocks else []


def _judge_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Runs trained once more with a judge in place of labels."""
    grid["judge"] = {}
    rows = []
    for point in runs:
        for record in variants(point, "judge").values():
            told = read_record(point.run / "variants" / "judge" / "metrics.json")["construction"]
            grid["judge"][named(point)] = record | {key: told[key] for key in told if "judge" in key or key == "kept"}
            own, gain = point.metrics["construction"], point.metrics["results"][0]["gain"]
            rows.append((named(point), {"judge": told, "own": own, "own_gain": gain, "gain": record}))
    columns: Sequence[Column] = (
        ("compared", "judge", lambda told: f"{told['judge_compared']:,} of {told['examples']:,}"),
        *(("agree, %", "judge.judge_agreement", percent), ("kappa", "judge.judge_kappa", hundredths)),
        ("pass the gate, labels / judge", "judge", lambda r: f"{r['labels_passed']:,} / {r['judge_passed']:,}"),
        ("kept, labels / judge", "", lambda r: f"{r['own']['kept']:,} / {r['judge']['kept']:,}"),
        ("gain, labels", "own_gain", points),
        ("gain, judge", "gain", lambda record: f"{points(record['gain'])} ({interval(record)})"),
    )
    table = tabled("setting", columns, rows)
    return [Heading("A judge in place of labels"), Text(JUDGE_NOTE, "note"), table] if rows else []


def _temperature_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """REPLUG's runs at their own temperature and at others."""
    rows, at = [], defaultdict(list)
    for point in runs:
        found = variants(point, "temperature-")
        own = f"{point.config['method'].get('temperature', 1.0):g}"
        found.pop(own, None)
        for value, record in {own: point.metrics["results"][0], **found}.items() if found else ():
            read = read_variant(point, point.run / "variants" / f"temperature-{value}" if value != own else point.run)
            moved = {"scores": read["scores"], "gain": read["gain"]}
            at[value].append(replace(point, answers={**point.answers, **moved}))
            rows.append((named(point), {"temperature": value, **record}))
    grid["temperatures"] = {
        value: {"all": pooled(some), "none": unseen(some)["read"].get("together")} for value, some in at.items()
    }
    means = [
        (f"temperature {value}{where}", told[key])
        for value, told in grid["temperatures"].items()
        for key, where in (("none", ", without overlap"), ("all", ""))
        if told[key]
    ]
    columns: Sequence[Column] = (("temperature", "temperature", str), ("base", "base", percent), *GAIN)
    note = "The same units and questions; what differs is how sharply a document's score weighs its word."
    tables = [tabled("", POOLED, means), tabled("setting", columns, rows)]
    return [Heading(f"{called('replug')} at two temperatures"), Text(note, "note"), *tables] if rows else []


def _cost_blocks(cost: Record, gain: float) -> list[Block]:
    """The bill of all that was run, and the tokens that a point of mean gain took."""
    (first, path, form), *others = (*COST, ("seconds", "seconds", count))
    share = percent(cost["saved"] / max(1, cost["paper_calls"]))
    told = f"Training left out {cost['saved']:,} ({share}%) of the {cost['paper_calls']:,} calls of the paper's plan"
    told += ": decided without them by the gates, or answered in an earlier run."
    if gain > 0:
        tokens = (cost["prompt_tokens"] + cost["completion_tokens"]) / (100 * gain)
        told += f" A point of mean gain took {tokens:,.0f} tokens, all experiments included."
    return [Heading("Cost"), tabled(first, others, [(form(cost[path]), cost)]), Text(told)]


def _origin_blocks(runs: Sequence[Point], failed: Sequence[str]) -> list[Block]:
    """What was run, with what, and what the distiller is told; each command and version once."""
    records = [read_record(point.run / "run.json") for point in runs]
    theirs = "The paper used Llama-3.1-8B and Gemma-3-12B, E5-base-v2, wiki18_100w and the full files. These runs used:"
    folders = ", ".join(dict.fromkeys(str(point.run.parent) for point in runs))
    commands = dict.fromkeys(str(record["command"]) for record in records if record.get("command"))
    versions: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in (record.get("versions", {}) | {"git commit": record.get("git") or "unknown"}).items():
            versions.setdefault(name, {})[str(version)] = None
    packages = tuple((name, ", ".join(found)) for name, found in sorted(versions.items()))
    prompts = dict.fromkeys(str(record.get("identity", {}).get(key, "")) for key in DISTILLER for record in records)
    told = "\n\n".join(text for text in prompts if text)
    return [
        *(Heading("What was run"), Text(theirs), _data_table(runs), _method_table(runs)),
        Text(f"The run folders lie in {folders}."),
        Verbatim("\n".join(commands), "Made by:"),
        Table(("package", "version"), packages, numbers=False),
        *([Verbatim(told, "What the distiller is told; the golden answers are in no prompt:")] if told else []),
        *([Text("Points of the grid that failed and are missing:"), *map(Text, failed)] if failed else []),
    ]


def _data_table(runs: Sequence[Point]) -> Table:
    """What each benchmark was run on; one row where all its runs have the same."""
    rows: Counter[tuple[str, ...]] = Counter()
    for point in runs:
        name, config = called(point.setting.benchmark, point.setting.backbone), point.config
        encoder, corpus = config.get("encoder", {}).get("name", "-"), config.get("corpus", "-")
        asked = f"{point.metrics['construction']['examples']:,} / {len(point.answers['id']):,}"
        rows[name, str(config["backbone"]["model"]), str(encoder), str(corpus), asked] += 1
    header = ("benchmark, generator", "model", "encoder", "corpus", "train / test questions", "runs")
    return Table(header, tuple((*row, f"{same}") for row, same in rows.items()), numbers=False)


def _method_table(runs: Sequence[Point]) -> Table:
    """Each method with its settings and gates; one row where all its runs have the same."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for config in (point.config for point in runs):
        gates = ", ".join(f"{key} {value}" for key, value in config["gates"].items())
        rows[config["method"]["name"], settings_read(config["method"]) or "none", f"{gates}, K {config['k']}"] += 1
    order = sorted(rows, key=lambda row: ((*SETTINGS, row[0]).index(row[0]), row))
    told = tuple((called(method), how, gates, f"{rows[method, how, gates]}") for method, how, gates in order)
    return Table(("method", "settings", "gates", "runs"), told, numbers=False)


def main() -> None:
    """Command line."""
    told = "One report over many runs."
    parser = argparse.ArgumentParser(prog="python -m wbrag.experiments.grid_report", description=told)
    parser.add_argument("runs", type=Path, nargs="+", help="finished run folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    arguments = parser.parse_args()
    try:
        grid = write_grid_report(arguments.out, arguments.runs)
    except RunError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{summary(grid)}\nreport: {arguments.out}/report.html")


if __name__ == "__main__":
    main()
