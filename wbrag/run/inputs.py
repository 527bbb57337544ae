"""What a run starts from: checked settings, validated inputs, and the identity of all that changes its result."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from wbrag.config import Backbone, ConfigError, Encoder, Index, TrainConfig, Units, fingerprint
from wbrag.data import benchmarks
from wbrag.data.benchmarks import InputError, OverErrorBudget, Rejected
from wbrag.llm.engine import check_hub, model_path
from wbrag.llm.vllm import check_engine_args
from wbrag.methods import check_method
from wbrag.prompts import prompts_of
from wbrag.retrieval.encoder import folder_hash, model_folder
from wbrag.retrieval.merge import check_merge
from wbrag.run.folder import write_text
from wbrag.run.lease import in_turn
from wbrag.run.lookup import FILES, Rows
from wbrag.run.shared import content_hash
from wbrag.run.tombstones import Tombstones, purged_by, tombstones
from wbrag.schema import EXAMPLE
from wbrag.store.files import move_into_place, scratch_folder, sha256_file
from wbrag.store.place import place_of
from wbrag.store.vectors import check_index
from wbrag.store.versions import current, encoder_note, named, noted_encoder

Identity = dict[str, Any]

#: Settings that have to be at least so much. A resumed plan has a filter (1 CPU), a read and a write task (1 each) and
#: a dispatcher (0.5) at once; with fewer logical CPUs it waits for ever without a word.
LEAST = {"k": 1, "gates.n_min": 1, "train_limit": 0, "test_limit": 0, "backbone.retries": 0, "backbone.max_num_seqs": 1}
LEAST |= {"cluster.block_rows": 1, "cluster.engines": 1, "cluster.encoders": 1, "cluster.examples_in_flight": 1}
LEAST |= {"cluster.logical_cpus": 4, "cluster.min_engines": 0}
#: What Ray's job supervisor sets for the driver of a submitted job.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: Settings that are paths: what a job writes, or other nodes read; and what its driver alone reads.
SHARED_PATHS = ("run_dir", "store", "cache_dir", "report_dir", "runs", "base")
READ_PATHS = ("world", "data_dir", "corpus", "adopt", "benchmark.train", "benchmark.test")
#: The name of an environment variable, as people write them: a key has small letters or a hyphen.
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
#: How a URL begins that names a user, and may name a password.
WITH_USER = re.compile(r"\w+://[^/]*@")
#: What a corpus and a file of questions become in their folders of the cache: a Parquet file, and a folder of Arrow
#: files, whose rows can be taken in any order.
PASSAGES, EXAMPLES = "passages.parquet", "examples"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Validated inputs: labelled questions (schema.EXAMPLE) in Arrow files, the corpus as a Parquet file, and the rows
    left out of all three.
    """

    train: Rows
    test: Rows
    corpus: Path | None  # as Parquet; None where the base is given
    rejected: list[Rejected]


def check_settings(cfg: TrainConfig) -> None:
    """Raise ConfigError, naming key and value, for what the types of the configuration cannot exclude."""
    check_paths(cfg)
    check_secrets(cfg)
    benchmarks.check_benchmark(cfg.benchmark)
    check_method(cfg.method, cfg.backbone)
    check_merge(cfg.merge)
    check_index(cfg.index)
    check_units(cfg.units)
    check_base(cfg)
    _check(cfg, "", {"judge": ("labels", "llm")}, LEAST)
    try:
        prompts_of(cfg)
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from error
    if cfg.method.name == "replug" and cfg.k > cfg.backbone.max_num_seqs:
        most = cfg.backbone.max_num_seqs
        raise ConfigError(f"k={cfg.k}: replug decodes k sequences side by side, and backbone.max_num_seqs={most}")
    least = {"sample": 1, "tokens_per_second": 0, "price_in": 0, "price_out": 0}
    _check(cfg.planning, "planning.", {}, least)
    check_backbone(cfg.backbone)


def check_backbone(backbone: Backbone) -> None:
    """ConfigError for engine arguments that cannot be given, and for a model that no hub gives: nothing is loaded."""
    check_engine_args(backbone)
    check_hub(backbone)


def check_paths(cfg: object) -> None:
    """ConfigError for a relative path among the settings of any job, where it is a submitted Ray job: that runs in a
    temporary copy of the working directory. What is only read may lie in that copy.
    """
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
    if any(name and not VARIABLE.fullmatch(name) for name in _texts(cfg, "backbone.api_key_env")):
        told = "give the name of the environment variable (A-Z, 0-9, _) that holds the key, not the key"
        raise ConfigError(f"backbone.api_key_env: {told}")
    for key in (*SHARED_PATHS, "backbone.base_url"):
        if any(WITH_USER.match(url) for url in _texts(cfg, key)):
            where = "an endpoint's key in the variable that backbone.api_key_env names, S3's in the AWS variables"
            raise ConfigError(f"{key}: a URL with a user before @; secrets belong in the environment, {where}")


def _texts(cfg: object, key: str) -> list[str]:
    """What a setting of a job says, one text or several; none where it has no such setting."""
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name, [])
    return [value] if isinstance(value, str) else list(value)


