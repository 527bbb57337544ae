"""The paper's tables over a grid of runs, ours beside the paper's; scores in percent, gains in points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from wbrag.experiments import paper
from wbrag.experiments.grid import ALPHA, Point, by
from wbrag.experiments.placebos import PLACEBOS
from wbrag.report.page import Table
from wbrag.report.tables import EXPOSURE_NAMES, METRIC_NAMES, SPLIT_NAMES, interval, number, p_value, percent, points

Record = Mapping[str, Any]
POOLED = ("settings", "gain", "95% over topics", "95% over questions")


def table_2(runs: Sequence[Point], records: Sequence[Record]) -> dict[str, Table]:
    """The paper's Table 2, one a generator: methods down, benchmarks across, score with write-back (gain).

    A mark says that the change is significant after Holm's correction over all settings.
    """
    record_of = {point.key: record for point, record in zip(runs, records, strict=True)}
    tables = {}
    for backbone, some in by(runs, "backbone"):
        benchmarks = [name for name, _ in by(some, "benchmark")]
        metrics = {point.setting.benchmark: METRIC_NAMES[point.setting.metric] for point in some}
        header = ("", *(f"{paper.called(name)}, {metrics[name]}" for name in benchmarks))
        alone = {p.setting.benchmark: record_of[p.key]["closed_book"] for p in reversed(some)}
        rows = [("no retrieval", *(percent(alone.get(name)) for name in benchmarks))]
        strong = []
        for method, _ in by(some, "method"):
            found = [record_of.get((backbone, method, name)) for name in benchmarks]
            rows.append((paper.called(method), *("-" if r is None else percent(r["base"]) for r in found)))
            strong.append(len(rows))
            rows.append((f"{paper.called(method)} + write-back", *(_cell(r) for r in found)))
        tables[paper.called(backbone)] = Table(header, tuple(rows), frozenset(strong))
    return tables


def _cell(record: Record | None) -> str:
    if record is None:
        return "-"
    mark = "*" if record["holm_p"] <= ALPHA else ""
    return f"{percent(record['writeback'])} ({points(record['gain'])}){mark}"


def mean_gains(grid: Record) -> Table:
    """Mean gain over all settings and by benchmark, method and generator, with intervals and the paper's figure."""
    unseen = grid["splits"].get("none")
    rows = [("all settings, without overlap", *_pooled(unseen), "-")] if unseen else []
    rows += [("all settings", *_pooled(grid["pooled"]), f"{paper.paper()['table2']['mean']:+.2f}")]
    for kind, groups in grid["groups"].items():
        for name, record in groups.items():
            told = paper.gain(kind, name)
            rows.append((paper.called(name), *_pooled(record), "-" if told is None else f"{told:+.2f}"))
    return Table(("", *POOLED, "paper"), tuple(rows), frozenset({0}))


def _pooled(record: Record) -> tuple[str, ...]:
    """The cells under `POOLED`."""
    return f"{record['settings']}", points(record["gain"]), interval(record["topics"]), interval(record)


def all_settings(runs: Sequence[Point], records: Sequence[Record], unseen: Sequence[Record | None]) -> Table:
    """Every setting by itself, the gain without overlap first; p-values are adjusted by Holm over all of them."""
    header = (
        *("setting", "n, without overlap", "gain", "95% over topics", "n, all", "base", "+ write-back", "gain"),
        *("95% over questions", "better / worse", "Holm p", "paper"),
    )
    rows = []
    for point, record, few in zip(runs, records, unseen, strict=True):
        backbone, method, benchmark = point.key
        known = paper.cell(backbone, method, benchmark)
        changed = f"{record['better']} / {record['worse']}"
        rows.append(
            (
                f"{paper.called(backbone)}, {paper.called(method)}, {paper.called(benchmark)}",
                *((f"{few['questions']:,}", points(few["gain"]), interval(few["topics"])) if few else ("-",) * 3),
                *(f"{record['n']:,}", percent(record["base"]), percent(record["writeback"]), points(record["gain"])),
                *(interval(record), changed, p_value(record["holm_p"])),
                f"{known['score']:.1f} ({known['gain']:+.1f})" if known else "-",
            )
        )
    return Table(header, tuple(rows))


def who_gains(grid: Record) -> Table:
    """Pooled gains by overlap with training and by what the units read gave away."""
    groups = {SPLIT_NAMES[key]: record for key, record in grid["splits"].items()}
    groups |= {EXPOSURE_NAMES[key]: record for key, record in grid["exposure"].items()}
    rows = tuple((name, f"{record['questions']:,}", *_pooled(record)) for name, record in groups.items())
    strong = frozenset({0}) if "none" in grid["splits"] else frozenset()
    return Table(("questions", "n", *POOLED), rows, strong)


