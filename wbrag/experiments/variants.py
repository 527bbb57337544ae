"""A trained run measured again: with other write-back stores (placebos, other methods' units), with its kept examples'
units made and merged in other ways, itself once more, with documents weighed at another temperature; and trained anew
with a judge in place of its labels.

Corpus, documents of the base and test questions stay those of the run, and so do the closed-book and base answers,
which are not asked again; only what another store changes is. Each variant has a folder in `<run>/variants`, laid out
as an evaluation: run.json, predictions/, metrics.json. The run's own knowledge base is read and never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wbrag.config import ConfigError, Merge, TrainConfig, Units, fingerprint
from wbrag.experiments import placebos
from wbrag.methods import check_method
from wbrag.report.construction import construction, cost
from wbrag.report.evaluation import answers_of, evaluate
from wbrag.report.run_report import QUESTION_COLUMNS
from wbrag.retrieval.merge import check_merge
from wbrag.run import folder, pipeline
from wbrag.run.actors import Stage
from wbrag.run.failures import check_errors, drop_failed
from wbrag.run.folder import Reread
from wbrag.run.inputs import Identity, cache_of, check_units, identity_of, refuse_other_settings
from wbrag.run.job import Job, Session, complete, generate, opened
from wbrag.run.lease import leased
from wbrag.run.record import open_record
from wbrag.run.writeback import publish_units, requests, write_back
from wbrag.schema import REQUEST, TRACE, UNIT, WRITTEN
from wbrag.store.rows import passages_of
from wbrag.store.versions import latest
from wbrag.units.requests import request

Row = dict[str, Any]
#: What to do with a run that was updated, whose tables lie in two folders and whose base is its own.
AS_TRAINED = "variants are measured of a run as it was trained: train a new one on its documents as they are now"


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: its settings, its folder, its base store, its retrieved questions, how many it was tested on."""

    cfg: TrainConfig
    run: Path
    base: Path
    questions: Path
    tested: int


def trained(run: Path, session: Session) -> Trained:
    """The finished run in a folder, whose variants are this session's alone until it ends. ConfigError where it has no
    metrics.json, where its inputs have changed, or where another process measures variants of it.
    """
    run = run.absolute()
    if not (run / "metrics.json").is_file():
        raise ConfigError(f"runs: {run} holds no trained knowledge base (no metrics.json)")
    folder.refuse_updated(run, AS_TRAINED)
    cfg = folder.load_config(run)
    refuse_other_settings(run, folder.read_record(run / "run.json")["identity"], identity_of(cfg), cfg)
    session.enter_context(leased(run / "variants"))
    inputs = pipeline.read_or_quarantine(cfg, run)
    with opened(cfg, session) as generators:
        base = pipeline.base_index(cfg, inputs, generators.encoders)
        questions = pipeline.retrieve(cfg, inputs, base, run / folder.QUESTIONS, generators.encoders)
    return Trained(cfg, run, base, questions, len(inputs.test))


def variant(own: Trained, name: str, more: Identity | None = None, **changes: Any) -> Job:  # noqa: ANN401
    """The job of a variant: its folder, the run's settings with these `changes`, and their identity with what `more`
    makes the variant what it is. What failed in it is asked again.
    """
    cfg, run = replace(own.cfg, **changes), own.run / "variants" / name
    job = Job(cfg, run, open_record(run, cfg, {**identity_of(cfg), "variant": name, **(more or {})}))
    drop_failed(job)
    return job


def repeat(own: Trained, session: Session) -> Row:
    """A/A: the same three answers to the same questions, asked anew in the opposite order. What differs is noise."""
    return predicted(own, variant(own, "repeat"), own.run / "writeback", session, anew=True)


def other_temperature(own: Trained, temperature: float, session: Session) -> Row:
    """A run of REPLUG's answered anew with its documents weighed at another temperature, base and with its own units.

    ConfigError for a temperature that is not above 0.
    """
    method = replace(own.cfg.method, temperature=temperature)
    check_method(method, own.cfg.backbone)
    job = variant(own, f"temperature-{temperature:g}", method=method)
    return predicted(own, job, own.run / "writeback", session, anew=True)


