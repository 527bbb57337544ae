"""What the jobs share: configuration schemas, one session for all points of a sweep, exit codes with a clear line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from wbrag.command.faults import check_packages, fault_of
from wbrag.command.overrides import keys_of, mended, no_such, plain, shown
from wbrag.config import (
    AblateConfig,
    BuildConfig,
    CompareConfig,
    ConfigError,
    Merge,
    PlaceboConfig,
    QuestionsConfig,
    ReproduceConfig,
    TrainConfig,
    TransferConfig,
    Units,
    UpdateConfig,
)
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.experiments.variants import Trained, other_units
from wbrag.report.run_report import recall_line, terminal_table
from wbrag.run.folder import RunError
from wbrag.run.inputs import check_paths, check_secrets, check_settings
from wbrag.run.job import Session
from wbrag.run.lease import own_command
from wbrag.run.plan import Plan, Sizes, measured, planned
from wbrag.run.plan import told as plan_lines
from wbrag.store.files import StoreError

Config = TypeVar("Config")  # one of those below

for _name, _schema in {
    "train_schema": TrainConfig,
    "update_schema": UpdateConfig,
    "build_index_schema": BuildConfig,
    "make_questions_schema": QuestionsConfig,
    "transfer_schema": TransferConfig,
    "placebo_schema": PlaceboConfig,
    "ablate_schema": AblateConfig,
    "compare_units_schema": CompareConfig,
    "reproduce_schema": ReproduceConfig,
}.items():
    ConfigStore.instance().store(name=_name, node=_schema)
#: What a way to make and merge units is made of.
WAY = {"units": OmegaConf.structured(Units), "merge": OmegaConf.structured(Merge)}
#: Where the settings lie: in the wheel, else in the checkout.
CONF = next(one for one in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if one.is_dir())
#: The settings that the job of this process has.
known: list[str] = []
#: Hydra then raises the errors of a command line, instead of printing them and leaving with 1.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

#: Ray and engine of this process: Hydra's basic launcher runs all points of a sweep in it.
SESSION = Session()
#: Points that failed, each with its error, and the code that a single run so failed ends with; the job names them at
#: its end.
failed: dict[str, int] = {}
#: Errors that say in one line what is wrong with settings, inputs or stores; any other also shows where it happened.
TOLD = (ConfigError, InputError, StoreError, HydraException, OmegaConfBaseException, OverErrorBudget, RunError)
#: What a job that is told to stop may take to end engines and Ray; then it leaves them to end by themselves.
STOP_SECONDS = 8.0
#: Who prints the overrides of each point of a sweep before it begins.
LAUNCHER = "hydra._internal.core_plugins.basic_launcher"


def carry_out(
    name: str,
    schema: type[Config],
    run: Callable[[Config, Session], None],
    over: Callable[[DictConfig, Sequence[str]], DictConfig] | None = None,
) -> None:
    """Run the job of conf/<name>.yaml, or each point of a sweep, with the settings of this process's command line; what
    is composed may be laid `over` other settings before it is checked. Leaves as `start` does.
    """

    def task(cfg: DictConfig) -> None:
        with point() as session:
            given = over(cfg, HydraConfig.get().overrides.task) if over else cfg
            run(settings(given, schema), session)

    known[:] = [key for key, _ in keys_of(schema)]
    known.extend(key for key, _ in keys_of(TrainConfig) if schema is ReproduceConfig)  # its overrides are those
    sys.argv[1:] = mended(sys.argv[1:], schema)
    start(hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task))


def start(main: Callable[[], None]) -> None:
    """Run a job: its Hydra main with one session for all its points, then the exit code."""
    logging.getLogger(LAUNCHER).addFilter(_masked)
    with stoppable(), exit_codes(), SESSION:
        main()
    if failed:
        print(f"\nfailed points ({len(failed)}):", *failed, sep="\n  ", file=sys.stderr)
        # With any other failure among them 1, where all were refused 2, else 3: to ask again helps some.
        raise SystemExit(1 if 1 in failed.values() else max(failed.values()))


def code_of(error: Exception) -> int:
    """What a job that this error ends leaves with: 2 for settings, inputs or stores that cannot work, 3 over the error
    budget, 1 for any other.
    """
    return 3 if isinstance(error, OverErrorBudget) else 2 if in_one_line(error) else 1


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block at any point, and the process within STOP_SECONDS, with 130 and 143 and one line
    that says how to go on. What is written is whole by then: a kill -9 is no different. A second signal does not wait.
    """
    received = 0

    def leave(signum: int) -> int:
        told = f"stopped by {signal.Signals(signum).name}; the same command goes on from here: {own_command()}"
        os.write(2, f"{told}\n".encode())  # a handler of signals may have interrupted a print
        return 128 + signum

    def stop(signum: int, frame: object) -> None:
        nonlocal received
        if received:
            os._exit(leave(signum))
        received = signum
        late = threading.Timer(STOP_SECONDS, lambda: os._exit(leave(signum)))
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        yield
    except BaseException as end:
        # Before it returns, ray.init itself exits so on a SIGTERM. After a signal, other errors come of ending early.
        if not received and not (isinstance(end, SystemExit) and end.code == signal.SIGTERM):
            raise
        raise SystemExit(leave(received or signal.SIGTERM)) from None


@contextmanager
def point() -> Iterator[Session]:
    """A run, or one point of a sweep: there an error is noted and the next point goes on."""
    settings = HydraConfig.get()
    logging.captureWarnings(True)  # so that log.txt has them too
    if settings.mode is RunMode.MULTIRUN:
        with noted(" ".join(map(shown, settings.overrides.task))):
            yield SESSION
    else:
        with exit_codes():
            yield SESSION


