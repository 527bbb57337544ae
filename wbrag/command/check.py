"""`wbrag check`: what a training would fail over, found before any work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wbrag.command.overrides import plain
from wbrag.config import ConfigError, TrainConfig
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.prompts import prompts_of
from wbrag.report.tables import FEW
from wbrag.retrieval.encoding import open_encoder
from wbrag.run import inputs
from wbrag.run.job import Session
from wbrag.run.lookup import Rows
from wbrag.run.placement import gpus_of_engine, place
from wbrag.store.versions import current

#: What a vector is reckoned with where the settings do not say: dimensions; and its bytes, in the store and in FAISS.
DIMENSION, VECTOR_BYTES = 768, 4
#: What a corpus takes beside its vectors: as Parquet, and as rows of the store.
COPIES = 2
#: What says in one sentence why it cannot be.
REFUSED = (ConfigError, InputError, OverErrorBudget, OSError, ValueError)


def check(cfg: TrainConfig, session: Session) -> None:
    """Find what a training would fail over, before any work: it takes what `wbrag train` takes.

      wbrag check benchmark=files benchmark.train=train.jsonl benchmark.test=test.jsonl corpus=corpus.jsonl \\
          backbone=openai backbone.model=NAME backbone.base_url=URL run_dir=runs/mine
      wbrag check benchmark=nq world=DIR run_dir=runs/nq
      wbrag check benchmark=flashrag_nq data_dir=DIR backbone=llama31_8b cluster=gpu run_dir=DIR

    Looked at: settings and prompts, every row of the files (which stays in the cache for the training),
    train = test, the endpoint (a call) or the hub's model and its gate, the encoder, disk, cluster.
    """
    problems: list[str] = []
    cfg = replace(cfg, backbone=replace(cfg.backbone, retries=0))
    for name, look in looks(cfg):
        try:
            told, mark = look(), "ok"
        except REFUSED as error:
            told, mark = plain(error, []), "PROBLEM"
            if told in problems:  # a look at all settings finds again what one of its own has found
                continue
            problems.append(told)
        print(f"{mark:<8} {name:<19} {told}", flush=True)
    if problems:
        raise ConfigError(f"{len(problems)} problem{'s' * (len(problems) > 1)}, see above")


def looks(cfg: TrainConfig) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is looked at, by name, each as a function that tells what is there, or raises one of REFUSED."""
    found: dict[str, Rows] = {}

    def questions(split: str) -> str:
        how = split == "test" or cfg.judge == "labels", split == "test" and not cfg.benchmark.test
        found[split], left = inputs.read_questions(cfg, split, *how)
        few = f"; fewer than {FEW} are too few for an interval" if split == "test" and len(found[split]) < FEW else ""
        return f"{getattr(cfg.benchmark, split) or cfg.benchmark.train}: {counted(len(found[split]), len(left))}{few}"

    def settings() -> str:
        inputs.check_settings(cfg, ask=False)  # the endpoint has a look of its own
        return "they fit together"

    yield "prompts", lambda: check_prompts(cfg)
    yield "generator", lambda: check_generator(cfg)
    yield "encoder", lambda: check_encoder(cfg)
    yield "settings", settings
    yield "training questions", lambda: questions("train")
    yield "test questions", lambda: questions("test")
    yield "train = test", lambda: check_apart(found)
    yield "corpus", lambda: check_corpus(cfg)
    yield "disk", lambda: check_disk(cfg)
    yield "cluster", lambda: check_cluster(cfg)


def counted(rows: int, left_out: int) -> str:
    """How many rows there are, and how many were left out."""
    return f"{rows:,}" + (f", {left_out:,} left out" if left_out else "")


def check_prompts(cfg: TrainConfig) -> str:
    """Whether all templates are known; what stands in them as far as `Prompts` holds it."""
    templates = prompts_of(cfg).templates
    return f"{len(templates)} templates, {len({**cfg.backbone.prompts, **cfg.prompts})} of them not the defaults"


