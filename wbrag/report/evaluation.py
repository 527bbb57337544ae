"""Paired statistics on the predictions of a run.

Every test question is answered three times in one run (closed book, base, base + write-back), so all comparisons are
paired. Questions about one thing are helped by the same units, so a primary gain has a second, more cautious interval
over topics; that of the questions without overlap with training is what a report says first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from wbrag.metrics import score
from wbrag.report.overlap import EXPOSURES, OVERLAPS, READ, TrainingQuestions, holding, units_read
from wbrag.report.statistics import Floats, mcnemar, mean, paired_bootstrap

Row = Mapping[str, Any]
Rows = Sequence[Row]
#: What questions were answered, by name, one value a question (`answers_of`).
Answers = Mapping[str, npt.NDArray[Any]]

METRIC_NAMES = {
    "em": "exact match",
    "acc": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "label": "label accuracy",
}
BINARY = ("em", "acc", "label")
ANSWERS = ("answer_closed_book", "answer_base", "answer_writeback")
SIDES = ("base", "writeback")
#: What retrieval gave a question, of either side; a record has its means.
RETRIEVAL = ("retrieval_recall", "context_tokens", "retrievals_per_question", "retrieval_rate")


def metric_called(metric: str) -> str:
    """What a report calls a metric; one of another package by its own name."""
    return METRIC_NAMES.get(metric, metric)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a row of the results table is about; `labels` and `language` as in `config.Benchmark`."""

    benchmark: str
    method: str
    backbone: str
    metric: str
    labels: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    language: str = "en"

    @property
    def metrics(self) -> list[str]:
        """All metrics that are reported, the primary one first; `label` only where labels are given."""
        return [self.metric, *(m for m in METRIC_NAMES if m != self.metric and (m != "label" or self.labels))]

    def score(self, row: Row, answer: str) -> float:
        """The primary score of an answer ("closed_book", "base" or "writeback") of a row of predictions; 0 for none."""
        told = row[f"answer_{answer}"]
        return 0.0 if told is None else self._scored(self.metric, told, row)

    def scores(self, row: Row, metric: str) -> list[float]:
        """The scores of a prediction's three answers; zeros where it failed."""
        told = [row[name] if row["error"] is None else None for name in ANSWERS]
        return [0.0 if one is None else self._scored(metric, one, row) for one in told]

    def _scored(self, metric: str, told: str, row: Row) -> float:
        return score(metric, told, row["golden_answers"], self.labels, self.language)


def answers_of(predictions: Rows, setting: Setting, training: Iterable[Row] = (), units: Iterable[Row] = ()) -> Answers:
    """Predictions (rows of `schema.PREDICTION`, one per test question) as columns, one value a question.

    `scores` (questions, metrics, 3): closed book, base, write-back, each 0..1, all 0 in a failed row; `gain` in the
    primary metric; `topic` and `overlap` by the functions of these names; `exposure`, one of `EXPOSURES`, or "unit"
    untold; `read`, one of `READ`; the three answers; what retrieval gave (`retrieval_facts`), NaN where that is not
    known. `training` are the rows behind the `units` (`schema.UNIT`), gone through twice and not held. ValueError on a
    repeated id, or on a row without an answer and without an error.
    """
    repeated = [key for key, times in Counter(row["id"] for row in predictions).items() if times > 1]
    if repeated:  # paired statistics would count it twice
        raise ValueError(f"predictions: id {repeated[0]!r} stands in more than one row ({len(repeated)} such ids)")
    for row in predictions:
        if row["error"] is None and (lost := [name for name in ANSWERS if row[name] is None]):
            raise ValueError(f"predictions: row {row['id']!r} has neither {lost[0]} nor an error")
    how = bool(setting.labels), units, setting.language
    asked = TrainingQuestions(training, predictions, *how) if training else None

    def column(told: Callable[[Row], object]) -> npt.NDArray[Any]:
        return np.array([told(row) for row in predictions], dtype=object)

    facts = [retrieval_facts(row, setting) for row in predictions]
    known = {name: np.array([fact[name] for fact in facts], dtype=np.float64) for name in facts[0]}
    scores = np.array([[setting.scores(row, metric) for metric in setting.metrics] for row in predictions])
    read, gold = known["writeback_hits"] > 0, known["units_with_answer"]
    return {
        "id": column(lambda row: str(row["id"])),
        "scores": scores,
        "gain": scores[:, 0, 2] - scores[:, 0, 1],
        "topic": column(topic_of),
        "overlap": column(lambda row: overlap_of(row, asked)),
        "exposure": column(asked.exposure) if asked else np.where(read, "unit", "none"),
        "read": np.select([~read, np.isnan(gold), gold > 0], ["none", "unit", "gold"], "other"),
        **{name: column(itemgetter(name)) for name in ANSWERS},
        **known,
    }


