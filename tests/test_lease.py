"""Who works where: one process in a run folder, one builder at a time, and what becomes of them when they die."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_store import passages, publish, unit_vectors

from wbrag.config import ConfigError
from wbrag.life.review import reject
from wbrag.run import lease
from wbrag.run.lease import in_turn, leased
from wbrag.store.versions import current

ROOT = Path(__file__).resolve().parents[1]
HOLD = "import sys, time, pathlib; from wbrag.run import lease; path = pathlib.Path(sys.argv[1])\n"
HOLD += "with getattr(lease, sys.argv[2])(path): print('held', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(lease, "SILENT_SECONDS", 0.5)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """Starts a process that holds a path with a function of wbrag.run.lease."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path, how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(path), how]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def claimed_elsewhere(folder: Path, silent: float = 0.0) -> Path:
    """The lease of a process on a host whose locks are not seen here, with its last sign of life so long ago."""
    folder.mkdir()
    file = folder / lease.LEASE
    told = {"host": "elsewhere", "pid": 7, "since": "2026-01-01 00:00:00+00:00", "command": "python jobs/train.py"}
    file.write_text(json.dumps(told))
    then = time.time() - silent
    os.utime(file, (then, then))
    return file


def test_a_second_process_is_told_who_works_in_a_folder_and_a_killed_one_lets_go(
    tmp_path: Path, holder: Callable[[Path, str], subprocess.Popen[str]]
) -> None:
    run = tmp_path / "run"
    first = holder(run, "leased")
    with pytest.raises(ConfigError) as refused, leased(run):
        pass
    (line,) = str(refused.value).splitlines()
    who = f"{run} is in use by process {first.pid} on {socket.gethostname()} since 20"
    assert line.startswith(who)
    assert f"(python -c {run} leased)" in line
    first.kill()
    first.wait()
    began = time.monotonic()
    with leased(run):
        assert json.loads((run / lease.LEASE).read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 0.4
    assert not run.exists()  # nothing was put in it


def test_a_decision_about_a_unit_does_not_come_between_a_job(
    tmp_path: Path, holder: Callable[[Path, str], subprocess.Popen[str]]
) -> None:
    store = tmp_path / "run" / "writeback"
    publish(store, unit_vectors(2), passages(2), "x", {})
    job = holder(tmp_path / "run", "leased")
    with pytest.raises(ConfigError, match=f"is in use by process {job.pid} "):
        reject(store, "p0", "wrong")
    assert current(store).version == 1


def test_a_folder_stays_with_what_was_put_in_it_and_its_holder_may_ask_again(tmp_path: Path) -> None:
    with leased(tmp_path / "run"):
        with leased(tmp_path / "run"):
            (tmp_path / "run" / "traces").mkdir()
        assert (tmp_path / "run" / lease.LEASE).exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["traces"]


def test_an_error_in_the_block_lets_go(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), leased(tmp_path / "run"):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_another_host_is_taken_for_dead_once_it_is_silent(tmp_path: Path) -> None:
    claimed_elsewhere(tmp_path / "long", silent=60)
    began = time.monotonic()
    with leased(tmp_path / "long"):
        assert time.monotonic() - began < 0.4
    claimed_elsewhere(tmp_path / "short")
    with leased(tmp_path / "short"):
        assert 0.4 < time.monotonic() - began < 10


def test_a_lock_that_outlives_its_host_is_waited_for(tmp_path: Path) -> None:
    with claimed_elsewhere(tmp_path / "run").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        with leased(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / lease.LEASE).read_text())["pid"] == os.getpid()


def test_a_lock_that_stays_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with claimed_elsewhere(tmp_path / "run").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"7 on elsewhere .*; it gave no sign of life"), leased(tmp_path / "run"):
            pass


def test_a_holder_on_another_host_that_gives_signs_of_life_is_not(tmp_path: Path) -> None:
    file, ended = claimed_elsewhere(tmp_path / "run"), threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(file)

    beats = threading.Thread(target=beat)
    beats.start()
    with pytest.raises(ConfigError, match="is in use by process 7 on elsewhere since 2026"), leased(tmp_path / "run"):
        pass
    ended.set()
    beats.join()
    assert json.loads(file.read_text())["host"] == "elsewhere"


def test_a_holder_gives_signs_of_life_and_ends_when_another_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    file, received = tmp_path / "run" / lease.LEASE, threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.set())
    try:
        with leased(tmp_path / "run"):
            os.utime(file, (0, 0))
            time.sleep(0.3)
            assert time.time() - file.stat().st_mtime < 10
            assert not received.is_set()
            other = json.loads(file.read_text()) | {"host": "elsewhere"}
            file.write_text(json.dumps(other))
            assert received.wait(5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(file.read_text()) == other


def test_runs_that_need_the_same_index_build_it_in_turn(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / "cache" / "index.lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        with in_turn(lock):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(lock.parent.iterdir()) == []


def test_who_waits_for_a_builder_says_for_whom_and_takes_over_when_it_dies(
    tmp_path: Path,
    holder: Callable[[Path, str], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_LINES", 0.05)
    lock = tmp_path / "index.lock"
    builder = holder(lock, "in_turn")
    threading.Timer(0.3, builder.kill).start()
    with caplog.at_level(logging.INFO, logger="wbrag"), in_turn(lock):
        assert builder.wait(5) == -signal.SIGKILL
    assert len(caplog.messages) > 1
    for line in caplog.messages:
        assert line.startswith(f"waiting for process {builder.pid} on {socket.gethostname()} since 20")
        assert f"which has {lock}: " in line
