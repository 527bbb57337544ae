"""What the construction of a knowledge base took and gave: the paper's Table 3 and Figure 3, from a run's traces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wbrag.report.statistics import kappa, mean

Row = Mapping[str, Any]
Rows = Sequence[Row]

#: The columns of `schema.TRACE` that the statistics need: no text of a document among them.
TRACE_COLUMNS = tuple(
    "id question golden_answers status reason kept_ranks fallback unit_id source_tokens unit_tokens calls calls_saved "
    "prompt_tokens completion_tokens dropped_documents judge_agrees".split()
)
#: What a row of any table says of its cost.
SPENT = ("calls", "prompt_tokens", "completion_tokens")
NUMBER = re.compile(r"\s*[-+]?\b\d+(?:\.\d+)?(?:e[-+]?\d+)?\b")
#: The class of an error and, where it is a fixed phrase before a second colon, its kind.
ERROR = re.compile(r"\w+(?:: [a-z_ ]+(?=:))?")


def construction(traces: Rows, units: int = 0) -> dict[str, Any]:
    """Construction statistics of a run (paper, Table 3) from rows with `TRACE_COLUMNS`, one per training example.

    Rates are fractions 0..1 (`selected_rate` of all examples, `fallback_rate` of the kept ones). Tokens are means over
    kept examples, `compression_ratio` is the mean of their source / distilled tokens; None where nothing was kept.
    `units` is their number: one text from the same sources counts once. `judge_agreement` is the share of the
    `judge_compared` examples whose utility gate decides by the judge as it would by the labels (None without a judge),
    `judge_kappa` the same beyond chance; `judge_passed` and `labels_passed` of them pass by one and by the other.
    """
    kept = [row for row in traces if row["status"] == "kept"]
    told = [row for row in kept if row["unit_tokens"] is not None]
    compared = [row for row in traces if row["judge_agrees"] is not None]
    by_judge = [row["kept_ranks"] is not None for row in compared]  # known once the utility gate is passed
    by_labels = [passed == bool(row["judge_agrees"]) for passed, row in zip(by_judge, compared, strict=True)]
    statuses = Counter(row["status"] for row in traces)
    return {
        "examples": len(traces),
        **{status: statuses[status] for status in ("kept", "gated", "failed")},
        "reasons": dict(Counter(rule_of(row) for row in traces if row["status"] != "kept").most_common()),
        "selected_rate": len(kept) / len(traces) if traces else 0.0,
        "units": units,
        "mean_retained_documents": mean(len(row["kept_ranks"]) for row in kept),
        "fallback_rate": mean(bool(row["fallback"]) for row in kept),
        "source_tokens": mean(row["source_tokens"] for row in told),
        "distilled_tokens": mean(row["unit_tokens"] for row in told),
        "compression_ratio": mean(row["source_tokens"] / row["unit_tokens"] for row in told if row["unit_tokens"]),
        "dropped_documents": sum(row["dropped_documents"] or 0 for row in traces),
        "retained_by_rank": retained_by_rank(kept),
        "judge_compared": len(compared),
        "judge_agreement": mean(row["judge_agrees"] for row in compared),
        "judge_kappa": kappa(by_judge, by_labels),
        "judge_passed": sum(by_judge),
        "labels_passed": sum(by_labels),
    }


def retained_by_rank(kept: Rows) -> dict[str, float]:
    """Share of all retained documents that stood at each retrieval rank (paper, Figure 3); the shares add up to 1."""
    counts = Counter(rank for row in kept for rank in row["kept_ranks"])
    return {str(rank): counts[rank] / counts.total() for rank in range(1, max(counts, default=0) + 1)}


def rule_of(row: Row) -> str:
    """The rule that ended an example, without its numbers: "delta <= tau_delta", or "error: UnusableReply: ...".

    A rule that held at the best possible score, so that a call was left out, reads "..., before the call".
    """
    reason = str(row["reason"] or "no reason given")
    if row["status"] == "failed":
        return f"error: {match[0] if (match := ERROR.match(reason)) else reason.split()[0]}"
    rule = NUMBER.sub("", reason.removeprefix("gated:").split("(")[0]).strip()
    return f"{rule}, before the call" if "not asked" in reason else rule


def cost(traces: Rows, predictions: Rows, written: Rows = (), readings: Rows = ()) -> dict[str, Any]:
    """LLM calls and tokens of training, of `writing` and `validating` units (`written` and `readings`, only where there
    are any) and of evaluation; `paper_calls` is what the paper's plan would have asked.

    The plan asks every example closed book and with documents, and each document alone past the utility gate
    (paper, section 3.4); `calls_saved` of them could not have changed a decision and were left out.
    """
    training = spent(traces, (*SPENT, "calls_saved"))
    return {
        "training": training | {"paper_calls": training["calls"] + training["calls_saved"]},
        **{name: spent(rows) for name, rows in (("writing", written), ("validating", readings)) if rows},
        "evaluation": spent(predictions),
    }


def spent(rows: Rows, columns: Sequence[str] = SPENT) -> dict[str, int]:
    """The sums of columns; what is not known counts as nothing."""
    return {key: sum(row[key] or 0 for row in rows) for key in columns}


def beside(plan: Row, parts: Row) -> dict[str, Row]:
    """The parts of a `cost`, each with what a `run.plan.Plan`, as run.json has it, said of it under `planned`."""
    steps: Rows = plan["steps"]
    names = dict.fromkeys([*parts, *(step["part"] for step in steps)])
    return {name: {**parts.get(name, {}), "planned": spent([s for s in steps if s["part"] == name])} for name in names}
