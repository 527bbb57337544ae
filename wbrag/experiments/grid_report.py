"""One report over a grid of runs, in the paper's shape: `python -m wbrag.experiments.grid_report RUN... --out DIR`.

Tables 2, 3 and 4, Figures 3, 4 and 5, the placebos, the noise floor and the cost, the paper's figures beside ours; and
what the paper has not got: who gains, why a setting does not, retrieval, the judge, what was run. It is a function of
the run folders alone, so runs of a laptop and runs of a cluster are told the same way. Scores are in percent, gains in
points. The sections, with their tables' columns and what explains them, are data: report.toml.
"""

from __future__ import annotations

import argparse
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from wbrag.experiments.grid import ALPHA, Point, grouped, measure_grid, read_point, read_points, ways
from wbrag.experiments.paper import called, paper, place, statistic
from wbrag.experiments.placebos import PLACEBOS
from wbrag.methods import settings_read
from wbrag.report.evaluation import metric_called
from wbrag.report.overlap import EXPOSURES, OVERLAPS, READ, RULE, without_overlap
from wbrag.report.page import Block, Heading, Picture, Pictures, Table, Text, Verbatim, markdown_table, slug, write_page
from wbrag.report.plots import gain_figure, ranks_figures, tokens_figures, transfer_figures
from wbrag.report.statistics import RESAMPLES, Floats
from wbrag.report.tables import count, hundredths, interval, number, p_value, percent, points, tabled, too_few
from wbrag.run.folder import RunError, read_record, write_record, write_text

Record = Mapping[str, Any]
Runs = Sequence[Point]
Rows = Iterable[tuple[str, Record]]

#: The sections by name, in their order.
SECTIONS = tomllib.loads(files("wbrag.experiments").joinpath("report.toml").read_text(encoding="utf-8"))
#: Pairs of methods that differ by at most so much transfer well.
NEAR = 0.02
#: Methods that decide by themselves whether to retrieve.
DECIDING = ("selfrag", "flare")
#: What a forest plot calls the mean of all settings.
MEAN = "mean of all settings"
DISTILLER = ("prompts.extract", "prompts.rewrite")


def with_interval(record: Record) -> str:
    """A mean of `grid.ways` with its interval, in points."""
    return f"{points(record['mean'])} [{points(record['low'])}, {points(record['high'])}]"


#: How a column's value is told, by the names that report.toml gives.
FORMS: Mapping[str, Callable[[Any], str]] = {
    "text": str,
    "count": count,
    "number": number,
    "hundredths": hundredths,
    "percent": percent,
    "points": points,
    "signed": "{:+.2f}".format,
    "p_value": p_value,
    "interval": interval,
    "between": partial(interval, low="difference_low", high="difference_high"),
    "with_interval": with_interval,
    "gain": lambda record: f"{points(record['gain'])} ({interval(record)})",
    "place": lambda record: f"{Path(record['run']).name} {record['example'] or ''}",
    "counts": lambda values: " -> ".join(map(count, values)),
    "percents": lambda values: " -> ".join(map(percent, values)),
}


def blocks_of(name: str, runs: Runs, grid: Record) -> list[Block]:
    """A section of the report; [] where it has nothing to show."""
    section, words = SECTIONS[name], {"rule": RULE, "resamples": RESAMPLES, "span": paper()["table4"]["tau_s"]["span"]}
    inside = BLOCKS[name](runs, grid) if name in BLOCKS else []
    if "columns" in section:
        rows = list(ROWS[name](runs, grid) if name in ROWS else grid[name].items())
        inside = [table_of(name, rows)] if rows else []
    if not inside and "otherwise" in section:
        inside = [Text(section["otherwise"].format(**words))]
    note = [Text(section["note"].format(**words), "note")] if "note" in section else []
    return [Heading(section["heading"]), *note, *inside] if inside else []


def table_of(name: str, rows: Sequence[tuple[str, Record]]) -> Table:
    """The table of a section over these records, each after its name."""
    section = SECTIONS[name]
    columns = [(heading, path, _told(how)) for heading, path, how in section["columns"]]
    strong = [i for i, (row, _) in enumerate(rows) if "strong" in section and row.endswith(section["strong"])]
    table = tabled(section.get("first", ""), columns, rows, strong, section.get("numbers", True))
    if not section.get("once"):
        return table
    told = tuple((*row, f"{times}") for row, times in Counter(table.rows).items())
    return Table((*table.header, "runs"), told, numbers=False)


def _told(how: str) -> Callable[[Any], str]:
    """A template's or a form's text; "-" for nothing. What is said in words already stays."""
    told: Callable[[Any], str] = how.format_map if "{" in how else FORMS[how]
    return lambda value: "-" if value is None else value if isinstance(value, str) else told(value)


