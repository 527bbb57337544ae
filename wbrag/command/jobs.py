"""The commands with settings: what each does with them, and the help that a person gets. jobs/*.py are the same for
`ray job submit`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from textwrap import dedent, wrap
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wbrag.command import check, reproduce
from wbrag.command.command_line import CONF, carry_out, measure_ways, plan_told, print_results
from wbrag.command.overrides import read
from wbrag.config import (
    AblateConfig,
    BuildConfig,
    CompareConfig,
    PlaceboConfig,
    QuestionsConfig,
    ReproduceConfig,
    TrainConfig,
    TransferConfig,
    UpdateConfig,
)
from wbrag.experiments.ablation import ablate as vary_gates
from wbrag.experiments.grid_report import summary, text_table, write_comparison, write_grid_report
from wbrag.experiments.placebos import check_placebos
from wbrag.experiments.variants import placebo as measure_placebo
from wbrag.experiments.variants import repeat, trained
from wbrag.experiments.variants import transfer as measure_transfer
from wbrag.life.update import Changes, Updated
from wbrag.life.update import update as update_run
from wbrag.report.run_report import none_kept
from wbrag.report.trace import counted
from wbrag.run.folder import load_config
from wbrag.run.job import Session
from wbrag.run.pipeline import build_index
from wbrag.run.pipeline import evaluate as measure
from wbrag.run.pipeline import train as train_run
from wbrag.run.questions import make_questions

#: The settings that a group of conf/ sets, where they are not those of its name.
GROUPS = {"benchmark": ("benchmark", "corpus", "world", "data_dir"), "units": ("units", "merge")}


def train(cfg: TrainConfig, session: Session) -> None:
    """Train a knowledge base and measure what it changed; the same command again resumes.

      wbrag train benchmark=files benchmark.train=train.jsonl benchmark.test=test.jsonl corpus=corpus.jsonl \\
          backbone=openai backbone.model=NAME backbone.base_url=URL run_dir=runs/mine
      wbrag train benchmark=nq world=DIR run_dir=runs/nq plan=true       what it would ask for and cost
      wbrag train -m backbone=A,B benchmark=nq,fever world=DIR           a sweep: points one after another

    Settings that matter most:
      benchmark=files   your own questions: benchmark.train=FILE, benchmark.test=FILE
      corpus=FILE       the passages
      backbone=...      who answers: openai (an endpoint: backbone.model, backbone.base_url; the key is read from
                        OPENAI_API_KEY), hf (backbone.model=FOLDER_OR_HUB_NAME), llama31_8b, ...
      encoder=...       who encodes: minilm, e5_base_v2, ...
      run_dir=DIR       where everything is written
      k=5               passages that a question reads
      units=subject     what becomes of kept evidence; paper: as the paper does
      judge=labels      what scores answers in training; llm: no golden answers are needed
      train_limit=0, test_limit=0    questions drawn at random; 0: all
      cluster=gpu       engines on GPUs: cluster.engines=N
    """
    if cfg.plan:
        print(plan_told({cfg.benchmark.name: cfg}))
        return
    metrics = train_run(cfg, session)
    print_results(metrics, cfg.k, Path(cfg.run_dir))
    if units := metrics["construction"]["units"]:
        print(
            f"units: {units:,}; wbrag units list {cfg.run_dir} shows them, wbrag serve {cfg.run_dir} searches with them"
        )
    elif told := none_kept(metrics["construction"]):
        print(told)


def evaluate(cfg: TrainConfig, session: Session) -> None:
    """Measure a trained knowledge base on another test file; all settings that are not given are those of the run.

    wbrag evaluate run_dir=runs/mine benchmark.test=OTHER.jsonl
    wbrag evaluate run_dir=runs/mine benchmark.test=OTHER.jsonl backbone=hf backbone.model=FOLDER
    wbrag evaluate -m run_dir=runs/a,runs/b benchmark.test=OTHER.jsonl
    """
    folder, metrics = measure(cfg, session)
    print_results(metrics, cfg.k, folder)


def over_run(cfg: DictConfig, words: Sequence[str]) -> DictConfig:
    """The settings of the run in `run_dir`, with those in their place that a command line gives, composed as `cfg`:
    single ones, and all that a group's file sets.
    """
    run = Path(str(cfg.run_dir))
    if OmegaConf.is_missing(cfg, "run_dir") or not (run / "config.yaml").is_file():
        return cfg
    own: DictConfig = OmegaConf.structured(load_config(run))
    keys = [read(word).key_or_group for word in words]
    for where in ("world", "data_dir"):  # files that lie in it are meant in the other one
        if where in keys and "benchmark" not in keys and own[where]:
            for key in ("benchmark.train", "benchmark.test", "corpus"):
                path = OmegaConf.select(own, key)
                if path.startswith(f"{own[where]}/"):
                    OmegaConf.update(own, key, str(cfg[where]) + path.removeprefix(own[where]))
    for key in (name for one in keys for name in (GROUPS.get(one, (one,)) if one in own else (one,))):
        _take(own, cfg, key)
    return own


def _take(own: DictConfig, cfg: DictConfig, key: str) -> None:
    """Set a key, or all of a group, as `cfg` has it; what it leaves open stays."""
    value = OmegaConf.select(cfg, key, throw_on_missing=False)
    kind = OmegaConf.get_type(OmegaConf.select(own, key))
    if kind and is_dataclass(kind):
        for one in fields(kind):
            _take(own, cfg, f"{key}.{one.name}")
    elif value is not None:
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        OmegaConf.update(own, key, plain, merge=False, force_add=True)


def update(cfg: UpdateConfig, session: Session) -> None:
    """Bring a trained knowledge base to its documents and questions as they are now; the same command again resumes.

      wbrag update run_dir=runs/mine corpus=FILE                  passages that came, changed or went
      wbrag update run_dir=runs/mine corpus=FILE dry_run=true     only say which
      wbrag update run_dir=runs/mine benchmark.train=FILE         training questions that came or went

    Only what reads otherwise than before is asked again, and base and write-back become visible together. All other
    settings are those of the run. The last line is for a pager.
    """
    print(told(update_run(cfg, session), cfg.dry_run))


def told(found: Updated | Changes, dry_run: bool) -> str:
    """What an update did, or would do, in one line; before it where its report is."""
    if isinstance(found, Changes):
        nothing = "" if found or dry_run else "nothing to do: "
        return f"{nothing}{passages(found)}, {found.untouched:,} untouched"
    before, after = found.versions
    units = f"{counted(found.retired, 'unit')} retired, {found.written:,} written, {found.left_out:,} left out"
    asked = f"{found.asked:,} of {found.examples:,} examples asked"
    spent = f"{found.calls:,} calls, {spoken(found.seconds)}"
    line = f"v{before} -> v{after}: {passages(found.passages)}; {asked}; {units}; {spent}"
    return f"report: {found.folder}/report.html\n{line}"


def passages(found: Changes) -> str:
    """How many passages changed, went and came, and how many stay away."""
    purged = f", {found.purged:,} left out as purged" if found.purged else ""
    return f"{counted(found.changed, 'passage')} changed, {found.removed:,} removed, {found.added:,} added{purged}"


def spoken(seconds: float) -> str:
    """A duration as one says it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def index(cfg: BuildConfig, session: Session) -> None:
    """Build a base index from a corpus, or adopt a flat FAISS index that others built of it; again resumes.

      wbrag index corpus=corpus.jsonl store=DIR encoder=e5_base_v2
      wbrag index corpus=corpus.jsonl store=DIR encoder=e5_base_v2 adopt=e5_Flat.index
      wbrag train ... base=DIR corpus=                            trains on it

    What is adopted becomes a flat store. index=ivf_fp16 serves large ones from a CPU.
    """
    made = build_index(cfg)
    print(f"{cfg.store}: version {made.version}, {made.rows:,} passages, {made.spec.kind}, encoder {made.encoder}")