@contextmanager
def noted(name: str) -> Iterator[None]:
    """Note in `failed` what goes wrong in the block, so that it does not take other points along."""
    try:
        yield
    except Exception as error:
        if not in_one_line(error):
            traceback.print_exc()
        line = f"{name}: {type(error).__name__}: {_line(error)}"
        failed[line] = code_of(error)
        print(f"failed: {line}", file=sys.stderr, flush=True)


def settings(cfg: DictConfig, schema: type[Config]) -> Config:
    """The composed configuration as typed data; OmegaConf's errors name the key that is of a wrong type.

    ConfigError for keys that have no value, for relative paths in a submitted job, for secrets, for packages that are
    missing, and for keys that the schema does not have: Hydra itself lets a `+` before a key add it to any schema.
    """
    given = OmegaConf.to_container(cfg)
    try:
        typed: Any = OmegaConf.to_object(cfg)
    except (InterpolationToMissingValueError, MissingMandatoryValue) as error:
        raise ConfigError(_to_give(list(_missing(given)))) from error
    if unknown := list(_beyond(given, asdict(typed))):
        raise ConfigError(no_such(unknown, [key for key, _ in keys_of(schema)]))
    check_paths(typed)
    check_secrets(typed)
    if not getattr(typed, "plan", False):
        check_packages(typed)
    assert isinstance(typed, schema)
    return typed


def measure_ways(own: Trained, ways: Mapping[str, Sequence[str]], session: Session) -> None:
    """Measure a finished run with other units and merges: each way is a list of conf/train.yaml's overrides, of which
    those of `units` and `merge` count.
    """
    for name, overrides in ways.items():
        cfg = compose("train", overrides=list(overrides))
        units, merge = (OmegaConf.to_object(OmegaConf.merge(schema, cfg[key])) for key, schema in WAY.items())
        assert isinstance(units, Units)
        assert isinstance(merge, Merge)
        other_units(own, name, units, merge, session)


def plan_told(points: Mapping[str, TrainConfig]) -> str:
    """What runs would ask for and cost, by step where it is one, else by run; nothing is loaded but tokenizers, nothing
    written. Runs of one backbone and benchmark have their closed-book answers in common.
    """
    sizes: dict[tuple[str, str], Sizes] = {}
    plans: dict[str, Plan] = {}
    for name, cfg in points.items():
        check_settings(cfg)
        key = (cfg.backbone.name, cfg.benchmark.name)
        first = key not in sizes
        sizes[key] = measured(cfg) if first else sizes[key]
        plans[name] = planned(cfg, sizes[key], closed_book=first)
    if not plans:
        return "nothing is left to do"
    rows = [(name, plan.totals[1]) for name, plan in plans.items()]
    if len(plans) == 1:
        rows = [(f"{step.part}: {step.name}", step) for plan in plans.values() for step in plan.steps]
    benchmarks = {benchmark: found for (_, benchmark), found in sizes.items()}
    title = "; ".join(f"{name}: {of.train:,} training, {of.test:,} test questions" for name, of in benchmarks.items())
    return f"{title}\n\n{plan_lines(rows, list(plans.values()), next(iter(points.values())).planning)}"


def _to_give(keys: Sequence[str]) -> str:
    """What to say of keys without a value."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if "world" in keys and not any(one.startswith(("benchmark=", "world=")) for one in given):
        files = "benchmark=files benchmark.train=... benchmark.test=... corpus=..."
        return f"no questions and no corpus: give {files}, or world=..., a generated one"
    return f"no value for {', '.join(keys)}: give {' '.join(f'{key}=...' for key in keys)}"


def _missing(given: Any, within: str = "") -> Iterator[str]:  # noqa: ANN401 - plain YAML data
    """The keys of `given`, dotted, that conf/ leaves to the command line."""
    for key, value in given.items() if isinstance(given, dict) else ():
        yield from [f"{within}{key}"] if value == "???" else _missing(value, f"{within}{key}.")


def _beyond(given: Any, known: Any, within: str = "") -> Iterator[str]:  # noqa: ANN401 - plain YAML data
    """The keys of `given`, dotted, that `known` lacks. Of mappings with keys of the user's own both have all."""
    for key, value in given.items() if isinstance(given, dict) else ():
        if key in known:
            yield from _beyond(value, known[key], f"{within}{key}.")
        else:
            yield f"{within}{key}"


def print_results(metrics: dict[str, Any], k: int, folder: Path) -> None:
    """The table of the primary metric, questions without overlap first, recall@k, and where the report is."""
    recall = recall_line(metrics["results"][0], k)
    print(f"\n{terminal_table(metrics)}\n\n{recall}\nreport: {folder}/report.html")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Leave with 2 for settings, inputs or stores that cannot work, with 3 over the error budget; other errors pass.

    It stands around the Hydra main, for the command line's errors, and inside it: Hydra reports what its main raises,
    but lets SystemExit through.
    """
    try:
        yield
    except Exception as error:
        if not in_one_line(error):
            raise
        print(f"error: {_line(error)}", file=sys.stderr)
        raise SystemExit(code_of(error)) from error


def in_one_line(error: Exception) -> bool:
    """Whether one line says all of an error."""
    return isinstance(error, TOLD) or bool(fault_of(error))


def _line(error: Exception) -> str:
    cause = getattr(error, "cause", None)  # of an error in one of Ray's workers, whose own text is a traceback
    error = cause if isinstance(cause, Exception) else error
    return fault_of(error) or plain(error, known)


def _masked(record: logging.LogRecord) -> bool:
    """Has overrides that are logged shown; the record is kept."""
    record.msg = " ".join(map(shown, str(record.msg).split(" ")))
    return True