def other_units(own: Trained, name: str, units: Units, merge: Merge, session: Session) -> Row:
    """The run measured with other units of the same kept examples, merged in another way (`wbrag.run.writeback`).

    ConfigError for units that nobody can write, or a merge that is none.
    """
    check_units(units)
    check_merge(merge)
    job = variant(own, f"units-{name}", units=units, merge=merge)
    if not (job.run / "metrics.json").is_file():
        with opened(job.cfg, session) as generators, job.record.timed("write_back"):
            write_back(job, own.run / "traces", own.questions, own.base, generators)
    return predicted(own, job, job.run / "writeback", session)


def judge(own: Trained, session: Session) -> Row:
    """The run trained and measured anew with the generator as judge; returns what its metrics.json holds.

    Its traces say how far the judge decides as the labels do (`construction.construction`).
    """
    run, cache = own.run / "variants" / "judge", str(cache_of(own.cfg))
    cfg = replace(own.cfg, judge="llm", run_dir=str(run), cache_dir=cache)
    return folder.read_record(run / "metrics.json") if pipeline.finished(cfg) else pipeline.train(cfg, session)


def transfer(runs: Sequence[Trained], session: Session) -> None:
    """Every run measured with every other run's knowledge base: what the paper calls cross-method transfer.

    ConfigError unless the runs differ in their method alone, naming the first key and both values.
    """
    check_transfer([(one.cfg.method.name, identity_of(one.cfg)) for one in runs])
    for reader, writer in permutations(runs, 2):
        store = writer.run / "writeback"
        version = fingerprint(newest) if (newest := latest(store)) else "none"
        job = variant(reader, f"transfer-{writer.cfg.method.name}", {"writeback": version})
        predicted(reader, job, store, session)


def check_transfer(runs: Sequence[tuple[str, Identity]]) -> None:
    """Raise ConfigError unless runs, given as method and identity, differ in their method and in nothing else."""
    methods = [method for method, _ in runs]
    if len(runs) < 2 or len(set(methods)) < len(methods):
        raise ConfigError(f"runs: transfer takes two or more runs of different methods, given {', '.join(methods)}")
    first = runs[0][1]
    for method, identity in runs[1:]:
        for key in {**first, **identity}:
            if not key.startswith("method.") and identity.get(key) != first.get(key):
                values = f"{key} is {first.get(key)!r} of {methods[0]}, {identity.get(key)!r} of {method}"
                raise ConfigError(f"runs: they have to differ in their method alone; {values}")


def placebo(own: Trained, name: str, session: Session) -> Row:
    """The run measured with a placebo (`wbrag.experiments.placebos`) of the size of its knowledge base."""
    placebos.check_placebos([name])
    job = variant(own, f"placebo-{name}", {"seed": own.cfg.seed})
    traces, units = list(folder.read_traces(own.run, placebos.TRACE_COLUMNS)), list(folder.unit_rows(own.run))
    if name in placebos.WRITTEN_ONES:
        asked = placebo_requests(own, job, name, traces, units, session)
        made = placebos.written_units(name, written_rows(job, asked, session), units)
    elif name == "raw":
        ids = {key for unit in units for key in unit["source_ids"]}
        made = placebos.raw_units(units, folder.read_passages(own.run, ids))
    else:
        made = placebos.cheat_sheet(units, traces)
    return with_units(own, job, made, session)


