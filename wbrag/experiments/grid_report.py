"""One report over a grid of runs, in the paper's shape: `python -m wbrag.experiments.grid_report RUN... --out DIR`.

Tables 2, 3 and 4, Figures 3, 4 and 5, the placebos, the noise floor and the cost, the paper's figures beside ours. It
is a function of the run folders alone, so runs of a laptop and runs of a cluster are told the same way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wbrag.experiments import paper
from wbrag.experiments.grid import Point, by, compared, measure_grid, read_ablation, read_points, variants
from wbrag.experiments.grid_headline import counted, headline, summary, unseen, unseen_blocks
from wbrag.experiments.grid_plots import ranks_figure, tokens_figure, transfer_figure
from wbrag.experiments.grid_sections import (
    cost_blocks,
    judge_blocks,
    named,
    origin_blocks,
    reason_blocks,
    retrieval_blocks,
)
from wbrag.experiments.grid_tables import (
    all_settings,
    mean_gains,
    noise_table,
    placebo_table,
    rank_panels,
    table_2,
    table_3,
    table_4,
    token_panels,
    transfers,
)
from wbrag.experiments.unit_variants import unit_blocks
from wbrag.report.overlap import without_overlap
from wbrag.report.page import Block, Heading, Picture, Pictures, Text, html, markdown
from wbrag.report.statistics import RESAMPLES
from wbrag.run.folder import RunError, write_text

Record = Mapping[str, Any]

#: Pairs of methods that differ by at most so much transfer well.
NEAR = 0.02
METHOD_NOTE = (
    "Scores in percent, gains in points: + write-back minus base, on the same questions. Intervals are paired "
    f"percentile bootstraps of {RESAMPLES:,} resamples of questions; pooled gains count each setting once and resample "
    "the questions of a benchmark for all its settings together. Over topics: the same, drawn by topics, questions "
    "with the same first base document, which units help together. * and Holm p: McNemar's exact test for 0/1 metrics, "
    f"and for F1 {RESAMPLES:,} random turns of the differences' signs, corrected over all settings of the grid. "
    "Settings share questions, corpus and generator: they are not so many independent trials."
)


def write_grid_report(out: Path, runs: Sequence[Path], failed: Sequence[str] = ()) -> dict[str, Any]:
    """Write report.html, report.md, plots/ and grid.json over finished runs; returns what grid.json holds.

    `failed` names points of the grid that are not there. RunError, naming the file, for a run that cannot be read.
    """
    if not runs:
        raise RunError("no finished run to report on")
    found = read_points(runs)
    grid = measure_grid(found) | {"unseen": unseen(found), "failed": list(failed)}
    pictures = _figures(found)
    transfer, transfer_pictures = transfer_blocks(found, grid)
    blocks = [
        *_headline_blocks(found, grid),
        *unseen_blocks(found, grid),
        *_table_2_blocks(found, grid),
        *reason_blocks(found, grid),
        *retrieval_blocks(found),
        *placebo_blocks(found, grid),
        *noise_blocks(found, grid),
        *unit_blocks(runs, grid),
        *transfer,
        *_construction_blocks(found, pictures),
        *ablation_blocks(found, grid),
        *judge_blocks(found, grid),
        *cost_blocks(grid["cost"], grid["pooled"]["gain"]),
        *origin_blocks(found, failed),
    ]
    title = f"WriteBack-RAG: the paper's tables from {len(found)} run{'s' if len(found) > 1 else ''}"
    subtitle = f"Beside the figures of {paper.paper()['source']}"
    for picture in (*pictures, *transfer_pictures):
        write_text(out / picture.file, picture.svg)
    write_text(out / "report.md", markdown(title, subtitle, blocks))
    write_text(out / "report.html", html(title, subtitle, blocks))
    write_text(out / "grid.json", json.dumps(grid, indent=2, allow_nan=False) + "\n")
    return grid


def _headline_blocks(runs: Sequence[Point], grid: Record) -> list[Block]:
    told = [Text(without_overlap(bool(point.setting.labels) for point in runs))] if "none" in grid["splits"] else []
    return [Text(headline(grid), "lead"), Text(counted(grid)), *told, Text(METHOD_NOTE, "note")]


def _table_2_blocks(runs: Sequence[Point], grid: Record) -> list[Block]:
    blocks: list[Block] = [Heading("Table 2: every method, benchmark and generator")]
    for backbone, table in table_2(runs, grid["points"]).items():
        blocks += [Text(f"Generator {backbone}:"), table]
    blocks += [Text("Mean gains beside the paper's:"), mean_gains(grid)]
    table = all_settings(runs, grid["points"], grid["unseen"]["points"])
    return [*blocks, Heading("Table 2, setting by setting"), table]


def placebo_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """The placebos of each run that has any; what they showed goes into `grid`."""
    found = {point.run.name: (point, variants(point, "placebo-")) for point in runs}
    grid["placebos"] = {name: records for name, (_, records) in found.items() if records}
    blocks: list[Block] = []
    for point, records in found.values():
        if records:
            blocks += [Text(f"{named(point)}:"), placebo_table(point.metrics["results"][0], records)]
    note = "Stores of as many units of the same length, each without one ingredient. The last holds the golden answers."
    return [Heading("Placebos"), Text(note, "note"), *blocks] if blocks else []


def noise_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """A/A of each run that was asked twice; what it showed goes into `grid`."""
    found = {named(point): variants(point, "repeat").get("") for point in runs}
    grid["repeat"] = {name: record for name, record in found.items() if record}
    if not grid["repeat"]:
        return []
    note = "A/A: the same questions over the same stores, asked once more in the opposite order. What differs is noise."
    return [Heading("Noise floor"), Text(note, "note"), noise_table(grid["repeat"])]


def transfer_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> tuple[list[Block], list[Picture]]:
    """Figure 4, and its pairs with intervals; what they showed goes into `grid`. Nothing where nobody transferred."""
    panels: dict[str, tuple[list[str], list[list[float | None]]]] = {}
    blocks: list[Block] = []
    grid["transfer"] = {}
    for backbone, some in by(runs, "backbone"):
        for benchmark, ones in by(some, "benchmark"):
            methods = [point.setting.method for point in ones]
            found = {(p.setting.method, w): r for p in ones for w, r in variants(p, "transfer-").items()}
            if not found:
                continue
            name = f"{paper.called(benchmark)}, {paper.called(backbone)}"
            grid["transfer"][name] = {f"{reader} <- {writer}": record for (reader, writer), record in found.items()}
            panels[name] = ([paper.called(m) for m in methods], [_row(reader, methods, found) for reader in methods])
            blocks += [Text(f"{name}:"), transfers(found)]
    if not panels:
        return [], []
    caption = f"Score with another method's corpus minus that with the own one, in points. {_near(grid['transfer'])}"
    picture = Picture("plots/transfer.svg", transfer_figure(panels), caption)
    return [Heading("Figure 4: one method's corpus read by another"), Pictures((picture,)), *blocks], [picture]


def _near(transfer: Mapping[str, Mapping[str, Record]]) -> str:
    every = [abs(record["difference"]) for records in transfer.values() for record in records.values()]
    near = f"{sum(difference <= NEAR for difference in every)} of {len(every)} pairs are within {100 * NEAR:.0f} points"
    theirs = f"The paper: within {paper.paper()['figure4']['largest_difference']} points."
    return f"{theirs} Here {near}, the largest difference is {100 * max(every):.1f}."


def _row(reader: str, methods: Sequence[str], found: Mapping[tuple[str, str], Record]) -> list[float | None]:
    values = (found.get((reader, writer)) for writer in methods)
    cells = [None if record is None else 100 * record["difference"] for record in values]
    return [0.0 if writer == reader else cell for writer, cell in zip(methods, cells, strict=True)]


def _figures(runs: Sequence[Point]) -> list[Picture]:
    if not any(point.tokens for point in runs):
        return []
    shapes = ", ".join(f"{paper.called(name)} {told}" for name, told in paper.paper()["figure3"].items())
    ranks = f"Where in the retrieved list the retained documents stood, mean over methods. The paper: {shapes}."
    tokens = "Tokens of each unit against those of the documents it was written from, all methods."
    return [
        Picture("plots/ranks.svg", ranks_figure(rank_panels(runs)), ranks),
        Picture("plots/tokens.svg", tokens_figure(token_panels(runs)), tokens),
    ]


def _construction_blocks(runs: Sequence[Point], pictures: Sequence[Picture]) -> list[Block]:
    titles = ("Figure 3: ranks of the retained documents", "Figure 5: source and distilled tokens")
    blocks: list[Block] = [Heading("Table 3: construction of the knowledge bases"), table_3(runs)]
    for title, picture in zip(titles, pictures, strict=False):
        blocks += [Heading(title), Pictures((picture,))]
    return blocks


def ablation_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Table 4 of each run whose gates were varied; what it showed goes into `grid`."""
    grid["ablation"] = {}
    blocks: list[Block] = []
    for point in runs:
        records = [v | compared(point, point.run / v["folder"]) for v in read_ablation(point.run)]
        if records:
            grid["ablation"][point.run.name] = records
            blocks += [Text(f"{named(point)}:"), table_4(records, point.metrics["results"][0])]
    note = (
        "One threshold is changed at a time, from recorded scores; what keeps the same documents is the same store. "
        "A score of 0 or 1, as accuracy is of one answer, is on the same side of most thresholds. "
        f"The paper's column: NQ with {paper.called('naive')}, where tau_s moves accuracy by at most "
        f"{paper.paper()['table4']['tau_s']['span']} points."
    )
    return [Heading("Table 4: the gates' thresholds"), Text(note, "note"), *blocks] if blocks else []


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wbrag.experiments.grid_report", description="One report over many runs."
    )
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
