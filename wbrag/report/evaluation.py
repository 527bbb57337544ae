"""Paired statistics on the predictions of a run.

Every test question is answered three times in one run (closed book, base, base + write-back), so all comparisons are
paired: the interval of a gain comes from a bootstrap over questions, for 0/1 metrics the p-value from McNemar's exact
test on the questions whose score changed. Questions about one thing are helped by the same units, so a
primary gain has a second, more cautious interval over topics (`over_topics`); that of the questions without overlap
with training is what a report says first. Nothing here reads a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wbrag.metrics import score
from wbrag.report.overlap import EXPOSURES, OVERLAPS, TrainingQuestions, holding, units_read
from wbrag.report.statistics import Floats, mcnemar, mean, paired_bootstrap

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

    def score(self, row: Row, answer: str) -> float:
        """The primary score of an answer ("closed_book", "base" or "writeback") of a row of predictions."""
        return score(self.metric, row[f"answer_{answer}"], row["golden_answers"], self.labels)


def evaluate(predictions: Sequence[Row], setting: Setting, training: TrainingQuestions | None = None) -> dict[str, Any]:
    """All results of a run's predictions (rows of `schema.PREDICTION`, one per test question).

    Returns `questions` (n, failed), `labels` (whether answers are labels), `results` (one record per metric, primary
    first, which alone has `topics`: `over_topics`), `splits` (the same by overlap with training, `overlap_of`),
    `unseen` (those without overlap, by what the units that were read hold: `read_of`) and `exposure` (all, by what
    units give away: `overlap.EXPOSURES`; without `training` only "unit" and "none" can be told apart). Without a unit
    the gain must be 0, but for a method that searches by itself. A failed row scores 0 in all three answers. Raises
    ValueError on a repeated id, or on a row without an answer and without an error.
    """
    repeated = [key for key, times in Counter(row["id"] for row in predictions).items() if times > 1]
    if repeated:  # paired statistics would count it twice
        raise ValueError(f"predictions: id {repeated[0]!r} stands in more than one row ({len(repeated)} such ids)")
    scores = score_rows(predictions, setting)
    facts = [retrieval_facts(row, setting) for row in predictions]
    topics = [topic_of(row) for row in predictions]
    overlap = [overlap_of(row, training) for row in predictions]
    exposed = [exposure_of(row, training) for row in predictions]
    unseen = [read_of(fact) if key == "none" else None for fact, key in zip(facts, overlap, strict=True)]

    def records(chosen: Sequence[int]) -> list[dict[str, Any]]:
        primary, *others = result_records(scores[chosen], [facts[i] for i in chosen], setting)
        gains = scores[chosen, 0, 2] - scores[chosen, 0, 1]
        return [primary | {"topics": over_topics(gains, [topics[i] for i in chosen], setting.seed)}, *others]

    def by_class(found: Sequence[str | None], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        inside = {name: [i for i, other in enumerate(found) if other == name] for name in names}
        return {name: records(chosen) for name, chosen in inside.items() if chosen}

    return {
        "questions": {"n": len(predictions), "failed": sum(row["error"] is not None for row in predictions)},
        "labels": bool(setting.labels),
        "results": records(range(len(predictions))),
        "splits": by_class(overlap, OVERLAPS),
        "unseen": by_class(unseen, READ),
        "exposure": by_class(exposed, ("unit", *EXPOSURES)),
    }


def score_rows(predictions: Sequence[Row], setting: Setting) -> Floats:
    """Scores of shape (questions, metrics, 3): closed book, base, write-back, each 0..1; zeros for a failed row."""
    scores = np.zeros((len(predictions), len(setting.metrics), len(ANSWERS)))
    for i, row in enumerate(predictions):
        for j, column in enumerate(ANSWERS if row["error"] is None else ()):
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

    def tell(name: str, value: float | None, known: bool) -> None:
        facts[name] = float("nan") if value is None or not known else float(value)

    units = units_read(row)
    for side in SIDES:
        tokens, retrievals = row[f"context_tokens_{side}"], row[f"retrievals_{side}"]
        found = holding(row[f"documents_{side}"] or [], row["golden_answers"])
        tell(f"found_{side}", bool(found), not setting.labels)
        tell(f"tokens_{side}", tokens, row["error"] is None)
        tell(f"retrievals_{side}", retrievals, row["error"] is None)
        tell(f"retrieved_{side}", None if retrievals is None else retrievals > 0, row["error"] is None)
    tell("hits", len(row["documents_writeback"] or []), True)
    tell("writeback_hits", len(units), True)
    tell("units_with_answer", len(holding(units, row["golden_answers"])), not setting.labels)
    return facts


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
    return training.exposure(row) if training else "unit" if units_read(row) else "none"


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
    about: dict[str, Any] = {"benchmark": setting.benchmark, "method": setting.method, "backbone": setting.backbone}
    retrieval = _retrieval_means(facts)
    gains = scores[:, :, 2] - scores[:, :, 1]
    intervals = paired_bootstrap(gains, seed=setting.seed)
    records = []
    for j, metric in enumerate(setting.metrics):
        closed_book, base, writeback = scores[:, j].T
        means = {"closed_book": closed_book, "base": base, "writeback": writeback, "gain": gains[:, j]}
        record = about | {"metric": metric, "n": len(scores)} | {name: float(x.mean()) for name, x in means.items()}
        record |= {"ci_low": float(intervals[j, 0]), "ci_high": float(intervals[j, 1])}
        records.append(record | (mcnemar(base, writeback) if metric in BINARY else NO_MCNEMAR) | retrieval)
    return records


def _retrieval_means(facts: Sequence[Row]) -> dict[str, Any]:
    hits, units = (sum(fact[key] for fact in facts) for key in ("hits", "writeback_hits"))

    def both(name: str, key: str) -> dict[str, float | None]:
        return {f"{name}_{side}": mean(fact[f"{key}_{side}"] for fact in facts) for side in SIDES}

    return {
        **both("retrieval_recall", "found"),
        "writeback_share": units / hits if hits else 0.0,
        "questions_with_writeback": sum(fact["writeback_hits"] > 0 for fact in facts),
        **both("context_tokens", "tokens"),
        **both("retrievals_per_question", "retrievals"),
        **both("retrieval_rate", "retrieved"),
    }