def questions(cfg: QuestionsConfig, session: Session) -> None:
    """Make questions with answers of documents, for who has none to train on.

      wbrag questions corpus=DIR out=questions.jsonl count=200 backbone.model=NAME backbone.base_url=URL
      wbrag train benchmark=files benchmark.train=questions.jsonl benchmark.test= corpus=DIR run_dir=DIR

    The generator asks one question of a passage and answers it back from that passage; what is not found again is left
    out. Any backbone will do.
    """
    made, left = make_questions(cfg)
    print(f"{cfg.out}: {len(made):,} questions; {len(left):,} passages gave none")


def transfer(cfg: TransferConfig, session: Session) -> None:
    """Measure every run with every other run's write-back corpus: the paper's cross-method transfer.

      wbrag transfer 'runs=[runs/nq-naive-M,runs/nq-replug-M]' report_dir=DIR

    The runs have to differ in their method alone. What is measured already is not asked again.
    """
    measure_transfer([trained(Path(run), session) for run in cfg.runs], session)
    _report(cfg.runs, cfg.report_dir)


def placebo(cfg: PlaceboConfig, session: Session) -> None:
    """Measure runs with placebos in place of their write-back corpus, and once more with their own (A/A).

      wbrag placebo 'runs=[runs/nq-naive-M]' 'placebos=[raw,cheat_sheet]' report_dir=DIR

    A run's own knowledge base is not touched. What is measured already is not asked again.
    """
    check_placebos(cfg.placebos)
    for run in cfg.runs:
        own = trained(Path(run), session)
        for name in cfg.placebos:
            measure_placebo(own, name, session)
        if cfg.repeat:
            repeat(own, session)
    _report(cfg.runs, cfg.report_dir)


