"""What a run will ask for, reckoned before it runs: calls by step, tokens, GPU-hours, price.

Calls of one kind are about equally long: a step is so many calls of each kind, and a kind's tokens are the means of a
sample of both questions and passages (`measured`), in which passages drawn from the corpus stand in place of what would
be retrieved: nothing is encoded, retrieved or written, and of a model the tokenizer alone is loaded. What nobody knows
before is a setting (`config.Planning`): how many examples the gates keep and how many are right closed book. A step is
told at most: calls saved on the way, as prompts that repeat within an example and answers that other runs gave, are in
it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from wbrag.config import Backbone, Method, Planning, TrainConfig, one_unit_an_example
from wbrag.data.benchmarks import InputError, drawn, some_passages
from wbrag.data.files import files_of, kind_of
from wbrag.data.flashrag import BadRow, parse_passage
from wbrag.llm.engine import open_tokenizer, rendered, template_of
from wbrag.methods import searches
from wbrag.prompts import prompts_of
from wbrag.report.page import terminal
from wbrag.report.tables import count, tabled
from wbrag.run.actors import open_llm
from wbrag.run.inputs import cache_of, located, read_questions
from wbrag.run.lookup import Rows
from wbrag.schema import PASSAGE, Document, Example
from wbrag.store.rows import opened

#: Calls of each kind: on the `question` alone, over all `documents`, over one `document`, and the two of the distiller,
#: `extract` and `rewrite`.
Calls = dict[str, float]
SUMMED = ("calls", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Examples, test questions, and of each kind of call the mean tokens of prompt and completion."""

    train: int
    test: int
    lengths: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Step:
    """Calls and tokens of a step of the run; `part` is what `report.construction.cost` counts it to."""

    part: str
    name: str
    calls: float
    prompt_tokens: float
    completion_tokens: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run at the expected share of kept examples, and their sums at the least, the expected, the most;
    `paper_calls` are those of training by the paper's plan, 2 N + |D_util| (K + 1) (section 3.4).
    """

    steps: Sequence[Step]
    totals: Sequence[Step]
    paper_calls: float


def planned(cfg: TrainConfig, sizes: Sizes, closed_book: bool = True) -> Plan:
    """The plan of a run; without `closed_book` another run has these answers."""
    kept = cfg.planning.kept
    steps = [steps_of(cfg, sizes, share, closed_book) for share in kept]
    paper = 2 * sizes.train + sizes.train * kept[1] * (cfg.k + 1)
    return Plan(steps[1], [total(some) for some in steps], paper)


def steps_of(cfg: TrainConfig, sizes: Sizes, kept: float, closed_book: bool = True) -> list[Step]:
    """The steps of a run in which the gates keep this share of the examples; those without a call are left out."""
    asked, chosen = sizes.train * (1 - cfg.planning.known), sizes.train * kept
    answer, question = answer_calls(cfg.method, cfg.k), {"question": 1.0}
    alone: Calls = {} if cfg.method.name == "selfrag" else {"document": float(cfg.k)}  # it has asked about each already
    judged = sizes.train + asked + chosen * cfg.k if cfg.judge == "llm" else 0
    steps: list[tuple[str, str, Calls, float]] = [
        ("training", "closed book", question, sizes.train * closed_book),
        ("training", "with documents", answer, asked),
        ("training", "each document alone", alone, chosen),
        ("training", "judge", {"documents": 1}, judged),
        ("training" if one_unit_an_example(cfg.units) else "writing", "units", writing_calls(cfg), chosen),
        ("validating", "units that others read", answer, asked * cfg.units.validate),
        ("evaluation", "closed book", question, sizes.test * closed_book),
        ("evaluation", "base, then with write-back", answer, 2 * sizes.test),
    ]
    return [_step(*step, sizes.lengths) for step in steps if step[2] and step[3]]


def answer_calls(method: Method, k: int) -> Calls:
    """What an answer over k documents takes; of a method that searches, a phrase is a draft and what is written after a
    search.
    """
    if method.name == "replug":
        return {"document": k}
    if method.name == "selfrag":
        return {"question": 1, "document": (4 if method.mode == "tokens" else 3) * k}
    return {"documents" if k > 1 else "document": 2 if searches(method) else 1}


def writing_calls(cfg: TrainConfig) -> Calls:
    """What the units of a kept example take; by subject it is an estimate, as one call for each passage searched."""
    units = cfg.units
    if units.form == "verbatim":
        return {"document": cfg.gates.n_min} if (units.scope, units.evidence) == ("question", "llm") else {}
    found: Calls = {"extract": 1} if units.scope == "question" else {"document": units.search}
    return {**found, "rewrite": 2 if units.faithful and units.critic == "llm" else 1}


def total(steps: Sequence[Step]) -> Step:
    """The sum of steps."""
    return Step("", "together", *(sum(getattr(step, key) for step in steps) for key in SUMMED))


def gpu_hours(step: Step, tokens_per_second: float) -> float:
    """Hours of a GPU that does so many prompt and completion tokens in a second."""
    return (step.prompt_tokens + step.completion_tokens) / tokens_per_second / 3600


def price(step: Step, planning: Planning) -> float:
    """The price at an endpoint that is paid by the million tokens."""
    return (step.prompt_tokens * planning.price_in + step.completion_tokens * planning.price_out) / 1e6


def told(rows: Sequence[tuple[str, Step]], plans: Sequence[Plan], planning: Planning) -> str:
    """Named rows, the sums of all plans at each share of kept examples, GPU-hours and price, as text for a terminal."""
    totals = [total(some) for some in zip(*(plan.totals for plan in plans), strict=True)]
    records: list[tuple[str, Mapping[str, Any]]] = [(name, asdict(step)) for name, step in rows]
    records += [(f"together, {share:.0%} kept", asdict(one)) for share, one in zip(planning.kept, totals, strict=True)]
    paper = sum(plan.paper_calls for plan in plans)
    records.append((f"training by the paper's plan, {planning.kept[1]:.0%} kept", {"calls": paper}))
    lines = [terminal(tabled("", [(key.replace("_", " "), key, count) for key in SUMMED], records)), ""]
    hours, paid = "give planning.tokens_per_second, of one GPU", "give planning.price_in and planning.price_out"
    if rate := planning.tokens_per_second:
        hours = f"{_ranged([gpu_hours(one, rate) for one in totals])} at {rate:,.0f} tokens a second and GPU"
    if planning.price_in or planning.price_out:
        tariff = f"{planning.price_in:g} and {planning.price_out:g} a million prompt and completion tokens"
        paid = f"{_ranged([price(one, planning) for one in totals])} at {tariff}"
    return "\n".join([*lines, f"GPU-hours: {hours}", f"price: {paid}"])


def _step(part: str, name: str, calls: Calls, times: float, lengths: Mapping[str, tuple[float, float]]) -> Step:
    prompt, completion = (sum(n * lengths[kind][i] for kind, n in calls.items()) for i in (0, 1))
    return Step(part, name, times * sum(calls.values()), times * prompt, times * completion)


def _ranged(values: Sequence[float]) -> str:
    least, expected, most = values
    return f"{expected:,.2f} ({least:,.2f} to {most:,.2f})"


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
    """Mean tokens of prompt and completion by kind of call (`Calls`), each question over passages drawn anew.

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
        data = opened(cfg.base)
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
