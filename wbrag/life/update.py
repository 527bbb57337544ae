"""A trained knowledge base follows its documents and questions: what differs is done again, and published as one pair.

    corpus against base -> base -> retrieve -> train what reads otherwise -> units -> write-back -> predict -> report

An update is a run of its own, in `updates/<number>/` of the run's folder, whose tables begin with the rows that still
hold (`wbrag.run.reuse`). So its pair holds what training from nothing on these documents and questions would give, as
far as the generator says the same to the same prompt. A reader sees the pair as it was until the new write-back version
names the new base (a run without units has the base alone, seen at once); a killed update goes on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wbrag.config import ConfigError, TrainConfig, UpdateConfig
from wbrag.data.benchmarks import passages_left_out
from wbrag.report.run_report import write_report
from wbrag.report.version import stamp
from wbrag.retrieval.encoding import Encoders
from wbrag.run import inputs, pipeline
from wbrag.run.contribute import contribute
from wbrag.run.failures import check_errors, drop_failed
from wbrag.run.folder import (
    PURGES,
    QUESTIONS,
    UPDATED,
    UPDATES,
    load_config,
    now,
    read_record,
    tables_now,
    updates_of,
    write_text,
)
from wbrag.run.job import Job, Session, check_room, opened
from wbrag.run.lease import LEASE, in_turn, leased
from wbrag.run.record import open_record
from wbrag.run.tombstones import corpus_without, tombstones
from wbrag.run.writeback import decided_so_far, made_units, publish_units
from wbrag.schema import SEEN_BY
from wbrag.store.build import Difference, build_store, difference
from wbrag.store.changes import copy_store
from wbrag.store.files import make_folder, scratch_folder
from wbrag.store.place import place_of
from wbrag.store.rows import has_labels
from wbrag.store.search import base_of
from wbrag.store.verify import diff
from wbrag.store.versions import Version, current, latest, pair

log = logging.getLogger(__name__)

#: The run's own base, once it follows its documents: what runs share is left to the others.
OWN_BASE = "passages"
#: What may differ from the run that is updated.
MAY_CHANGE = ("corpus", "benchmark.train", "benchmark.test")
#: What stays of an update once there is a newer one.
KEPT = (UPDATED, "run.json", "config.yaml", "log.txt", "metrics.json", "report.md", "report.html", "plots")


@dataclass(frozen=True, slots=True)
class Changes:
    """How many passages of a corpus a base has not, has with another text or other keys, has and the corpus has not
    any more, and has as they are; and how many more the corpus has that were purged.
    """

    added: int
    changed: int
    removed: int
    untouched: int
    purged: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update came to; `versions`: of the write-back store, or of a base without one, before and after."""

    folder: Path
    passages: Changes
    versions: tuple[int, int]
    examples: int
    asked: int
    retired: int
    written: int
    left_out: int
    calls: int
    seconds: float


def update(given: UpdateConfig, session: Session | None = None) -> Updated | Changes:
    """Bring the knowledge base of a finished run to the corpus and questions that are `given`; what was done, or only
    how the passages differ, with `dry_run` or where nothing is to do: then nothing is asked or published.

    ConfigError where there is no finished run, another process works on it, or a setting that makes its answers is not
    what it was; InputError, StoreError and OverErrorBudget as `pipeline.train`: before the pair is published, but for
    the budget of test questions, which are answered with it.
    """
    started, run = time.perf_counter(), Path(given.run_dir).absolute()
    if not (run / "metrics.json").is_file():
        raise ConfigError(f"run_dir={run} holds no trained knowledge base (no metrics.json)")
    with leased(run):
        done, before = updates_of(run), tables_now(run)
        cfg = settings(given, before)
        inputs.check_settings(cfg)
        check_room(cfg, session)
        read = pipeline.read_or_quarantine(cfg, run)
        identity, known = inputs.identity_of(cfg), read_record(before / "run.json")["identity"]
        inputs.refuse_other_settings(run, _fixed(known), _fixed(identity), cfg)
        check_labels(cfg, run, read.corpus)
        passages, differs = compared(run, read.corpus)
        folder = run / UPDATES / f"{int(before.name) + 1 if done else 1:04d}"
        begun = (folder / "run.json").is_file() and read_record(folder / "run.json")["identity"] == identity
        due = begun or passages or purged_since(run, before)
        if given.dry_run or not (due or _questions(identity) != _questions(known)):
            return passages
        if folder.is_dir() and not begun:
            shutil.rmtree(folder)  # an unfinished update to other documents or questions: nothing refers to its tables
        make_folder(folder)
        job = Job(cfg, folder, open_record(folder, cfg, identity), before)
        inputs.write_quarantine(read.rejected, folder / "quarantine.jsonl")
        drop_failed(job)
        found = _updated(job, run, read, passages, differs, session, started)
        for old in done:
            _thin(old)
        return found


