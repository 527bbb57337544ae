"""What docs/extending.md shows: one method, metric, benchmark and prompt, each in one file outside the package."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from wbrag import metrics
from wbrag.algorithm import train_example
from wbrag.config import Backbone, Benchmark, ConfigError, Gates, Method
from wbrag.data.benchmarks import check_benchmark
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.methods import Tools, check_method, elsewhere, method_identity, method_named, searches, settings_read
from wbrag.prompts import Prompts
from wbrag.report.evaluation import Setting, metric_called
from wbrag.schema import Document, Example

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "extending.md"
SHOWN = r"^`mine/([\w./]+)`[^\n]*\n\n```\w+\n(.*?)^```"
VOTE = Method(name="vote", settings={"most": 2})


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder `mine` as the page has it, installed: beside it the metadata that `pip install` would write."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in re.findall(SHOWN, DOCS.read_text(), re.DOTALL | re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in project["entry-points"].items()
    )
    (metadata / "entry_points.txt").write_text("\n".join(points))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        forget()
        yield folder
    forget()


def forget() -> None:
    """What was found before sys.path changed."""
    method_named.cache_clear()
    metrics.elsewhere.cache_clear()


def test_a_method_of_another_package_trains_an_example(mine: Path) -> None:
    documents = [Document(str(i), "Oakwick", f"Oakwick lies on the {river}.") for i, river in enumerate("AAB")]
    tools = Tools(ScriptedLLM(read, 2048), Prompts(), "factoid", 16, method=VOTE)
    example = Example("e", "What river is Oakwick on?", ("A",))
    given = (example, documents, tools, Gates(), lambda said, golden: metrics.score("closeness", said, golden, {}))
    row = asyncio.run(train_example(*given, distils=False))
    assert (row["status"], row["dropped_documents"]) != ("failed", 0), row["reason"]
    assert row["dropped_documents"] >= 1
    assert list(elsewhere()) == ["vote"]
    assert settings_read({"name": "vote", "settings": {"most": 2}}) == "most 2"
    assert not searches(VOTE)


def test_its_settings_and_version_are_part_of_a_runs_identity_and_those_of_others_are_as_before(mine: Path) -> None:
    told = method_identity(VOTE)
    assert (told["method.settings"], told["method.package"]) == ({"most": 2}, "mine 1.0")
    assert not {"method.settings", "method.package"} & set(method_identity(Method(name="naive")))


def test_what_cannot_work_is_refused_by_name(mine: Path) -> None:
    scripted = Backbone(name="s", kind="scripted", model="scripted")
    check_method(VOTE, scripted)
    with pytest.raises(ConfigError, match=r"method\.settings\.most=0: at least 1"):
        check_method(Method(name="vote", settings={"most": 0}), scripted)
    with pytest.raises(ConfigError, match="not a method; known are naive, replug, selfrag, flare, vote"):
        check_method(Method(name="veto"), scripted)
    with pytest.raises(ConfigError, match="naive is none of them"):
        check_method(Method(name="naive", settings={"most": 1}), scripted)


def test_a_broken_method_says_which_entry_point_it_is(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = mine / "mine-1.0.dist-info" / "entry_points.txt"
    text = points.read_text()
    try:
        for value, told in (("no_such_module", "cannot be loaded: No module"), ("json", "has no function answer")):
            points.write_text(text.replace("vote = vote", f"vote = {value}"))
            method_named.cache_clear()
            with pytest.raises(ConfigError, match=f"the entry point '{value}' {told}"):
                method_named("vote")
    finally:
        points.write_text(text)
        method_named.cache_clear()


def test_a_metric_of_another_package_scores_and_is_reported(mine: Path) -> None:
    assert metrics.score("closeness", "The Ryeflow", ["Ryeflow"], {}) == 1.0
    assert 0 < metrics.score("closeness", "Ryeflor", ["Ryeflow"], {}) < 1
    check_benchmark(Benchmark(name="b", train="t", test="t", metric="closeness"))
    with pytest.raises(ConfigError, match="known are em, acc, f1, precision, recall, label, closeness"):
        check_benchmark(Benchmark(name="b", train="t", test="t", metric="nearness"))
    assert Setting("b", "vote", "s", "closeness").metrics[0] == metric_called("closeness") == "closeness"


def test_the_command_on_the_page_takes_all_four(mine: Path, tmp_path: Path) -> None:
    question = {"id": "q", "question": "What river is Oakwick on?", "golden_answers": ["Ryeflow"]}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(question | {"id": name}) + "\n")
    (tmp_path / "corpus.jsonl").write_text(
        json.dumps({"id": "1", "contents": "Oakwick\nIt lies on the Ryeflow."}) + "\n"
    )
    shown = DOCS.read_text().rpartition("```\n")[0].rpartition("```\n")[2].replace("\\\n", " ")
    assert shown.startswith("STREETS=data/streets wbrag train --config-dir mine/conf ")
    _, _, *words = shown.replace("mine/conf", str(mine / "conf")).replace("runs/", f"{tmp_path}/runs/").split()
    paths = os.pathsep.join([str(mine), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-m", "wbrag", *words, "backbone=scripted", "encoder=hashing", "plan=true"],
        **{"cwd": ROOT, "capture_output": True, "text": True},
        env=os.environ | {"STREETS": str(tmp_path), "PYTHONPATH": paths},
    )
    assert ended.returncode == 0, ended.stderr
    assert "streets: 1 training, 1 test questions" in ended.stdout
    config = subprocess.run(
        [sys.executable, "-m", "wbrag", *words, "backbone=scripted", "--cfg", "job"],
        **{"cwd": ROOT, "capture_output": True, "text": True},
        env=os.environ | {"STREETS": str(tmp_path), "PYTHONPATH": paths},
    ).stdout
    assert "as few words as you can" in config
    assert "most: 3" in config
