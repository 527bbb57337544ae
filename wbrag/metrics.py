"""The task metric M: em, acc, f1, precision, recall as FlashRAG computes them, and label accuracy.

The five text metrics equal FlashRAG's `evaluator/metrics.py` to the last bit, peculiarities included:
`acc` is a substring test, so the golden answer "no" is found in "unknown", and a golden answer that normalises to
nothing ("The") always scores 1. For tasks whose answers are labels there is therefore `label`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

Labels = Mapping[str, Sequence[str]]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
#: Answers that share no words with any other: against them only equality counts.
_CLOSED = frozenset({"yes", "no", "noanswer"})


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no articles, words parted by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def em(prediction: str, golden_answers: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals any normalised golden answer, else 0.0 (also without golden answers)."""
    return float(normalise(prediction) in map(normalise, _checked(golden_answers)))


def acc(prediction: str, golden_answers: Sequence[str]) -> float:
    """1.0 if any normalised golden answer is a substring of the normalised prediction, else 0.0 ("sub-EM")."""
    text = normalise(prediction)
    return float(any(normalise(golden) in text for golden in _checked(golden_answers)))


def f1(prediction: str, golden_answers: Sequence[str]) -> float:
    """The best F1 of the words shared with one golden answer, 0..1."""
    return _best(0, prediction, golden_answers)


def precision(prediction: str, golden_answers: Sequence[str]) -> float:
    """The best share of the prediction's words that one golden answer holds, 0..1."""
    return _best(1, prediction, golden_answers)


def recall(prediction: str, golden_answers: Sequence[str]) -> float:
    """The best share of one golden answer's words that the prediction holds, 0..1."""
    return _best(2, prediction, golden_answers)


def spellings(labels: Labels) -> dict[str, str]:
    """Normalised spelling -> canonical label; a label is a spelling of itself.

    ValueError names a spelling that normalises to nothing ("The") or belongs to two labels.
    """
    table: dict[str, str] = {}
    for label, others in labels.items():
        for spelling in (label, *others):
            key = normalise(spelling)
            if not key:
                raise ValueError(f"label {label!r}: spelling {spelling!r} normalises to nothing")
            if table.setdefault(key, label) != label:
                raise ValueError(f"spelling {spelling!r} belongs to both {table[key]!r} and {label!r}")
    return table


def golden_label(answer: str, labels: Labels) -> str:
    """The canonical label of a golden answer, which must be one spelling and nothing else; otherwise ValueError."""
    label = spellings(labels).get(normalise(answer))
    if label is None:
        raise ValueError(f"unknown golden label {answer!r}; known labels are {', '.join(labels) or 'none'}")
    return label


def predicted_label(prediction: str, labels: Labels) -> str | None:
    """The label that the prediction names first, or None.

    Whole words count, never parts of words. Where spellings start at the same word the longest wins, so
    "not true" can be given as a spelling of its own.
    """
    table = spellings(labels)
    longest = max((len(spelling.split()) for spelling in table), default=0)
    words = normalise(prediction).split()
    said = (" ".join(words[i : i + length]) for i in range(len(words)) for length in range(longest, 0, -1))
    return next((table[spelling] for spelling in said if spelling in table), None)


def label_accuracy(prediction: str, golden_answers: Sequence[str], labels: Labels) -> float:
    """1.0 if the first label named in the prediction is a golden one, else 0.0.

    `labels` maps each canonical label to its spellings, as SUPPORTS -> supports, true, yes. A prediction that names
    no label scores 0.0; an unknown golden label is a ValueError that names it and the known ones.
    """
    golden = {golden_label(answer, labels) for answer in _checked(golden_answers)}
    return float(predicted_label(prediction, labels) in golden)


_OF_TEXT = {"em": em, "acc": acc, "f1": f1, "precision": precision, "recall": recall}
METRICS = (*_OF_TEXT, "label")
#: Entry points of metrics that other packages bring: functions of a prediction and its golden answers, 0..1.
GROUP = "wbrag.metrics"


@lru_cache
def elsewhere() -> Mapping[str, Any]:
    """The metrics that other packages bring, by name, loaded; a name of this module is its own."""
    return {one.name: one.load() for one in entry_points(group=GROUP) if one.name not in METRICS}


def score(metric: str, prediction: str, golden_answers: Sequence[str], labels: Labels) -> float:
    """M(prediction, golden answers) in 0..1 by the metric's name, of `METRICS` or `elsewhere`; only `label` reads
    `labels`.
    """
    if metric not in METRICS and metric not in elsewhere():
        raise ValueError(f"unknown metric {metric!r}; known are {', '.join((*METRICS, *elsewhere()))}")
    if metric == "label":
        return label_accuracy(prediction, golden_answers, labels)
    if metric in _OF_TEXT:
        return _OF_TEXT[metric](prediction, golden_answers)
    return float(elsewhere()[metric](prediction, _checked(golden_answers)))


def _checked(golden_answers: Sequence[str]) -> Sequence[str]:
    # A str is a Sequence[str] for the type checker; its letters as golden answers would score quietly and wrongly.
    if isinstance(golden_answers, str):
        raise TypeError(f"golden_answers must be a list of strings, got the string {golden_answers!r}")
    return golden_answers


def _best(part: int, prediction: str, golden_answers: Sequence[str]) -> float:
    # FlashRAG takes each maximum on its own: the three may come from different golden answers.
    text = normalise(prediction)
    return max((_overlap(text, normalise(golden))[part] for golden in _checked(golden_answers)), default=0.0)


def _overlap(prediction: str, golden: str) -> tuple[float, float, float]:
    # F1, precision and recall of two normalised texts as bags of words.
    words, wanted = prediction.split(), golden.split()
    shared = (Counter(words) & Counter(wanted)).total()
    if shared == 0 or (prediction != golden and not _CLOSED.isdisjoint((prediction, golden))):
        return 0.0, 0.0, 0.0
    p, r = shared / len(words), shared / len(wanted)
    return 2 * p * r / (p + r), p, r