def evaluate(answers: Answers, setting: Setting) -> dict[str, Any]:
    """All results of a run's answers.

    Returns `questions` (n, failed), `labels` (whether answers are labels), `results` (`result_records`), `splits` (the
    same by overlap with training), `unseen` (those without overlap, by what the units that were read hold: `READ`) and
    `exposure` (all, by what units give away: `EXPOSURES`).
    """

    def by_class(found: npt.NDArray[Any], names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        some = {name: {key: column[found == name] for key, column in answers.items()} for name in names}
        return {name: result_records(columns, setting) for name, columns in some.items() if len(columns["id"])}

    return {
        "questions": {"n": len(answers["id"]), "failed": int(answers["failed"].sum())},
        "labels": bool(setting.labels),
        "results": result_records(answers, setting),
        "splits": by_class(answers["overlap"], OVERLAPS),
        "unseen": by_class(np.where(answers["overlap"] == "none", answers["read"], ""), READ),
        "exposure": by_class(answers["exposure"], EXPOSURES),
    }


def retrieval_facts(row: Row, setting: Setting) -> dict[str, float | None]:
    """What retrieval gave one question: hits, units among them, those that hold a golden answer and, of either side,
    whether one was found (0/1), context tokens, and how often the method itself decided to retrieve.

    Found is FlashRAG's retrieval_recall (`overlap.holding`); None where the benchmark has labels, because every second
    passage holds "no". Context tokens and retrievals are None for a failed row.
    """
    failed, golden, units = row["error"] is not None, row["golden_answers"], units_read(row)
    facts: dict[str, float | None] = {
        "failed": failed,
        "hits": len(row["documents_writeback"] or []),
        "writeback_hits": len(units),
        "units_with_answer": None if setting.labels else len(holding(units, golden, setting.language)),
    }
    for side in SIDES:
        tokens, retrievals = (None if failed else row[f"{name}_{side}"] for name in ("context_tokens", "retrievals"))
        found = None if setting.labels else bool(holding(row[f"documents_{side}"] or [], golden, setting.language))
        told: list[float | None] = [found, tokens, retrievals, retrievals and retrievals > 0]
        facts |= dict(zip([f"{name}_{side}" for name in RETRIEVAL], told, strict=True))
    return facts


def overlap_of(row: Row, training: TrainingQuestions | None = None) -> str | None:
    """How a test question overlaps with training: "question", "answer" or "none".

    Its metadata says so (`overlap`), else the `training` questions; None where neither does. Where answers are labels
    an equal answer is no overlap. Raises ValueError where the metadata names anything else.
    """
    metadata = json.loads(row["metadata"] or "{}")
    overlap = metadata.get("overlap") if isinstance(metadata, dict) else None
    if overlap is not None and overlap not in OVERLAPS:
        raise ValueError(f"predictions: row {row['id']!r}, metadata.overlap is {overlap!r}, not one of {[*OVERLAPS]}")
    if overlap is None and training:
        return training.overlap(row)
    return "none" if overlap == "answer" and training and training.labels else overlap


def topic_of(row: Row) -> str:
    """What a question is about, as far as retrieval tells: the id of its first base document, else its own id."""
    documents = row["documents_base"]
    return f"document {documents[0]['id']}" if documents else f"question {row['id']}"


def over_topics(gains: Floats, topics: Sequence[str], seed: int) -> dict[str, Any]:
    """The interval of the mean of `gains` (questions,) over topics, how many there are, and the largest's questions."""
    low, high = paired_bootstrap(gains[:, None], seed=seed, topics=topics)[0]
    sizes = Counter(topics)
    return {"ci_low": float(low), "ci_high": float(high), "topics": len(sizes), "largest": max(sizes.values())}


def result_records(answers: Answers, setting: Setting) -> list[dict[str, Any]]:
    """One record per metric, the primary one first, which alone has `topics` (`over_topics`); fractions 0..1."""
    about: dict[str, Any] = {"benchmark": setting.benchmark, "method": setting.method, "backbone": setting.backbone}
    scores, hits, units = answers["scores"], answers["hits"].sum(), answers["writeback_hits"]
    retrieval = {f"{name}_{side}": mean(answers[f"{name}_{side}"].tolist()) for name in RETRIEVAL for side in SIDES}
    retrieval["writeback_share"] = float(units.sum() / hits) if hits else 0.0
    retrieval["questions_with_writeback"] = int((units > 0).sum())
    gains = scores[:, :, 2] - scores[:, :, 1]
    intervals = paired_bootstrap(gains, seed=setting.seed)
    records = []
    for j, metric in enumerate(setting.metrics):
        closed_book, base, writeback = scores[:, j].T
        means = {"closed_book": closed_book, "base": base, "writeback": writeback, "gain": gains[:, j]}
        record = about | {"metric": metric, "n": len(scores)} | {name: float(x.mean()) for name, x in means.items()}
        record |= {"ci_low": float(intervals[j, 0]), "ci_high": float(intervals[j, 1])}
        record |= mcnemar(base, writeback) if metric in BINARY else dict.fromkeys(("mcnemar_p", "b", "c"))
        records.append(record | retrieval)
    records[0]["topics"] = over_topics(answers["gain"], answers["topic"].tolist(), setting.seed)
    return records
