"""Typed configuration: the schema that every file of `conf/` is checked against.

The classes hold data only: the modules that own a choice check it and pick the code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

MISSING: Any = "???"
_AROUND_KEY = re.compile(r"^[\s\"']*(?:Bearer\s+)?|[\s\"']+$")


class ConfigError(ValueError):
    """A setting that cannot work; the message names the key and the value."""


@dataclass
class Gates:
    """Thresholds of Algorithm 1; the paper's defaults (section 4.1)."""

    tau_s: float = 0.1
    tau_delta: float = 0.01
    tau_doc: float = 0.01
    n_min: int = 2


@dataclass
class Benchmark:
    """Where the questions are, how they are asked (`task`) and scored (`metric`)."""

    name: str = MISSING
    train: str = MISSING
    test: str = MISSING
    task: str = "factoid"  # factoid | yes_no | claim | slot | multi_hop: a key of wbrag.prompts
    metric: str = "acc"  # the primary metric: the gates' M and the headline of the report
    language: str = "en"  # how answers are compared: en, as FlashRAG does | any, by Unicode
    labels: dict[str, list[str]] = field(default_factory=dict)  # canonical label -> spellings, for label accuracy
    rows: dict[str, int] = field(default_factory=dict)  # split (train, test) -> rows its file has to have
    columns: Any = None  # part of a question -> the column it is in; not a dict, whose keys Hydra wants a + for
    test_share: float = 0.2  # test "": the share of the training questions that test instead


@dataclass
class Method:
    """A RAG method: how a question and its documents become an answer. Each reads its own keys only."""

    name: str = "naive"
    temperature: float = 1.0  # replug: of the softmax over the documents' scores
    pooling: str = "probabilities"  # replug: probabilities | logits
    bad_words: list[str] = field(default_factory=list)  # replug: what no document may answer
    mode: str = "prompted"  # selfrag: prompted | tokens
    threshold: float = 0.2  # selfrag: the probability of "documents are needed" above which they are read
    w_relevance: float = 1.0  # selfrag: weights of the critiques in a document's score
    w_support: float = 1.0
    w_utility: float = 0.5
    theta: float = 0.8  # flare: a word less probable than this makes the method search
    beta: float = 0.4  # flare: a word less probable than this is masked in the query
    query: str = "masked"  # flare: masked | generated
    settings: dict[str, Any] = field(default_factory=dict)  # of a method of another package: its own


@dataclass
class Backbone:
    """The generator G."""

    name: str = MISSING
    kind: str = "vllm"  # vllm | openai | scripted
    model: str = MISSING  # folder or hub name; openai: the name that the endpoint knows it by
    gguf: str = ""  # vllm: in place of a folder, a GGUF file or package:MODULE that holds one (wbrag.llm.engine)
    prompts: dict[str, str] = field(default_factory=dict)  # templates it needs in place of wbrag.prompts', by key
    chat_template: str = ""  # vllm: Jinja text in place of the tokenizer's own template
    template_args: dict[str, Any] = field(default_factory=dict)  # vllm: what the template is told
    dtype: str = "auto"
    max_model_len: int = 2048
    max_num_seqs: int = 256
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float = 1.0  # CPU only
    engine_args: dict[str, Any] = field(default_factory=dict)  # vllm: more of AsyncEngineArgs (wbrag.llm.vllm)
    answer_tokens: int = 32
    distil_tokens: int = 256
    thinking_tokens: int = 0  # more for each reply, of a model that thinks before it answers
    base_url: str = ""  # openai only, as all below
    api_key_env: str = ""
    max_tokens_key: str = "max_tokens"
    extra_body: dict[str, Any] = field(default_factory=dict)  # more keys of every request
    timeout_s: float = 120.0
    retries: int = 6
    token_logprobs: bool = False
    continues: bool = False


@dataclass
class Encoder:
    """The retriever's encoder; vectors are unit norm, fp16."""

    name: str = MISSING
    kind: str = "sentence_transformers"  # sentence_transformers | openai | hashing
    model: str = MISSING
    query_prefix: str = ""
    passage_prefix: str = ""
    max_length: int = 256
    batch_size: int = 64
    dimension: int = 0  # 0: what the model says
    base_url: str = ""  # openai only, as the next
    api_key_env: str = ""


@dataclass
class Index:
    """How vectors are stored and searched."""

    kind: str = "flat_fp16"  # flat_fp16 | ivf_fp16, for a base; write-back is always flat
    fragment_rows: int = 262_144  # rows of a fragment, and of an index file, at most
    nlist: int = 4096  # IVF: lists
    nprobe: int = 32  # IVF: lists that a query looks into


@dataclass(unsafe_hash=True)
class Retrieval:
    """How passages and units are found."""

    kind: str = "dense"  # dense (by vectors) | bm25 (by words) | hybrid (both, their ranks fused)
    reranker: str = ""  # a cross-encoder that orders them anew: folder, hub name, package:<module>; "": none


