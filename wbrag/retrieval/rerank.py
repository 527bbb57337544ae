"""A reranker: a cross-encoder that reads a question beside each candidate and orders them anew."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from wbrag.config import ConfigError
from wbrag.retrieval.encoder import loaded, passage_text
from wbrag.schema import Document

#: Pairs that are read at once.
PAIRS = 32


class Reranker:
    """A cross-encoder with one label, whose logit becomes a score from 0 to 1; of texts longer than it reads, the rest
    is not seen. `model`: a folder, a hub name or `package:<module>`, as an encoder's. ConfigError for other labels.
    """

    def __init__(self, model: str, device: str | None = None) -> None:
        from sentence_transformers import CrossEncoder
        from torch.nn import Sigmoid

        self.encoder = loaded(CrossEncoder, model, device=device, activation_fn=Sigmoid())
        if (labels := int(self.encoder.config.num_labels)) != 1:
            raise ConfigError(f"reranker={model}: has {labels} labels, a reranker has one")
        self._one_at_a_time = threading.Lock()  # a tokenizer that two threads use at once raises "Already borrowed"

    def best(self, question: str, candidates: Sequence[Document], k: int) -> list[Document]:
        """The k best candidates, best first, with the scores of the cross-encoder; of equal scores by id."""
        if not candidates:
            return []
        pairs = [(question, passage_text(one.title, one.text)) for one in candidates]
        with self._one_at_a_time:
            scores = self.encoder.predict(pairs, batch_size=PAIRS, show_progress_bar=False)
        scored = [replace(one, score=float(score)) for one, score in zip(candidates, scores, strict=True)]
        return sorted(scored, key=lambda one: (-one.score, one.id))[:k]


@lru_cache(maxsize=1)
def open_reranker(model: str) -> Reranker:
    """The reranker of this process."""
    return Reranker(model)
