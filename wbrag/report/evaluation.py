"""Paired statistics on the predictions of a run, and what the construction of its knowledge base took.

Every test question is answered three times in one run (closed book, base, base + write-back), so all comparisons are
paired: the interval of a gain comes from a bootstrap over questions, the p-value from McNemar's exact test on the
questions whose score changed. Questions about one thing are helped by the same units, so a primary gain has a second,
more cautious interval over topics (`over_topics`); that of the questions without overlap with training is what a report
says first. Nothing here reads a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wbrag.metrics import acc, score
from wbrag.report.overlap import EXPOSURES, OVERLAPS, TrainingQuestions
from wbrag.report.statistics import Floats, mcnemar, paired_bootstrap

Row = Mapping[str, Any]

TEXT_METRICS = ("em", "acc", "f1", "precision", "recall")
BINARY = ("em", "acc", "label")
ANSWERS = ("answer_closed_book", "answer_base", "answer_writeback")
SIDES = ("base", "writeback")
#: What the units that a question read hold (`read_of`).
READ = ("gold", "other", "unit", "none")
NO_MCNEMAR: dict[str, Any] = {"mcnemar_p": None, "b": None, "c": None}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a row of the results table is about; `labels` as in `config.Benchmark`."""

    benchmark: str
    method: str
    backbone: str
    metric: str
    labels: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0

    @property
    def metrics(self) -> list[str]:
        """All metrics that are reported, the primary one first; `label` only where labels are given."""
        known = (*TEXT_METRICS, "label") if self.labels else TEXT_METRICS
        return [self.metric, *(m for m in known if m != self.metric)]


def evaluate(predictions: Sequence[Row], setting: Setting, training: TrainingQuestions | None = None) -> dict[str, Any]:
    """All results of a run's predictions (rows of `schema.PREDICTION`, one per test question).

    Returns `questions` (n, failed), `labels` (whether answers are labels), `results` (one record per metric, primary
    first, which alone has `topics`: `over_topics`), `splits` (the same by overlap with training, `overlap_of`),
    `unseen` (those without overlap, by what the units that were read hold: `read_of`) and `exposure` (all, by what
    units give away: `overlap.EXPOSURES`; without `training` only "unit" and "none" can be told apart). Without a unit
    the gain must be 0, but for a method that searches by itself. A failed row scores 0 in all three answers. Raises
    ValueError on a repeated id, or on a row without an answer and without an error.
    """
    check_ids(predictions)
    scores = score_rows(predictions, setting)
    facts = [retrieval_facts(row, setting) for row in predictions]
    overlap = [overlap_of(row, training) for row in predictions]
    exposed = [exposure_of(row, training) for row in predictions]
    unseen = [read_of(fact) if key == "none" else None for fact, key in zip(facts, overlap, strict=True)]
    topics = [topic_of(row) for row in predictions]

    def records(chosen: list[int]) -> list[dict[str, Any]]:
        primary, *others = result_records(scores[chosen], [facts[i] for i in chosen], setting)
        gains = scores[chosen, 0, 2] - scores[chosen, 0, 1]
        return [primary | {"topics": over_topics(gains, [topics[i] for i in chosen], setting.seed)}, *others]

    failed = sum(row["error"] is not None for row in predictions)
    return {
        "questions": {"n": len(predictions), "failed": failed},
        "labels": bool(setting.labels),
        "results": records(list(range(len(predictions)))),
        "splits": {key: records(_where(overlap, key)) for key in OVERLAPS if key in overlap},
        "unseen": {key: records(_where(unseen, key)) for key in READ if key in unseen},
        "exposure": {key: records(_where(exposed, key)) for key in ("unit", *EXPOSURES) if key in exposed},
    }


def check_ids(rows: Sequence[Row]) -> None:
    """Raises ValueError with the first id that stands in more than one row: paired statistics would count it twice."""
    repeated = [key for key, count in Counter(row["id"] for row in rows).items() if count > 1]
    if repeated:
        raise ValueError(f"predictions: id {repeated[0]!r} stands in more than one row ({len(repeated)} such ids)")


def score_rows(predictions: Sequence[Row], setting: Setting) -> Floats:
    """Scores of shape (questions, metrics, 3): closed book, base, write-back, each 0..1; zeros for a failed row."""
    scores = np.zeros((len(predictions), len(setting.metrics), len(ANSWERS)))
    for i, row in enumerate(predictions):
        if row["error"] is not None:
            continue
        for j, column in enumerate(ANSWERS):
            if row[column] is None:
                raise ValueError(f"predictions: row {row['id']!r} has neither {column} nor an error")
            golden = list(row["golden_answers"])
            scores[i, :, j] = [score(metric, row[column], golden, setting.labels) for metric in setting.metrics]
    return scores


