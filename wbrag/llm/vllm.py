"""The generator as an in-process vLLM engine (AsyncLLM): many coroutines, one continuous batch."""

from __future__ import annotations

import itertools
import math
import os
import platform
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbrag.config import Backbone, ConfigError
from wbrag.llm import FirstToken, Reply, Token

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

GIB = 1 << 30
#: Kept off unless the user set them: usage reports, progress bars, and everything below an error in the log.
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


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
        "model": resolve_model(backbone.model),
        "dtype": pick_dtype(backbone.dtype, on_cpu),
        "max_model_len": backbone.max_model_len,
        "max_num_seqs": backbone.max_num_seqs,
        "tensor_parallel_size": backbone.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
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


def missing_tokens(model: str, tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` that a checkpoint's tokenizer does not have as single tokens; loads the tokenizer alone."""
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(resolve_model(model)).get_vocab()
    return [token for token in tokens if token not in known]


class VllmEngine:
    """`wbrag.llm.LLM` on one vLLM engine. Open it once per process; call `chat` from one event loop."""

    def __init__(self, backbone: Backbone) -> None:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        from vllm import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(backbone, current_platform.is_cpu())
        self.max_model_len = backbone.max_model_len
        self.engine: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self.tokenizer: Any = self.engine.get_tokenizer()
        self.template = backbone.chat_template or getattr(self.tokenizer, "chat_template", None)
        if not self.template:
            raise ConfigError(f"backbone.model: {backbone.model!r} has no chat template: give backbone.chat_template")
        # A prompt is measured before it is sent, so the same text is rendered twice in a row.
        self.render = lru_cache(maxsize=1024)(self._render)
        self.numbers = itertools.count()

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The greedy answer to one user message, or what follows `prefix` in it.

        Raises ValueError where prompt and answer exceed `max_model_len`. A dead engine ends this process: only then
        does Ray restart the actor and repeat its tasks (an exception would count as the row's own).
        """
        ids = self.render(content, prefix)
        completion = await self._generate(ids, greedy(max_tokens, logprobs=0 if logprobs else None))
        told: tuple[Token, ...] = ()
        if logprobs:
            chosen = zip(completion.token_ids, completion.logprobs, strict=True)
            told = pieces(completion.token_ids, [found[i].logprob for i, found in chosen], self._decode)
        return Reply(completion.text.strip(), len(ids), len(completion.token_ids), told)

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """The probability of each candidate's first token under the softmax over the whole vocabulary."""
        ids = self.render(content, prefix)
        firsts = {self._first_id(candidate): candidate for candidate in reversed(candidates)}
        completion = await self._generate(ids, greedy(1, logprob_token_ids=sorted(firsts)))
        (found,) = completion.logprobs
        told = {candidate: math.exp(found[first].logprob) for first, candidate in firsts.items()}
        return FirstToken({candidate: told.get(candidate, 0.0) for candidate in candidates}, len(ids))

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without template or special tokens."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_tokens(self, content: str) -> int:
        """Tokens of the rendered prompt that `chat(content)` sends."""
        return len(self.render(content))

    def close(self) -> None:
        """Stop the engine's processes."""
        self.engine.shutdown()

    def _render(self, content: str, prefix: str = "") -> list[int]:
        messages = [{"role": "user", "content": content}]
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
        how = {"continue_final_message": True} if prefix else {"add_generation_prompt": True}
        # Token ids straight from the template: encoding its text again would put a second BOS in front.
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, **how, return_dict=False
        )
        return ids

    def _first_id(self, candidate: str) -> int:
        """The token that a reply of `candidate` begins with; a blank before it may belong to that token (" yes")."""
        empty, begun = self.render(""), self.render("", candidate)
        if begun[: len(empty)] == empty:
            return begun[len(empty)]
        first: int = self.tokenizer.encode(candidate, add_special_tokens=False)[0]
        return first

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    async def _generate(self, ids: list[int], sampling: SamplingParams) -> Any:  # noqa: ANN401
        from vllm.v1.engine.exceptions import EngineDeadError

        if len(ids) + (sampling.max_tokens or 0) > self.max_model_len:
            wanted = f"prompt of {len(ids)} tokens and {sampling.max_tokens} to generate"
            raise ValueError(f"{wanted} exceed max_model_len {self.max_model_len}")
        request = f"{os.getpid()}-{next(self.numbers)}"
        try:
            outputs = [o async for o in self.engine.generate({"prompt_token_ids": ids}, sampling, request)]
        except EngineDeadError:
            os._exit(1)
        return outputs[-1].outputs[0]


def pieces(ids: Sequence[int], logprobs: Sequence[float], decode: Callable[[Sequence[int]], str]) -> tuple[Token, ...]:
    """The text of a completion, token by token. Tokens that are part of one character become one, the least probable.

    `decode` leaves special tokens out; those, the end of the text first of all, are no pieces.
    """
    tokens: list[Token] = []
    text, least = "", 0.0
    for count, logprob in enumerate(logprobs, 1):
        longer = decode(ids[:count])
        if longer == text:
            continue
        least = min(least, logprob)
        if not longer.endswith("\ufffd"):  # else bytes are missing that the next token brings
            tokens.append(Token(longer[len(text) :], least))
            text, least = longer, 0.0
    return tuple(tokens)


def greedy(max_tokens: int, **asked: Any) -> SamplingParams:  # noqa: ANN401
    """Greedy sampling that reports once, at the end (half the front end's work per token); `asked` goes to vLLM."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY, **asked)
