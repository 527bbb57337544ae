"""Which sentences are nearest to a question, where the encoder is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wbrag.retrieval.encoder import Encoder


def nearest_sentences(
    encoder: Encoder, questions: Sequence[str], there: Sequence[Sequence[str]], count: int
) -> list[list[int]]:
    """For each question the numbers of the `count` sentences of its list that are nearest to it, in ascending order."""
    distinct = list(dict.fromkeys(sentence for some in there for sentence in some))
    place = {sentence: number for number, sentence in enumerate(distinct)}
    xq = encoder.encode_queries(list(questions)).astype(np.float32)
    xb = encoder.encode_passages(distinct).astype(np.float32)
    found = []
    for vector, some in zip(xq, there, strict=True):
        scores = xb[[place[sentence] for sentence in some]] @ vector
        found.append(sorted(int(i) for i in np.argsort(-scores, kind="stable")[:count]))
    return found
