"""The vLLM engine: pure choices, then one real engine on a random-weight checkpoint."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_model import build_tiny_model

from wbrag.config import Backbone, ConfigError
from wbrag.llm import Reply
from wbrag.llm.vllm import VllmEngine, engine_arguments, pick_dtype, resolve_model

BACKBONE = {"name": "tiny", "max_model_len": 256, "kv_cache_gib": 0.1, "max_num_seqs": 16}


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("models/m") == str(tmp_path / "models" / "m")
    assert resolve_model("microworld") == str(Path(__file__).parents[1] / "microworld")


def test_a_hub_name_stays() -> None:
    assert resolve_model("meta-llama/Llama-3.1-8B-Instruct") == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize("model", ["/no/such/folder", "./models", "microworld/models/none"])
def test_a_path_that_is_no_folder_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=f"'{model}' is neither a folder nor"):
        resolve_model(model)


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_dtype_needs_native_bf16(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert pick_dtype("auto", on_cpu=True) == expected
    assert pick_dtype("float16", on_cpu=True) == "float16"
    assert pick_dtype("auto", on_cpu=False) == "auto"


def test_arguments_for_cpu_and_gpu(tmp_path: Path) -> None:
    backbone = Backbone(name="m", model=str(tmp_path), dtype="float32", tensor_parallel_size=2)
    cpu, gpu = engine_arguments(backbone, on_cpu=True), engine_arguments(backbone, on_cpu=False)
    assert (cpu["enforce_eager"], cpu["kv_cache_memory_bytes"]) == (True, 1 << 30)
    assert "gpu_memory_utilization" not in cpu
    assert (gpu["gpu_memory_utilization"], gpu["distributed_executor_backend"]) == (0.9, "mp")
    assert gpu["tensor_parallel_size"] == 2


def test_a_dead_engine_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    class Ended(BaseException):
        pass

    def leave(code: int) -> None:
        assert code == 1
        raise Ended

    async def generate(*_: object) -> AsyncIterator[None]:
        raise EngineDeadError
        yield

    engine: Any = object.__new__(VllmEngine)
    engine.engine, engine.numbers, engine.max_model_len = SimpleNamespace(generate=generate), count(), 100
    engine.render = lambda content, prefix: [1, 2]
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Ended):
        asyncio.run(engine.chat("x", 4))


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine on the one event loop that the engine knows."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=280)
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture(scope="session")
def engine(run: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"))
    opened = VllmEngine(Backbone(model=str(model), **BACKBONE))
    yield opened
    opened.close()  # while its loop still runs: sockets left open on a stopped one block the interpreter's exit


@pytest.mark.slow
def test_greedy_chat(engine: VllmEngine, run: Callable[..., Any]) -> None:
    first, again = (
        run(engine.chat("What is the capital of France?", 8)),
        run(engine.chat("What is the capital of France?", 8)),
    )
    assert isinstance(first, Reply)
    assert first == again
    assert 1 <= first.completion_tokens <= 8
    assert first.prompt_tokens == engine.prompt_tokens("What is the capital of France?")


@pytest.mark.slow
def test_many_chats_at_once_are_told_apart(engine: VllmEngine, run: Callable[..., Any]) -> None:
    contents = [f"question {i}" for i in range(40)]

    async def together() -> list[Reply]:
        return await asyncio.gather(*[engine.chat(content, 4) for content in contents])

    replies = run(together())
    assert [reply.prompt_tokens for reply in replies] == [engine.prompt_tokens(content) for content in contents]


@pytest.mark.slow
def test_prompt_has_the_template_and_one_bos(engine: VllmEngine) -> None:
    ids = engine.render("hello")
    assert ids.count(engine.tokenizer.bos_token_id) == 1
    assert engine.tokenizer.decode(ids) == "<|bos|><|user|>hello<|eos|><|assistant|>"
    assert engine.count_tokens("hello") == len(ids) - 4


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_refused_with_its_length(engine: VllmEngine, run: Callable[..., Any]) -> None:
    content = "word " * 300
    with pytest.raises(ValueError, match=f"prompt of {engine.prompt_tokens(content)} tokens and 8 .* 256"):
        run(engine.chat(content, 8))
