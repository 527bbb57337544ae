"""The command `wbrag`, as it is in the wheel and in a checkout: `pytest tests/test_program.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from small_store import publish

from wbrag.command import program
from wbrag.command.check import check
from wbrag.command.faults import check_packages, fault_of, needs
from wbrag.config import Backbone, Benchmark, ConfigError, Encoder, TrainConfig
from wbrag.retrieval.encoding import open_encoder
from wbrag.run.job import Session
from wbrag.store.versions import encoder_note

ROOT = Path(__file__).resolve().parents[1]
HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=32)
#: Runs `python -m wbrag`, or code, where what the light install lacks cannot be imported.
LIGHT = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "torch", "vllm", "sentence_transformers", "scipy", "sklearn", "openai"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    sys.argv[0] = "wbrag"
    runpy.run_module("wbrag", run_name="__main__")
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked; a store lies beside it."""
    pytest.importorskip("hatchling", reason="comes with the extra `test`")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    encoder = open_encoder(HASHING)
    rows = pa.Table.from_pylist([{"id": name, "title": name, "text": f"about the {name}"} for name in ("ant", "bee")])
    vectors = encoder.encode_passages(["about the ant", "about the bee"])
    publish(folder / "store", vectors, rows, encoder.fingerprint, encoder_note(HASHING))
    return folder


def light(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the wheel's where only the light install is there, far from any checkout."""
    environment = os.environ | {"PYTHONPATH": str(folder / "site")}
    command = [sys.executable, "-c", LIGHT, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_has_conf_and_the_command_and_no_models(unpacked: Path) -> None:
    site = unpacked / "site"
    inside = {str(file.relative_to(site / "wbrag" / "conf")) for file in (site / "wbrag" / "conf").rglob("*.yaml")}
    assert inside == {str(file.relative_to(ROOT / "conf")) for file in (ROOT / "conf").rglob("*.yaml")}
    assert {path.name for path in site.iterdir()} == {"wbrag", "wbrag-0.1.0.dist-info"}
    told = (site / "wbrag-0.1.0.dist-info" / "entry_points.txt").read_text()
    assert "wbrag = wbrag.command.program:main" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--version"], "wbrag 0.1.0"),
        (["--help"], "wbrag train benchmark=files"),
        (["kb", "log", "store"], "(current)"),
        (["kb", "verify", "store", "--full"], "whole (every byte)"),
        (["-c", "from wbrag import KnowledgeBase as K; print(K('store').search_one('bee', 1)[0].id)"], "bee"),
        (["-c", "import wbrag.command.runs, wbrag.command.units, wbrag.report.run_report; print('fine')"], "fine"),
    ],
)
def test_the_light_install_looks_after_stores_and_searches(unpacked: Path, words: list[str], told: str) -> None:
    run = light(unpacked, *words)
    assert (run.returncode, run.stderr) == (0, "")
    assert told in run.stdout


def test_the_light_install_reads_conf_and_says_what_a_training_needs(unpacked: Path) -> None:
    run = light(unpacked, "train", "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert "flashrag_nq" in run.stdout
    given = ["benchmark=files", "benchmark.train=a", "benchmark.test=b", "corpus=c", "backbone=scripted"]
    run = light(unpacked, "train", *given, "encoder=hashing")
    assert (run.returncode, run.stderr) == (2, "error: this needs Ray: pip install 'wbrag[train]'\n")
    assert not (unpacked / "runs").exists()


def test_every_module_that_only_an_extra_has_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module in ("ray", "openai", "vllm", "sentence_transformers", "s3fs", "fastapi", "pypdf", "gguf"):
        extra = needs(module).split("wbrag[")[1].split("]")[0]
        assert any(one.replace("_", "-").startswith(module.replace("_", "-")) for one in extras[extra]), module
    assert fault_of(ModuleNotFoundError("no", name="s3fs.core")) == "this needs s3fs: pip install 'wbrag[s3]'"
    assert fault_of(ModuleNotFoundError("no", name="wbrag.nothing")) == ""
    assert fault_of(OSError(28, "No space left on device", "/data/x")).startswith(
        "/data/x: the disk is full; free some"
    )
    monkeypatch.setattr("wbrag.command.faults.find_spec", lambda name: None if name == "vllm" else name)
    with pytest.raises(ConfigError, match=r"this needs vLLM: pip install 'wbrag\[cpu\]'"):
        check_packages(TrainConfig(encoder=HASHING, backbone=Backbone(name="x", kind="vllm", model="m")))
    check_packages(TrainConfig(encoder=HASHING, backbone=Backbone(name="x", kind="scripted", model="")))


@pytest.mark.parametrize("name", program.JOBS | program.OTHERS)
def test_every_command_has_help_of_one_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "serve":
        return
    with pytest.raises(SystemExit, match="0"):
        raise SystemExit(program.main([name, "--help"]))
    told = capsys.readouterr().out.splitlines()
    assert 5 <= len(told) <= 50
    assert f"wbrag {name}" in "\n".join(told) or name == "plan"


@pytest.mark.parametrize(("words", "near"), [(["tarin"], "train"), (["units", "lst"], "list"), (["kb", "lgo"], "log")])
def test_a_mistyped_command_is_told_the_nearest(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main(words)
    assert f"invalid choice: '{words[-1]}'; did you mean {near}? (choose from " in capsys.readouterr().err


def test_a_shell_completes_the_commands_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh"):
        assert program.main(["completion", shell]) == 0
        told = capsys.readouterr().out
        assert "rollback" in told
        assert "evaluate" in told


def test_a_check_tells_every_problem_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": f"{n}", "question": f"Which is {n}?", "golden_answers": [f"{n}"]} for n in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:3]))
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "contents": "A\\nabout a"}\n')
    files = Benchmark(name="files", train=f"{tmp_path}/train.jsonl", test=f"{tmp_path}/test.jsonl")
    scripted = Backbone(name="scripted", kind="scripted", model="")
    cfg = TrainConfig(benchmark=files, backbone=scripted, encoder=HASHING, corpus=f"{tmp_path}/corpus.jsonl")
    cfg = replace(cfg, world="", data_dir="", run_dir=f"{tmp_path}/run")
    with Session() as session:
        check(cfg, session)
        told = capsys.readouterr().out
        assert "corpus.jsonl: 1; with k=5 every question reads all of them" in told
        assert "3 of 3 test questions stand in training too" in told
        assert "test.jsonl: 3; fewer than 10 are too few for an interval" in told
        same = replace(files, test=files.train)
        bad = replace(cfg, benchmark=same, corpus=f"{tmp_path}/none", prompts={"no": "x"}, k=0)
        bad = replace(bad, encoder=replace(HASHING, kind="sentence_transformers", model="package:no_such_weights"))
        with pytest.raises(ConfigError, match="5 problems"):
            check(bad, session)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    assert "no_such_weights is not installed" in lines[1]
    told = [line.split()[1] for line in lines]
    assert told == ["prompts", "encoder", "settings", "train", "corpus"]
    assert not (tmp_path / "run").exists()
