"""A whole job that is stopped or killed, in part or with a node: it ends, or goes on, as if nothing had happened.

Every run here asks the same questions, and what it makes is held against that of one that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from canaries import leaks
from forked import run_program, start_program
from nodes import SPARE, Ended, Nodes
from small_store import rows_in
from test_pipeline import JOB, ROOT, arguments, ids_of, settings, world

from wbrag.run.job import Session
from wbrag.run.lease import LEASE
from wbrag.run.pipeline import train

#: Training questions, in blocks of 8: while 40 files are written one by one a moment between them can be met.
EXAMPLES, FILES = 320, 40


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus and questions of all runs."""
    return world(tmp_path_factory.mktemp("faults") / "world", EXAMPLES, test_rows=8)


@pytest.fixture(scope="module")
def straight(towns: Path, session: Session) -> Path:
    """The run that nobody disturbed, `cache` beside it."""
    run = towns.parent / "straight"
    train(settings(towns, run, cache_dir=str(towns.parent / "cache")), session)
    return run


def environment() -> dict[str, str]:
    """That of a job with a Ray of its own."""
    found = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**found, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def committed(run: Path) -> set[Path]:
    """The files of traces that are noted as written."""
    return {p for p in run.glob("checkpoints/*/traces/*.parquet") if ".pending." not in p.name}