def settings(given: UpdateConfig, before: Path) -> TrainConfig:
    """The settings of a run or of its last update, with the files that are given in place of its own."""
    cfg = load_config(before)
    questions = {name: path for name in ("train", "test") if (path := getattr(given.benchmark, name))}
    own = {"corpus": given.corpus, "base": ""} if given.corpus else {}
    cache = given.cache_dir or cfg.cache_dir or str(Path(given.run_dir).absolute().parent / "cache")
    changed: dict[str, Any] = {
        **own,
        "benchmark": replace(cfg.benchmark, **questions, rows={}),
        "cluster": given.cluster,
    }
    rate = cfg.max_error_rate if given.max_error_rate is None else given.max_error_rate
    return replace(cfg, **changed, cache_dir=cache, max_error_rate=rate, run_dir=given.run_dir)


def compared(run: Path, corpus: Path | None) -> tuple[Changes, dict[int, Difference]]:
    """A corpus, as Parquet, against the base that readers of the run's pair see, and the same row by row, by the base's
    version; None: that was given, and stays.
    """
    base = base_of(run)
    assert base is not None  # a finished run has one
    version, _ = pair(base, run / "writeback")
    assert version is not None
    if corpus is None:
        return Changes(0, 0, 0, version.rows), {}
    found = difference(place_of(base), corpus, version)
    counts = len(found.added), len(found.changed), len(found.gone), found.untouched
    return Changes(*counts, passages_left_out(corpus)), {version.version: found}


def check_labels(cfg: TrainConfig, run: Path, corpus: Path | None) -> None:
    """ConfigError where a corpus says nothing of who may see its passages, and a base that is to follow it does: nobody
    would see anything any more.
    """
    if corpus is None or SEEN_BY.name in pq.read_schema(corpus).names:
        return
    for base in filter(None, (base_of(run), Path(cfg.kb, "base") if cfg.kb else None)):
        if (version := latest(base)) and has_labels(base, version):
            told = "has labels of who may see what, and the run was trained without access=KEY"
            raise ConfigError(f"corpus={cfg.corpus}: {base} {told}; train a run on the corpus, with access=KEY")


def purged_since(run: Path, before: Path) -> bool:
    """Whether something was purged since the tables in `before` were made: what read it is to be asked again."""
    last = "" if before == run else before.name
    return any(read_record(file)["update"] == last for file in (run / PURGES).glob("*.json"))


def own_base(run: Path) -> Path:
    """The run's own base: a copy of what it has shared with other runs so far, to which `base` in its folder leads."""
    own, link = run / OWN_BASE, run / "base"
    shared = base_of(run)
    assert shared is not None
    if not own.is_dir():
        copy_store(shared, own)
    if not link.is_symlink() or link.readlink() != Path(OWN_BASE):
        _linked(link, Path(OWN_BASE))
    return own