def placebo_requests(
    own: Trained, job: Job, name: str, traces: Sequence[Row], units: Sequence[Row], session: Session
) -> list[Row]:
    """The requests for a placebo's units (`schema.REQUEST`), in the order in which the units are to be taken, made as
    the run's own are; no request carries a golden answer.
    """
    if (job.run / "requests.parquet").exists():
        return list(folder.read_rows(job.run, REQUEST, pattern="requests.parquet"))
    cfg, by_subject = own.cfg, own.cfg.units.scope == "subject"
    if name == "no_documents":
        rows = [request("", [], row["question"], "", []) for row in placebos.asked_about(units, traces)]
    else:
        passages = passages_of(own.base) if name == "random" else []
        n_min, count = cfg.gates.n_min if by_subject else cfg.k, placebos.to_draw(units, by_subject)
        drawn = placebos.drawn(name, count, n_min, traces, passages, cfg.seed)
        with opened(cfg, session) as generators:
            rows = list(requests(cfg, drawn, own.base, generators.encoders))
    judged = name == "ungated" and not by_subject  # the generator says which documents of a question are relevant
    return [row | {"id": f"{name}-{number:06d}", "judged": judged} for number, row in enumerate(rows)]


def written_rows(job: Job, requests: list[Row], session: Session) -> list[Row]:
    """What the generator writes for the requests (`schema.WRITTEN` rows); those written by an earlier call are kept."""
    file = job.run / "requests.parquet"
    known = {row["id"]: row for row in pq.read_table(file).to_pylist()} if file.exists() else {}
    known |= {row["id"]: row for row in requests}
    if requests and not complete(job, "written", len(known)):
        with opened(job.cfg, session) as generators, job.record.timed("write"):
            pq.write_table(pa.Table.from_pylist(list(known.values()), REQUEST), file)
            generate(job, generators, Stage(job.cfg, "write"), file, "written", len(known))
    check_errors(job, "written")
    wanted = {row["id"] for row in requests}
    return [row for row in folder.read_rows(job.run / "written", WRITTEN) if row["id"] in wanted]


def with_units(own: Trained, job: Job, units: list[Row], session: Session) -> Row:
    """The run measured with these units (`schema.UNIT` rows), a store in the variant's own folder; without units there
    is none, and the base alone is read.
    """
    store, file = job.run / "store", job.run / folder.UNITS
    if units and latest(store) is None:
        pq.write_table(pa.Table.from_pylist(units, UNIT), file)
        with opened(job.cfg, session) as generators, job.record.timed("index"):
            note = {"variant": job.run.name, "run": job.record.hash}
            publish_units(file, store, job.cfg, note, own.base, generators.encoders)
    return predicted(own, job, store, session)


def predicted(own: Trained, job: Job, store: Path, session: Session, anew: bool = False) -> Row:
    """Answer the run's test questions with `store` beside its base, and measure; returns what metrics.json holds.

    The run's own closed-book and base answers are taken over unless all is to be asked `anew` (in the opposite order).
    A variant that is measured already is read.
    """
    file = job.run / "metrics.json"
    if not file.is_file():
        if not complete(job, "predictions", own.tested):
            source = own.questions / "test.parquet"
            source = backwards(source, job.run / "questions.parquet") if anew else source
            known = None if anew else own.run / "predictions"
            with opened(job.cfg, session) as generators, job.record.timed("predict"):
                pipeline.predict_missing(job, generators, (own.base, store), source, known, own.tested)
        setting = folder.setting_of(folder.read_config(job.run))
        training = Reread(lambda: folder.read_rows(own.run / "traces", TRACE, QUESTION_COLUMNS))
        units = Reread(lambda: folder.unit_rows(job.run, ("id", "example_ids")))
        predictions = folder.read_predictions(job.run)
        told = evaluate(answers_of(predictions, setting, training, units), setting)
        told |= {"construction": construction([], sum(1 for _ in units)), "cost": cost([], predictions)}
        folder.write_record(file, told | {"seconds": job.record.facts["seconds"]})
    check_errors(job)
    return folder.read_record(file)


def backwards(source: Path, out: Path) -> Path:
    """Write the rows of a Parquet file in the opposite order, a row group at a time; returns `out`."""
    file = pq.ParquetFile(source)
    groups = (file.read_row_group(group) for group in reversed(range(file.num_row_groups)))
    turned = (rows.take(pa.array(range(len(rows) - 1, -1, -1))) for rows in groups)
    folder.write_rows(out, file.schema_arrow, turned)
    return out
