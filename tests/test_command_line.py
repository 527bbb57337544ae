"""What a job makes of its command line, before anything runs: `pytest tests/test_command_line.py`."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forked import run_program, start_program
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wbrag.command import command_line
from wbrag.command.command_line import CONF
from wbrag.command.jobs import over_run
from wbrag.command.overrides import keys_of, mended, plain, read
from wbrag.config import ConfigError, TrainConfig
from wbrag.run.inputs import check_settings

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {
    "train": ["world=w", "run_dir={run}"],
    "update": ["run_dir={run}"],
    "evaluate": ["world=w", "run_dir={run}"],
    "build_index": ["corpus=c.jsonl", "store={run}"],
    "transfer": ["runs=[a]", "report_dir={run}"],
    "ablate": ["runs=[a]", "report_dir={run}"],
    "compare_units": ["runs=[a]", "report_dir={run}"],
    "placebo": ["runs=[a]", "report_dir={run}"],
    "reproduce": ["world=w", "run_dir={run}"],
}


#: How a job begins that lies elsewhere.
BEGINS = """
import sys, time
from wbrag.command import command_line
"""
#: A job that is told to stop, and takes so many seconds to end.
STOPPED = f"""{BEGINS}
command_line.STOP_SECONDS = 0.3
with command_line.stoppable():
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(float(sys.argv[1]))
"""
#: A job whose points end as they are called.
SWEEP = f"""{BEGINS}
from wbrag.config import ConfigError
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.store.files import StoreError
kinds = dict(config=ConfigError, input=InputError, store=StoreError, budget=OverErrorBudget, other=RuntimeError)
def main():
    for number, name in enumerate(sys.argv[1:]):
        with command_line.noted(f"{{number}}-{{name}}"):
            print(name)
            if name in kinds:
                raise kinds[name]("so it is")
command_line.start(main)
"""


def ended(name: str, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A job as a user starts it, in an empty folder."""
    given = [text.format(run=run) for text in GIVEN[name]]
    return run_program(ROOT / "jobs" / f"{name}.py", *given, *more, folder=run.parent)


@pytest.mark.parametrize("name", GIVEN)
def test_a_key_that_hydra_would_append_is_refused_by_name(name: str, tmp_path: Path) -> None:
    run = ended(name, tmp_path / "run", "+typo=1")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1] == "error: no such setting: typo"
    assert list(tmp_path.iterdir()) == []


def test_every_appended_key_is_named_with_its_groups_and_own_keys_may_be_appended(tmp_path: Path) -> None:
    more = ["+benchmark.typo=1", "+gates.tau_x=2", "+prompts.factoid=Q", "+benchmark.labels.maybe=[perhaps]"]
    run = ended("train", tmp_path / "run", *more)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "error: no such setting: benchmark.typo, gates.tau_x"


@pytest.mark.parametrize(("name", "key"), [("train", "world"), ("build_index", "corpus"), ("reproduce", "run_dir")])
def test_a_setting_that_has_to_be_given_is_named_with_what_to_do(name: str, key: str, tmp_path: Path) -> None:
    run = ended(name, tmp_path / "run", f"{key}=???")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1] == f"error: no value for {key}: give {key}=..."
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_is_none_is_told_before_what_is_measured_in_it(tmp_path: Path) -> None:
    run = ended("reproduce", tmp_path / "run", "methods=[naiv]")
    assert run.returncode == 2, run.stderr
    assert "method/naiv" in run.stderr.splitlines()[-1]


def test_a_setting_to_measure_more_in_that_is_none_of_the_grid_ends_it_before_the_first(tmp_path: Path) -> None:
    run = ended("reproduce", tmp_path / "run", "benchmarks=[nq]")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1] == (
        "error: ablate: 'squad/naive' is no benchmark/method of the grid "
        "(benchmarks nq; methods naive, replug, selfrag, flare); give one of these, or ablate=[]"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_what_all_points_of_the_grid_are_told_ends_it_before_the_first(tmp_path: Path) -> None:
    run = ended("reproduce", tmp_path / "run", "overrides=['train_limt=5']")
    assert run.returncode == 2, run.stderr
    assert "train_limt" in run.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "seconds", "code"), [(signal.SIGINT, "0", 130), (signal.SIGTERM, "50", 143)])
