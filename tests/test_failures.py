"""Failed rows are dropped with their checkpoints, whenever the process dies meanwhile, and only where that helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wbrag.config import TrainConfig
from wbrag.run import failures
from wbrag.run.failures import check_errors, drop_failed
from wbrag.run.job import Job, checkpoint_folder, complete
from wbrag.run.record import RunRecord
from wbrag.run.reuse import REUSED, asked_of
from wbrag.schema import TRACE

FILES = {"a": {"t0": "kept", "t1": "failed"}, "b": {"t2": "gated", "t3": "gated"}, "c": {"t4": "failed"}}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run of five examples, two of which failed, written in three files."""
    made = Job(TrainConfig(max_error_rate=0.3), tmp_path, RunRecord(tmp_path, {}))
    noted = checkpoint_folder(made, "traces")
    for folder in (tmp_path / "traces", noted):
        folder.mkdir(parents=True)
    for name, status in FILES.items():
        rows = [{"id": key, "status": one, "reason": "the engine is gone"} for key, one in status.items()]
        pq.write_table(pa.Table.from_pylist(rows, TRACE), tmp_path / "traces" / f"{name}-0.parquet")
        pq.write_table(pa.table({"id": list(status)}), noted / f"{name}.parquet")
    pq.write_table(pa.table({"id": ["t5", "t1"]}), noted / "d.pending.parquet")  # its rows were never written
    (tmp_path / "metrics.json").write_text("{}")
    return made


def left(folder: Path) -> dict[str, list[str]]:
    """The ids in each Parquet file of a folder."""
    return {file.stem: pq.read_table(file)["id"].to_pylist() for file in sorted(folder.glob("*.parquet"))}


def test_what_failed_is_to_be_asked_again_and_nothing_else(job: Job) -> None:
    assert complete(job, "traces", 5)
    drop_failed(job)
    assert left(job.run / "traces") == {"a-0": ["t0"], "b-0": ["t2", "t3"]}
    pending = {"d.pending": ["t5", "t1"]}
    assert left(checkpoint_folder(job, "traces")) == {"a": ["t0"], "b": ["t2", "t3"]} | pending
    assert pq.read_table(job.run / "traces").schema.equals(TRACE)
    assert complete(job, "traces", 3)
    assert {path.name for path in job.run.iterdir()} == {"traces", "checkpoints"}
    check_errors(job)
    drop_failed(job)
    assert len(left(job.run / "traces")) == 2


def test_rows_that_stay_count_once_it_is_known_which_do_not(job: Job) -> None:
    rows = [{"id": "t6", "status": "kept"}, {"id": "t7", "status": "gated"}]
    pq.write_table(pa.Table.from_pylist(rows, TRACE), job.run / "traces" / REUSED)
    assert complete(job, "traces", 5)  # the process died before it said what is left
    pq.write_table(pa.table({"id": ["t0"]}), asked_of(job.run / "traces"))
    assert complete(job, "traces", 7)


@pytest.mark.parametrize("steps", range(6))
def test_a_process_that_dies_meanwhile_loses_nothing(job: Job, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done, whole = 0, failures._leave_out

    def dying(*given: object) -> None:
        nonlocal done
        if done == steps:
            raise KeyboardInterrupt
        done += 1
        whole(*given)

    with monkeypatch.context() as patched:
        patched.setattr(failures, "_leave_out", dying)
        with pytest.raises(KeyboardInterrupt):
            drop_failed(job)
    drop_failed(job)
    assert left(job.run / "traces") == {"a-0": ["t0"], "b-0": ["t2", "t3"]}
    assert complete(job, "traces", 3)


def test_rows_within_the_budget_and_rows_that_something_was_made_of_stay(job: Job) -> None:
    before = left(job.run / "traces")
    drop_failed(Job(TrainConfig(max_error_rate=0.4), job.run, job.record))
    (job.run / "units.parquet").touch()
    drop_failed(job)
    assert left(job.run / "traces") == before
    assert (job.run / "metrics.json").exists()


def test_a_table_without_files_has_no_failed_rows(job: Job) -> None:
    shutil.rmtree(job.run / "traces")
    (job.run / "traces").mkdir()
    drop_failed(job)
    check_errors(job)
