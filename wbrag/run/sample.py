"""How many examples a run has and how long its calls are, from a sample of both its questions and its passages.

Nothing is encoded, retrieved or written, and of a model the tokenizer alone is loaded. In place of the documents that
would be retrieved stand passages drawn from the corpus.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from tempfile import TemporaryDirectory

from wbrag.config import Backbone, TrainConfig
from wbrag.data.benchmarks import InputError, drawn, some_passages
from wbrag.data.files import files_of, kind_of
from wbrag.data.flashrag import BadRow, parse_passage
from wbrag.llm.engine import open_tokenizer, rendered, template_of
from wbrag.prompts import prompts_of
from wbrag.run.actors import open_llm
from wbrag.run.inputs import cache_of, located, read_questions
from wbrag.run.lookup import Rows
from wbrag.run.plan import Sizes
from wbrag.schema import PASSAGE, Document, Example
from wbrag.store.place import place_of
from wbrag.store.rows import opened
from wbrag.store.versions import current


def measured(cfg: TrainConfig) -> Sizes:
    """The sizes of a run from its files; errors as those of a run that begins."""
    with TemporaryDirectory() as scratch:  # in place of the cache: a plan leaves nothing behind
        there = replace(cfg, cache_dir=scratch)
        train, _ = read_questions(there, "train", cfg.judge == "labels")
        test, _ = read_questions(there, "test", True)
        return sizes_of(cfg, train, test)


def sizes_of(cfg: TrainConfig, train: Rows, test: Rows) -> Sizes:
    """The sizes of a run on these questions (schema.EXAMPLE)."""
    every = train + test
    some = every.take(drawn(len(every), cfg.planning.sample, cfg.seed)).to_pylist()
    questions = [Example(row["id"], row["question"], tuple(row["golden_answers"])) for row in some]
    return Sizes(len(train), len(test), lengths(cfg, questions, passages(cfg, len(questions))))


def lengths(
    cfg: TrainConfig, questions: Sequence[Example], there: Sequence[Document]
) -> dict[str, tuple[float, float]]:
    """Mean tokens of prompt and completion by kind of call (`run.plan.Calls`), each question over passages drawn anew.

    An answer is as long as the golden one and its end; evidence and unit as long as one passage.
    """
    prompt, text = counters(cfg.backbone)
    message, task, backbone, draw = prompts_of(cfg).message, cfg.benchmark.task, cfg.backbone, random.Random(cfg.seed)
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for one in questions:
        documents, question = draw.choices(there, k=max(cfg.k, cfg.gates.n_min)), one.question
        answer = min([backbone.answer_tokens, *(text(golden) + 1 for golden in one.golden_answers[:1])])
        unit = min(backbone.distil_tokens, text(documents[0].text))
        for kind, asked, reply in (
            ("question", message(f"closed_book_{task}", question=question), answer),
            ("documents", message(task, documents[: cfg.k], question=question), answer),
            ("document", message(task, documents[:1], question=question), answer),
            ("extract", message("extract", documents[: cfg.gates.n_min], question=question), unit),
            ("rewrite", message("rewrite", question=question, evidence=documents[0].text), unit),
        ):
            found[kind].append((min(prompt(asked), backbone.max_model_len - reply), reply))  # the tail is dropped
    return {kind: (fmean(p for p, _ in pairs), fmean(c for _, c in pairs)) for kind, pairs in found.items()}


def counters(backbone: Backbone) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """What counts the tokens of a message as it is sent, and of a text alone."""
    if backbone.kind != "vllm":
        llm = open_llm(backbone)
        return llm.prompt_tokens, llm.count_tokens
    tokenizer = open_tokenizer(backbone)
    template = template_of(backbone, tokenizer)
    return (
        lambda content: len(rendered(tokenizer, template, content, told=backbone.template_args)),
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
    )


def passages(cfg: TrainConfig, wanted: int) -> list[Document]:
    """Passages of the corpus, or of the base that is given, drawn at random by the seed: lines of the file after random
    bytes of it, so that a corpus of any size takes as long; of files that are not FlashRAG's the first passages.
    InputError where none can be read.
    """
    draw = random.Random(cfg.seed)
    if cfg.base:
        data = opened(place_of(cfg.base), current(cfg.base))
        chosen = sorted(draw.sample(range(data.count_rows()), min(wanted, data.count_rows())))
        return [Document(**row) for row in data.take(chosen, columns=PASSAGE.names).to_pylist()]
    given = located(cfg.corpus, cache_of(cfg))
    files, found = files_of(given), list[Document]()
    path = files[0].path
    if len(files) > 1 or kind_of(path.name) not in ("", ".jsonl") or cfg.corpus_columns:
        return _known(some_passages(given, cfg.corpus_columns or {}, cfg.chunk_words, wanted), cfg)
    with path.open("rb") as file:
        for _ in range(4 * wanted):  # some lines may be bad
            file.seek(draw.randrange(max(1, path.stat().st_size)))
            file.readline()
            if not (line := file.readline()):  # after the last line comes the first
                file.seek(0)
                line = file.readline()
            try:
                found.append(parse_passage(line))
            except BadRow:  # a run quarantines it, with its reason
                continue
    return found[:wanted] or _known(some_passages(given, {}, cfg.chunk_words, wanted), cfg)


def _known(found: list[Document], cfg: TrainConfig) -> list[Document]:
    if not found:
        raise InputError(f"{cfg.corpus}: no passage that can be read at its beginning")
    return found