def test_who_stops_a_job_is_told_in_one_line_how_to_go_on_however_long_it_takes_to_end(
    number: signal.Signals, seconds: str, code: int, tmp_path: Path
) -> None:
    script, out, err = (tmp_path / name for name in ("job.py", "out", "err"))
    script.write_text(STOPPED)
    process = start_program(script, seconds, "run_dir=my run", folder=tmp_path, out=out, err=err)
    while not (out.exists() and out.read_text() == "ready\n"):
        assert process.is_alive(), err.read_text()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(30)
    goes_on = shlex.join(["python", str(script), seconds, "run_dir=my run"])
    assert err.read_text() == f"stopped by {number.name}; the same command goes on from here: {goes_on}\n"
    assert process.exitcode == code


@pytest.mark.parametrize(
    ("points", "code"),
    [
        (["fine", "fine"], 0),
        (["fine", "config", "input", "store"], 2),
        (["budget", "fine"], 3),
        (["config", "budget", "input"], 3),
        (["config", "budget", "other"], 1),
    ],
)
def test_a_sweep_ends_with_the_code_of_its_failed_points(points: list[str], code: int, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(SWEEP)
    run = run_program(script, *points, folder=tmp_path)
    assert run.returncode == code, run.stderr
    assert run.stdout.split() == points  # no point stops the others
    failed = [f"{number}-{name}: " for number, name in enumerate(points) if name != "fine"]
    told = run.stderr.partition(f"failed points ({len(failed)}):\n")[2].splitlines()
    assert [line.strip()[: len(name)] for line, name in zip(told, failed, strict=True)] == failed
    assert ("Traceback" in run.stderr) == ("other" in points)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("backbone.api_key_env={}", "backbone.api_key_env: give the name of the environment variable"),
        ("backbone.base_url=http://me:{}@127.0.0.1/v1", "backbone.base_url: a URL with a user before @"),
        ("backbone.api_key={}", "no such setting: backbone.api_key; did you mean backbone.api_key_env?"),
        ("+backbone.api_key={}", "no such setting: backbone.api_key; did you mean backbone.api_key_env?"),
        ("+backbone.engine_args.hf_token={}", "backbone.engine_args.hf_token cannot be given"),
        ("base=s3://me:{}@bucket/base", "base: a URL with a user before @"),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_secret_among_the_settings_is_refused_and_not_repeated(
    given: str, told: str, sweep: bool, tmp_path: Path
) -> None:
    secret = "sk-canary-0b5e"
    more = ["seed=1,2", "-m"] if sweep else []
    run = ended("train", tmp_path / "run", given.format(secret), *more)
    assert run.returncode == 2, run.stderr
    assert told in run.stderr
    assert secret not in run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_in_a_submitted_job_is_refused_by_every_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    run = ended("reproduce", tmp_path / "run", "run_dir=runs/reproduce")
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: run_dir='runs/reproduce' is relative: a submitted Ray job ")
    assert list(tmp_path.iterdir()) == []


TYPES = {
    "gates.tau=3": "no such setting: gates.tau; did you mean gates.tau_s?",
    "tau_doc=3": "no such setting: tau_doc; did you mean gates.tau_doc?",
    "k=five": "k=five: five is no integer",
    "seed=1.5": "seed=1.5: 1.5 is no integer",
    "k=": "k=: '' is no integer",
    "gates.tau_s=high": "gates.tau_s=high: high is no number",
    "plan=maybe": "plan=maybe: maybe is no boolean: give true or false",
    "benchmark.labels={yes:[true]}": "++benchmark.labels={yes:[true]}: benchmark.labels.yes: true is a boolean, not a "
    "string: quote it",
    "method.bad_words=5": "method.bad_words=5: a list is needed, as [a,b]",
    "run_dir=[a]": "run_dir=[a]: ['a'] is a list, not a string",
    "k=[1": "k=[1: the value cannot be read; quote it: 'k=\"[1\"'",
    "runs/mine": "'runs/mine' is no setting: settings are KEY=VALUE, as run_dir=runs/mine",
    "K=5": "no such setting: K; did you mean k?",
    "top_k=5": "no such setting: top_k; did you mean k?",
    "dataset=nq": "no such setting: dataset; did you mean benchmark?",
    "gates=[1]": "gates=[1]: it has settings of its own: give those",
    "benchmark.labels={yes: yes}": "++benchmark.labels={yes: yes}: benchmark.labels.yes: yes is no list, as [a,b]",
    "method.bad_words=[a,null]": "method.bad_words=[a,null]: method.bad_words[1]: null is no value of it",
    "run_dir=null": "run_dir=null: null is no value of it",
    "backbone=null": "no backbone/ among the files of conf/; There are gemma3_12b",
    "units=": "no units/ among the files of conf/; There are paper, subject",
    "prompts.slot=${question}": "prompts.slot: ${question} names no setting; a $ before a brace that is text",
    "run_dir=${oc.env:NO_SUCH_NAME}": "run_dir: the environment variable NO_SUCH_NAME is not set",
    "backbone=lama31_8b": "no backbone/lama31_8b among the files of conf/; did you mean llama31_8b?",
}


@pytest.mark.parametrize("word", TYPES)
def test_a_setting_that_cannot_be_is_told_in_plain_words(word: str) -> None:
    known = [key for key, _ in keys_of(TrainConfig)]
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises((HydraException, OmegaConfBaseException)) as caught,
    ):
        command_line.settings(composed([word]), TrainConfig)
    assert plain(caught.value, known).startswith(TYPES[word])