def check_generator(cfg: TrainConfig) -> str:
    """Whether the endpoint answers a call, or the model can be had."""
    inputs.check_backbone(cfg.backbone)
    if cfg.backbone.kind != "openai":
        return f"{cfg.backbone.model or cfg.backbone.gguf} can be had" if cfg.backbone.kind == "vllm" else "is scripted"
    from wbrag.llm.openai import check_endpoint

    check_endpoint(cfg.backbone)
    return f"{cfg.backbone.model} answers at {cfg.backbone.base_url}"


def check_encoder(cfg: TrainConfig) -> str:
    """Whether the encoder's model can be had, or its endpoint answers."""
    inputs.check_encoder(cfg.encoder)
    if cfg.encoder.kind != "openai":
        return f"{cfg.encoder.model or cfg.encoder.kind} can be had"
    return f"{cfg.encoder.model} answers at {cfg.encoder.base_url}: {open_encoder(cfg.encoder).dimension} dimensions"


def check_apart(found: dict[str, Rows]) -> str:
    """How many test questions stand in training too, word for word; ConfigError where both are the same."""
    if len(found) < 2:
        return "not compared: one of them cannot be read"
    train, test = (set(found[split].column("question").to_pylist()) for split in ("train", "test"))
    both = len(train & test)
    if train == test:
        raise ConfigError("training and test questions are the same: give another benchmark.test")
    return f"{both:,} of {len(test):,} test questions stand in training too, word for word; the report tells them apart"


def check_corpus(cfg: TrainConfig) -> str:
    """How many passages there are; every row is read."""
    if cfg.base:
        inputs.check_base(cfg)
        rows, told = current(cfg.base).rows, f"base {cfg.base}: {current(cfg.base).rows:,} passages"
    else:
        file, left = inputs.read_corpus(cfg, inputs.cache_of(cfg))
        rows = pq.read_metadata(file).num_rows
        told = f"{cfg.corpus}: {counted(rows, len(left))}"
    return told if rows > cfg.k else f"{told}; with k={cfg.k} every question reads all of them"


def check_disk(cfg: TrainConfig) -> str:
    """Room for base and corpus beside the run; ConfigError, with both numbers, for less, or where nothing can be
    written.
    """
    need = 0
    if not cfg.base:
        file, _ = inputs.read_corpus(cfg, inputs.cache_of(cfg), again=True)
        need = needed(file, cfg.encoder.dimension)
    free = {}
    for key, folder in (("run_dir", Path(cfg.run_dir).absolute()), ("cache_dir", inputs.cache_of(cfg))):
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigError(f"{key}={folder}: nothing can be written in {there}")
        free[key] = shutil.disk_usage(there).free
    told = f"{free['cache_dir'] / 1e9:,.1f} GB free, about {need / 1e9:,.1f} GB needed for the base"
    if free["cache_dir"] < need:
        raise ConfigError(f"cache_dir={inputs.cache_of(cfg)}: {told}")
    return told


def needed(corpus: Path, dimension: int) -> int:
    """Bytes that a corpus, given as Parquet, takes as the base of a run, about."""
    rows: int = pq.read_metadata(corpus).num_rows
    return COPIES * corpus.stat().st_size + rows * (dimension or DIMENSION) * VECTOR_BYTES


def check_cluster(cfg: TrainConfig) -> str:
    """Whether engines and encoders have room: a Ray that is there is asked; one of this machine's own is not started
    for engines without GPUs.
    """
    gpus = gpus_of_engine(cfg.cluster, cfg.backbone)
    if "RAY_ADDRESS" not in os.environ and not cfg.cluster.gpus:
        place(cfg.cluster, gpus, [{"CPU": float(cfg.cluster.logical_cpus)}])
        return "a Ray of this machine's own"
    with Session() as own:
        plan: Any = own.room(cfg.cluster, gpus).plan
    return f"room for {plan.engines} engines and {plan.encoders or cfg.cluster.encoders} encoders"