def _check(cfg: object, within: str, known: Mapping[str, Sequence[str]], least: Mapping[str, int]) -> None:
    for key, values in known.items():
        if (value := attrgetter(key)(cfg)) not in values:
            raise ConfigError(f"{within}{key}={value!r} is unknown; known are {', '.join(values)}")
    for key, minimum in least.items():
        if (value := attrgetter(key)(cfg)) < minimum:
            raise ConfigError(f"{within}{key}={value}: at least {minimum} is needed")


def check_base(cfg: TrainConfig) -> None:
    """ConfigError for a base that is given beside a corpus, in S3, or made by another encoder or kind of index; what is
    no store at all says so (StoreError).
    """
    if not cfg.base:
        return
    if cfg.corpus:
        raise ConfigError(f"base={cfg.base} and corpus={cfg.corpus}: give one of them, and corpus='' beside a base")
    place = place_of(cfg.base)
    if place.remote:
        raise ConfigError(f"base={cfg.base}: a run reads its base from a folder; copy the store into one")
    version = current(place)
    made, own = noted_encoder(place, version), encoder_note(cfg.encoder)["encoder"]
    for key, value in (encoder_note(made)["encoder"] if made else {}).items():
        if value != own[key]:
            raise ConfigError(f"base={cfg.base}: was made with encoder.{key}={value!r}, the run has {own[key]!r}")
    if version.spec.kind != cfg.index.kind:
        raise ConfigError(f"base={cfg.base}: its index is {version.spec.kind!r}, the run has {cfg.index.kind!r}")


def check_units(units: Units) -> None:
    """ConfigError, naming key and value, for units that nobody can write."""
    known = {"form": ("distilled", "verbatim"), "scope": ("question", "subject"), "evidence": ("encoder", "llm")}
    _check(units, "units.", known, {"sentences": 1, "search": 1, "hops": 0, "tokens": 16})
    if units.faithful and units.form == "verbatim":
        raise ConfigError("units.faithful=true with units.form=verbatim: verbatim units are sentences of their sources")


def cache_of(cfg: TrainConfig) -> Path:
    """The folder of what runs can share: questions and corpora as they were validated, base indices, retrieved
    documents, closed-book answers.
    """
    return Path(cfg.cache_dir).absolute() if cfg.cache_dir else Path(cfg.run_dir).absolute().parent / "cache"


def read_inputs(cfg: TrainConfig, training: bool = True) -> Inputs:
    """Read and validate the question files and the corpus into the cache, each once per content.

    Without `training` the training file is not read; with a judge its rows may lack golden answers.
    InputError or OverErrorBudget as `wbrag.data.benchmarks` raises them, before anything is written into the run.
    """
    nothing: tuple[Rows, list[Rejected]] = (Rows.of([], EXAMPLE), [])
    train, rejected = read_questions(cfg, "train", cfg.judge == "labels") if training else nothing
    test, rejected_test = read_questions(cfg, "test", True)
    how = Path(cfg.corpus), cache_of(cfg), cfg.max_error_rate, tombstones(Path(cfg.run_dir))
    corpus, rejected_corpus = (None, []) if cfg.base else read_corpus(*how)
    return Inputs(train, test, corpus, [*rejected, *rejected_test, *rejected_corpus])


def identity_of(cfg: TrainConfig, training: bool = True) -> Identity:
    """Everything that changes a result, by configuration key: contents of files and models as hashes, not their names.

    What only says where and how fast (`cluster`, `max_num_seqs`, `run_dir`) is not in it, and so may change on resume.
    Without `training`, what only training reads is left out.
    """
    cache, beside = cache_of(cfg), cfg.merge.policy == "beside"
    trained = {
        "benchmark.train": content_hash(Path(cfg.benchmark.train), cache) if training else "",
        "train_limit": cfg.train_limit,
        "judge": cfg.judge,
        **{f"gates.{key}": value for key, value in asdict(cfg.gates).items()},
        **{f"units.{key}": value for key, value in asdict(cfg.units).items() if key != "name"},
    }
    return (trained if training else {}) | {
        "benchmark.test": content_hash(Path(cfg.benchmark.test), cache),
        **_settings(cfg, "benchmark", "task", "metric", "labels"),
        "corpus": named(current(cfg.base))[1] if cfg.base else content_hash(Path(cfg.corpus), cache),
        **{f"method.{key}": value for key, value in asdict(cfg.method).items()},
        **backbone_identity(cfg, "distil_tokens"),
        "encoder": encoder_identity(cfg.encoder),
        **{f"index.{key}": value for key, value in (index_identity(cfg.index) | search_identity(cfg.index)).items()},
        **{f"merge.{key}": value for key, value in asdict(cfg.merge).items() if beside or key == "policy"},
        **{f"prompts.{key}": value for key, value in prompts_of(cfg).templates.items()},
        "k": cfg.k,
        "test_limit": cfg.test_limit,
        **({"seed": cfg.seed} if cfg.train_limit or cfg.test_limit else {}),  # it draws them
    }


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
    given = {f"backbone.engine_args.{key}": value for key, value in cfg.backbone.engine_args.items()}
    kept = _settings(cfg, "backbone", "dtype", "max_model_len", "chat_template", "answer_tokens", *more)
    return {"backbone.model": model_identity(cfg.backbone)} | kept | given


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


