"""Processes forked from one that has everything imported and has done nothing yet: imports take seconds, forks none."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

TESTS = Path(__file__).resolve().parent
#: What the jobs and the processes of the store's tests import. A test run has one such process, and so one list.
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


def run_program(script: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `python SCRIPT ARGUMENTS` ends with in a folder. For programs that do not get as far as Ray.

    Its environment is that of the test, as of now: a fork has the one that there was when the first was made.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "stdout"), Path(scratch, "stderr")
        given = (script, arguments, folder, out, err, dict(os.environ))
        process = processes().Process(target=become, args=given, daemon=True)
        process.start()
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def become(
    script: Path, arguments: tuple[str, ...], folder: Path, out: Path, err: Path, environment: dict[str, str]
) -> None:
    """Go on as this program, which writes to these files."""
    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
