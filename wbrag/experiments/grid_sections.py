"""Sections of the grid report that the paper has not got: why not, retrieval, the judge, the bill, what was run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wbrag.experiments import paper
from wbrag.experiments.grid import Point, by, variants
from wbrag.experiments.grid_reasons import fates, why
from wbrag.methods.needs import READ, settings_read
from wbrag.report.page import Block, Heading, Table, Text, Verbatim
from wbrag.report.tables import interval, number, percent, points
from wbrag.run.folder import read_config, read_record

Record = Mapping[str, Any]

#: Methods that decide by themselves whether to retrieve.
DECIDING = ("selfrag", "flare")
DISTILLER = ("prompts.extract", "prompts.rewrite")


def named(point: Point) -> str:
    """A setting as the report calls it."""
    return ", ".join(paper.called(name) for name in point.key)


def reason_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Why each setting that does not gain does not; what was found goes into `grid`."""
    found = {named(p): (p, r, fates(p)) for p, r in zip(runs, grid["points"], strict=True) if r["gain"] <= 0}
    grid["not_improved"] = {name: fate | {"why": why(fate)} for name, (_, _, fate) in found.items()}
    heading = Heading("Settings that do not gain, and why")
    if not found:
        return [heading, Text("There is none: over all test questions every setting gains.")]
    rows = tuple(
        (name, f"{points(record['gain'])} ({interval(record)})", why(fate), f"{point.run.name} {fate['example'] or ''}")
        for name, (point, record, fate) in found.items()
    )
    note = "From traces and predictions. The life of an example: python -m wbrag.report.trace RUN ID."
    header = ("setting", "gain (95% interval)", "why", "run and example")
    return [heading, Text(note, "note"), Table(header, rows, numbers=False)]


def retrieval_blocks(runs: Sequence[Point]) -> list[Block]:
    """What write-back changes about the documents, means over methods, and how often methods retrieve by themselves."""
    header = (
        *("", "answer found, base, %", "+ write-back, %", "lost, %", "units among documents, %"),
        *("questions with a unit, %", "context tokens, base", "+ write-back"),
    )
    rows = [
        (f"{paper.called(benchmark)}, {paper.called(backbone)}", *retrieval_cells(ones))
        for benchmark, some in by(runs, "benchmark")
        for backbone, ones in by(some, "backbone")
    ]
    note = (
        "answer found: a golden answer stands in the documents (unknown where labels are the answers). lost: it stood "
        "in the base documents, and units took their place. All before a method searches by itself."
    )
    blocks: list[Block] = [Heading("Retrieval"), Text(note, "note"), Table(header, tuple(rows))]
    deciding = [point for point in runs if point.setting.method in DECIDING]
    return [*blocks, *_decision_blocks(deciding)] if deciding else blocks


def retrieval_cells(runs: Sequence[Point]) -> tuple[str, ...]:
    """The cells of the retrieval table: means over runs, each a mean over its questions."""
    records = [point.metrics["results"][0] for point in runs]
    lost = [_mean([_lost(facts) for facts in point.facts]) for point in runs]
    exposed = [record["questions_with_writeback"] / record["n"] for record in records]
    return (
        percent(_mean([record["retrieval_recall_base"] for record in records])),
        percent(_mean([record["retrieval_recall_writeback"] for record in records])),
        *(percent(_mean(lost)), percent(_mean([record["writeback_share"] for record in records]))),
        *(percent(_mean(exposed)), number(_mean([record["context_tokens_base"] for record in records]))),
        number(_mean([record["context_tokens_writeback"] for record in records])),
    )


def _lost(facts: Record) -> float | None:
    if np.isnan(facts["found_base"]):
        return None
    return float(facts["found_base"] > 0 and facts["found_writeback"] == 0)


def _decision_blocks(runs: Sequence[Point]) -> list[Block]:
    """How often methods that decide by themselves retrieve, and how many retrievals a question took, by benchmark."""
    benchmarks = [name for name, _ in by(runs, "benchmark")]
    rows = []
    for backbone, some in by(runs, "backbone"):
        for method, ones in by(some, "method"):
            of = {point.setting.benchmark: point.metrics["results"][0] for point in ones}
            name = f"{paper.called(method)}, {paper.called(backbone)}"
            rows += [
                (f"{name}: questions, %", *(_both(of.get(b), "retrieval_rate", percent) for b in benchmarks)),
                (f"{name}: a question", *(_both(of.get(b), "retrievals_per_question", _two) for b in benchmarks)),
            ]
    note = (
        "What methods decide by themselves, base / + write-back: Self-RAG whether to read the documents at all, FLARE "
        "whether to search again while it answers. The share of questions retrieved for, and retrievals a question."
    )
    return [Text(note, "note"), Table(("", *map(paper.called, benchmarks)), tuple(rows))]


def _both(record: Record | None, key: str, told: Callable[[float | None], str]) -> str:
    return "-" if record is None else f"{told(record[f'{key}_base'])} / {told(record[f'{key}_writeback'])}"


def _two(value: float | None) -> str:
    return number(value, 2)