def table_3(runs: Sequence[Point]) -> Table:
    """The paper's Table 3: construction by benchmark and generator, means over methods; the paper's below."""
    header = ("", "selected, %", "documents", "source tokens", "unit tokens", "compression", "fallback, %")
    rows, told = [], []
    for benchmark, some in by(runs, "benchmark"):
        for backbone, ones in by(some, "backbone"):
            numbers = [point.metrics["construction"] for point in ones]
            rows.append((f"{paper.called(benchmark)}, {paper.called(backbone)}", *construction_cells(numbers)))
        names = ("selected_rate", "", "source_tokens", "distilled_tokens", "compression_ratio", "fallback_rate")
        told.append(len(rows))
        rows.append(("the paper", *(paper.statistic(name, benchmark) for name in names)))
    return Table(header, tuple(rows), frozenset(told))


def construction_cells(numbers: Sequence[Record]) -> tuple[str, ...]:
    """The cells of Table 3 for the construction statistics of some runs: means over those that kept anything."""
    mean = {}
    for key in ("mean_retained_documents", "source_tokens", "distilled_tokens", "compression_ratio", "fallback_rate"):
        known = [record[key] for record in numbers if record[key] is not None]
        mean[key] = sum(known) / len(known) if known else None
    return (
        percent(sum(record["selected_rate"] for record in numbers) / len(numbers)),
        number(mean["mean_retained_documents"], 2),
        number(mean["source_tokens"]),
        number(mean["distilled_tokens"]),
        number(mean["compression_ratio"], 2),
        percent(mean["fallback_rate"]),
    )


def table_4(ablation: Sequence[Record], own: Record) -> Table:
    """The paper's Table 4: each variant of the gates of one run; `own` is the run's record."""
    header = ("gates", "selected", "units", "documents", "fallback, %", "score", "gain", "95% interval", "paper")
    rows = [("no write-back", "-", "-", "-", "-", percent(own["base"]), "-", "-", f"{paper.paper()['table4']['base']}")]
    for variant in ablation:
        threshold, _, value = variant["name"].partition("=")
        told = paper.paper()["table4"].get(threshold, {}).get(value)
        rows.append(
            (
                f"{threshold} = {value}",
                *(f"{variant['selected']:,}", f"{variant['units']:,}", number(variant["retained_documents"], 2)),
                *(percent(variant["fallback_rate"]), percent(variant["writeback"]), points(variant["gain"])),
                *(interval(variant), "-" if told is None else f"{told}"),
            )
        )
    return Table(header, tuple(rows))


def transfers(found: Mapping[tuple[str, str], Record]) -> Table:
    """Every pair of Figure 4 with its intervals: `found` by (who answers, whose corpus)."""
    header = ("answered by", "corpus of", "score", "gain over base", "95% interval", "minus own corpus", "95% interval")
    rows = tuple(
        (
            *(paper.called(reader), paper.called(writer), percent(record["writeback"]), points(record["gain"])),
            *(interval(record), points(record["difference"]), difference_interval(record)),
        )
        for (reader, writer), record in found.items()
    )
    return Table(header, rows)


def placebo_table(own: Record, found: Mapping[str, Record]) -> Table:
    """The run's own write-back beside its placebos: each one's gain, and how far its score is from the own units'."""
    header = ("write-back store", "score", "gain over base", "95% interval", "minus own units", "95% interval")
    rows = [("the run's own units", percent(own["writeback"]), points(own["gain"]), interval(own), "-", "-")]
    rows += [
        (
            *(PLACEBOS[name], percent(record["writeback"]), points(record["gain"]), interval(record)),
            *(points(record["difference"]), difference_interval(record)),
        )
        for name, record in sorted(found.items(), key=lambda item: list(PLACEBOS).index(item[0]))
    ]
    return Table(header, tuple(rows), frozenset({0}))


def noise_table(found: Mapping[str, Record]) -> Table:
    """A/A by setting: the same answers asked again in another order."""
    header = ("setting", "base answers that differ, %", "write-back answers, %", "score moved by", "95% interval")
    rows = tuple(
        (
            *(name, percent(record["flips_base"]), percent(record["flips_writeback"])),
            *(points(record["difference"]), difference_interval(record)),
        )
        for name, record in found.items()
    )
    return Table(header, rows)


def difference_interval(record: Record) -> str:
    """The interval of a variant's difference from the run's own score, in points."""
    return f"{points(record['difference_low'])} to {points(record['difference_high'])}"


def rank_panels(runs: Sequence[Point]) -> dict[str, dict[str, dict[str, float]]]:
    """Figure 3's data: benchmark -> generator -> rank -> share of the retained documents, over all methods."""
    panels: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for benchmark, some in by(runs, "benchmark"):
        for backbone, ones in by(some, "backbone"):
            found = [p.metrics["construction"]["retained_by_rank"] for p in ones if p.tokens]
            deepest = max((len(shares) for shares in found), default=0)
            panels[paper.called(benchmark)][paper.called(backbone)] = {
                str(rank): sum(shares.get(str(rank), 0.0) for shares in found) / len(found)
                for rank in range(1, deepest + 1)
            }
    return panels


def token_panels(runs: Sequence[Point]) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Figure 5's data: benchmark -> generator -> (source, unit) tokens of every kept example."""
    panels: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(dict)
    for benchmark, some in by(runs, "benchmark"):
        for backbone, ones in by(some, "backbone"):
            panels[paper.called(benchmark)][paper.called(backbone)] = [pair for p in ones for pair in p.tokens]
    return panels
