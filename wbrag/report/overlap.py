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

#: Two questions are near-duplicates when they share this part of their content words (Jaccard) ...
SAME_WORDS = 0.8
#: ... or this part, where they share a golden answer too.
SAME_ANSWER_WORDS = 0.5
OVERLAPS = ("none", "answer", "question")
EXPOSURES = ("near_duplicate", "gold", "other", "none")
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
        self.words: list[frozenset[str]] = []
        self.answers: list[frozenset[str]] = []
        self.behind: dict[str, list[int]] = defaultdict(list)
        self.with_word: dict[str, list[int]] = defaultdict(list)
        numbers: dict[str, int] = {}
        for number, row in enumerate(rows):
            words, answers = _asked(row)
            self.words.append(words)
            self.answers.append(answers)
            numbers[row["id"]] = number
            for word in words:
                self.with_word[word].append(number)
        for unit in units:
            self.behind[unit["id"]] = [numbers[key] for key in unit["example_ids"] if key in numbers]
        self.known_answers = frozenset().union(*self.answers)

    def overlap(self, row: Row) -> str:
        """One of OVERLAPS for a test question (`question`, `golden_answers`)."""
        words, answers = _asked(row)
        # Who shares half of all words shares half of these, and so one of any floor(n/2) + 1 of them: the rarest ones
        # find every near-duplicate and few others.
        rarest = sorted(words, key=lambda word: (len(self.with_word.get(word, ())), word))
        numbers = {n for word in rarest[: len(words) // 2 + 1] for n in self.with_word.get(word, ())}
        if any(self._near(words, answers, number) for number in numbers):
            return "question"
        return "answer" if not self.labels and answers & self.known_answers else "none"

    def exposure(self, row: Row) -> str:
        """One of EXPOSURES for a row of predictions: what the units among its documents give away.

        near_duplicate: a unit made for a near-duplicate of the question. gold: a unit that holds a golden answer
        (never told where the benchmark has labels: every second passage holds "no"). other: another unit. none: no
        unit at all, so that the gain has to be 0.
        """
        units = units_read(row)
        if not units:
            return "none"
        words, answers = _asked(row)
        behind = (number for unit in units for number in self.behind.get(unit["id"], ()))
        if any(self._near(words, answers, number) for number in behind):
            return "near_duplicate"
        return "gold" if not self.labels and holding(units, row["golden_answers"]) else "other"

    def _near(self, words: frozenset[str], answers: frozenset[str], number: int) -> bool:
        shared = jaccard(words, self.words[number])
        same_answer = not self.labels and bool(answers & self.answers[number])
        return shared >= SAME_WORDS or (same_answer and shared >= SAME_ANSWER_WORDS)


def _asked(row: Row) -> tuple[frozenset[str], frozenset[str]]:
    """The content words and the normalised golden answers of a question."""
    return content_words(row["question"]), frozenset(map(normalise, row["golden_answers"]))


def content_words(question: str) -> frozenset[str]:
    """The words that say what is asked: lower case, no stop words; all words where nothing else is left."""
    words = frozenset(re.findall(r"\w+", question.lower()))
    return words - _STOP or words


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b|; 0 where both are empty."""
    return len(a & b) / len(a | b) if a | b else 0.0
