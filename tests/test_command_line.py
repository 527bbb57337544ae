"""What a job makes of its command line, before anything runs: `pytest tests/test_command_line.py`."""

from __future__ import annotations

import subprocess
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
