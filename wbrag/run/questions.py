"""A file of questions made of a corpus (`wbrag.data.questions`), for who has none to train on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wbrag.config import ConfigError, QuestionsConfig
from wbrag.data.benchmarks import InputError
from wbrag.data.questions import Asked, asked_of
from wbrag.metrics import normalise
from wbrag.prompts import Prompts
from wbrag.run.actors import open_llm
from wbrag.run.folder import write_records
from wbrag.run.inputs import check_backbone, over_budget, read_corpus
from wbrag.schema import PASSAGE, Document, Example
from wbrag.store.build import cut, read_rows

log = logging.getLogger(__name__)


def make_questions(cfg: QuestionsConfig) -> tuple[list[Example], list[Asked]]:
    """Write `cfg.count` questions as FlashRAG's JSONL to the new file `cfg.out`, whole or not at all, with the passage
    that each was made of in its metadata; and beside it, in *.left_out.jsonl, why other passages gave none. Both are
    returned. Passages are taken in an order drawn by the seed, until there are so many questions or no more passages.

    ConfigError for settings that cannot work, InputError for the corpus, and where no question could be made;
    OverErrorBudget where more calls failed than `max_error_rate` allows.
    """
    out = Path(cfg.out).expanduser().absolute()
    if out.exists():
        raise ConfigError(f"out={out}: is there already; give another name, or remove it")
    if cfg.judge not in ("labels", "llm") or cfg.count < 1:
        raise ConfigError(f"judge={cfg.judge!r} has to be labels or llm, count={cfg.count} at least 1")
    check_backbone(cfg.backbone)
    prompts = Prompts(cfg.backbone.prompts | cfg.prompts)
    cache = Path(cfg.cache_dir).absolute() if cfg.cache_dir else out.parent / "cache"
    corpus, _ = read_corpus(cfg, cache)
    made, left = asyncio.run(_made(cfg, corpus, prompts))
    if not made:
        raise InputError(f"corpus={cfg.corpus}: no question could be made of {len(left)} passages: {left[0].reason}")
    write_records(out.with_suffix(".left_out.jsonl"), ({"id": one.source, "reason": one.reason} for one in left))
    write_records(out, (asdict(one) | {"metadata": json.loads(one.metadata)} for one in made))
    return made, left


async def _made(cfg: QuestionsConfig, corpus: Path, prompts: Prompts) -> tuple[list[Example], list[Asked]]:
    llm = open_llm(cfg.backbone)
    made: dict[str, Example] = {}
    left: list[Asked] = []
    tokens, judged = cfg.backbone.answer_tokens, cfg.judge == "llm"
    try:
        for documents in _drawn(corpus, min(cfg.backbone.max_num_seqs, max(8, cfg.count)), cfg.seed):
            for one in await asyncio.gather(*[asked_of(d, llm, prompts, tokens, judged) for d in documents]):
                if one.example is None:
                    left.append(one)
                elif made.get(key := normalise(one.example.question)):
                    left.append(Asked(one.source, None, "the same question as another passage's"))
                elif len(made) < cfg.count:
                    made[key] = one.example
            failed = [one for one in left if one.failed]
            first = f"passage {failed[0].source!r}: {failed[0].reason}" if failed else ""
            if error := over_budget(cfg.out, len(failed), len(made) + len(left), cfg.max_error_rate, first):
                raise error
            log.info("%d of %d questions, %d passages without one", len(made), cfg.count, len(left))
            if len(made) == cfg.count:
                break
    finally:
        if close := getattr(llm, "close", None):  # an engine in this process
            close()
    return list(made.values()), left


def _drawn(corpus: Path, size: int, seed: int) -> Iterator[list[Document]]:
    """All passages in an order drawn by the seed, so many at a time."""
    order = np.random.default_rng(seed).permutation(pq.ParquetFile(corpus).metadata.num_rows)
    for numbers in cut(order, size):
        yield [Document(**row) for row in read_rows(corpus, numbers).select(PASSAGE.names).to_pylist()]
