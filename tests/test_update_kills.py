"""jobs/update.py killed at any moment: readers have the old pair or the new one, and the same command ends it. The jobs
run on the Ray of the tests, as a job on a cluster does.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from forked import start_program
from test_update import changed_to, edited, lines, world
from test_writeback import TEST, TRAIN, settings, write_lines

from wbrag.life.update import Updated
from wbrag.run.folder import updates_of
from wbrag.run.job import Session
from wbrag.run.lease import LEASE
from wbrag.run.pipeline import train
from wbrag.store.place import place_of
from wbrag.store.rows import opened
from wbrag.store.versions import pair

JOB = Path(__file__).parents[1] / "jobs" / "update.py"
#: Updates that are killed: as a rule, and with --long; and the seconds after its start within which one is.
KILLS, LONG_KILLS, SECONDS = 3, 50, 8.0


def shown(run: Path) -> list[list[dict[str, Any]]]:
    """What readers of the pair have: passages and units, vectors and all, by id."""
    stores = [run / name for name in ("base", "writeback")]
    versions = pair(*stores)
    assert all(versions)
    tables = [opened(place_of(store), one).to_table() for store, one in zip(stores, versions, strict=True) if one]
    return [sorted(table.to_pylist(), key=lambda row: str(row["id"])) for table in tables]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, Any, Any]:
    """A folder with a finished run; what its pair holds before, and after an update that nobody disturbed."""
    folder = tmp_path_factory.mktemp("kills")
    write_lines(folder / "corpus.jsonl", lines(world()))
    write_lines(folder / "train.jsonl", TRAIN)
    write_lines(folder / "test.jsonl", TEST)
    with Session() as session:
        train(settings(folder, "run"), session)
        shutil.copytree(folder / "run", folder / "straight", symlinks=True)
        assert isinstance(changed_to(folder, edited(world(), 10), session, "straight"), Updated)
    return folder, shown(folder / "run"), shown(folder / "straight")


@pytest.mark.slow
def test_an_update_killed_at_any_moment_leaves_the_old_pair_or_the_new_one_and_is_ended_by_the_same_command(
    trained: tuple[Path, Any, Any], tmp_path: Path, long: bool
) -> None:
    import ray

    folder, old, new = trained
    assert old != new
    said, draw = tmp_path / "said", random.Random(3)
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def begin(run: Path) -> Any:  # noqa: ANN401 - a process of multiprocessing
        settings = [f"run_dir={run}", f"corpus={folder / 'corpus-now.jsonl'}", f"cache_dir={run.parent / 'cache'}"]
        settings += ["cluster.block_rows=8", "cluster.examples_in_flight=16"]
        return start_program(JOB, *settings, folder=tmp_path, out=said, err=said, environment=environment)

    def end(run: Path) -> None:
        process = begin(run)
        process.join()
        assert process.exitcode == 0, said.read_text()
        assert shown(run) == new
        assert len(updates_of(run)) == 1

    run, killed, copies = Path(), 0, 0
    while killed < (LONG_KILLS if long else KILLS):
        if not run.name or updates_of(run):  # it came to its end
            copies += 1
            shutil.copytree(folder / "cache", tmp_path / f"{copies}" / "cache")
            for name in ("closed-book", "retrieved"):  # as if nobody had been there before
                for one in (tmp_path / f"{copies}" / "cache").glob(f"{name}-*"):
                    shutil.rmtree(one)
            run = tmp_path / f"{copies}" / "run"
            shutil.copytree(folder / "run", run, symlinks=True)
        process = begin(run)
        while not (run / LEASE).exists() and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, SECONDS))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), said.read_text()
        assert shown(run) in (old, new)
        if process.exitcode == 0:
            assert shown(run) == new
    end(run)