def ablate(cfg: AblateConfig, session: Session) -> None:
    """Vary the gates' thresholds of finished runs, made with units=paper, by the scores that they recorded.

      wbrag ablate 'runs=[runs/nq-naive-M]' 'thresholds.n_min=[1,2,3]' report_dir=DIR

    Asked is only what no run has distilled, what a run's own gates left out, and the test questions over other units.
    """
    for run in cfg.runs:
        vary_gates(trained(Path(run), session), cfg.thresholds, session)
    _report(cfg.runs, cfg.report_dir)


def compare_units(cfg: CompareConfig, session: Session) -> None:
    """Measure finished runs with other units of their kept examples, merged in other ways: which way is best?

      wbrag compare_units 'runs=[runs/nq-naive-M]' report_dir=DIR

    The ways are in conf/compare_units.yaml. A run's own knowledge base is not touched; what is measured already is not
    asked again.
    """
    runs = [Path(run).absolute() for run in cfg.runs]
    for run in runs:
        measure_ways(trained(run, session), cfg.ways, session)
    print(text_table(write_comparison(runs, Path(cfg.report_dir))), end="")
    print(f"table: {cfg.report_dir}/units.md")


def _report(runs: list[str], folder: str) -> None:
    grid = write_grid_report(Path(folder), [Path(run) for run in runs])
    print(f"{summary(grid)}\nreport: {folder}/report.html")


#: The commands: the file of conf/ that they begin with, its schema, what is done.
JOBS: dict[str, tuple[str, type[Any], Callable[[Any, Session], None]]] = {
    "train": ("train", TrainConfig, train),
    "evaluate": ("evaluate", TrainConfig, evaluate),
    "update": ("update", UpdateConfig, update),
    "index": ("build_index", BuildConfig, index),
    "check": ("train", TrainConfig, check.check),
    "questions": ("make_questions", QuestionsConfig, questions),
    "reproduce": ("reproduce", ReproduceConfig, reproduce.reproduce),
    "transfer": ("transfer", TransferConfig, transfer),
    "placebo": ("placebo", PlaceboConfig, placebo),
    "ablate": ("ablate", AblateConfig, ablate),
    "compare_units": ("compare_units", CompareConfig, compare_units),
}
CODES = """
Exit codes: 0 done, 1 failed, 2 settings or inputs that cannot work (a run that another process works on, too), 3 more
rows failed than max_error_rate allows, 130 and 143 stopped by Ctrl-C and SIGTERM. Of a sweep with failed points: 2 if
each ended with 2, 3 if some ended with 3 and none with 1, else 1."""


def run_job(name: str, words: list[str]) -> int:
    """Carry out a command with these words of its command line, or print its help; leaves as `command_line.start`."""
    conf, schema, run = JOBS[name]
    if {"-h", "--help"} & set(words):
        print(help_of(conf, run))
        return 0
    sys.argv[1:] = words
    carry_out(conf, schema, run, over_run if run is evaluate else None)
    return 0


def _beside(label: str) -> dict[str, Any]:
    return {"initial_indent": f"{label:<13}", "subsequent_indent": " " * 13}


def help_of(conf: str, run: Callable[[Any, Session], None]) -> str:
    """What a person needs of a command, and where the rest is."""
    first, _, rest = (run.__doc__ or "").partition("\n")
    text = (CONF / f"{'train' if run is evaluate else conf}.yaml").read_text(encoding="utf-8")
    groups = [group for group in re.findall(r"^  - (\w+):", text, re.MULTILINE) if (CONF / group).is_dir()]
    names = {group: sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in groups}
    listed = [line for group in groups for line in wrap(", ".join(names[group]), 108, **_beside(f"  {group}="))]
    told = ["", "Groups, each a file of values that single settings change (GROUP=NAME GROUP.KEY=VALUE):", *listed]
    where = f"Every setting with a comment: {CONF / conf}.yaml. `--cfg job` prints what would be used."
    return "\n".join([first, dedent(rest).rstrip(), *(told if listed else []), "", where, CODES.strip()])
