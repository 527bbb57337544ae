"""What the construction of a knowledge base took and gave: the paper's Table 3 and Figure 3, from a run's traces."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wbrag.report.statistics import kappa, mean
from wbrag.run.lookup import sorted_places

Row = Mapping[str, Any]
Rows = Iterable[Row]

#: The columns of `schema.TRACE` that the statistics need: no text of a document among them.
TRACE_COLUMNS = tuple(
    "id question golden_answers status reason kept_ranks fallback unit_id source_tokens unit_tokens calls calls_saved "
    "prompt_tokens completion_tokens dropped_documents judge_agrees".split()
)
#: What stands between the gates' reason and the distiller's.
DISTILLED = "; not distilled: "
#: What a row of any table says of its cost.
SPENT = ("calls", "prompt_tokens", "completion_tokens")
NUMBER = re.compile(r"\s*[-+]?\b\d+(?:\.\d+)?(?:e[-+]?\d+)?\b")
#: The class of an error and, where it is a fixed phrase before a second colon, its kind.
ERROR = re.compile(r"\w+(?:: [a-z_ ]+(?=:))?")


def construction(traces: Rows, units: int = 0) -> dict[str, Any]:
    """Construction statistics of a run (paper, Table 3) from rows with `TRACE_COLUMNS`, one per training example, which
    are gone through twice and not held.

    Rates are fractions 0..1 (`selected_rate` of all examples, `fallback_rate` of the kept ones). Tokens are means over
    kept examples, `compression_ratio` is the mean of their source / distilled tokens; None where nothing was kept.
    `units` is their number: one text from the same sources counts once. `judge_agreement` is the share of the
    `judge_compared` examples whose utility gate decides by the judge as it would by the labels (None without a judge),
    `judge_kappa` the same beyond chance; `judge_passed` and `labels_passed` of them pass by one and by the other.
    """
    statuses, totals, ranks = Counter[str](), Counter[str](), Counter[int]()
    reasons: dict[str, tuple[int, str]] = {}  # how often, and the least id
    decided = Counter[tuple[bool, bool]]()  # by the judge, and whether the labels agree
    for row in traces:
        statuses[row["status"]] += 1
        totals["dropped"] += row["dropped_documents"] or 0
        if row["judge_agrees"] is not None:
            decided[row["kept_ranks"] is not None, bool(row["judge_agrees"])] += 1  # known past the utility gate
        if row["status"] == "kept":
            ranks.update(row["kept_ranks"])
            totals["fallback"] += bool(row["fallback"])
        else:
            times, first = reasons.get(rule := rule_of(row), (0, str(row["id"])))
            reasons[rule] = (times + 1, min(first, str(row["id"])))
    examples, kept, compared = statuses.total(), statuses["kept"], decided.total()
    source, unit = token_pairs(traces).T
    by_judge = [judge for (judge, _), times in decided.items() for _ in range(times)]
    by_labels = [judge == agrees for (judge, agrees), times in decided.items() for _ in range(times)]
    agreed = sum(times for (_, agrees), times in decided.items() if agrees)
    ordered = sorted(reasons.items(), key=lambda item: (-item[1][0], item[1][1]))
    return {
        "examples": examples,
        **{status: statuses[status] for status in ("kept", "gated", "failed")},
        "reasons": {rule: times for rule, (times, _) in ordered},
        "selected_rate": kept / examples if examples else 0.0,
        "units": units,
        "mean_retained_documents": ranks.total() / kept if kept else None,
        "fallback_rate": totals["fallback"] / kept if kept else None,
        "source_tokens": mean(source),
        "distilled_tokens": mean(unit),
        "compression_ratio": mean(source[unit > 0] / unit[unit > 0]),
        "dropped_documents": totals["dropped"],
        "retained_by_rank": retained_by_rank(ranks),
        "judge_compared": compared,
        "judge_agreement": agreed / compared if compared else None,
        "judge_kappa": kappa(by_judge, by_labels),
        "judge_passed": sum(by_judge),
        "labels_passed": sum(by_labels),
    }


def token_pairs(traces: Rows) -> npt.NDArray[np.float64]:
    """Tokens of its sources and of its unit, (n, 2), for each kept example that has a unit, in order of their ids."""
    tokens = array("d")

    def ids() -> Iterator[str]:
        for row in traces:
            if row["status"] == "kept" and row["unit_tokens"] is not None:
                tokens.extend((row["source_tokens"], row["unit_tokens"]))
                yield str(row["id"])

    order = sorted_places(ids())
    return np.array(tokens, dtype=np.float64).reshape(-1, 2)[order]


def retained_by_rank(ranks: Counter[int]) -> dict[str, float]:
    """Share of all retained documents that stood at each retrieval rank (paper, Figure 3), from how many stood there;
    the shares add up to 1.
    """
    return {str(rank): ranks[rank] / ranks.total() for rank in range(1, max(ranks, default=0) + 1)}


def rule_of(row: Row) -> str:
    """The rule that ended an example, without its numbers: "delta <= tau_delta", or "error: UnusableReply: ...".

    A rule that held at the best possible score, so that a call was left out, reads "..., before the call". Where the
    gates let an example pass and the distiller then wrote no passage, that is what ended it.
    """
    reason = str(row["reason"] or "no reason given")
    if DISTILLED in reason:
        return f"not distilled: {reason.partition(DISTILLED)[2].partition(':')[0].replace('_', ' ')}"
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
    sums = dict.fromkeys(columns, 0)
    for row in rows:
        for key in columns:
            sums[key] += row[key] or 0
    return sums


def beside(plan: Row, parts: Row) -> dict[str, Row]:
    """The parts of a `cost`, each with what a `run.plan.Plan`, as run.json has it, said of it under `planned`."""
    steps: Sequence[Row] = plan["steps"]
    names = dict.fromkeys([*parts, *(step["part"] for step in steps)])
    return {name: {**parts.get(name, {}), "planned": spent([s for s in steps if s["part"] == name])} for name in names}
