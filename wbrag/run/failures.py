"""Rows of a run's tables that failed: counted against the error budget, and asked again by the same command."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from wbrag.data.benchmarks import OverErrorBudget
from wbrag.run.inputs import over_budget
from wbrag.run.job import Job, checkpoint_folder
from wbrag.run.lookup import Keyed, Rows
from wbrag.store.files import scratch_folder

log = logging.getLogger(__name__)

_FAILED, _BROKEN = pc.field("status") == "failed", pc.field("error").is_valid()
#: Each table: the column that says why a row failed, which rows did, and the files of which one is made of the table.
TABLES: dict[str, tuple[str, pc.Expression, tuple[str, ...]]] = {
    "traces": ("reason", _FAILED, ("requests.parquet", "units.parquet")),
    "written": ("reason", _FAILED, ("candidates.parquet", "units.parquet")),
    "readings": ("error", _BROKEN, ("units.parquet",)),
    "predictions": ("error", _BROKEN, ()),
}


def first_over(job: Job, *tables: str) -> OverErrorBudget | None:
    """The error for the first of the tables (default: all) of which more rows failed than the budget allows: training
    examples, requests for units, readings of units, test questions. None within it, and for tables that are not there.
    """
    for table in tables or TABLES:
        folder = job.run / table
        if not any(folder.glob("*.parquet")):
            continue
        why, which, _ = TABLES[table]
        rows = ds.dataset(folder, format="parquet")
        if not (failed := rows.count_rows(filter=which)):
            continue
        (first,) = rows.head(1, columns=["id", why], filter=which).to_pylist()
        told = f"{'request' if table == 'written' else 'example'} {first['id']!r}: {first[why]}"
        if (over := over_budget(str(folder), failed, rows.count_rows(), job.cfg.max_error_rate, told)) is not None:
            return over
    return None


def check_errors(job: Job, *tables: str) -> None:
    """Raise what `first_over` finds."""
    if (over := first_over(job, *tables)) is not None:
        raise over


def drop_failed(job: Job) -> None:
    """Take the failed rows out of each table that is over the budget, and out of what the checkpoints note as written:
    they are then asked again. A table that something was made of stays as it is.

    The checkpoints come first: should the process die in between, the rows still say what is to be dropped. A mark then
    says that all of them are, as those that are left may be within the budget.
    """
    for table, (_, which, made) in TABLES.items():
        mark, folder = job.run / f"{table}.again", job.run / table
        if any((job.run / name).exists() for name in made) or not (mark.exists() or first_over(job, table)):
            continue
        mark.touch()
        (job.run / "metrics.json").unlink(missing_ok=True)  # it tells of them
        if files := list(folder.glob("*.parquet")):
            rows = ds.dataset(folder, format="parquet").to_table(columns=["id"], filter=which)
            failed = Keyed(Rows.of(rows.combine_chunks().to_batches(), rows.schema), "id")
            log.info("asking again for %d rows of %s that failed", len(rows), folder)
            noted = checkpoint_folder(job, table).glob("*.parquet")
            whole = [file for file in noted if not file.name.endswith(".pending.parquet")]  # the others have no rows
            for file in (*whole, *files):
                _leave_out(file, failed, job.run)
        mark.unlink()


def _leave_out(file: Path, failed: Keyed, scratch_parent: Path) -> None:
    """Write the file without the rows of failed ids, or remove it where none is left. Ray Data knows it by its name."""
    rows = pq.ParquetFile(file).read()
    left = rows.filter(pa.array(failed.find(rows["id"]) < 0))
    if not left.num_rows:
        file.unlink()
    elif left.num_rows < rows.num_rows:
        with scratch_folder(scratch_parent) as scratch:
            pq.write_table(left, scratch / file.name)
            os.replace(scratch / file.name, file)
