"""The generator as an in-process vLLM engine (AsyncLLM): many coroutines, one continuous batch."""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbrag.config import Backbone, ConfigError
from wbrag.llm import Reply, require_mixture
from wbrag.llm.places import Places

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams

GIB = 1 << 30
#: Times a group of requests is asked again before the engine is held to be unable to run it in one step.
MIXTURE_ATTEMPTS = 20
#: Length of a call that only keeps the engine busy, tokens.
BUSY_TOKENS = 64
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
        # Log-probabilities are those of the distribution that was sampled: the mixture's, for a group.
        "logprobs_mode": "processed_logprobs",
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


class VllmEngine:
    """`wbrag.llm.LLM` on one vLLM engine. Open it once per process; call it from one event loop."""

    def __init__(self, backbone: Backbone) -> None:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        from vllm import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**engine_arguments(backbone, current_platform.is_cpu()))
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        # Which of the two model runners it will be depends on platform, model and vLLM's own settings.
        runner = "V2" if config.use_v2_model_runner else "V1"
        config.model_config.logits_processors = [f"wbrag.llm.mixture:Mixture{runner}"]
        self.max_model_len = backbone.max_model_len
        self.engine: Any = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        self.places = Places(config.scheduler_config.max_num_seqs)
        self.tokenizer: Any = self.engine.get_tokenizer()
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(f"backbone.model: {backbone.model!r} has no chat template in its tokenizer")
        # A prompt is measured before it is sent, so the same text is rendered twice in a row.
        self.render = lru_cache(maxsize=1024)(self._render)
        self.numbers = itertools.count()
        self.busy: asyncio.Task[CompletionOutput] | None = None
        self.groups_split = 0  # attempts at a mixture that were not in step, and were repeated

    async def chat(self, content: str, max_tokens: int) -> Reply:
        """The greedy answer to one user message.

        Raises ValueError where prompt and answer exceed `max_model_len`. A dead engine ends this process: only then
        does Ray restart the actor and repeat its tasks (an exception would count as the row's own).
        """
        ids = self._fitting(content, max_tokens)
        with self.places.single():
            completion = await self._complete(ids, greedy(max_tokens))
        return Reply(completion.text.strip(), len(ids), len(completion.token_ids))

    async def mixture(
        self, contents: Sequence[str], weights: Sequence[float], max_tokens: int, pooling: str = "probabilities"
    ) -> Reply:
        """The greedy answer to all messages at once (`LLM.mixture`); errors as `chat` has them.

        ValueError for more messages than sequences at once, RuntimeError where they never ran in the same steps.
        """
        require_mixture(contents, weights)
        prompts = [self._fitting(content, max_tokens) for content in contents]
        completion = await self.mixed(prompts, weights, max_tokens, pooling)
        return Reply(completion.text.strip(), sum(map(len, prompts)), len(prompts) * len(completion.token_ids))

    async def mixed(
        self, prompts: Sequence[list[int]], weights: Sequence[float], max_tokens: int, pooling: str
    ) -> CompletionOutput:
        """The completion of all prompts (token ids) together, with the mixture's own log-probabilities.

        The engine promises nothing about the steps that its requests share. So a group is let in when there is room
        for all of it, and one that was split all the same is asked again: its prompts are in the prefix cache then,
        and the engine is kept busy.
        """
        from wbrag.llm.mixture import LOGPROBS, Member, out_of_step

        async with self.places.group(len(prompts)):
            for _ in range(MIXTURE_ATTEMPTS):
                group = self._request()
                members = [
                    Member(group, number, len(prompts), weight, pooling, self.tokenizer.eos_token_id)
                    for number, weight in enumerate(weights)
                ]
                params = [  # all texts are the same: only the first is put together
                    greedy(max_tokens, logprobs=LOGPROBS, extra_args=m.extra_args(), detokenize=m.number == 0)
                    for m in members
                ]
                completions = await asyncio.gather(*map(self._complete, prompts, params))
                if not any(map(out_of_step, completions)):
                    return completions[0]
                self.groups_split += 1
                self._keep_busy(prompts[0])
        raise RuntimeError(
            f"{len(prompts)} prompts of up to {max(map(len, prompts))} tokens did not run in the same steps in "
            f"{MIXTURE_ATTEMPTS} attempts: the engine's max_num_seqs, max_num_batched_tokens or KV cache is too small"
        )

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without template or special tokens."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_tokens(self, content: str) -> int:
        """Tokens of the rendered prompt that `chat(content)` sends."""
        return len(self.render(content))

    def close(self) -> None:
        """Stop the engine's processes."""
        self.engine.shutdown()

    def _render(self, content: str) -> list[int]:
        message = [{"role": "user", "content": content}]
        # Token ids straight from the template: encoding its text again would put a second BOS in front.
        ids: list[int] = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        return ids

    def _fitting(self, content: str, max_tokens: int) -> list[int]:
        ids = self.render(content)
        if len(ids) + max_tokens > self.max_model_len:
            raise ValueError(
                f"prompt of {len(ids)} tokens and {max_tokens} to generate exceed max_model_len {self.max_model_len}"
            )
        return ids

    def _keep_busy(self, ids: list[int]) -> None:
        # An idle engine starts with the first request of a group and leaves out those that come a moment later; a busy
        # one takes in whatever has come by its next step. One call whose reply nobody reads keeps it busy for a while.
        if self.busy is None or self.busy.done():
            tokens = min(BUSY_TOKENS, self.max_model_len - len(ids))
            self.busy = asyncio.ensure_future(self._complete(ids, greedy(tokens, ignore_eos=True, detokenize=False)))

    def _request(self) -> str:
        return f"{os.getpid()}-{next(self.numbers)}"

    async def _complete(self, ids: list[int], params: SamplingParams) -> CompletionOutput:
        from vllm.v1.engine.exceptions import EngineDeadError

        # "type" says that the ids are final; without it the prompt takes a turn in a thread, and a group falls apart.
        prompt = {"type": "token", "prompt_token_ids": ids}
        try:
            outputs = [o async for o in self.engine.generate(prompt, params, self._request())]
        except EngineDeadError:
            os._exit(1)
        completion: CompletionOutput = outputs[-1].outputs[0]
        return completion


def greedy(max_tokens: int, **more: Any) -> SamplingParams:  # noqa: ANN401 - vLLM's own arguments
    """Greedy sampling that reports once, at the end (half the front end's work per token)."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY, **more)