def retrieval_facts(row: Row, setting: Setting) -> dict[str, float]:
    """What retrieval gave one question: golden answer found (0/1, base and write-back), hits, units among them, those
    that hold a golden answer, context tokens, and how often the method itself decided to retrieve.

    Found is FlashRAG's retrieval_recall: a normalised golden answer is a substring of a document's normalised
    contents, which is `acc` with the contents as the prediction; NaN where the benchmark has labels, because
    every second passage holds "no". Context tokens and retrievals are NaN for a failed row.
    """
    facts: dict[str, float] = {}
    for side in SIDES:
        documents = row[f"documents_{side}"] or []
        facts[f"found_{side}"] = float("nan") if setting.labels else float(bool(holding(documents, row)))
        tokens = row[f"context_tokens_{side}"]
        facts[f"tokens_{side}"] = float("nan") if tokens is None or row["error"] is not None else float(tokens)
        retrievals = row[f"retrievals_{side}"]
        unknown = retrievals is None or row["error"] is not None
        facts[f"retrievals_{side}"] = float("nan") if unknown else float(retrievals)
        facts[f"retrieved_{side}"] = float("nan") if unknown else float(retrievals > 0)
    merged = row["documents_writeback"] or []
    units = [document for document in merged if document["source"] == "writeback"]
    return facts | {
        "hits": float(len(merged)),
        "writeback_hits": float(len(units)),
        "units_with_answer": float("nan") if setting.labels else float(len(holding(units, row))),
    }


def holding(documents: Sequence[Row], row: Row) -> list[Row]:
    """The documents whose contents hold a golden answer of the row."""
    return [d for d in documents if acc(f"{d['title']}\n{d['text']}", row["golden_answers"])]


def read_of(facts: Row) -> str:
    """What the units that a question read hold, from its retrieval facts: "gold" (one of them a golden answer),
    "other" (none of them), "unit" (labels are the answers: nobody knows); "none" where it read no unit.
    """
    if not facts["writeback_hits"]:
        return "none"
    return "unit" if np.isnan(facts["units_with_answer"]) else "gold" if facts["units_with_answer"] else "other"


def overlap_of(row: Row, training: TrainingQuestions | None = None) -> str | None:
    """How a test question overlaps with training: "question", "answer" or "none".

    Its metadata says so (`overlap`), else the `training` questions; None where neither does. Where answers are labels
    an equal answer is no overlap. Raises ValueError where the metadata names anything else.
    """
    metadata = json.loads(row["metadata"] or "{}")
    overlap = metadata.get("overlap") if isinstance(metadata, dict) else None
    if overlap is not None and overlap not in OVERLAPS:
        raise ValueError(f"predictions: row {row['id']!r}, metadata.overlap is {overlap!r}, not one of {OVERLAPS}")
    if overlap is None and training:
        return training.overlap(row)
    return "none" if overlap == "answer" and training and training.labels else overlap


def exposure_of(row: Row, training: TrainingQuestions | None = None) -> str:
    """What the units among a question's documents give away: one of `overlap.EXPOSURES`, or "unit" untold."""
    if training:
        return training.exposure(row)
    return "unit" if any(d["source"] == "writeback" for d in row["documents_writeback"] or []) else "none"


def topic_of(row: Row) -> str:
    """What a question is about, as far as retrieval tells: the id of its first base document, else its own id."""
    documents = row["documents_base"]
    return f"document {documents[0]['id']}" if documents else f"question {row['id']}"


def over_topics(gains: Floats, topics: Sequence[str], seed: int) -> dict[str, Any]:
    """The interval of the mean of `gains` (questions,) over topics, how many there are, and the largest's questions."""
    low, high = paired_bootstrap(gains[:, None], seed=seed, topics=topics)[0]
    sizes = Counter(topics)
    return {"ci_low": float(low), "ci_high": float(high), "topics": len(sizes), "largest": max(sizes.values())}


def result_records(scores: Floats, facts: Sequence[Row], setting: Setting) -> list[dict[str, Any]]:
    """One record per metric from scores (questions, metrics, 3) and the questions' retrieval facts; fractions 0..1."""
    retrieval = _retrieval_means(facts)
    intervals = paired_bootstrap(scores[:, :, 2] - scores[:, :, 1], seed=setting.seed)
    records = []
    for j, metric in enumerate(setting.metrics):
        closed_book, base, writeback = (_mean(scores[:, j, answer]) for answer in range(3))
        records.append(
            {
                "benchmark": setting.benchmark,
                "method": setting.method,
                "backbone": setting.backbone,
                "metric": metric,
                "n": len(scores),
                "closed_book": closed_book,
                "base": base,
                "writeback": writeback,
                "gain": _mean(scores[:, j, 2] - scores[:, j, 1]),
                "ci_low": float(intervals[j, 0]),
                "ci_high": float(intervals[j, 1]),
                **(mcnemar(scores[:, j, 1], scores[:, j, 2]) if metric in BINARY else NO_MCNEMAR),
                **retrieval,
            }
        )
    return records


def _retrieval_means(facts: Sequence[Row]) -> dict[str, Any]:
    hits = sum(fact["hits"] for fact in facts)
    writeback_hits = sum(fact["writeback_hits"] for fact in facts)
    return {
        "retrieval_recall_base": _known_mean(facts, "found_base"),
        "retrieval_recall_writeback": _known_mean(facts, "found_writeback"),
        "writeback_share": writeback_hits / hits if hits else 0.0,
        "questions_with_writeback": sum(fact["writeback_hits"] > 0 for fact in facts),
        "context_tokens_base": _known_mean(facts, "tokens_base"),
        "context_tokens_writeback": _known_mean(facts, "tokens_writeback"),
        **{f"retrievals_per_question_{side}": _known_mean(facts, f"retrievals_{side}") for side in SIDES},
        **{f"retrieval_rate_{side}": _known_mean(facts, f"retrieved_{side}") for side in SIDES},
    }


def _known_mean(facts: Sequence[Row], key: str) -> float | None:
    values = np.array([fact[key] for fact in facts], dtype=np.float64)
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _where(keys: Sequence[str | None], key: str) -> list[int]:
    return [i for i, other in enumerate(keys) if other == key]
