"""How a vLLM engine is to be opened for a backbone: checkpoint, dtype, arguments. Nothing is opened here."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wbrag.config import Backbone, ConfigError
from wbrag.llm.gguf import cache_folder, checkpoint

GIB = 1 << 30


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

    Raises ConfigError as `resolve_model` and `wbrag.llm.gguf.checkpoint` do, and where model and gguf both name one.
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