def test_several_values_without_a_sweep_are_told_with_what_to_do(tmp_path: Path) -> None:
    run = ended("train", tmp_path / "run", "seed=1,2")
    assert run.returncode == 2, run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: seed=1,2: several values need -m")
    assert last.endswith("'seed=\"1,2\"'")


def composed(words: list[str], root: str = "train") -> DictConfig:
    """What a command line gives, as a job composes it; for within `initialize_config_dir`."""
    own = ["benchmark=files", "benchmark.train=a", "benchmark.test=b", "corpus=c", "run_dir=r", "encoder=hashing"]
    given = mended([*own, "backbone=scripted", *words], TrainConfig)
    return compose(root, overrides=given)


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12))
def test_a_path_is_what_was_typed_whatever_stands_in_it(path: str) -> None:
    word = mended([f"corpus={path}"], TrainConfig)[0]
    plainly = path == path.strip() and not path.startswith(("~/", *"[{'\"")) and not {"$", "\\"} & set(path)
    if plainly:
        assert str(read(word).value()) == path


PLACES = {
    "run_dir=": "run_dir is empty: give run_dir=DIR",
    "run_dir=s3://b/run": "run_dir: a path of this machine is needed, and what begins with s3:/ is a URL, or",
    "cache_dir=file:///tmp/c": "cache_dir: a path of this machine is needed, and what begins with file:/ is a URL",
    "corpus=C:\\data\\c.jsonl": "corpus: a path of this machine is needed, and what begins with C:\\ is a URL",
    "kb=gs://b/kb": "kb: a path of this machine is needed, and what begins with gs:/ is a URL",
    "benchmark.test=https://h/q.jsonl": "benchmark.test: a path of this machine is needed, and what begins with",
    "run_dir=https://me:PASSWORD@h/run": "run_dir: a path of this machine is needed, and what begins with https:/ is",
    "backbone.extra_body.api_key=x": "backbone.extra_body.api_key: give a key in the variable that",
}


@pytest.mark.parametrize("word", PLACES)
def test_what_is_no_place_of_this_machine_is_told_and_no_secret(word: str) -> None:
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(ConfigError, match=re.escape(PLACES[word])) as told,
    ):
        command_line.settings(composed([word]), TrainConfig)
    assert "PASSWORD" not in str(told.value)