def _decides(record: Record) -> bool:
    """Whether a method decides by itself to retrieve, or did."""
    return record["method"] in DECIDING or bool(record["retrieval_rate_base"] or record["retrieval_rate_writeback"])


def _who_gains(_: Runs, grid: Record) -> Rows:
    for kind, names in (("splits", OVERLAPS), ("exposure", EXPOSURES)):
        yield from ((names[key], record) for key, record in grid[kind].items())


def _mean_gains(_: Runs, grid: Record) -> Rows:
    yield from (("all settings, without overlap", one) for key, one in grid["splits"].items() if key == "none")
    yield "all settings", grid["pooled"]
    yield from ((called(name), one) for groups in grid["groups"].values() for name, one in groups.items())


def _placebos(_: Runs, grid: Record) -> Rows:
    for own in grid["points"]:
        if found := grid["placebos"].get(own["setting"]):
            yield f"{own['setting']}: its own units", own
            yield from ((told, found[name]) for name, told in PLACEBOS.items() if name in found)


def _transfer(_: Runs, grid: Record) -> Rows:
    for setting, found in grid["transfer"].items():
        yield from ((f"{setting} <- {called(writer)}", record) for writer, record in found.items())


def _table_3(_: Runs, grid: Record) -> Rows:
    for benchmark, some in groupby(grid["means"], itemgetter("benchmark")):
        yield from ((called(benchmark, one["backbone"]), one) for one in some)
        yield "the paper", {path: statistic(path, benchmark) for _, path, _ in SECTIONS["table_3"]["columns"]}


def _ablation(_: Runs, grid: Record) -> Rows:
    for setting, found in grid["ablation"].items():
        yield f"{setting}: no write-back", {"writeback": found[0]["base"], "paper": paper()["table4"]["base"]}
        yield from ((one["name"], one) for one in found)


def _temperatures(_: Runs, grid: Record) -> Rows:
    for value, found in grid["temperatures"].items():
        means = ((f"temperature {value}, without overlap", found["none"]), (f"temperature {value}", found["all"]))
        yield from (one for one in means if one[1])
        yield from ((f"{setting} at {value}", record) for setting, record in found["settings"].items())


def _data(runs: Runs, _: Record) -> Rows:
    for run in runs:
        asked = f"{run.metrics['construction']['examples']:,} / {len(run.answers['id']):,}"
        told = {"asked": asked, "measured": read_record(run.run / "run.json").get("measured_at", "")[:16] or None}
        yield called(run.setting.benchmark, run.setting.backbone), {**run.config, **told}


def _methods(runs: Runs, _: Record) -> Rows:
    for run in sorted(runs, key=lambda run: place(run.setting.method)):
        yield called(run.setting.method), {**run.config, "how": settings_read(run.config["method"]) or "none"}


def _versions(runs: Runs, _: Record) -> Rows:
    records = [read_record(run.run / "run.json") for run in runs]
    found = [record.get("versions", {}) | {"git commit": record.get("git") or "unknown"} for record in records]
    pairs = sorted((name, str(version)) for one in found for name, version in one.items())
    yield from ((name, {"version": version}) for name, version in pairs)


#: The rows of the tables that do not stand so in grid.json.
ROWS: Mapping[str, Callable[[Runs, Record], Rows]] = {
    "unseen": lambda _, grid: [
        (READ.get(kind, kind), {**one, "share": one["questions"] / grid["unseen"]["together"]["questions"]})
        for kind, one in grid["unseen"].items()
    ],
    "settings": lambda _, grid: [(one["setting"], one) for one in grid["points"]],
    "means": lambda _, grid: [(called(one["benchmark"], one["backbone"]), one) for one in grid["means"]],
    "decisions": lambda _, grid: [(one["setting"], one) for one in grid["points"] if _decides(one)],
    "units": lambda _, grid: [(one["way"], one) for one in grid["units"] if len(grid["units"]) > 1],
    "cost": lambda _, grid: [("all", grid["cost"])],
    **{"who_gains": _who_gains, "mean_gains": _mean_gains, "placebos": _placebos, "transfer": _transfer},
    **{"table_3": _table_3, "ablation": _ablation, "temperatures": _temperatures},
    **{"data": _data, "methods": _methods, "versions": _versions},
}


