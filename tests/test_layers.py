"""The structure of the code, held by reading its imports and sizes: `pytest tests/test_layers.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: A module may import from its own layer and from those before it; a module belongs where its longest prefix stands.
LAYERS = [
    [f"wbrag.{name}" for name in names.split()]
    for names in (
        "schema config",
        "gates distill prompts metrics data llm units",
        "algorithm methods retrieval store llm.engine llm.vllm llm.mixture llm.scripted llm.openai"
        " units.write units.critics",
        "run report",
        "life experiments serve",
    )
]
LAYERS.append(["wbrag.command", "wbrag.__main__", "jobs"])
#: Modules at the root of wbrag/; everything else lies in a room.
ROOT_MODULES = 8
#: Who may import a library at all.
OWNERS = {
    "hydra": ("wbrag.command",),
    "ray": ("wbrag.run", "wbrag.retrieval.encoding", "wbrag.store.build", "wbrag.serve.on_ray"),
    "faiss": ("wbrag.store",),
    "lance": ("wbrag.store.rows", "wbrag.store.changes", "wbrag.store.fulltext"),
    "s3fs": ("wbrag.store.place",),
    "vllm": ("wbrag.llm.vllm", "wbrag.llm.mixture"),
    "openai": ("wbrag.llm.openai",),
    "httpx2": ("wbrag.llm.openai", "wbrag.retrieval.embeddings"),
    "sentence_transformers": ("wbrag.retrieval.encoder", "wbrag.retrieval.rerank", "wbrag.units.critics"),
}
#: Loaded by vLLM, in its own processes: it takes classes, and a class needs its bases when its module is imported.
ENGINE_SIDE = ("wbrag.llm.mixture",)
#: Seconds to import each, so never at the top of any other module.
HEAVY = {"ray", "vllm", "faiss", "lance", "torch", "transformers", "sentence_transformers", "matplotlib"}
SAY_NOTHING = {"utils", "util", "base", "common", "manager", "helper", "helpers", "processor"}
MAX_FUNCTION, MAX_MEDIAN = 60, 12


def module_name(path: Path) -> str:
    """`wbrag/store/build.py` -> `wbrag.store.build`, a package's `__init__.py` -> the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [p for folder in ("wbrag", "jobs", "microworld") for p in sorted((ROOT / folder).rglob("*.py"))]
MODULES = {module_name(p): p for p in FILES}
LAYERED = [name for name in MODULES if name != "wbrag" and not name.startswith("microworld")]


def within(module: str, prefixes: Sequence[str]) -> bool:
    """Whether `module` is one of `prefixes` or lies below one."""
    return any(module == p or module.startswith(p + ".") for p in prefixes)


def layer(module: str) -> int:
    """The layer with the longest prefix of `module`; KeyError where there is none."""
    found = [(len(p), i) for i, prefixes in enumerate(LAYERS) for p in prefixes if within(module, (p,))]
    if not found:
        raise KeyError(f"{module} has no layer: give it one in LAYERS")
    return max(found)[1]


def targets(node: ast.AST) -> Iterator[str]:
    """The modules that an import statement names; `from wbrag import config` names wbrag.config."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level:
        yield "." * node.level + (node.module or "")
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (n if n in MODULES else node.module for n in names)


def executed_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those in functions and under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from executed_at_import(node)


def import_faults(module: str, source: str) -> list[str]:
    """Everything the rules above forbid about the imports of one module."""
    tree = ast.parse(source)
    faults = []
    for target in [t for node in ast.walk(tree) for t in targets(node)]:
        top = target.partition(".")[0]
        if target.startswith("."):
            faults.append(f"{module} imports {target} relatively")
        elif top in OWNERS and not within(module, OWNERS[top]):
            faults.append(f"{module} imports {target}: only {', '.join(OWNERS[top])} may")
        elif top in ("wbrag", "jobs") and target != "wbrag" and layer(target) > layer(module):
            faults.append(f"{module} imports {target}, which is above it")
    for target in [t for node in executed_at_import(tree) for t in targets(node)]:
        if (target.partition(".")[0] in HEAVY or target in ENGINE_SIDE) and module not in ENGINE_SIDE:
            faults.append(f"{module} imports {target} at its top")
    return faults


def lengths(source: str) -> dict[str, int]:
    """Lines of each function, its docstring not counted: documentation is not what makes a function long."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = ast.get_docstring(node) is not None
            docstring = (first.end_lineno or 0) - first.lineno + 1 if text else 0
            found[f"{node.name}:{node.lineno}"] = (node.end_lineno or 0) - node.lineno + 1 - docstring
    return found


@pytest.mark.parametrize("module", LAYERED)
def test_imports_go_one_way(module: str) -> None:
    assert import_faults(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert {name: n for name, n in lengths(source).items() if n > MAX_FUNCTION} == {}


def test_median_function_is_short() -> None:
    every = [n for p in FILES for n in lengths(p.read_text(encoding="utf-8")).values()]
    assert median(every) <= MAX_MEDIAN


@pytest.mark.parametrize("module", MODULES)
def test_module_name_says_something(module: str) -> None:
    assert not SAY_NOTHING & set(module.replace(".", "_").split("_"))


def test_rooms_say_what_is_in_them_and_few_modules_stand_outside() -> None:
    wbrag = ROOT / "wbrag"
    assert len([p for p in wbrag.glob("*.py") if p.name != "__init__.py"]) <= ROOT_MODULES
    for room in (p for p in wbrag.iterdir() if list(p.glob("*.py"))):
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))), room


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        (
            "wbrag.gates",
            "from wbrag.run.pipeline import run",
            "wbrag.gates imports wbrag.run.pipeline, which is above it",
        ),
        ("wbrag.schema", "from wbrag import metrics", "wbrag.schema imports wbrag.metrics, which is above it"),
        ("wbrag.llm", "def f():\n    import wbrag.llm.vllm", "wbrag.llm imports wbrag.llm.vllm, which is above it"),
        ("wbrag.algorithm", "def f():\n    import ray.data", "wbrag.algorithm imports ray.data: only"),
        ("wbrag.run.pipeline", "from hydra import compose", "wbrag.run.pipeline imports hydra: only wbrag.command may"),
        ("jobs.train", "def f():\n    import faiss", "jobs.train imports faiss: only wbrag.store may"),
        ("wbrag.llm.vllm", "class A:\n    import vllm", "wbrag.llm.vllm imports vllm at its top"),
        ("wbrag.llm.vllm", "import wbrag.llm.mixture", "wbrag.llm.vllm imports wbrag.llm.mixture at its top"),
        (
            "wbrag.retrieval.encoder",
            "try:\n    import torch\nfinally:\n    pass",
            "wbrag.retrieval.encoder imports torch at its top",
        ),
        ("wbrag.store.build", "from .versions import commit", "wbrag.store.build imports .versions relatively"),
    ],
)
def test_a_breach_is_found(module: str, source: str, fault: str) -> None:
    assert [f for f in import_faults(module, source) if f.startswith(fault)]


def test_what_is_allowed_is_not_a_breach() -> None:
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray\ndef f():\n    import ray.data\n"
    assert import_faults("wbrag.run.pipeline", lazy + "from wbrag import config\nfrom wbrag.llm.vllm import X\n") == []
    assert import_faults("wbrag.llm.mixture", "import torch\nfrom vllm import SamplingParams\n") == []


def test_a_module_without_a_layer_is_refused() -> None:
    with pytest.raises(KeyError, match=r"wbrag\.stray has no layer"):
        layer("wbrag.stray")


def test_a_function_is_measured_without_its_docstring() -> None:
    assert lengths('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n') == {"f:1": 2}