def judge_blocks(runs: Sequence[Point], grid: dict[str, Any]) -> list[Block]:
    """Runs trained once more with a judge in place of labels; what they showed goes into `grid`."""
    grid["judge"] = {}
    rows = []
    for point in runs:
        for record in variants(point, "judge").values():
            told = read_record(point.run / "variants" / "judge" / "metrics.json")["construction"]
            grid["judge"][point.run.name] = record | {key: told[key] for key in told if "judge" in key or key == "kept"}
            own = point.metrics["construction"]
            rows.append(
                (
                    *(named(point), f"{told['judge_compared']:,} of {told['examples']:,}"),
                    *(percent(told["judge_agreement"]), number(told["judge_kappa"], 2)),
                    *(f"{told['labels_passed']:,} / {told['judge_passed']:,}", f"{own['kept']:,} / {told['kept']:,}"),
                    *(points(point.metrics["results"][0]["gain"]), f"{points(record['gain'])} ({interval(record)})"),
                )
            )
    if not rows:
        return []
    note = (
        "The same gates, with scores of the generator's own judgement (1 or 0) in place of golden answers. Agreement "
        "is of the utility gate's decisions; kappa is what is left of it beyond chance."
    )
    header = (
        *("setting", "compared", "agree, %", "kappa", "pass the gate, labels / judge", "kept, labels / judge"),
        *("gain, labels", "gain, judge"),
    )
    return [Heading("A judge in place of labels"), Text(note, "note"), Table(header, tuple(rows))]


def cost_blocks(cost: Record, gain: float) -> list[Block]:
    """The bill of all that was run, and the tokens that a point of mean gain took."""
    share = percent(cost["saved"] / max(1, cost["paper_calls"]))
    tokens = cost["prompt_tokens"] + cost["completion_tokens"]
    row = (f"{cost['calls']:,}", f"{cost['prompt_tokens']:,}", f"{cost['completion_tokens']:,}")
    table = Table(("LLM calls", "prompt tokens", "completion tokens", "seconds"), ((*row, f"{cost['seconds']:,.0f}"),))
    told = f"Training left out {cost['saved']:,} ({share}%) of the {cost['paper_calls']:,} calls of the paper's plan"
    told += ": decided without them by the gates, or answered in an earlier run."
    if gain > 0:
        told += f" A point of mean gain took {tokens / (100 * gain):,.0f} tokens, all experiments included."
    return [Heading("Cost"), table, Text(told)]


def origin_blocks(runs: Sequence[Point], failed: Sequence[str]) -> list[Block]:
    """What was run, with what, and what the distiller is told."""
    configs = [read_config(point.run) for point in runs]
    records = [read_record(point.run / "run.json") for point in runs]
    theirs = "The paper used Llama-3.1-8B and Gemma-3-12B, E5-base-v2, wiki18_100w and the full files. These runs used:"
    folders = ", ".join(dict.fromkeys(str(point.run.parent) for point in runs))
    blocks: list[Block] = [Heading("What was run"), Text(theirs), _data_table(runs, configs), _method_table(configs)]
    blocks += [Text(f"The run folders lie in {folders}."), *_version_blocks(records), *_prompt_blocks(records)]
    if failed:
        blocks += [Text("Points of the grid that failed and are missing:"), *(Text(name) for name in failed)]
    return blocks


def _data_table(runs: Sequence[Point], configs: Sequence[Record]) -> Table:
    """What each benchmark was run on; one row where all its runs have the same."""
    rows: dict[tuple[str, ...], int] = {}
    for point, config in zip(runs, configs, strict=True):
        row = (
            f"{paper.called(point.setting.benchmark)}, {paper.called(point.setting.backbone)}",
            *(str(config["backbone"]["model"]), str(config.get("encoder", {}).get("name", "-"))),
            *(str(config.get("corpus", "-")), f"{point.metrics['construction']['examples']:,} / {len(point.ids):,}"),
        )
        rows[row] = rows.get(row, 0) + 1
    header = ("benchmark, generator", "model", "encoder", "corpus", "train / test questions", "runs")
    return Table(header, tuple((*row, f"{count}") for row, count in rows.items()), numbers=False)


def _method_table(configs: Sequence[Record]) -> Table:
    """Each method with its settings and gates; one row where all its runs have the same."""
    rows: dict[tuple[str, str, str], int] = {}
    for config in configs:
        gates = ", ".join(f"{key} {value}" for key, value in config["gates"].items())
        row = (config["method"]["name"], settings_read(config["method"]) or "none", f"{gates}, K {config['k']}")
        rows[row] = rows.get(row, 0) + 1
    order = sorted(rows, key=lambda row: ((*READ, row[0]).index(row[0]), row))
    told = tuple((paper.called(method), how, gates, f"{rows[method, how, gates]}") for method, how, gates in order)
    return Table(("method", "settings", "gates", "runs"), told, numbers=False)


def _version_blocks(records: Sequence[Record]) -> list[Block]:
    """Commands, commits and package versions, each once."""
    commands = list(dict.fromkeys(str(record["command"]) for record in records if record.get("command")))
    versions: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in (record.get("versions", {}) | {"git commit": record.get("git") or "unknown"}).items():
            versions.setdefault(name, {})[str(version)] = None
    rows = tuple((name, ", ".join(found)) for name, found in sorted(versions.items()))
    return [Verbatim("\n".join(commands), "Made by:"), Table(("package", "version"), rows, numbers=False)]


def _prompt_blocks(records: Sequence[Record]) -> list[Block]:
    texts = list(dict.fromkeys(str(record.get("identity", {}).get(key, "")) for key in DISTILLER for record in records))
    told = "\n\n".join(text for text in texts if text)
    caption = "What the distiller is told; the golden answers are in no prompt:"
    return [Verbatim(told, caption)] if told else []


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
