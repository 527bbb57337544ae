"""Self-RAG's reflection tokens, and the arithmetic on their probabilities. Pure.

The tokens and their weights are those of the original (Asai et al. 2023, arXiv 2310.11511, sections 3.1 and 3.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wbrag.llm import Token
from wbrag.metrics import normalise

RETRIEVE = {"[Retrieval]": 1.0, "[No Retrieval]": 0.0}
RELEVANCE = {"[Relevant]": 1.0, "[Irrelevant]": 0.0}
SUPPORT = {"[Fully supported]": 1.0, "[Partially supported]": 0.5, "[No support / Contradictory]": 0.0}
UTILITY = {"[Utility:1]": -1.0, "[Utility:2]": -0.5, "[Utility:3]": 0.0, "[Utility:4]": 0.5, "[Utility:5]": 1.0}
#: The same decisions put to a model without these tokens.
YES_NO = {"yes": 1.0, "Yes": 1.0, "no": 0.0, "No": 0.0}
#: What a checkpoint has to have as single tokens.
REFLECTION = (*RETRIEVE, *RELEVANCE, *SUPPORT, *UTILITY)
#: Where all candidates together are less probable than this, the model has not judged at all.
LEAST = 0.001

_MARK = re.compile("|".join(re.escape(token) for token in (*REFLECTION, "[Continue to Use Evidence]")))
_PARAGRAPH = re.compile(r"<paragraph>.*?</paragraph>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Path:
    """An answer made from one document, and its score."""

    text: str
    score: float


def judged(probabilities: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The mean of the weights under the candidates' probabilities, normalised; None where they are below LEAST."""
    total = sum(probabilities[candidate] for candidate in weights)
    if total < LEAST:
        return None
    return sum(weight * probabilities[candidate] for candidate, weight in weights.items()) / total


def likelihood(tokens: Sequence[Token]) -> float:
    """The geometric mean of the tokens' probabilities; 0 for no token."""
    return math.exp(sum(token.logprob for token in tokens) / len(tokens)) if tokens else 0.0


def spoken(text: str) -> str:
    """The text without reflection tokens and the paragraphs between them."""
    return _MARK.sub("", _PARAGRAPH.sub("", text)).strip()


def answer_tokens(tokens: Sequence[Token]) -> list[Token]:
    """The tokens before the first reflection token: what a checkpoint says after it is about the answer, not of it."""
    end = next((place for place, token in enumerate(tokens) if _MARK.search(token.text)), len(tokens))
    return list(tokens[:end])


def best_answer(paths: Sequence[Path], closed: bool) -> str:
    """The answer of the best path; of equal ones the first.

    For a `closed` set of answers (yes/no, claims) the scores of paths that give the same answer add up.
    """
    if not closed:
        return max(paths, key=lambda path: path.score).text
    totals: dict[str, float] = {}
    for path in paths:
        totals[normalise(path.text)] = totals.get(normalise(path.text), 0.0) + path.score
    best = max(totals, key=totals.__getitem__)
    return next(path.text for path in paths if normalise(path.text) == best)