def _linked(link: Path, target: Path) -> None:
    """A symbolic link, in place of the one that may be there, at once."""
    new = link.with_name(f".{link.name}-{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, link)


def _updated(
    job: Job,
    run: Path,
    read: inputs.Inputs,
    passages: Changes,
    differs: dict[int, Difference],
    session: Session | None,
    started: float,
) -> Updated:
    """The stages of an update, in the order of those of `pipeline.train`."""
    cfg, base, writeback = job.cfg, own_base(run), run / "writeback"
    for name in ("base", "writeback"):  # so that the folder opens as a knowledge base, and its report finds both
        _linked(job.run / name, Path("..", "..", OWN_BASE if name == "base" else name))
    shown = latest(writeback)
    earlier: dict[str, int] = job.record.facts.setdefault("earlier", _versions(pair(base, writeback)))
    passages = Changes(**job.record.facts.setdefault("passages", asdict(passages)))
    job.record.save()
    came = f"{passages.changed} changed, {passages.removed} removed, {passages.added} added"
    note = {"made_by": "update", "at": now(), "host": socket.gethostname(), "run": job.record.hash, "passages": came}
    with opened(cfg, session) as generators:
        if not cfg.cluster.gpus:
            generators.start()  # loads beside the encoding, as in `pipeline.train`
        with job.record.timed("index"):
            if read.corpus is not None:
                told = {"corpus": cfg.corpus, **note}
                build_store(read.corpus, base, generators.encoders, cfg.index, told, follow=True, known=differs)
        with job.record.timed("retrieve"):
            questions = pipeline.retrieve(cfg, read, base, job.run / QUESTIONS, generators.encoders)
        with job.record.timed("train"):
            pipeline.train_examples(job, questions, base, len(read.train), generators)
        check_errors(job, "traces")
        with job.record.timed("write_back"):
            while True:
                units = made_units(job, job.run / "traces", questions, base, generators)
                if shown or pq.read_metadata(units).num_rows:
                    publish_units(units, writeback, cfg, note, base, generators.encoders)
                if job.record.facts["decisions"] == decided_so_far(job):  # nobody decided meanwhile
                    break
        with job.record.timed("predict"):
            pipeline.predict(job, questions, (base, writeback), len(read.test), generators)
        job.record.note_stores({"base": base, "writeback": writeback})
        write_report(job.run)
        stamp(run)  # what was reported before is of older versions
        check_errors(job)
        if cfg.kb:
            if read.corpus is not None:
                follow(cfg, read.corpus, note, generators.encoders)
            log.info("kb=%s: %s", cfg.kb, contribute(run, Path(cfg.kb)))
    found = _outcome(job, passages, earlier, (base, writeback), len(read.train), time.perf_counter() - started)
    told = {**asdict(found), "folder": found.folder.name, "date": now()}
    write_text(job.run / UPDATED, json.dumps({**told, "host": socket.gethostname()}, indent=2) + "\n")
    return found


def follow(cfg: TrainConfig, corpus: Path, note: dict[str, Any], encoders: Encoders) -> None:
    """Bring the base of the knowledge base that runs share to a run's documents; its readers see that with the units
    that come next. What another run purged stays away.
    """
    kb = Path(cfg.kb)
    if latest(kb / "base") is not None:
        with in_turn(kb / LEASE), scratch_folder(kb) as scratch:
            passages = corpus_without(corpus, tombstones(kb), scratch / corpus.name)
            build_store(passages, kb / "base", encoders, cfg.index, note, follow=True)


def _outcome(
    job: Job, passages: Changes, earlier: Mapping[str, int], stores: tuple[Path, Path], examples: int, seconds: float
) -> Updated:
    base, writeback = stores
    now = _versions(pair(base, writeback))
    key = "writeback" if now["writeback"] else "base"
    retired = written = 0
    if now["writeback"] != earlier["writeback"]:
        if earlier["writeback"]:
            units = diff(writeback, earlier["writeback"], now["writeback"])
            retired, written = len(units["removed"]), len(units["added"])
        else:
            written = current(writeback).rows
    asked = pq.read_metadata(job.run / "traces_asked.parquet").num_rows
    left_out = pq.read_metadata(job.run / "left_out.parquet").num_rows
    calls = sum(work["calls"] for work in job.record.facts["work"].values())
    versions = earlier[key], now[key]
    return Updated(job.run, passages, versions, examples, asked, retired, written, left_out, calls, seconds)


def _versions(found: tuple[Version | None, Version | None]) -> dict[str, int]:
    """The numbers of a pair's versions; 0 where there is none."""
    return {name: one.version if one else 0 for name, one in zip(("base", "writeback"), found, strict=True)}


def _thin(folder: Path) -> None:
    """Remove the tables of an update that a newer one has taken over; its report and its figures stay."""
    for path in folder.iterdir():
        if path.name not in KEPT and not path.is_symlink():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fixed(identity: inputs.Identity) -> inputs.Identity:
    return {key: value for key, value in identity.items() if key not in MAY_CHANGE}


def _questions(identity: inputs.Identity) -> list[Any]:
    return [identity.get(f"benchmark.{name}") for name in ("train", "test")]