def _table_2(_: Runs, grid: Record) -> list[Block]:
    """The paper's Table 2, one a generator: methods down, benchmarks across; * is significant after Holm."""
    blocks: list[Block] = []
    for backbone, some in groupby(grid["points"], itemgetter("backbone")):
        records = list(some)
        heads = {one["benchmark"]: f"{called(one['benchmark'])}, {metric_called(one['metric'])}" for one in records}
        rows: dict[str, dict[str, str]] = defaultdict(dict)
        for one in sorted(records, key=lambda one: place(one["method"])):
            benchmark, method, mark = one["benchmark"], called(one["method"]), "*" * (one["holm_p"] <= ALPHA)
            rows["no retrieval"].setdefault(benchmark, percent(one["closed_book"]))
            rows[method][benchmark] = percent(one["base"])
            rows[f"{method} + write-back"][benchmark] = f"{percent(one['writeback'])} ({points(one['gain'])}){mark}"
        told = tuple((name, *(of.get(benchmark, "-") for benchmark in heads)) for name, of in rows.items())
        table = Table(("", *heads.values()), told, frozenset(range(2, len(rows), 2)))
        blocks += [Text(f"Generator {called(backbone)}, score with write-back (gain):"), table]
    return blocks


def _forest(_: Runs, grid: Record) -> list[Block]:
    """A forest plot for each generator, of questions without overlap and of all: a row a setting, the mean last."""
    figures = {}
    for backbone, some in groupby(grid["points"], itemgetter("backbone")):
        records = {called(one["benchmark"], one["method"]): one for one in some}
        kinds = {"without overlap": {name: one["unseen"] for name, one in records.items()}, "all questions": records}
        means = {"without overlap": grid["splits"].get("none"), "all questions": grid["pooled"]}
        for kind, found in kinds.items():
            rows = {name: one for name, one in found.items() if one}
            if rows and (mean := means[kind]):
                title = f"{called(backbone)}, {kind}: gain in points"
                figures[title] = gain_figure(title, rows | {MEAN: mean}, MEAN)
    told = (
        "Dots are settings, the diamond is the mean of all of them, lines are 95% intervals over questions; full dots "
        "leave out 0. The figures are in Table 2, setting by setting."
    )
    return [Text(told, "note"), _pictures("forest", figures)]


def _pictures(name: str, figures: Mapping[str, str]) -> Pictures:
    """Figures side by side, by their titles."""
    return Pictures(tuple(Picture(f"plots/{name}-{slug(title)}.svg", svg, title) for title, svg in figures.items()))


def _figure_4(runs: Runs, grid: Record) -> list[Block]:
    """Nothing where nobody transferred."""
    panels: dict[str, tuple[list[str], list[list[float | None]]]] = {}
    for (backbone, benchmark), some in grouped(runs, "backbone", "benchmark"):
        names = [run.setting.method for run in some]
        found = [grid["transfer"].get(called(*run.key), {}) for run in some]
        if any(found):
            moved = [{writer: 100 * one["difference"] for writer, one in pairs.items()} for pairs in found]
            matrix = [[{**of, own: 0.0}.get(name) for name in names] for own, of in zip(names, moved, strict=True)]
            panels[called(benchmark, backbone)] = [*map(called, names)], matrix
    if not panels:
        return []
    every = [abs(pair["difference"]) for pairs in grid["transfer"].values() for pair in pairs.values()]
    told = (
        "Score with another method's corpus minus that with the own one, in points. The paper: within "
        f"{paper()['figure4']['largest_difference']} points. Here {sum(value <= NEAR for value in every)} of "
        f"{len(every)} pairs are within {100 * NEAR:.0f} points, the largest difference is {100 * max(every):.1f}."
    )
    return [Text(told, "note"), _pictures("transfer", transfer_figures(panels))]


def _figure_3(runs: Runs, _: Record) -> list[Block]:
    """Nothing where there is no unit."""
    panels: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (benchmark, backbone), some in grouped((run for run in runs if len(run.tokens)), "benchmark", "backbone"):
        found = [run.metrics["construction"]["retained_by_rank"].values() for run in some]
        means = [sum(shares) / len(found) for shares in zip_longest(*found, fillvalue=0.0)]
        panels[called(benchmark)][called(backbone)] = means
    shapes = ", ".join(f"{called(name)} {shape}" for name, shape in paper()["figure3"].items())
    told = f"Where in the retrieved list the retained documents stood, mean over methods. The paper: {shapes}."
    return [Text(told, "note"), _pictures("ranks", ranks_figures(panels))] if panels else []


def _figure_5(runs: Runs, _: Record) -> list[Block]:
    """Nothing where there is no unit."""
    panels: dict[str, dict[str, Floats]] = defaultdict(dict)
    for (benchmark, backbone), some in grouped((run for run in runs if len(run.tokens)), "benchmark", "backbone"):
        panels[called(benchmark)][called(backbone)] = np.concatenate([run.tokens for run in some])
    told = "Tokens of each unit against those of the documents it was written from, all methods."
    return [Text(told, "note"), _pictures("tokens", tokens_figures(panels))] if panels else []


