"""What a method needs of its settings and of its generator, asked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wbrag.config import Backbone, ConfigError, Method
from wbrag.llm.engine import missing_tokens
from wbrag.methods.reflection import REFLECTION

#: The settings that a method reads.
READ = {
    "naive": (),
    "replug": ("temperature", "pooling", "bad_words"),
    "selfrag": ("mode", "threshold", "w_relevance", "w_support", "w_utility"),
    "flare": ("theta", "beta", "query"),
}


def settings_read(method: Mapping[str, Any]) -> str:
    """The settings that decide what a method does, as a report says them; "" where it has none."""
    return ", ".join(f"{key} {method[key]}" for key in READ.get(method["name"], ()) if key in method)


def check_method(method: Method, backbone: Backbone) -> None:
    """ConfigError, with what is missing and why it is needed, where this method cannot run on this generator.

    A checkpoint's tokenizer is looked into for Self-RAG's tokens, and an endpoint is asked for one token.
    """
    match method.name:
        case "replug" | "selfrag" if backbone.kind == "openai":
            raise ConfigError(
                f"method.name={method.name} works with whole distributions of the next token, but an OpenAI-compatible "
                "endpoint (backbone.kind=openai) tells only of the few most probable tokens; use backbone.kind=vllm"
            )
        case "flare":
            _check_flare(method, backbone)
        case "selfrag":
            _check_selfrag(method, backbone)
    if backbone.kind == "openai":
        from wbrag.llm.openai import check_endpoint

        check_endpoint(backbone)


def _check_flare(method: Method, backbone: Backbone) -> None:
    if method.query not in ("masked", "generated"):
        raise ConfigError(f"method.query={method.query!r} is unknown; known are masked, generated")
    for key, value in (("theta", method.theta), ("beta", method.beta)):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"method.{key}={value}: a probability, 0 to 1, is needed")
    if backbone.kind != "openai":
        return
    needed = {"token_logprobs": "reads the probability of every token", "continues": "goes on after its own sentences"}
    for key, why in needed.items():
        if not getattr(backbone, key):
            raise ConfigError(f"method.name=flare {why}, but backbone.{key}=false says the endpoint cannot do that")


def _check_selfrag(method: Method, backbone: Backbone) -> None:
    if method.mode not in ("prompted", "tokens"):
        raise ConfigError(f"method.mode={method.mode!r} is unknown; known are prompted, tokens")
    if not 0.0 <= method.threshold <= 1.0:
        raise ConfigError(f"method.threshold={method.threshold}: a probability, 0 to 1, is needed")
    if method.mode == "tokens":
        _check_reflection_tokens(backbone)


def _check_reflection_tokens(backbone: Backbone) -> None:
    missing = missing_tokens(backbone, REFLECTION) if backbone.kind == "vllm" else list(REFLECTION)
    if missing:
        told = f"method.mode=tokens, but the tokenizer of backbone.model={backbone.model!r} lacks {missing[0]!r}"
        raise ConfigError(f"{told} ({len(missing)} of {len(REFLECTION)}); mode=prompted works with any model")
