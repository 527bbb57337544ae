"""What a job makes of its command line, before anything runs: `pytest tests/test_command_line.py`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_program

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {
    "train": ["world=w", "run_dir={run}"],
    "evaluate": ["world=w", "run_dir={run}"],
    "build_index": ["corpus=c.jsonl", "store={run}"],
    "transfer": ["runs=[a]", "report_dir={run}"],
    "ablate": ["runs=[a]", "report_dir={run}"],
    "compare_units": ["runs=[a]", "report_dir={run}"],
    "placebo": ["runs=[a]", "report_dir={run}"],
    "reproduce": ["world=w", "run_dir={run}"],
}


#: A job that is told to stop, and takes so many seconds to end.
STOPPED = """
import sys, time, command_line
command_line.STOP_SECONDS = 0.3
with command_line.stoppable():
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(float(sys.argv[1]))
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
    number: signal.Signals, seconds: str, code: int
) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'jobs'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", STOPPED, seconds, "run_dir=my run"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    goes_on = shlex.join(["python", "-c", seconds, "run_dir=my run"])
    assert said == f"stopped by {number.name}; the same command goes on from here: {goes_on}\n"
    assert process.returncode == code


def test_a_relative_path_in_a_submitted_job_is_refused_by_every_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    run = ended("reproduce", tmp_path / "run", "run_dir=runs/reproduce")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: run_dir='runs/reproduce' is relative: a submitted Ray job ")
    assert list(tmp_path.iterdir()) == []