def _origin(runs: Runs, grid: Record) -> list[Block]:
    """The runs' commands, what the distiller is told, each once; and what is missing."""
    records = [read_record(run.run / "run.json") for run in runs]
    folders = dict.fromkeys(str(run.run.parent) for run in runs)
    commands = dict.fromkeys(str(record["command"]) for record in records if record.get("command"))
    prompts = dict.fromkeys(record.get("identity", {}).get(key) for key in DISTILLER for record in records)
    told = "\n\n".join(str(text) for text in prompts if text)
    return [
        Text(f"The run folders lie in {', '.join(folders)}."),
        Verbatim("\n".join(commands), "Made by:"),
        *([Verbatim(told, "What the distiller is told; the golden answers are in no prompt:")] if told else []),
        *map(Text, ("Points of the grid that failed and are missing:", *grid["failed"]) if grid["failed"] else ()),
    ]


#: What the sections show that have no columns.
BLOCKS: Mapping[str, Callable[[Runs, Record], list[Block]]] = {
    **{"table_2": _table_2, "forest": _forest, "figure_4": _figure_4, "figure_3": _figure_3, "figure_5": _figure_5},
    "origin": _origin,
}


def headline(grid: Record) -> str:
    """One sentence on questions without overlap (all, if none is known), no bolder than the interval over topics."""
    unseen = grid["splits"].get("none")
    record = unseen or grid["pooled"]
    over, settings = record["topics"], record["settings"]
    where = "On test questions without overlap with training, write-back" if unseen else "Write-back"
    if too_few(record):
        told = f"{points(record['gain'])} points, and of {record['questions']:,} answers there is no interval"
        return f"Too few answers to tell what write-back does: {told}."
    told = f"{points(record['gain'])} points, 95% interval over topics {interval(over)}"
    told += f", {record['questions']:,} answers"
    what = f"the mean score over {settings} settings" if settings > 1 else "the score of the one setting"
    if verb := "raises" if over["ci_low"] > 0 else "lowers" if over["ci_high"] < 0 else "":
        return f"{where} {verb} {what}: {told}."
    return f"{where} shows no change of {what} ({told}; the interval includes 0)."


def counted(grid: Record) -> str:
    """The mean gain over all test questions, and how many settings gain, beside the paper's."""
    won, every, told = grid["winners"], grid["pooled"], paper()["table2"]
    return (
        f"Over all test questions the mean gain is {points(every['gain'])} points (over topics "
        f"{interval(every['topics'])}, over questions {interval(every)}); the paper reports {told['mean']:+.2f} over "
        f"{told['settings']} settings, {told['better']} of them better. {won['better']} of {len(grid['points'])} "
        f"settings gain, {won['equal']} are equal, {won['worse']} lose; {won['significant']} change significantly "
        "(Holm)."
    )


def summary(grid: Record) -> str:
    """What a job prints at its end: the two sentences, and one on each other way to make and merge units."""
    others = (
        f"The same kept examples' units made and merged as {one['way']!r}, in {one['runs']} of the settings: "
        f"{with_interval(one['unseen'])} points without overlap, {with_interval(one['all'])} over all test questions; "
        "intervals over topics."
        for one in grid.get("units", ())[1:]
    )
    return "\n".join((headline(grid), counted(grid), *others))


def write_grid_report(out: Path, runs: Sequence[Path], failed: Sequence[str] = ()) -> dict[str, Any]:
    """Write report.html, report.md, plots/ and grid.json over finished runs; returns what grid.json holds.

    `failed` names points of the grid that are not there. RunError, naming the file, for a run that cannot be read.
    """
    if not runs:
        raise RunError("no finished run to report on")
    found = read_points(runs)
    given = sorted(found, key=lambda point: runs.index(point.run))
    grid = measure_grid(found) | {"units": ways(given), "failed": list(failed)}
    first, *others = summary(grid).splitlines()
    others += [without_overlap(bool(point.setting.labels) for point in found)] if "none" in grid["splits"] else []
    sections = [block for name in SECTIONS for block in blocks_of(name, found, grid)]
    title = f"WriteBack-RAG: the paper's tables from {len(found)} run{'s' if len(found) > 1 else ''}"
    blocks = [Text(first, "lead"), *map(Text, others), *sections]
    write_page(out, title, f"Beside the figures of {paper()['source']}", blocks)
    write_record(out / "grid.json", grid)
    return grid


def text_table(records: Sequence[Record]) -> str:
    """Ways to make and merge units (`grid.ways`) as Markdown."""
    table = table_of("units", [(one["way"], one) for one in records])
    return markdown_table(replace(table, numbers=False), text=str) + "\n"


def write_comparison(runs: Sequence[Path], report: Path) -> list[dict[str, Any]]:
    """`grid.ways`, also written to units.json and, as a table, to units.md in the folder `report`."""
    records = ways([read_point(run) for run in runs])
    write_record(report / "units.json", {"runs": [str(run) for run in runs], "ways": records})
    write_text(report / "units.md", text_table(records))
    return records


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
