"""How a test question overlaps with the training questions, and how it was exposed to what they left behind.

A gain on a question that was asked before may be memory. So gains are told by overlap (Lewis et al., EACL 2021:
question, answer only, none) and by what the write-back index put before the model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wbrag.metrics import acc, normalise

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


def holding(documents: Sequence[Row], golden_answers: Sequence[str]) -> list[Row]:
    """The documents whose contents hold a golden answer: it stands in them, both normalised."""
    return [document for document in documents if acc(f"{document['title']}\n{document['text']}", golden_answers)]


class TrainingQuestions:
    """The training questions of a run, looked up by their words, and those that lie behind each unit.

    `rows` have `id`, `question` and `golden_answers`; `units` are rows of `schema.UNIT`. With `labels` the answers are
    few and shared by everything: there an equal answer says nothing, and overlap is of questions alone.
    """

    def __init__(self, rows: Iterable[Row], labels: bool = False, units: Iterable[Row] = ()) -> None:
        self.labels = labels
        self.asked: list[Asked] = []
        self.with_word: dict[str, list[int]] = defaultdict(list)
        numbers: dict[str, int] = {}
        for number, row in enumerate(rows):
            self.asked.append(self._asked(row))
            numbers[row["id"]] = number
            for word in self.asked[number][0]:
                self.with_word[word].append(number)
        self.behind = {unit["id"]: [numbers[key] for key in unit["example_ids"] if key in numbers] for unit in units}
        self.known_answers = {answer for _, answers in self.asked for answer in answers}

    def overlap(self, row: Row) -> str:
        """One of OVERLAPS for a test question (`question`, `golden_answers`)."""
        words, answers = asked = self._asked(row)
        # Who shares half of all words shares half of these, and so one of any floor(n/2) + 1 of them: the rarest ones
        # find every near-duplicate and few others.
        rarest = sorted(words, key=lambda word: (len(self.with_word.get(word, ())), word))
        numbers = {n for word in rarest[: len(words) // 2 + 1] for n in self.with_word.get(word, ())}
        if any(self._near(asked, number) for number in numbers):
            return "question"
        return "answer" if answers & self.known_answers else "none"

    def exposure(self, row: Row) -> str:
        """One of EXPOSURES for a row of predictions; never "gold" where the answers are labels: every second passage
        holds "no". Without a unit the gain has to be 0.
        """
        units = units_read(row)
        if not units:
            return "none"
        asked, behind = self._asked(row), (number for unit in units for number in self.behind.get(unit["id"], ()))
        if any(self._near(asked, number) for number in behind):
            return "near_duplicate"
        return "gold" if not self.labels and holding(units, row["golden_answers"]) else "other"

    def _near(self, asked: Asked, number: int) -> bool:
        words, answers = self.asked[number]
        return jaccard(asked[0], words) >= (SAME_ANSWER_WORDS if asked[1] & answers else SAME_WORDS)

    def _asked(self, row: Row) -> Asked:
        answers = () if self.labels else row["golden_answers"]
        return content_words(row["question"]), frozenset(map(normalise, answers))


def content_words(question: str) -> frozenset[str]:
    """The words that say what is asked: lower case, no stop words; all words where nothing else is left."""
    words = frozenset(re.findall(r"\w+", question.lower()))
    return words - _STOP or words


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b|; 0 where both are empty."""
    return len(a & b) / len(a | b) if a | b else 0.0
