"""The figures that the paper reports, from `paper.json`, looked up by the names that runs have here."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

#: How the paper writes what configurations call otherwise.
NAMES = {
    "naive": "Naive RAG",
    "replug": "REPLUG",
    "selfrag": "Self-RAG",
    "flare": "FLARE",
    "nq": "NQ",
    "boolq": "BoolQ",
    "fever": "FEVER",
    "zsre": "zsRE",
    "hotpotqa": "HotpotQA",
    "squad": "SQuAD",
    "llama31_8b": "Llama-3.1-8B",
    "gemma3_12b": "Gemma-3-12B",
}
#: The paper's order of benchmarks and of methods; others come after them.
ORDER = ("nq", "boolq", "fever", "zsre", "hotpotqa", "squad", "naive", "replug", "selfrag", "flare")


@lru_cache(maxsize=1)
def paper() -> dict[str, Any]:
    """All of paper.json; scores in percent, gains in points."""
    return dict(json.loads(files("wbrag.experiments").joinpath("paper.json").read_text(encoding="utf-8")))


def family(benchmark: str) -> str:
    """The benchmark that a file set stands for: "flashrag_nq" and the microworld's "nq" both are "nq"."""
    return benchmark.removeprefix("flashrag_")


def called(name: str) -> str:
    """A method, benchmark or backbone as the paper writes it; other names as they are."""
    return NAMES.get(family(name), name)


def place(name: str) -> tuple[int, str]:
    """Sort key: the paper's order, then by name."""
    known = family(name)
    return (ORDER.index(known) if known in ORDER else len(ORDER), name)


def gain(kind: str, name: str) -> float | None:
    """The paper's mean gain in points for one benchmark, method or backbone (`kind`), None where it has none."""
    value = paper()["table2"][kind].get(family(name))
    return None if value is None else float(value)


def cell(backbone: str, method: str, benchmark: str) -> dict[str, Any] | None:
    """The paper's score with write-back and gain of one setting, None where this project has not got it."""
    wanted = (backbone, method, family(benchmark))
    for known in paper()["table2"]["cells"]:
        if (known["backbone"], known["method"], known["benchmark"]) == wanted:
            return dict(known)
    return None


def statistic(name: str, benchmark: str) -> str:
    """What the paper's Table 3 says of a construction statistic of a benchmark, or of all; "-" where nothing."""
    known = paper()["table3"].get(name, {})
    return str(known.get(family(benchmark), known.get("all", "-")))
