"""What a job makes of its command line, before anything runs: `pytest tests/test_command_line.py`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forked import run_program, start_program

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {
    "train": ["world=w", "run_dir={run}"],
    "update": ["run_dir={run}"],
    "evaluate": ["world=w", "run_dir={run}"],
    "build_index": ["corpus=c.jsonl", "store={run}"],
    "transfer": ["runs=[a]", "report_dir={run}"],
    "ablate": ["runs=[a]", "report_dir={run}"],
    "compare_units": ["runs=[a]", "report_dir={run}"],
    "placebo": ["runs=[a]", "report_dir={run}"],
    "reproduce": ["world=w", "run_dir={run}"],
}


#: How a job begins that lies elsewhere.
BEGINS = """
import sys, time
from wbrag.command import command_line
"""
#: A job that is told to stop, and takes so many seconds to end.
STOPPED = f"""{BEGINS}
command_line.STOP_SECONDS = 0.3
with command_line.stoppable():
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(float(sys.argv[1]))
"""
#: A job whose points end as they are called.
SWEEP = f"""{BEGINS}
from wbrag.config import ConfigError
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.store.files import StoreError
kinds = dict(config=ConfigError, input=InputError, store=StoreError, budget=OverErrorBudget, other=RuntimeError)
def main():
    for number, name in enumerate(sys.argv[1:]):
        with command_line.noted(f"{{number}}-{{name}}"):
            print(name)
            if name in kinds:
                raise kinds[name]("so it is")
command_line.start(main)
"""


def ended(name: str, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A job as a user starts it, in an empty folder."""
    given = [text.format(run=run) for text in GIVEN[name]]
    return run_program(ROOT / "jobs" / f"{name}.py", *given, *more, folder=run.parent)


@pytest.mark.parametrize("name", GIVEN)
def test_a_key_that_hydra_would_append_is_refused_by_name(name: str, tmp_path: Path) -> None:
    run = ended(name, tmp_path / "run", "+typo=1")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1] == "error: no such setting: typo"
    assert list(tmp_path.iterdir()) == []


def test_every_appended_key_is_named_with_its_groups_and_own_keys_may_be_appended(tmp_path: Path) -> None:
    more = ["+benchmark.typo=1", "+gates.tau_x=2", "+prompts.factoid=Q", "+benchmark.labels.maybe=[perhaps]"]
    run = ended("train", tmp_path / "run", *more)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "error: no such setting: benchmark.typo, gates.tau_x"


@pytest.mark.parametrize(("name", "key"), [("train", "world"), ("build_index", "corpus"), ("reproduce", "run_dir")])
def test_a_setting_that_has_to_be_given_is_named_with_what_to_do(name: str, key: str, tmp_path: Path) -> None:
    run = ended(name, tmp_path / "run", f"{key}=???")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1] == f"error: no value for {key}: give {key}=..."
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_is_none_is_told_before_what_is_measured_in_it(tmp_path: Path) -> None:
    run = ended("reproduce", tmp_path / "run", "methods=[naiv]")
    assert run.returncode == 2, run.stderr
    assert "method/naiv" in run.stderr.splitlines()[-1]


def test_a_setting_to_measure_more_in_that_is_none_of_the_grid_ends_it_before_the_first(tmp_path: Path) -> None:
    run = ended("reproduce", tmp_path / "run", "benchmarks=[nq]")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1] == (
        "error: ablate: 'squad/naive' is no benchmark/method of the grid "
        "(benchmarks nq; methods naive, replug, selfrag, flare); give one of these, or ablate=[]"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_what_all_points_of_the_grid_are_told_ends_it_before_the_first(tmp_path: Path) -> None:
    run = ended("reproduce", tmp_path / "run", "overrides=['train_limt=5']")
    assert run.returncode == 2, run.stderr
    assert "train_limt" in run.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "seconds", "code"), [(signal.SIGINT, "0", 130), (signal.SIGTERM, "50", 143)])
def test_who_stops_a_job_is_told_in_one_line_how_to_go_on_however_long_it_takes_to_end(
    number: signal.Signals, seconds: str, code: int, tmp_path: Path
) -> None:
    script, out, err = (tmp_path / name for name in ("job.py", "out", "err"))
    script.write_text(STOPPED)
    process = start_program(script, seconds, "run_dir=my run", folder=tmp_path, out=out, err=err)
    while not (out.exists() and out.read_text() == "ready\n"):
        assert process.is_alive(), err.read_text()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(30)
    goes_on = shlex.join(["python", str(script), seconds, "run_dir=my run"])
    assert err.read_text() == f"stopped by {number.name}; the same command goes on from here: {goes_on}\n"
    assert process.exitcode == code


@pytest.mark.parametrize(
    ("points", "code"),
    [
        (["fine", "fine"], 0),
        (["fine", "config", "input", "store"], 2),
        (["budget", "fine"], 3),
        (["config", "budget", "input"], 3),
        (["config", "budget", "other"], 1),
    ],
)
def test_a_sweep_ends_with_the_code_of_its_failed_points(points: list[str], code: int, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(SWEEP)
    run = run_program(script, *points, folder=tmp_path)
    assert run.returncode == code, run.stderr
    assert run.stdout.split() == points  # no point stops the others
    failed = [f"{number}-{name}: " for number, name in enumerate(points) if name != "fine"]
    told = run.stderr.partition(f"failed points ({len(failed)}):\n")[2].splitlines()
    assert [line.strip()[: len(name)] for line, name in zip(told, failed, strict=True)] == failed
    assert ("Traceback" in run.stderr) == ("other" in points)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("backbone.api_key_env={}", "backbone.api_key_env: give the name of the environment variable"),
        ("backbone.base_url=http://me:{}@127.0.0.1/v1", "backbone.base_url: a URL with a user before @"),
        ("backbone.api_key={}", "no such setting: backbone.api_key; did you mean backbone.api_key_env?"),
        ("+backbone.api_key={}", "no such setting: backbone.api_key; did you mean backbone.api_key_env?"),
        ("+backbone.engine_args.hf_token={}", "backbone.engine_args.hf_token cannot be given"),
        ("base=s3://me:{}@bucket/base", "base: a URL with a user before @"),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_secret_among_the_settings_is_refused_and_not_repeated(
    given: str, told: str, sweep: bool, tmp_path: Path
) -> None:
    secret = "sk-canary-0b5e"
    more = ["seed=1,2", "-m"] if sweep else []
    run = ended("train", tmp_path / "run", given.format(secret), *more)
    assert run.returncode == 2, run.stderr
    assert told in run.stderr
    assert secret not in run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_in_a_submitted_job_is_refused_by_every_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    run = ended("reproduce", tmp_path / "run", "run_dir=runs/reproduce")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: run_dir='runs/reproduce' is relative: a submitted Ray job ")
    assert list(tmp_path.iterdir()) == []
