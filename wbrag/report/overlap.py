"""How a test question overlaps with the training questions, and how it was exposed to what they left behind.

A gain on a question that was asked before may be memory. So gains are told by overlap (Lewis et al., EACL 2021:
question, answer only, none) and by what the write-back index put before the model.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wbrag.metrics import acc, normalise
from wbrag.schema import contents_of

Row = Mapping[str, Any]
#: The content words of a question and its normalised golden answers, none where they are labels.
Asked = tuple[frozenset[str], frozenset[str]]

#: Two questions are near-duplicates when they share this part of their content words (Jaccard) ...
SAME_WORDS = 0.8
#: ... or this part, where they share a golden answer too.
SAME_ANSWER_WORDS = 0.5
#: How a question overlaps with training, in words.
OVERLAPS = {"none": "without overlap", "answer": "answer seen in training", "question": "question seen in training"}
#: What the units that it read give away, in words; "unit" where no training question is known.
EXPOSURES = {
    "unit": "a unit among the documents",
    "near_duplicate": "a unit from a near-duplicate question",
    "gold": "another unit, with a golden answer",
    "other": "another unit, without one",
    "none": "no unit among the documents",
}
#: What the units that it read hold, in words; "unit" where labels are the answers, so that nobody knows.
READ = {
    "gold": "a unit that was read holds the golden answer",
    "other": "only units that do not hold it were read",
    "unit": "a unit was read",
    "none": "no unit was read",
}
RULE = (
    f"Two questions are near-duplicates when they share {100 * SAME_WORDS:.0f}% of their content words, or "
    f"{100 * SAME_ANSWER_WORDS:.0f}% and a golden answer."
)

_STOP = frozenset(
    "a an and are as at be by can did do does for from had has have how in is it its of on or sep that the their there "
    "this to was were what when where which who whom whose why will with".split()
)


def without_overlap(labelled: Iterable[bool]) -> str:
    """What it is to be without overlap, in one sentence; `labelled`: whether each benchmark's answers are labels."""
    kinds = set(labelled)
    if kinds == {True}:
        return "Without overlap: no training question asks the same (answers are labels, which all questions share)."
    shared = "; where answers are labels, such as yes and no, only the question counts" if True in kinds else ""
    return f"Without overlap: no training question asks the same or has the same answer{shared}."


def units_read(row: Row) -> list[Row]:
    """The units among the documents of a row of predictions."""
    return [document for document in row["documents_writeback"] or [] if document["source"] == "writeback"]


def holding(documents: Sequence[Row], golden_answers: Sequence[str], language: str = "en") -> list[Row]:
    """The documents whose contents hold a golden answer: it stands in them, both normalised."""
    return [one for one in documents if acc(contents_of(one), golden_answers, language)]


class TrainingQuestions:
    """What the training questions of a run give away of test questions: those that ask the same, the answers that they
    share, and the questions behind each unit that was read. They are gone through twice and not held.

    `rows` have `id`, `question` and `golden_answers`; `tested` are the rows of predictions that are asked about later,
    and `units` are rows of `schema.UNIT`. With `labels` the answers are few and shared by everything: there an equal
    answer says nothing, and overlap is of questions alone. `language` as in `config.Benchmark`.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        tested: Sequence[Row],
        labels: bool = False,
        units: Iterable[Row] = (),
        language: str = "en",
    ) -> None:
        self.labels, self.language = labels, language
        asked, read = {self._asked(row) for row in tested}, {unit["id"] for row in tested for unit in units_read(row)}
        self.behind = {unit["id"]: unit["example_ids"] for unit in units if unit["id"] in read}
        wanted = {key for keys in self.behind.values() for key in keys}
        answers = {answer for _, every in asked for answer in every}
        with_word = _rarest_words(asked, rows)
        self.repeated: set[Asked] = set()
        self.known_answers: set[str] = set()
        self.wrote: dict[str, Asked] = {}
        for row in rows:
            own = self._asked(row)
            self.known_answers |= own[1] & answers
            there = {one for word in own[0] for one in with_word.get(word, ())} - self.repeated
            self.repeated |= {one for one in there if near(one, own)}
            if row["id"] in wanted:
                self.wrote[row["id"]] = own

    def overlap(self, row: Row) -> str:
        """One of OVERLAPS for a test question (`question`, `golden_answers`)."""
        asked = self._asked(row)
        if asked in self.repeated:
            return "question"
        return "answer" if asked[1] & self.known_answers else "none"

    def exposure(self, row: Row) -> str:
        """One of EXPOSURES for a row of predictions; never "gold" where the answers are labels: every second passage
        holds "no". Without a unit the gain has to be 0.
        """
        units = units_read(row)
        if not units:
            return "none"
        asked, behind = self._asked(row), (key for unit in units for key in self.behind.get(unit["id"], ()))
        if any(near(asked, self.wrote[key]) for key in behind if key in self.wrote):
            return "near_duplicate"
        return "gold" if not self.labels and holding(units, row["golden_answers"], self.language) else "other"

    def _asked(self, row: Row) -> Asked:
        answers = () if self.labels else row["golden_answers"]
        return content_words(row["question"]), frozenset(normalise(one, self.language) for one in answers)


def near(asked: Asked, other: Asked) -> bool:
    """Whether two questions are near-duplicates (RULE)."""
    return jaccard(asked[0], other[0]) >= (SAME_ANSWER_WORDS if asked[1] & other[1] else SAME_WORDS)


def _rarest_words(asked: Iterable[Asked], rows: Iterable[Row]) -> dict[str, list[Asked]]:
    """The questions asked by the words that find every near-duplicate among the rows, and few others: who shares half
    of all words shares half of these, and so one of any floor(n/2) + 1 of them, of which the rarest are taken.
    """
    every = {word for words, _ in asked for word in words}
    counts = Counter(word for row in rows for word in content_words(row["question"]) & every)
    found: dict[str, list[Asked]] = defaultdict(list)
    for words, answers in asked:
        rarest = sorted(words, key=lambda word: (counts[word], word))
        for word in rarest[: len(words) // 2 + 1]:
            found[word].append((words, answers))
    return found


def content_words(question: str) -> frozenset[str]:
    """The words that say what is asked: lower case, no stop words; all words where nothing else is left."""
    words = frozenset(re.findall(r"\w+", question.lower()))
    return words - _STOP or words


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b|; 0 where both are empty."""
    return len(a & b) / len(a | b) if a | b else 0.0
