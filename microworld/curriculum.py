"""What a micro model is taught when: from a few bare sentences to seven retrieved documents."""

from __future__ import annotations

import random
from dataclasses import dataclass

from microworld import lessons
from microworld.lessons import Lesson, School

#: Running loss at which bare sentences are learnt well enough to go on to retrieved documents.
FIRST_LEARNT = 1.15
#: The most documents of a lesson: the paper's five, and two units that may stand beside them (wbrag.retrieval.merge).
MOST = 7


@dataclass
class Progress:
    """What a checkpoint carries beside the weights."""

    seconds: float = 0.0
    steps: int = 0
    tokens: float = 0
    first: float = 3.0  # running loss of the first lessons: the curriculum goes on when it has fallen,
    read: float = 3.0  # and again when that of reading has
    check: float = 1.0  # that of checking is only shown

    def note(self, kind: str, loss: float) -> None:
        """Follow the loss on the replies of a lesson."""
        if kind == "first":
            self.first += 0.01 * (loss - self.first)
        elif kind == "reading":
            self.read += 0.01 * (loss - self.read)
        elif kind == "checking":
            self.check += 0.01 * (loss - self.check)

    def __str__(self) -> str:
        spent = f"{self.steps} steps, {self.tokens / 1e6:.2f}M tokens, {self.seconds / 60:.1f} min"
        return (
            f"{spent}: loss of first lessons {self.first:.3f}, of reading {self.read:.3f}, of checking {self.check:.3f}"
        )

    @property
    def early(self) -> bool:
        """Whether the first lessons are not learnt yet; once reading has begun it goes on."""
        return self.first > FIRST_LEARNT and self.read == Progress.read


def draw(school: School, rng: random.Random, done: Progress, grown: bool) -> tuple[str, Lesson]:
    """A lesson for this point of the curriculum, and its kind: retrieved documents once the first steps are made."""
    kind = rng.random()
    if done.early and not grown:
        most = 1 if done.first > 1.5 else 2 if done.first > 1.3 else 4
        if kind < 0.30:
            return "checking", lessons.checking(school, rng, 16, most)
        return "first", lessons.first_reading(school, rng, 10, most)
    if kind < 0.18:
        return "rewriting", lessons.rewriting(school, rng, 6)
    if kind < 0.23:
        return "closed book", lessons.closed_book(school, rng, 16)
    if kind < 0.45:
        return "checking", lessons.checking(school, rng, 24, 16)
    if kind < 0.50 and not grown:
        return "first", lessons.first_reading(school, rng, 12, 8)
    most = MOST if grown or done.read < 1.8 else 2
    return "reading", lessons.reading(school, rng, most, 12)


def learning_rate(share: float, peak: float, steps: int) -> float:
    """Linear warm-up over 100 steps, constant, then a linear fall to 4 % over the last 40 % of the time."""
    return peak * min(1.0, (steps + 1) / 100) * max(0.04, min(1.0, (1 - share) / 0.4))