def test_a_home_folder_is_what_a_shell_would_make_of_it_or_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert mended(["run_dir=~/runs/a", "backbone.model=~/m", "corpus=a~/b", "kb=~b"], TrainConfig) == [
        *("run_dir=/home/me/runs/a", "backbone.model=/home/me/m", "corpus='a~/b'", "kb='~b'")
    ]
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(ConfigError, match="run_dir=~/runs: nothing"),
    ):
        command_line.settings(composed(["run_dir=~/runs"]), TrainConfig)


NUMBERS = {
    "k=99999999999999999999": "k=99999999999999999999: at least 1 is needed, and less than 2,147,483,648",
    "seed=-1": "seed=-1: at least 0 is needed",
    "gates.tau_s=nan": "gates.tau_s=nan: a number is needed",
    "max_error_rate=2": "max_error_rate=2.0: a share, 0 to 1, is needed",
    "planning.kept=[0.1]": "planning.kept=[0.1] and planning.known=0.25: give the least, the expected and the most",
    "corpus_columns=text": "corpus_columns='text': give parts with their columns, as {text: COLUMN}",
    "benchmark.columns={question: [a]}": "benchmark.columns={'question': ['a']}: give parts with their columns",
    "prompts.slot={question!r:>9}": "{question} is no placeholder; it may hold {question}",
}


@pytest.mark.parametrize("word", NUMBERS)
def test_a_value_of_the_right_type_that_cannot_work_is_told(word: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = command_line.settings(composed([word]), TrainConfig)
    with pytest.raises(ConfigError, match=re.escape(NUMBERS[word])):
        check_settings(cfg)


ODD_PATHS = ["date=2024-01-01/c", "语料/c", "my data (v2)/c", "a,b/c", "1e3", "true", "it's", "a:b"]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_paths_that_hydra_would_take_for_something_else(path: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert composed([f"corpus={path}"]).corpus == path
        assert composed([f"corpus='{path}'" if "'" not in path else f'corpus="{path}"']).corpus == path


def test_a_column_is_named_without_braces() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert composed(["corpus_columns.text=body"]).corpus_columns.text == "body"


def test_a_sweep_stays_one_and_keys_of_ones_own_need_no_plus() -> None:
    words = ["-m", "corpus=a,b", "seed=1,2", "--config-dir", "a=b(", "prompts.factoid=Q {question}", "+prompts.slot=x"]
    made = mended(words, TrainConfig)
    assert made == [*words[:5], "++prompts.factoid='Q {question}'", "+prompts.slot=x"]


def test_an_evaluation_has_the_settings_of_the_run_but_for_those_that_are_given(tmp_path: Path) -> None:
    own = ["k=3", "gates.tau_s=0.2", f"run_dir={tmp_path}", "benchmark.labels.yes=[yes]", "benchmark.metric=f1"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        OmegaConf.save(composed(own), tmp_path / "config.yaml")
        for words, changed in (
            (["benchmark.test=other"], {"benchmark.test": "other"}),
            (["k=4", "method=flare"], {"k": 4, "method.name": "flare"}),
            (["benchmark=files", "benchmark.test=other"], {"benchmark.test": "other", "benchmark.metric": "acc"}),
        ):
            given = mended([f"run_dir={tmp_path}", *words], TrainConfig)
            found = over_run(compose("evaluate", overrides=given), given)
            expected = {"k": 3, "gates.tau_s": 0.2, "benchmark.train": "a", "corpus": "c", "encoder.name": "hashing"}
            expected |= {"run_dir": str(tmp_path), "method.name": "naive", "benchmark.metric": "f1"} | changed
            assert {key: OmegaConf.select(found, key) for key in expected} == expected
            command_line.settings(found, TrainConfig)


def test_another_world_is_read_where_the_run_has_read_its_own(tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        first = compose("train", overrides=["benchmark=squad", "world=/w", f"run_dir={tmp_path}"])
        OmegaConf.save(first, tmp_path / "config.yaml", resolve=True)
        given = [f"run_dir={tmp_path}", "world=/v"]
        found = over_run(compose("evaluate", overrides=given), given)
    assert (found.benchmark.test, found.corpus) == ("/v/squad/test.jsonl", "/v/corpus.jsonl")
    assert found.benchmark.metric == "f1"
