"""The job as a plan: one function a stage, in reading order; each leaves what it made in the run folder or the cache.

    inputs -> base index -> retrieve -> train -> write back -> predict -> report

Every stage can be killed at any moment. What is whole is found by its name (the content-addressed cache) or by its
checkpoint (traces, predictions), so the same command goes on where the last one stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wbrag.config import BuildConfig, ConfigError, TrainConfig, fingerprint
from wbrag.data.benchmarks import OverErrorBudget
from wbrag.report.run_report import write_report
from wbrag.retrieval.encoding import Encoders
from wbrag.run import inputs
from wbrag.run.actors import Generators, Stage
from wbrag.run.contribute import contribute
from wbrag.run.failures import check_errors, drop_failed, first_over
from wbrag.run.folder import QUESTIONS, follows, read_record, read_tables, refuse_updated, write_rows
from wbrag.run.job import Job, Session, check_room, complete, generate, opened
from wbrag.run.lease import in_turn, leased
from wbrag.run.lookup import FILES, Rows, SharedRows, share
from wbrag.run.plan import planned, sizes_of
from wbrag.run.record import RunRecord, open_record
from wbrag.run.retrieve import ASKED, Knowledge, in_order, lent_search, retrieve_all
from wbrag.run.writeback import write_back
from wbrag.store.build import build_store
from wbrag.store.exchange import adopt
from wbrag.store.files import move_into_place, scratch_folder
from wbrag.store.place import place_of
from wbrag.store.search import base_of
from wbrag.store.vectors import check_index
from wbrag.store.versions import Version, latest, pair, reading

log = logging.getLogger(__name__)

#: What is shared of a question's closed-book answer.
CLOSED_BOOK = pa.schema([("question", pa.string()), ("answer_closed_book", pa.string())])
#: Answers that are shared as one file.
ANSWERS_ROWS = 65_536


def train(cfg: TrainConfig, session: Session | None = None) -> dict[str, Any]:
    """Train the knowledge base and measure what it changed; returns what metrics.json holds. Ray and the engines are
    those of `session`, which keeps them for the next point of a sweep, or the run's own.

    ConfigError and InputError before anything is computed, ConfigError too where another process works on this run;
    OverErrorBudget where more rows failed than `max_error_rate` allows: after the stage in which they did, of test
    questions after the report. The same call again goes on where a killed one stopped, and asks for such rows again.
    """
    inputs.check_settings(cfg)
    check_room(cfg, session)
    run = Path(cfg.run_dir).absolute()
    if follows(run):
        known, identity = read_record(run / "run.json"), inputs.identity_of(cfg)
        refuse_updated(run, other=inputs.other_settings(run, known.get("identity", identity), identity, cfg))
    with leased(run):
        given = read_or_quarantine(cfg, run)
        job = Job(cfg, run, open_record(run, cfg, inputs.identity_of(cfg)))
        inputs.write_quarantine(given.rejected, run / "quarantine.jsonl")
        keep_plan(job, given)
        drop_failed(job)
        with opened(cfg, session) as generators:
            if not cfg.cluster.gpus and not complete(job, "predictions", len(given.test)):
                generators.start()  # loads beside the encoding; on GPUs vLLM fails where others free memory meanwhile
            with job.record.timed("index"):
                base = base_index(cfg, given, generators.encoders)
                (run / "base").unlink(missing_ok=True)  # a link, so that `KnowledgeBase.open(run)` finds both stores
                (run / "base").symlink_to(base.absolute())  # the run may be moved
            with job.record.timed("retrieve"):
                questions = retrieve(cfg, given, base, run / QUESTIONS, generators.encoders)
            with job.record.timed("train"):
                train_examples(job, questions, base, len(given.train), generators)
            check_errors(job, "traces")  # units of what an outage has left would have to be made again
            with job.record.timed("write_back"):
                writeback = write_back(job, run / "traces", questions, base, generators)
            with job.record.timed("predict"):
                predict(job, questions, (base, writeback), len(given.test), generators)
        job.record.note_stores({"base": base, "writeback": writeback})
        metrics = write_report(run)
        check_errors(job)
        if cfg.kb:
            log.info("kb=%s: %s", cfg.kb, contribute(run, Path(cfg.kb)))
        return metrics


def finished(cfg: TrainConfig) -> bool:
    """Whether `train` has nothing left to do: a run of these settings is measured, and within its error budget."""
    run = Path(cfg.run_dir).absolute()
    if not (run / "metrics.json").is_file():
        return False
    return first_over(Job(cfg, run, RunRecord(run, inputs.identity_of(cfg), cfg))) is None


def evaluate(cfg: TrainConfig, session: Session | None = None) -> tuple[Path, dict[str, Any]]:
    """Measure the published knowledge base of `cfg.run_dir` on `cfg.benchmark.test`.

    Returns the evaluation's own folder, `<run_dir>/evaluations/<benchmark>-<hash>`, which is laid out as a run without
    traces, and what its metrics.json holds. Errors as `train`; ConfigError also where nothing was trained there.
    """
    inputs.check_settings(cfg)
    if cfg.plan:
        raise ConfigError("plan=true is told by wbrag train and wbrag reproduce; an evaluation has no plan")
    trained = Path(cfg.run_dir).absolute()
    if not (trained / "metrics.json").is_file():
        raise ConfigError(f"run_dir={trained} holds no trained knowledge base (no metrics.json)")
    check_room(cfg, session)
    given = inputs.read_inputs(cfg, training=False)
    version = latest(trained / "writeback")
    identity = {**inputs.identity_of(cfg, training=False), "writeback": fingerprint(version) if version else "none"}
    run = trained / "evaluations" / f"{cfg.benchmark.name}-{fingerprint(identity)[:8]}"
    with leased(run):
        job = Job(cfg, run, open_record(run, cfg, identity))
        inputs.write_quarantine(given.rejected, run / "quarantine.jsonl")
        drop_failed(job)
        with opened(cfg, session) as generators:
            with job.record.timed("index"):
                own = base_of(trained) if follows(trained) else None  # a base that follows its documents
                base = own or base_index(cfg, given, generators.encoders)
            # The base may be a version ahead of the pair: an update was cut short, or the pair rolled back.
            shown = pair(own, trained / "writeback")[0] if own else None
            with job.record.timed("retrieve"):
                number = shown.version if shown else 0
                questions = retrieve(cfg, given, base, run / QUESTIONS, generators.encoders, number)
            with job.record.timed("predict"):
                predict(job, questions, (base, trained / "writeback"), len(given.test), generators)
        job.record.note_stores({"base": base, "writeback": trained / "writeback"})
        metrics = write_report(run)
        check_errors(job)
        return run, metrics


def read_or_quarantine(cfg: TrainConfig, run: Path) -> inputs.Inputs:
    """The validated inputs; over the error budget, the rows left out are written before the error goes on: not into a
    folder that holds a run, whose inputs were others.
    """
    try:
        return inputs.read_inputs(cfg)
    except OverErrorBudget as error:
        if not (run / "run.json").exists():
            inputs.write_quarantine(error.rejected, run / "quarantine.jsonl")
        raise


def keep_plan(job: Job, given: inputs.Inputs) -> None:
    """What is to be expected of a run that is told a rate or a price, noted once in run.json for its report."""
    told = job.cfg.planning
    if "plan" not in job.record.facts and (told.tokens_per_second or told.price_in or told.price_out):
        job.record.facts["plan"] = asdict(planned(job.cfg, sizes_of(job.cfg, given.train, given.test)))
        job.record.save()


def base_index(cfg: TrainConfig, given: inputs.Inputs, encoders: Encoders) -> Path:
    """The store of the corpus, shared by all runs with this corpus, encoder and kind of index; built if not there, once
    however many runs need it. A base that is given takes its place.
    """
    if given.corpus is None:
        return Path(place_of(cfg.base).root)
    cache = inputs.cache_of(cfg)
    made_with = (inputs.encoder_identity(cfg.encoder), inputs.index_identity(cfg.index))
    store = cache / f"index-{fingerprint(inputs.content_hash(given.corpus, cache), *made_with)}"
    if latest(store) is None:
        note = {"corpus": cfg.corpus}
        with in_turn(Path(f"{store}.lock")):
            if latest(store) is None:  # not built while this run waited
                build_store(given.corpus, store, encoders, cfg.index, note)
    return store


def build_index(cfg: BuildConfig) -> Version:
    """A base index on its own, without a run: the corpus encoded into the store `cfg.store`, or with the vectors of
    `cfg.adopt`; returns the version.

    What the store holds already is not encoded again, and a killed build goes on; one of another process is waited for
    where the store is a folder. ConfigError for settings that cannot work, InputError and OverErrorBudget for the
    corpus, StoreError as `build_store` and `adopt` raise them.
    """
    check_index(cfg.index)
    store, note = place_of(cfg.store), {"corpus": cfg.corpus}
    cache = cfg.cache_dir or ("cache" if store.remote else f"{store.root}-cache")
    inputs.check_paths(replace(cfg, cache_dir=cache))
    with nullcontext() if store.remote else in_turn(Path(f"{store.root}.lock")):
        if cfg.adopt:
            given = inputs.located(cfg.corpus, Path(cache).absolute())
            return adopt(given, Path(cfg.adopt), store, cfg.encoder, note, cfg.corpus_columns, cfg.access)
        corpus, _ = inputs.read_corpus(cfg, Path(cache).absolute())
        with Session() as session:
            return build_store(corpus, store, session.lend(cfg.encoder, cfg.cluster), cfg.index, note)


def retrieve(
    cfg: TrainConfig, given: inputs.Inputs, base: Path, out: Path, encoders: Encoders, number: int = 0
) -> Path:
    """R(q, K) for all questions, in version `number` of the base (0: the current one): the folder `out` with
    train.parquet and test.parquet, ordered by first document.
    """
    if out.is_dir():
        return out
    found = retrieve_all(cfg, given.train + given.test, base, encoders, number)
    with scratch_folder(out.parent) as scratch:
        for split, examples in (("train", given.train), ("test", given.test)):
            write_rows(scratch / "out" / f"{split}.parquet", ASKED, in_order(examples, found))
        move_into_place(scratch / "out", out)
    return out


def train_examples(job: Job, questions: Path, base: Path, goal: int, generators: Generators) -> None:
    """Algorithm 1 for every training example: one row of `schema.TRACE` each, in `traces/`."""
    with closed_book_answers(job, "traces", "closed_book_answer") as known:
        if not complete(job, "traces", goal):
            with lent_search(job.cfg, generators.encoders, base) as found:
                stage = Stage(job.cfg, "train", known=known, method_search=found)
                generate(job, generators, stage, questions / "train.parquet", "traces", goal)


def predict(job: Job, questions: Path, stores: tuple[Path, Path], goal: int, generators: Generators) -> None:
    """Every test question answered closed book, over base and over base + write-back `stores`, in `predictions/`."""
    with closed_book_answers(job, "predictions", "answer_closed_book") as known:
        if not complete(job, "predictions", goal):
            predict_missing(job, generators, stores, questions / "test.parquet", known, goal)


def predict_missing(
    job: Job, generators: Generators, stores: tuple[Path, Path], source: Path, known: Path | None, goal: int
) -> None:
    """The part of `predictions/` that is not written yet: `source` read over base and write-back `stores`; what is
    `known` (`run.retrieve.KnownAnswers`) is not asked again.
    """
    cfg = job.cfg
    with lent_search(cfg, generators.encoders, *stores) as found, reading(*stores) as versions:
        stage = Stage(cfg, "predict", Knowledge(cfg, *stores, versions), known, found)
        generate(job, generators, stage, source, "predictions", goal)


@contextmanager
def closed_book_answers(job: Job, table: str, column: str) -> Iterator[Path | None]:
    """Where the closed-book answers lie that any run has asked for, None without any; those that stand in `column` of
    the run's `table` after the block come to them.

    They depend on generator, prompt and question alone: all methods, and all gates, share them.
    """
    folder = inputs.cache_of(job.cfg) / f"closed-book-{fingerprint(inputs.closed_book_identity(job.cfg))}"
    yield folder if any(folder.glob(FILES)) else None
    keep_closed_book(job.run / table, column, folder)


def keep_closed_book(table: Path, column: str, folder: Path) -> None:
    """Share the answers of a finished table of a run, of one question the first. Failed and empty ones are left out and
    so asked again: a server that was not set up as it should be gives such, and may be mended.
    """
    asked = pa.schema([("question", pa.string()), (column, pa.string())])
    told = read_tables(table, asked, where=pc.field(column) != "")
    tables = (some.rename_columns(CLOSED_BOOK.names) for some in told)
    with scratch_folder(folder.parent) as scratch:
        answers = Rows.written(scratch, CLOSED_BOOK, tables)
        for rows in SharedRows(folder, CLOSED_BOOK).missing(answers).batches(size=ANSWERS_ROWS):
            share(folder, rows)