def until(holds: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Wait for the moment at which this holds of a job."""
    while not holds():
        assert alive(), "the job ended before its moment came"
        time.sleep(0.01)


def wait_for(driver: Any, run: Path, files: int) -> None:  # noqa: ANN401 - a process of multiprocessing
    until(lambda: len(committed(run)) >= files, driver.is_alive)


def outcome(run: Path) -> dict[str, Any]:
    """What a run made: the bytes of its units, the rows of its stores and of its tables, but for their seconds."""
    made: dict[str, Any] = {"units": (run / "units.parquet").read_bytes()}
    made |= {name: rows_in(run / name) for name in ("base", "writeback")}
    for name in ("traces", "predictions"):
        rows = sorted(pq.read_table(run / name).to_pylist(), key=lambda row: str(row["id"]))
        made[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return made


def check_same(run: Path, straight: Path) -> None:
    """Nothing is lost, nothing doubled, nothing another one."""
    assert ids_of(run / "traces") == sorted(f"train{i}" for i in range(EXAMPLES))
    made, expected = outcome(run), outcome(straight)
    assert [name for name in expected if made[name] != expected[name]] == []


@contextmanager
def poor_surroundings(file: Path) -> Iterator[dict[str, str]]:
    """The environment of a job without a home that it could write to, in the C locale, with its temporary files on
    another device.
    """
    import matplotlib

    shared = Path("/dev/shm")
    within = {"prefix": "t", "dir": shared if shared.is_dir() else None, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**within) as scratch:
        fonts = matplotlib.get_cachedir()  # to find all fonts once more would take seconds
        yield environment() | {"HOME": f"{file}/none", "LC_ALL": "C", "TMPDIR": scratch, "MPLCONFIGDIR": fonts}


@pytest.mark.slow
def test_a_run_that_is_stopped_then_killed_with_its_generator_loses_and_doubles_nothing(
    towns: Path, straight: Path, tmp_path: Path
) -> None:
    """One command three times, a minute in all, where a test for each would take half of it: the first process is told
    to stop; of the second the generator is killed, then itself; the third ends, in poor surroundings.
    """
    run, said = tmp_path / "a run, grün", tmp_path / "said"
    job = [*arguments(towns, tmp_path / "run"), f"run_dir='{run}'"]
    begin = partial(start_program, JOB, *job, folder=tmp_path, out=said, err=said, environment=environment())

    driver = begin()
    wait_for(driver, run, files=2)
    began = time.monotonic()
    os.kill(driver.pid, signal.SIGTERM)
    driver.join(60)
    assert driver.exitcode == 143, said.read_text()
    assert time.monotonic() - began <= 10
    told, _, goes_on = said.read_text().splitlines()[-1].partition(": ")
    assert told == "stopped by SIGTERM; the same command goes on from here"
    assert shlex.split(goes_on) == ["python", str(JOB), *job]
    assert "Traceback" not in said.read_text()
    assert not (run / LEASE).exists()

    driver = begin()
    wait_for(driver, run, files=len(committed(run)) + 1)
    os.kill(driver.pid, signal.SIGSTOP)  # it must not come to its end meanwhile
    second = run_program(JOB, *job, folder=tmp_path, environment=environment())
    os.kill(driver.pid, signal.SIGCONT)
    assert second.returncode == 2, second.stderr
    assert second.stderr.splitlines()[-1].startswith(f"error: {run} is in use by process {driver.pid} on ")
    assert "Traceback" not in second.stderr
    family = psutil.Process(driver.pid).children(recursive=True)
    (generator,) = [p for p in family if "Generator" in " ".join(p.cmdline())]
    generator.kill()
    wait_for(driver, run, files=len(committed(run)) + 3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    _, left = psutil.wait_procs(family, timeout=5)
    for process in left:
        process.kill()
    done = sum(pq.read_metadata(path).num_rows for path in committed(run))
    files = {path: path.stat().st_mtime_ns for path in (run / "traces").glob("*.parquet")}
    assert 0 < done < EXAMPLES

    with poor_surroundings(said) as poor:
        command = [sys.executable, str(JOB), *job]
        again = subprocess.run(command, env=poor, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert again.returncode == 0, again.stderr
    assert f"train: {done} of {EXAMPLES} examples are done already" in again.stderr
    assert json.loads((run / "run.json").read_text())["work"]["train"]["begun"] == EXAMPLES - done
    for noise in ("logging.cc", "(raylet)", "InterruptedError", "WARNING", "fontManager", "\x1b"):
        assert noise not in again.stderr + again.stdout
    kept = {path: when for path, when in files.items() if path.exists()}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(kept) >= len(files) - 3  # a file whose write was cut off is written anew
    check_same(run, straight)


@contextmanager
def running(nodes: Nodes, towns: Path, run: Path, log: str, *more: str) -> Iterator[Future[Ended]]:
    """The job on these nodes, while the block runs."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(nodes.job, run.parent / log, "train", *arguments(towns, run, *more))


@pytest.mark.slow
def test_a_node_killed_at_any_moment_loses_and_doubles_nothing(
    ray_nodes: Nodes, towns: Path, straight: Path, tmp_path: Path, fault_seed: int
) -> None:
    """A run of 20 s for each seed. With an even seed there are two engines on CPUs, and the other one goes on; with an
    odd seed the node has the only GPU, and joins again. Its generator has blocks in flight; with two seeds in eight the
    moment comes earlier, while passages are encoded or searched.
    """
    draw, run = random.Random(fault_seed), tmp_path / "run"
    on_gpu, early = bool(fault_seed % 2), fault_seed // 2 % 4 == 3
    if not early:  # all but the answers is there already, so that training begins soon
        shutil.copytree(straight.parent / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("closed-book-*"))
    before = dict(ray_nodes.raylets)
    where = ["cluster=gpu"] if on_gpu else ["cluster.engines=2"]
    try:
        with running(ray_nodes, towns, run, "log", *where) as job:
            if early:
                until((run / LEASE).exists, lambda: not job.done())
                time.sleep(draw.uniform(0, 4))
            else:
                files = draw.randrange(1, FILES // 2)
                until(lambda: len(committed(run)) >= files, lambda: not job.done())
                time.sleep(draw.uniform(0, 0.1))
            killed = chosen(ray_nodes, draw, on_gpu)
            assert len(committed(run)) < FILES
            ray_nodes.kill(killed)
            if on_gpu:
                time.sleep(draw.uniform(0, 2))
                ray_nodes.start(killed)
            ended = job.result()
    finally:
        for node, raylet in before.items():
            if ray_nodes.raylets[node] == raylet and not alive(raylet):
                ray_nodes.start(node)
    assert ended.code == 0, ended.output
    if on_gpu and not early:
        assert len(ended.processes("gpu", "Generator")) > 1, ended.ran
    check_same(run, straight)
    assert leaks(tmp_path, ray_nodes.folder) == []


@pytest.mark.slow
def test_what_was_on_a_lost_gpu_is_not_waited_for_where_there_is_another(
    in_full: None, ray_nodes: Nodes, towns: Path, straight: Path, tmp_path: Path
) -> None:
    """Two engines with an encoder beside each, which search all the while: the node that two of them are on is gone
    for good.
    """
    shutil.copytree(straight.parent / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("closed-book-*"))
    run, flare = tmp_path / "run", ["method=flare", "method.theta=1"]
    ray_nodes.start(SPARE)
    try:
        two = ["cluster=gpu", "cluster.engines=2", "cluster.min_engines=1", "cluster.encoders=2"]
        with running(ray_nodes, towns, run, "log", *two, *flare) as job:
            until(lambda: len(committed(run)) >= 4, lambda: not job.done())
            ray_nodes.kill(SPARE)
            ended = job.result()
    finally:
        ray_nodes.kill(SPARE)
    assert ended.code == 0, ended.output
    assert ended.processes(SPARE, "Generator"), ended.ran
    assert ended.processes(SPARE, "HeldEncoder"), ended.ran
    assert len(ended.processes("gpu", "Generator")) == 1, ended.ran
    assert ids_of(run / "traces") == sorted(f"train{i}" for i in range(EXAMPLES))
    traces = pq.read_table(run / "traces", columns=["status", "retrievals"]).to_pylist()
    assert all(row["status"] != "failed" for row in traces)
    assert any(row["retrievals"] for row in traces)


def chosen(nodes: Nodes, draw: random.Random, on_gpu: bool) -> str:
    """The node to lose: one of those with a generator, which is that with the GPU or, on CPUs, any."""
    if on_gpu:
        return "gpu"
    holders = [node for node in ("cpu", "gpu") if any("Generator" in title for _, title in nodes.workers(node))]
    return draw.choice(holders or ["cpu", "gpu"])


def alive(process: int) -> bool:
    """Whether a process runs; one that its parent has not asked about since it died does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.mark.slow
def test_a_driver_killed_at_any_moment_loses_and_doubles_nothing(
    ray_nodes: Nodes, towns: Path, straight: Path, tmp_path: Path, fault_seed: int, long: bool
) -> None:
    """What it had begun on the nodes may end after the next one has begun."""
    if not long:
        pytest.skip("two runs for each seed: with --long; one driver is killed above")
    run = tmp_path / "run"
    with running(ray_nodes, towns, run, "killed") as job:
        until((run / LEASE).exists, lambda: not job.done())
        time.sleep(random.Random(fault_seed).uniform(0, 15))
        with suppress(OSError, ValueError):  # it has ended
            os.kill(json.loads((run / LEASE).read_text())["pid"], signal.SIGKILL)
        job.result()
    again = ray_nodes.job(tmp_path / "again", "train", *arguments(towns, run))
    assert again.code == 0, again.output
    check_same(run, straight)