def search_identity(index: Index) -> Identity:
    """What changes what is found in it."""
    return {"nprobe": index.nprobe} if index.kind == "ivf_fp16" else {}


def refuse_other_settings(run: Path, before: Identity, now: Identity) -> None:
    """Raise ConfigError where a run folder holds a run of another identity, naming the first keys and both values."""
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        told = "; ".join(f"{key} was {_short(before.get(key))}, now {_short(now.get(key))}" for key in changed[:3])
        raise ConfigError(f"run_dir={run} holds a run of other settings ({told}); choose another run_dir")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:12]}...{text[-4:]}"


def read_questions(cfg: TrainConfig, split: str, labelled: bool) -> tuple[Rows, list[Rejected]]:
    """The questions of a split (schema.EXAMPLE), as many as its limit takes, and the rows left out; errors as
    `read_inputs`. They are validated once per content and lie in the cache.
    """
    path, cache = Path(getattr(cfg.benchmark, split)), cache_of(cfg)

    def write(folder: Path) -> list[Rejected]:
        rejected: list[Rejected] = []
        examples = benchmarks.read_examples(path, rejected, cfg.max_error_rate, labelled)
        with scratch_folder(cache) as scratch:
            (scratch / "out").mkdir()
            Rows.written(scratch / "out", EXAMPLE, examples)
            folder.mkdir(parents=True, exist_ok=True)
            move_into_place(scratch / "out", folder / EXAMPLES)
        return rejected

    folder, rejected = _once(path, cache, "questions", write, cfg.max_error_rate, labelled)
    examples = Rows.of(sorted((folder / EXAMPLES).glob(FILES)), EXAMPLE)
    check_rows(path, split, len(examples) + len(rejected), cfg.benchmark.rows)
    if cfg.benchmark.labels:
        benchmarks.check_labels(examples.batches(["id", "golden_answers"]), cfg.benchmark.labels, path)
    return examples.chosen(benchmarks.drawn(len(examples), getattr(cfg, f"{split}_limit"), cfg.seed)), rejected


def check_rows(path: Path, split: str, found: int, rows: Mapping[str, int]) -> None:
    """Raise InputError, with both counts, where a file is not as long as the benchmark's release."""
    if (wanted := rows.get(split, 0)) not in (0, found):
        told = f"{path}: {found:,} rows, but the release has {wanted:,} (benchmark.rows.{split})"
        raise InputError(f"{told}; is the file whole? benchmark.rows.{split}=0 takes any other")


def read_corpus(
    path: Path, cache: Path, max_error_rate: float, purged: Tombstones | None = None
) -> tuple[Path, list[Rejected]]:
    """The corpus as Parquet in `cache`, without what was purged, made once per content however many runs need it, and
    the rows left out; errors as `write_corpus`.
    """

    def write(folder: Path) -> list[Rejected]:
        without = purged_by(purged) if purged else None
        return benchmarks.write_corpus(path, folder / PASSAGES, max_error_rate, without).rejected

    how = (max_error_rate, sorted(purged.items())) if purged else (max_error_rate,)
    folder, rejected = _once(path, cache, "corpus", write, *how)
    return folder / PASSAGES, rejected


def _once(
    path: Path, cache: Path, kind: str, write: Callable[[Path], list[Rejected]], *how: object
) -> tuple[Path, list[Rejected]]:
    """The folder of the cache for what `write` makes of a file's content and `how`, made once however many runs need
    it, and the rows left out. InputError where there is no file, and what `write` raises.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    folder = cache / f"{kind}-{fingerprint(content_hash(path, cache), *how)}"
    left_out = folder / "quarantine.jsonl"
    if not left_out.exists():  # written last, so that it says the rest is whole
        with in_turn(Path(f"{folder}.lock")):
            if not left_out.exists():  # not made while this run waited
                write_quarantine(write(folder), left_out)
    with left_out.open(encoding="utf-8") as lines:
        return folder, [Rejected(**{**json.loads(line), "file": str(path)}) for line in lines]


def write_quarantine(rejected: Iterable[Rejected], path: Path) -> None:
    """Write the rejected rows as JSONL, one object per row; whole or not at all; an empty file says there are none."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rejected))


def over_budget(name: str, failed: int, rows: int, max_error_rate: float, first: str) -> OverErrorBudget | None:
    """The error to raise where more rows of a stage failed than `max_error_rate` allows; None within the budget."""
    if not failed or failed / rows <= max_error_rate:
        return None
    share = f"{failed} of {rows} rows failed ({failed / rows:.2%})"
    told = f"{name}: {share}, max_error_rate={max_error_rate}; the first: {first}"
    return OverErrorBudget(f"{told}; the same command asks for them again")
