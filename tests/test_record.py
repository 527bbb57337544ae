"""log.txt of a run folder: what is said during its stages, whoever says it."""

from __future__ import annotations

import logging
import re
import time
from itertools import chain, repeat
from pathlib import Path

import pytest

from wbrag.config import TrainConfig
from wbrag.run import progress
from wbrag.run.folder import read_config
from wbrag.run.progress import Counts, shown
from wbrag.run.record import RunRecord, git_commit, open_record


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that is about to begin."""
    RunRecord(tmp_path, {}).save()
    return tmp_path


def said(run: Path) -> list[str]:
    """The lines of log.txt, each of which has to begin with a time, without it and without the seconds in them."""
    lines = (run / "log.txt").read_text(encoding="utf-8").splitlines()
    told = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (.*)", line) for line in lines]
    return [re.sub(r"[\d.]+ s\b", "N s", match[1]) for match in told if match]


def test_a_resumed_run_appends_what_is_said_in_its_stages(run: Path) -> None:
    for text in ("grün", "again"):
        with RunRecord(run, {}).timed("train"):
            logging.getLogger("wbrag.run.job").info("resuming: %s", text)
            logging.getLogger("another.library").warning("old format")
            logging.getLogger("another.library").debug("in detail")
        logging.getLogger("another.library").warning("nobody's stage")
    stage = ["INFO wbrag.run.job: resuming: grün"]
    stage += ["WARNING another.library: old format", "DEBUG wbrag.run.record: train took N s"]
    begins = "INFO wbrag.run.progress: train"
    told = said(run)
    assert told.count(begins) == 2
    assert [line for line in told if line != begins] == [*stage, *(line.replace("grün", "again") for line in stage)]
    assert logging.getLogger("wbrag").level == logging.NOTSET


def test_the_error_that_ends_a_stage_is_logged_and_goes_on(run: Path) -> None:
    record, handlers = RunRecord(run, {}), list(logging.getLogger().handlers)
    with pytest.raises(ZeroDivisionError), record.timed("index"):
        raise ZeroDivisionError("division by zero")
    assert said(run)[-1] == "DEBUG wbrag.run.record: ended by an error"
    assert (run / "log.txt").read_text(encoding="utf-8").endswith("\nZeroDivisionError: division by zero\n")
    assert (logging.getLogger().handlers, record.facts["seconds"]) == (handlers, {})


def test_what_is_shared_is_noted_so_that_it_is_found_from_anywhere(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    open_record(run, TrainConfig(cache_dir="cache", kb="kb"), {})
    monkeypatch.chdir("/")
    told = read_config(run)
    assert (told["cache_dir"], told["kb"]) == (str(run / "cache"), str(run / "kb"))


@pytest.mark.parametrize("live", [True, False])
def test_progress_is_a_live_line_on_a_terminal_and_lines_in_the_log(
    run: Path, live: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_POLLS", 0.01)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: live)
    started = time.monotonic()
    with RunRecord(run, {}).timed("train"), shown("train", 0, 9, Counts):
        time.sleep(0.5)
    most = (time.monotonic() - started) / progress.SECONDS_BETWEEN_LINES
    first, *lines = said(run)[:-1]
    assert first == f"{'DEBUG' if live else 'INFO'} wbrag.run.progress: train"
    assert 1 <= len(lines) <= most
    assert set(lines) == {
        f"{'DEBUG' if live else 'INFO'} wbrag.run.progress: train: 0 of 9, waiting for the engine, N s"
    }
    drawn = capsys.readouterr().err
    assert drawn.startswith("\r\x1b[2Ktrain\r\x1b[2K") == live
    assert (drawn.count("\r\x1b[2Ktrain: 0 of 9") > len(lines), drawn.endswith("\r\x1b[2K")) == (live, live)
    assert live or drawn == ""


def test_progress_goes_on_when_every_example_has_begun(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_POLLS", 0.01)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.02)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    readings = chain([Counts(), Counts(begun=9, done=2)], repeat(Counts(begun=9, done=8)))
    with RunRecord(run, {}).timed("train"), shown("train", 0, 9, lambda: next(readings)):
        time.sleep(0.3)
    assert said(run)[-2].startswith("INFO wbrag.run.progress: train: 8 of 9, ")


def test_code_that_came_without_its_git_folder_is_of_the_commit_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    monkeypatch.delenv("WBRAG_GIT_COMMIT", raising=False)
    assert git_commit() is None
    monkeypatch.setenv("WBRAG_GIT_COMMIT", "e540583")
    assert git_commit() == "e540583"