@dataclass(unsafe_hash=True)
class Merge:
    """Which passages and units a question's reader is given (wbrag.retrieval.merge)."""

    policy: str = "plain"  # plain | beside
    margin: float = 0.0  # beside: how much farther than the best passage a unit may be, in score
    room: float = 0.25  # beside: what units may hold, as a share of the passages' characters
    reach: str = "near"  # beside: near | named (in the question) | linked (named, and named in these)


@dataclass
class Units:
    """What kept evidence becomes (wbrag.units). The defaults are the paper's: one rewritten passage an example."""

    name: str = "paper"
    form: str = "distilled"  # distilled: rewritten by the LLM | verbatim: sentences of the sources as they stand
    scope: str = "question"  # question: a unit for each kept example | subject: for each thing that evidence is about
    evidence: str = "encoder"  # question, verbatim or faithful: who chooses the sentences, encoder | llm
    sentences: int = 2  # verbatim, question, encoder: how many
    search: int = 10  # subject: passages that are searched by its name
    hops: int = 0  # subject: 1 takes in the subjects that the evidence mentions, 2 those that theirs mentions
    tokens: int = 128  # subject or verbatim: of the sentences that make one unit
    faithful: bool = False  # distilled: every sentence is held against the sources
    critic: str = "llm"  # faithful: who judges what no rule can, llm | none | a cross-encoder (folder, hub name)
    validate: bool = False  # what takes more than it gives on other training questions goes
    checks: bool = False  # what attacks, contradicts, repeats or is not trusted goes, or waits for a person


def one_unit_an_example(units: Units) -> bool:
    """Whether units are those of Algorithm 1: one for each kept example, rewritten while its documents are at hand."""
    return (units.form, units.scope, units.faithful, units.checks) == ("distilled", "question", False, False)


@dataclass
class Cluster:
    """Where the work runs; nothing here is part of a run's identity."""

    engines: int = 1
    encoders: int = 1
    gpus: bool = False
    encoder_gpus: float = 0.1  # 0: encoders on CPUs, 1: GPUs of their own, between: of an engine's GPU
    accelerator: str = ""  # "": any; as Ray names it: H200, A100
    min_engines: int = 0  # that there has to be room for at the start; 0: all
    logical_cpus: int = 4  # fewer than 4 and a resumed run hangs (checkpoint filter + read + write + engine)
    block_rows: int = 64
    examples_in_flight: int = 256
    object_store_mib: int = 512


@dataclass
class Planning:
    """What a plan is reckoned with (wbrag.run.plan); nothing here changes a run."""

    sample: int = 256  # questions whose prompts are tokenised
    kept: list[float] = field(default_factory=lambda: [0.06, 0.15, 0.5])  # share of examples: least, expected, most
    known: float = 0.25  # share of examples that are answered right without documents
    tokens_per_second: float = 0.0  # of one GPU; 0: not known
    price_in: float = 0.0  # of a million prompt tokens; 0 with price_out: no tariff
    price_out: float = 0.0  # of a million completion tokens


@dataclass
class Corpus:
    """Where passages come from, and how they are read."""

    corpus: Any = MISSING  # a path, a glob, a folder, or a list of these
    corpus_columns: Any = None  # part of a passage -> the column it is in; as benchmark.columns
    chunk_words: int = 100  # of a passage that is cut out of a document, at most
    access: str = ""  # the corpus' key that says which groups may see a passage (wbrag.units.access); "": no labels
    cache_dir: str = ""  # what is made of it, and what runs share; default: cache/ beside run_dir, <store>-cache
    max_error_rate: float = 0.01


@dataclass
class TrainConfig(Corpus):
    """Root of `wbrag train` and `wbrag evaluate`."""

    benchmark: Benchmark = field(default_factory=Benchmark)
    method: Method = field(default_factory=Method)
    backbone: Backbone = field(default_factory=Backbone)
    encoder: Encoder = field(default_factory=Encoder)
    index: Index = field(default_factory=Index)
    retrieval: Retrieval = field(default_factory=Retrieval)
    merge: Merge = field(default_factory=Merge)
    units: Units = field(default_factory=Units)
    cluster: Cluster = field(default_factory=Cluster)
    gates: Gates = field(default_factory=Gates)
    prompts: dict[str, str] = field(default_factory=dict)  # overrides of wbrag.prompts and backbone.prompts, by key
    world: str = MISSING  # folder of a generated microworld; conf/benchmark/*.yaml point into it
    data_dir: str = MISSING  # folder of the FlashRAG release; conf/benchmark/flashrag_*.yaml point into it
    base: str = ""  # a store in place of the corpus: no passage is encoded
    updated_at: str = ""  # units.checks: the passages' key that says when each is from; "": as they came
    trust: str = ""  # units.checks: the passages' key that says whether each is trusted; "": all are
    run_dir: str = MISSING
    kb: str = ""  # a folder: the knowledge base of many runs that the units come to
    judge: str = "labels"  # labels | llm
    k: int = 5
    train_limit: int = 0  # 0: all
    test_limit: int = 0
    seed: int = 0
    plan: bool = False  # tell what the run would ask for, and end
    planning: Planning = field(default_factory=Planning)


@dataclass
class Questions:
    """Files of questions."""

    train: str = ""
    test: str = ""


