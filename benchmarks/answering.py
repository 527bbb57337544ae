"""Questions answered by naive RAG, here and by FlashRAG (`flashrag_peer`): the same questions, corpus, vectors,
encoder, K, model, prompt and length of a reply.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bare_engine import WARM
from flashrag_peer import FRAMEWORKS, flashrag, installed
from stub_engine import Row, Told, settings
from synthetic import say

from wbrag.config import TrainConfig
from wbrag.llm.engine import model_path
from wbrag.prompts import prompts_of
from wbrag.retrieval.encoder import model_folder
from wbrag.run import inputs
from wbrag.run.actors import Generators, Stage
from wbrag.run.job import Job, Session, generate
from wbrag.run.lookup import Rows
from wbrag.run.pipeline import base_index, retrieve
from wbrag.run.record import RunRecord
from wbrag.run.retrieve import Knowledge
from wbrag.store.exchange import CORPUS, INDEX, export

#: FlashRAG takes a model for one that chats, and uses its template, where the path says so.
CHATS = "instruct"
#: Prompts that Hugging Face's model reads at once; FlashRAG's own number is 4.
BATCH = 16


def answer(out: Path, n: int) -> tuple[list[Told], Row]:
    """Questions of nq answered a second, and by FlashRAG's naive pipeline on Hugging Face and on vLLM; skipped, with
    the reason, where it cannot be had.
    """
    cfg = settings(out / "answer", f"world={out / 'world'}", f"cache_dir={out / 'cache'}")
    given = inputs.read_inputs(cfg)
    shutil.rmtree(cfg.run_dir, ignore_errors=True)
    say("answer: the base index, and FlashRAG's files of it")
    with Session() as session:
        base = base_index(cfg, given, session.lend(cfg.encoder, cfg.cluster))
    export([base], out / "answer" / "files")
    ours = own(cfg, base, first(given.train, WARM), first(given.test, n))
    facts: Row = {"wbrag": ours}
    shown: list[Told] = [(f"wbrag, {len(ours['answers']):,} questions", rate(ours), "", None)]
    python = installed(out)
    for framework in FRAMEWORKS:
        what = f"FlashRAG's naive pipeline, {framework}"
        if isinstance(python, str):
            shown.append((what, f"skipped: {python}", ">= 3", None))
            continue
        say(f"answer: {what}")
        theirs = flashrag(python, out / "answer" / framework, flashrag_settings(cfg, out, framework, n))
        if isinstance(theirs, str):
            shown.append((what, f"skipped: {theirs}", ">= 3", None))
            continue
        facts[framework] = theirs
        shown += beside(what, ours, theirs)
    return shown, facts


def first(questions: Rows, n: int) -> Rows:
    """The first n of the questions."""
    return questions.chosen(np.arange(min(n, len(questions))))


def own(cfg: TrainConfig, base: Path, warm: Rows, questions: Rows) -> Row:
    """Seconds of our own stages: until encoder and engine are up (`load`), and then for these questions (`run`), from
    their texts to the predictions on disk; `answers` by id.
    """
    import ray

    started = time.perf_counter()
    with Session() as session:
        generators = session.open(cfg)
        generators.start()
        assert generators.encoders
        ray.get([handle.apply.remote(attrgetter("dimension")) for handle in generators.encoders.start()])
        generators.wait()
        load = time.perf_counter() - started
        answered(cfg, base, warm, generators, "warm")
        say(f"answer: {len(questions):,} questions, wbrag")
        started = time.perf_counter()
        answers = answered(cfg, base, questions, generators, "asked")
        return {"load": load, "run": time.perf_counter() - started, "answers": answers}


def answered(cfg: TrainConfig, base: Path, questions: Rows, generators: Generators, name: str) -> dict[str, str]:
    """The answers over the base, by id, of the pipeline's stages `retrieve` and `predict`; each question is one call.

    As closed-book answers, which FlashRAG does not ask for, empty ones are handed in. RuntimeError for a failed row.
    """
    run = Path(cfg.run_dir) / name
    run.mkdir(parents=True)
    for found_before in inputs.cache_of(cfg).glob("retrieved-*"):
        shutil.rmtree(found_before)
    known, source = run / "known.parquet", run / "questions"
    blank = {"id": questions.column("id"), "answer_closed_book": [""] * len(questions)}
    pq.write_table(pa.table(blank), known)
    cfg = replace(cfg, run_dir=str(run))
    retrieve(cfg, inputs.Inputs(first(questions, 0), questions, None, []), base, source, generators.encoders)
    stage = Stage(cfg, "predict", Knowledge(cfg, base), known)
    job = Job(cfg, run, RunRecord(run, {"benchmark": "answer"}))
    generate(job, generators, stage, source / "test.parquet", "predictions", len(questions))
    rows = pq.read_table(run / "predictions", columns=["id", "answer_base", "error"]).to_pylist()
    if failed := [row for row in rows if row["error"] is not None]:
        raise RuntimeError(f"{len(failed)} of {len(rows)} questions failed; {failed[0]['id']}: {failed[0]['error']}")
    return {row["id"]: row["answer_base"] for row in rows}


def flashrag_settings(cfg: TrainConfig, out: Path, framework: str, n: int) -> dict[str, Any]:
    """What `flashrag_peer` is given: FlashRAG's own settings (`config`), our templates, questions to warm up on."""
    backbone, encoder, prompts = cfg.backbone, cfg.encoder, prompts_of(cfg).templates
    files, model = out / "answer" / "files", out / "answer" / f"{backbone.name}-{CHATS}"
    if not model.exists():
        model.symlink_to(model_path(backbone))
    config = {
        "framework": framework,
        "generator_model": model.name,
        "generator_model_path": str(model),
        "generator_batch_size": BATCH,
        "generator_max_input_len": backbone.max_model_len,
        "generation_params": {"do_sample": False, "max_tokens": backbone.answer_tokens},
        "retrieval_method": encoder.name,
        "retrieval_model_path": str(model_folder(encoder.model) or encoder.model),
        "retrieval_pooling_method": "mean",
        "retrieval_query_max_length": encoder.max_length,
        "retrieval_use_fp16": False,
        "retrieval_topk": cfg.k,
        "index_path": str(files / INDEX),
        "corpus_path": str(files / CORPUS),
        "data_dir": str(Path(cfg.benchmark.test).parents[1]),
        "dataset_name": Path(cfg.benchmark.test).parent.name,
        "split": ["train", "test"],
        "test_sample_num": n,
        "metrics": ["em"],
        "metric_setting": {"tokenizer_name": str(model)},
        "save_dir": str(out / "answer" / framework),
    }
    request = prompts[cfg.benchmark.task]
    user = prompts["documents"].format(documents="{reference}", request=request)
    return {"config": config, "user": user, "document": prompts["document"], "warm": WARM}


def beside(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Told]:
    """Rows of the table for one run of FlashRAG."""
    ratio = theirs["run"] / ours["run"]
    loaded = (theirs["load"] + theirs["run"]) / (ours["load"] + ours["run"])
    same = sum(theirs["answers"].get(key) == text for key, text in ours["answers"].items()) / len(ours["answers"])
    return [
        (f"{what} ({theirs['version']})", rate(theirs), "", None),
        ("  wbrag against it", f"{ratio:.2f}", ">= 3", ratio >= 3),
        ("  with loading", f"{loaded:.2f}", "", None),
        ("  equal answers", f"{same:.1%}", ">= 90 %", same >= 0.9),
    ]


def rate(found: Mapping[str, Any]) -> str:
    """Questions a second, and the seconds that loading takes, as a table's value."""
    return f"{len(found['answers']) / found['run']:.1f} questions/s, loaded in {found['load']:.0f} s"
