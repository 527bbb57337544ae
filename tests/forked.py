"""Processes forked from one that has everything imported and has done nothing yet: imports take seconds, forks none."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

TESTS = Path(__file__).resolve().parent
#: What the jobs and the processes of the store's tests import. A test run has one such process, and so one list. Ray is
#: not in it: a job says how Ray is to behave before it imports it.
IMPORTED = ["lance", "lance.fragment", "lance.file", "faiss", "hydra", "forked", "test_store_faults"]
IMPORTED += ["wbrag.store.search", *(f"wbrag.experiments.{name}" for name in ("ablation", "grid_report", "variants"))]


def processes() -> Any:  # noqa: ANN401 - a context of multiprocessing
    """A context whose processes are forked so."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    # Python 3.11 does not tell the process that is forked where tests lie, and passes over what it cannot import.
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths))):
        forkserver.ensure_running()
    return context


def start_program(
    script: Path, *arguments: str, folder: Path, out: Path, err: Path, environment: Mapping[str, str] | None = None
) -> Any:  # noqa: ANN401 - a process of multiprocessing
    """`python SCRIPT ARGUMENTS` in a folder, as a process that appends to these files, which may be one.

    Its environment is that of the test, as of now, where none is given: a fork has the one that there was when the
    first was made.
    """
    given = (script, arguments, folder, out, err, dict(os.environ if environment is None else environment))
    process = processes().Process(target=become, args=given, daemon=True)
    process.start()
    return process


def run_program(
    script: Path, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `start_program` ends with."""
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "stdout"), Path(scratch, "stderr")
        process = start_program(script, *arguments, folder=folder, out=out, err=err, environment=environment)
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def become(
    script: Path, arguments: tuple[str, ...], folder: Path, out: Path, err: Path, environment: dict[str, str]
) -> None:
    """Go on as this program. What it starts, as Ray's workers, has the code of this checkout too."""
    os.environ.clear()
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS.parent), environment.get("PYTHONPATH", "")]))
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.chdir(folder)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
