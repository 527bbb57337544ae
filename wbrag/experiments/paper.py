"""The figures that the paper reports, from `paper.json`, looked up by the names that runs have here."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

#: How the paper writes what configurations call otherwise; methods and benchmarks in its order, others after them.
NAMES = {
    **{"nq": "NQ", "boolq": "BoolQ", "fever": "FEVER", "zsre": "zsRE", "hotpotqa": "HotpotQA", "squad": "SQuAD"},
    **{"naive": "Naive RAG", "replug": "REPLUG", "selfrag": "Self-RAG", "flare": "FLARE"},
    **{"llama31_8b": "Llama-3.1-8B", "gemma3_12b": "Gemma-3-12B"},
}
ORDER = list(NAMES)[:10]


@lru_cache(maxsize=1)
def paper() -> dict[str, Any]:
    """All of paper.json; scores in percent, gains in points."""
    return dict(json.loads(files("wbrag.experiments").joinpath("paper.json").read_text(encoding="utf-8")))


def family(benchmark: str) -> str:
    """The benchmark that a file set stands for: "flashrag_nq" and the microworld's "nq" both are "nq"."""
    return benchmark.removeprefix("flashrag_")


def called(*names: str) -> str:
    """Methods, benchmarks and backbones as the paper writes them; other names as they are."""
    return ", ".join(NAMES.get(family(name), name) for name in names)


def place(name: str) -> tuple[int, str]:
    """Sort key: the paper's order of benchmarks and of methods, then by name."""
    known = family(name)
    return (ORDER.index(known) if known in ORDER else len(ORDER), name)


def known(*keys: str) -> Any:  # noqa: ANN401 - a part of paper.json
    """What paper.json has under these keys, benchmarks by our names, None where it has nothing."""
    found: Any = paper()
    for key in keys:
        found = None if found is None else found.get(family(key))
    return found


def cell(backbone: str, method: str, benchmark: str) -> dict[str, Any] | None:
    """The paper's score with write-back and gain of one setting, None where this project has not got it."""
    wanted = {"backbone": backbone, "method": method, "benchmark": family(benchmark)}
    return next((dict(known) for known in paper()["table2"]["cells"] if wanted.items() <= known.items()), None)


def statistic(name: str, benchmark: str) -> str:
    """What the paper's Table 3 says of a construction statistic of a benchmark, or of all; "-" where nothing."""
    return str(known("table3", name, benchmark) or known("table3", name, "all") or "-")