@dataclass
class UpdateConfig:
    """Root of `wbrag update`: all other settings are those of the run. "": the file that the run has read last."""

    run_dir: str = MISSING
    corpus: Any = ""
    benchmark: Questions = field(default_factory=Questions)
    cluster: Cluster = field(default_factory=Cluster)
    cache_dir: str = ""
    max_error_rate: float | None = None  # None: the run's
    dry_run: bool = False  # tell how corpus and base differ, and end


@dataclass
class BuildConfig(Corpus):
    """Root of `wbrag index`."""

    encoder: Encoder = field(default_factory=Encoder)
    index: Index = field(default_factory=Index)
    cluster: Cluster = field(default_factory=Cluster)
    store: str = MISSING
    adopt: str = ""  # a flat FAISS index of the corpus: its vectors are taken over


@dataclass
class QuestionsConfig(Corpus):
    """Root of `wbrag questions`."""

    backbone: Backbone = field(default_factory=Backbone)
    out: str = MISSING
    count: int = 100
    judge: str = "labels"  # labels: an answer from the passage has to hold the golden one | llm: the generator says so
    prompts: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass
class FinishedRuns:
    """What is measured once more, and where the report of it goes."""

    runs: list[str] = MISSING  # finished run folders
    report_dir: str = MISSING


@dataclass
class TransferConfig(FinishedRuns):
    """Root of `wbrag transfer`: the runs differ in their method alone."""


@dataclass
class PlaceboConfig(FinishedRuns):
    """Root of `wbrag placebo`."""

    placebos: list[str] = MISSING  # names of wbrag.experiments.placebos
    repeat: bool = True  # the run itself once more: A/A


@dataclass
class CompareConfig(FinishedRuns):
    """Root of `wbrag compare_units`."""

    ways: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of conf/train.yaml's units and merge


@dataclass
class AblateConfig(FinishedRuns):
    """Root of `wbrag ablate`."""

    thresholds: dict[str, list[Any]] = field(default_factory=dict)  # name of a gate's threshold -> numbers


@dataclass
class ReproduceConfig:
    """Root of `wbrag reproduce`: a grid of runs, what is measured in them afterwards, one report."""

    run_dir: str = MISSING
    methods: list[str] = MISSING
    benchmarks: list[str] = MISSING
    backbones: list[str] = MISSING
    world: str = ""  # folder of a generated microworld
    overrides: list[str] = field(default_factory=list)  # of conf/train.yaml, for every point
    transfer: list[str] = field(default_factory=list)  # benchmarks
    ablate: list[str] = field(default_factory=list)  # benchmark/method
    thresholds: dict[str, list[Any]] = field(default_factory=dict)  # name of a gate's threshold -> numbers
    placebo: list[str] = field(default_factory=list)  # benchmark/method
    placebos: list[str] = field(default_factory=list)
    repeat: list[str] = field(default_factory=list)  # benchmark/method
    compare: list[str] = field(default_factory=list)  # methods
    ways: dict[str, list[str]] = field(default_factory=dict)  # as in CompareConfig
    judge: list[str] = field(default_factory=list)  # benchmark/method
    temperatures: list[float] = field(default_factory=list)  # REPLUG's runs are answered at these too
    plan: bool = False  # tell what the points that are not done would ask for, and end


def check_values(
    cfg: object, within: str, known: Mapping[str, Collection[str]], least: Mapping[str, float] | None = None
) -> None:
    """ConfigError, naming key (behind `within`) and value, for a setting that is none of those known, or too small."""
    for key, values in known.items():
        if (value := attrgetter(key)(cfg)) not in values:
            raise ConfigError(f"{within}{key}={value!r} is unknown; known are {', '.join(values)}")
    for key, minimum in (least or {}).items():
        if not minimum <= (value := attrgetter(key)(cfg)) < 1 << 31:
            raise ConfigError(f"{within}{key}={value}: at least {minimum} is needed, and less than {1 << 31:,}")


def api_key(part: str, variable: str) -> str:
    """The key of an endpoint, in an environment variable, without what may stand around it where it was copied from
    (blanks, quotes, "Bearer"); "" where none is named. ConfigError where there is none that HTTP can carry.
    """
    key = _AROUND_KEY.sub("", os.environ.get(variable, "")) if variable else ""
    if variable and not (key and key.isascii() and key.isprintable() and " " not in key):
        told = f"{part}.api_key_env={variable!r}: it is not set, empty, or holds characters that no key has"
        raise ConfigError(f"{told}; for an endpoint without keys: {part}.api_key_env=")
    return key


def is_web_address(url: str) -> bool:
    """Whether HTTP can ask there: http or https, a host, a port that there can be."""
    try:
        told = urlsplit(url.strip())
        return told.scheme in ("http", "https") and bool(told.hostname) and told.port != 0 and url.strip().isprintable()
    except ValueError:
        return False


def fingerprint(*parts: object) -> str:
    """16 hex digits that change with anything given (dataclasses, dicts, strings)."""
    plain = [asdict(p) if is_dataclass(p) and not isinstance(p, type) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]
