"""Paired statistics on arrays of scores; nothing here knows of a run.

A p-value or an interval speaks for one setting. Over a grid of settings the p-values are corrected (`holm`), and the
mean gain is bootstrapped over the questions, which all settings of one benchmark share (`pooled_gain`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

RESAMPLES = 10_000
#: Bootstrap counts held at once: 16 MB.
COUNTS_AT_ONCE = 2_000_000


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known, which are neither None nor NaN; None where none is."""
    known = array("d", (value for value in values if value is not None and not math.isnan(value)))
    return sum(known) / len(known) if known else None


def paired_bootstrap(
    differences: Floats, resamples: int = RESAMPLES, seed: int = 0, topics: Sequence[str] | None = None
) -> Floats:
    """95 % percentile intervals of mean differences, by resampling questions with replacement.

    `differences` has shape (questions, metrics); returns (metrics, 2), low and high, zeros for no question. All metrics
    share their resamples. With `topics`, one a question, whole topics are drawn: what helps one question of a topic
    helps the others too, so that they are less evidence than as many questions about different things.
    """
    generator = np.random.default_rng(seed)
    if topics is None or not len(differences):
        means = resampled_means(differences, resamples, generator)
    else:
        rows = np.column_stack([differences, np.ones(len(topics))])
        means = resampled_means(summed(rows, topics), resamples, generator)
        means = means[:, :-1] / means[:, -1:]
    return np.asarray(np.quantile(means, (0.025, 0.975), axis=0).T)


def summed(rows: Floats, topics: Sequence[str]) -> Floats:
    """The sums of rows (questions, columns) by topic, in the topics' order of first occurrence."""
    number = {topic: i for i, topic in enumerate(dict.fromkeys(topics))}
    sums = np.zeros((len(number), rows.shape[1]))
    np.add.at(sums, [number[topic] for topic in topics], rows)
    return sums


def resampled_means(differences: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Means (resamples, columns) of `differences` (questions, columns) over questions drawn with replacement."""
    questions, columns = differences.shape
    if questions == 0:
        return np.zeros((resamples, columns))
    # How often each distinct row of differences is drawn is multinomial: the same bootstrap, and a few dozen numbers a
    # resample instead of thousands. In the order of first occurrence, so that swapped answers mirror the interval.
    rows, first, counts = np.unique(differences, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    rows, shares = rows[order], counts[order] / questions
    means = np.empty((resamples, columns))
    step = max(1, COUNTS_AT_ONCE // len(rows))
    for start in range(0, resamples, step):
        drawn = generator.multinomial(questions, shares, size=min(step, resamples - start))
        means[start : start + len(drawn)] = drawn @ rows / questions
    return means


def pooled_gain(
    strata: Sequence[tuple[Floats, Flags]],
    resamples: int = RESAMPLES,
    seed: int = 0,
    topics: Sequence[Sequence[str]] | None = None,
) -> tuple[float, float, float]:
    """The mean gain over settings with its 95 % interval: (gain, low, high).

    Each stratum is one set of questions: differences (questions, settings) of the settings that asked them, and which
    of them count (same shape). A setting's gain is the mean over the questions that count, and each setting that has
    any counts once. Questions are resampled within their stratum, for all its settings together: settings that share
    questions are not independent. With `topics`, for each stratum one a question, whole topics are drawn
    (`paired_bootstrap`). ValueError where nothing counts.
    """
    generator = np.random.default_rng(seed)
    points: list[float] = []
    total, counted = np.zeros(resamples), np.zeros(resamples)
    for number, (differences, members) in enumerate(strata):
        chosen = members.any(axis=0)
        counts = members[:, chosen].astype(np.float64)
        width = counts.shape[1]
        if not width:
            continue
        gained = np.where(members, differences, 0.0)[:, chosen]
        points += list(gained.sum(axis=0) / counts.sum(axis=0))
        rows = np.hstack([gained, counts])
        means = resampled_means(summed(rows, topics[number]) if topics else rows, resamples, generator)
        drawn = means[:, width:] > 0  # a small class can be missed by a resample
        total += np.divide(means[:, :width], means[:, width:], out=np.zeros(drawn.shape), where=drawn).sum(axis=1)
        counted += drawn.sum(axis=1)
    if not points:
        raise ValueError("no setting has a question that counts")
    low, high = np.quantile(total[counted > 0] / counted[counted > 0], (0.025, 0.975))
    return float(np.mean(points)), float(low), float(high)


def mcnemar(base: Floats, writeback: Floats) -> dict[str, Any]:
    """McNemar's exact test on two 0/1 score vectors: two-sided binomial p of the discordant counts.

    `b` questions were right with base only, `c` with write-back only; p = 1 where no question changed.
    """
    b = int(np.sum((base == 1) & (writeback == 0)))
    c = int(np.sum((base == 0) & (writeback == 1)))
    ways, tail = 1, 0  # of 2 ** (b + c) equally likely outcomes, those with i questions on the smaller side; and fewer
    for i in range(min(b, c) + 1):
        tail, ways = tail + ways, ways * (b + c - i) // (i + 1)
    return {"mcnemar_p": min(1.0, 2 * tail / 2 ** (b + c)), "b": b, "c": c}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: where those at most alpha are called significant, the
    chance of any false one among them is at most alpha, whatever the dependence between the tests.
    """
    p = np.asarray(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]))
    return list(map(float, adjusted))


def sign_flips(differences: Floats, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference (questions,), by turning the signs of the differences at random.

    For scores that are not 0/1, where McNemar's test does not apply: without an effect each difference is as likely
    with the other sign. Never below 1 / (resamples + 1); 1 where nothing differs.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    positive = np.random.default_rng(seed).binomial(counts, 0.5, size=(resamples, len(sizes)))
    sums = np.abs((2 * positive - counts) @ sizes)
    reached = int(np.sum(sums >= abs(differences.sum()) - 1e-9))
    return (1 + reached) / (1 + resamples)


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Cohen's kappa of two raters' decisions on the same cases: agreement beyond what their rates alone would give.

    1 is full agreement, 0 that of chance; None where chance alone agrees always (no case, or both decide one way).
    """
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(first, second)) if len({*first, *second}) > 1 else None
