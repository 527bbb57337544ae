"""What benchmarks share: seeded vectors and passages, the environment, a part in a process of its own, a table."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa

from wbrag.run.record import git_commit, versions
from wbrag.store.changes import publish, write_piece
from wbrag.store.place import Place, place_of
from wbrag.store.rows import Piece, schema_in, with_vectors
from wbrag.store.vectors import Spec
from wbrag.store.versions import Version

#: Vectors of a block, here and in the files that all contestants read.
BLOCK = 16_384
CLUSTERS = 1_000
#: When this process began.
STARTED = time.perf_counter()


def say(text: str) -> None:
    """Tell on stderr what is done now, with the seconds that this process has run."""
    print(f"{time.perf_counter() - STARTED:6.0f} s  {text}", file=sys.stderr, flush=True)


def blocks(rows: int, dimension: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Unit vectors around seeded centres, (n, d) float32 that fp16 can hold, in blocks; the same for the same seed."""
    centres = np.random.default_rng(7).standard_normal((CLUSTERS, dimension)).astype(np.float32)
    for number, start in enumerate(range(0, rows, BLOCK)):
        generator = np.random.default_rng([seed, number])
        n = min(BLOCK, rows - start)
        drawn = centres[generator.integers(0, CLUSTERS, n)]
        drawn = drawn + generator.standard_normal((n, dimension), dtype=np.float32)
        yield (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def queries(n: int, dimension: int) -> np.ndarray:
    """(n, d) float32 unit vectors of the same kind."""
    return np.concatenate(list(blocks(n, dimension, seed=99)))


def passages(first: int, stop: int, prefix: str = "p") -> pa.Table:
    """Passages for rows first .. stop - 1."""
    ids = [f"{prefix}{row}" for row in range(first, stop)]
    return pa.table({"id": ids, "title": ids, "text": [f"the passage called {key}" for key in ids]})


def piece(place: Place, vectors: np.ndarray, table: pa.Table, spec: Spec) -> Piece:
    """Rows written as one fragment with its index, which no version has yet."""
    schema = schema_in(place, None, table.schema, spec.dimension)
    return write_piece(place, with_vectors(table, vectors, schema), spec)


def published(folder: Path, vectors: np.ndarray, table: pa.Table, spec: Spec) -> Version:
    """A version of the store in `folder` with these rows more."""
    place = place_of(folder)
    return publish(place, [piece(place, vectors, table, spec)], spec, "benchmark", {})


def write_embeddings(folder: Path, rows: int, dimension: int) -> list[Path]:
    """The vectors as float32 .npy files, as an encoder would leave them for FAISS or autofaiss."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, block in enumerate(blocks(rows, dimension)):
        files.append(folder / f"{number:05d}.npy")
        if not files[-1].exists():
            np.save(files[-1], block)
    return files


def apart(script: str, part: str, *words: object, seconds: float | None = None) -> dict[str, Any]:
    """Run `script --part PART WORDS` in a new process, for so long at most, end what it leaves behind, and return what
    it reports in the last line of its stdout. Its stderr is this one's. RuntimeError where it does not report.
    """
    command = [sys.executable, script, "--part", part, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what runs is ended first
    with (
        TemporaryFile("w+") as told,
        subprocess.Popen(command, env=environment, stdout=told, start_new_session=True) as running,
    ):
        try:
            how = f"exit code {running.wait(seconds)}"
        except subprocess.TimeoutExpired:
            how = f"not done after {seconds:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            signal.signal(signal.SIGTERM, before)
        if how != "exit code 0":
            raise RuntimeError(f"{Path(script).name} --part {part} failed: {how}")
        told.seek(0)
        found: dict[str, Any] = json.loads(told.read().splitlines()[-1])
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_mib() -> float:
    """The highest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(np.median(values))


def environment() -> dict[str, Any]:
    """What figures depend on: versions of packages, commit, cores, memory, processor, GPUs."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    told: dict[str, Any] = {"versions": versions(), "commit": git_commit(), "cores": len(os.sched_getaffinity(0))}
    told["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    told["cpu"] = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    told["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or "none"
    return told


def table(title: str, rows: Sequence[tuple[str, str, str, bool | None]]) -> bool:
    """Print measure, value, bar and whether it holds (None: no bar); returns whether all hold."""
    print(f"\n{title}")
    width = max(len(row[0]) for row in rows)
    values = max(len(row[1]) for row in rows)
    for name, value, bar, holds in rows:
        verdict = "" if holds is None else "ok" if holds else "MISSED"
        print(f"  {name:<{width}}  {value:>{values}}  {bar:<12} {verdict}".rstrip())
    return all(row[3] is not False for row in rows)
