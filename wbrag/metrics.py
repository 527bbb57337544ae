"""The task metric M: em, acc, f1, precision, recall as FlashRAG computes them, and label accuracy.

The five text metrics equal FlashRAG's `evaluator/metrics.py` to the last bit, peculiarities included:
`acc` is a substring test, so the golden answer "no" is found in "unknown", and a golden answer that normalises to
nothing ("The") always scores 1. For tasks whose answers are labels there is therefore `label`, and `scorable` tells
such golden answers before anything is scored.

FlashRAG's normal form is made for English. For `language="any"` it is Unicode's: punctuation of every script is
dropped, forms of one character (NFKC, case) are one, no word is an article, and a character is a word where a script
sets no blanks.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from wbrag.units.sentences import MARKS, UNSPACED

Labels = Mapping[str, Sequence[str]]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
#: How answers are compared: as FlashRAG does, or by Unicode alone.
LANGUAGES = ("en", "any")
_ALONE = re.compile(f"([{UNSPACED}][{MARKS}]*)")
#: What is written or left out at will: Hebrew and Arabic vowels, soft hyphens, joiners, marks of direction, the form of
#: an emoji; and the signs of minus and of a fraction, as - and / are.
_AT_WILL = re.compile(
    "[\u00ad\u0591-\u05bd\u05bf\u05c1\u05c2\u0640\u064b-\u0652\u0670\u200b-\u200f\u202a-\u202e\u2044\u2060-\u2069\u2212"
    "\ufe00-\ufe0f\ufeff]"
)
#: Letters that Persian and Arabic keyboards have in two forms.
_TWICE = str.maketrans("\u06cc\u06a9", "\u064a\u0643")
#: Answers that stand inside other words: "no" in "unknown", "true" in "untrue", "an" in "many".
_PART_OF_WORDS = re.compile("[a-z\u00df-\u024f]{1,2}|yes|not|true|false|valid")
#: Answers that share no words with any other: against them only equality counts.
_CLOSED = frozenset({"yes", "no", "noanswer"})


def normalise(text: str, language: str = "en") -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no articles, words parted by single spaces. For any other
    language: case folded, NFKC, digits as 0 to 9, no punctuation of any script, no articles, CJK and Thai characters as
    words.
    """
    if language != "en":
        return _unicode_form(text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _unicode_form(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # A Turkish dotted I folds to an i with a dot above, which is an i.
    kept = _AT_WILL.sub("", folded.replace("i\u0307", "i")).translate(_TWICE)
    kept = re.sub(r"[^\D0-9]", lambda digit: str(unicodedata.decimal(digit[0])), kept)
    plain = "".join("" if unicodedata.category(one)[0] == "P" or one in string.punctuation else one for one in kept)
    return " ".join(_ALONE.sub(r" \1 ", plain).split())


def em(prediction: str, golden_answers: Sequence[str], language: str = "en") -> float:
    """1.0 if the normalised prediction equals any normalised golden answer, else 0.0 (also without golden answers)."""
    text = normalise(prediction, language)
    return float(any(text == normalise(golden, language) for golden in _checked(golden_answers)))


def acc(prediction: str, golden_answers: Sequence[str], language: str = "en") -> float:
    """1.0 if any normalised golden answer is a substring of the normalised prediction, else 0.0 ("sub-EM")."""
    text = normalise(prediction, language)
    return float(any(normalise(golden, language) in text for golden in _checked(golden_answers)))


def f1(prediction: str, golden_answers: Sequence[str], language: str = "en") -> float:
    """The best F1 of the words shared with one golden answer, 0..1."""
    return _best(0, prediction, golden_answers, language)


def precision(prediction: str, golden_answers: Sequence[str], language: str = "en") -> float:
    """The best share of the prediction's words that one golden answer holds, 0..1."""
    return _best(1, prediction, golden_answers, language)


def recall(prediction: str, golden_answers: Sequence[str], language: str = "en") -> float:
    """The best share of one golden answer's words that the prediction holds, 0..1."""
    return _best(2, prediction, golden_answers, language)


def scorable(golden_answers: Sequence[str], language: str = "en") -> list[str]:
    """The golden answers without those that normalise to nothing, which every prediction holds."""
    return [golden for golden in golden_answers if normalise(golden, language)]


def inside_words(golden_answers: Sequence[str], language: str = "en") -> bool:
    """Whether a golden answer is so short, or so common a label, that `acc` finds it inside other words."""
    return any(_PART_OF_WORDS.fullmatch(normalise(golden, language)) for golden in golden_answers)


def spellings(labels: Labels, language: str = "en") -> dict[str, str]:
    """Normalised spelling -> canonical label; a label is a spelling of itself.

    ValueError names a spelling that normalises to nothing ("The") or belongs to two labels.
    """
    table: dict[str, str] = {}
    for label, others in labels.items():
        for spelling in (label, *others):
            key = normalise(spelling, language)
            if not key:
                more = "; benchmark.language=any keeps it" if language == "en" and normalise(spelling, "any") else ""
                raise ValueError(f"label {label!r}: spelling {spelling!r} normalises to nothing{more}")
            if table.setdefault(key, label) != label:
                raise ValueError(f"spelling {spelling!r} belongs to both {table[key]!r} and {label!r}")
    return table


def golden_label(answer: str, labels: Labels, language: str = "en") -> str:
    """The canonical label of a golden answer, which must be one spelling and nothing else; otherwise ValueError."""
    label = spellings(labels, language).get(normalise(answer, language))
    if label is None:
        raise ValueError(f"unknown golden label {answer!r}; known labels are {', '.join(labels) or 'none'}")
    return label


def predicted_label(prediction: str, labels: Labels, language: str = "en") -> str | None:
    """The label that the prediction names first, or None.

    Whole words count, never parts of words. Where spellings start at the same word the longest wins, so
    "not true" can be given as a spelling of its own.
    """
    table = spellings(labels, language)
    longest = max((len(spelling.split()) for spelling in table), default=0)
    words = normalise(prediction, language).split()
    said = (" ".join(words[i : i + length]) for i in range(len(words)) for length in range(longest, 0, -1))
    return next((table[spelling] for spelling in said if spelling in table), None)


def label_accuracy(prediction: str, golden_answers: Sequence[str], labels: Labels, language: str = "en") -> float:
    """1.0 if the first label named in the prediction is a golden one, else 0.0.

    `labels` maps each canonical label to its spellings, as SUPPORTS -> supports, true, yes. A prediction that names
    no label scores 0.0; an unknown golden label is a ValueError that names it and the known ones.
    """
    golden = {golden_label(answer, labels, language) for answer in _checked(golden_answers)}
    return float(predicted_label(prediction, labels, language) in golden)


_OF_TEXT = {"em": em, "acc": acc, "f1": f1, "precision": precision, "recall": recall}
METRICS = (*_OF_TEXT, "label")
#: Entry points of metrics that other packages bring: functions of a prediction and its golden answers, 0..1.
GROUP = "wbrag.metrics"


@lru_cache
def elsewhere() -> Mapping[str, Any]:
    """The metrics that other packages bring, by name, loaded; a name of this module is its own."""
    return {one.name: one.load() for one in entry_points(group=GROUP) if one.name not in METRICS}


def score(metric: str, prediction: str, golden_answers: Sequence[str], labels: Labels, language: str = "en") -> float:
    """M(prediction, golden answers) in 0..1 by the metric's name, of `METRICS` or `elsewhere`; only `label` reads
    `labels`, and those `elsewhere` no `language`.
    """
    if metric not in METRICS and metric not in elsewhere():
        raise ValueError(f"unknown metric {metric!r}; known are {', '.join((*METRICS, *elsewhere()))}")
    if metric == "label":
        return label_accuracy(prediction, golden_answers, labels, language)
    if metric in _OF_TEXT:
        return _OF_TEXT[metric](prediction, golden_answers, language)
    return float(elsewhere()[metric](prediction, _checked(golden_answers)))


def _checked(golden_answers: Sequence[str]) -> Sequence[str]:
    # A str is a Sequence[str] for the type checker; its letters as golden answers would score quietly and wrongly.
    if isinstance(golden_answers, str):
        raise TypeError(f"golden_answers must be a list of strings, got the string {golden_answers!r}")
    return golden_answers


def _best(part: int, prediction: str, golden_answers: Sequence[str], language: str) -> float:
    # FlashRAG takes each maximum on its own: the three may come from different golden answers.
    text = normalise(prediction, language)
    return max((_overlap(text, normalise(golden, language))[part] for golden in _checked(golden_answers)), default=0.0)


def _overlap(prediction: str, golden: str) -> tuple[float, float, float]:
    # F1, precision and recall of two normalised texts as bags of words.
    words, wanted = prediction.split(), golden.split()
    shared = (Counter(words) & Counter(wanted)).total()
    if shared == 0 or (prediction != golden and not _CLOSED.isdisjoint((prediction, golden))):
        return 0.0, 0.0, 0.0
    p, r = shared / len(words), shared / len(wanted)
    return 2 * p * r / (p + r), p, r
