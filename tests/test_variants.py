"""Runs measured again with other stores, points that share what they can, and the jobs over a grid; with Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from forked import run_program
from small_store import rows_in

from wbrag.config import Backbone, Benchmark, Cluster, ConfigError, Encoder, Gates, Merge, Method, TrainConfig, Units
from wbrag.data.benchmarks import InputError
from wbrag.experiments.ablation import ablate, selected
from wbrag.experiments.grid_report import write_grid_report
from wbrag.experiments.variants import (
    Trained,
    check_transfer,
    judge,
    other_temperature,
    other_units,
    placebo,
    predicted,
    repeat,
    trained,
    transfer,
    variant,
)
from wbrag.run.folder import RunError, load_config, read_rows, read_units
from wbrag.run.inputs import check_rows
from wbrag.run.job import Session
from wbrag.run.pipeline import finished, train
from wbrag.run.record import open_record
from wbrag.schema import TRACE
from wbrag.store.rows import passages_of
from wbrag.store.versions import latest
from wbrag.units.sentences import sentences

ROOT = Path(__file__).parents[1]
THINGS = ("mayor", "river", "hill")
TOWNS = 24
UNTOUCHED = ("answer_closed_book", "answer_base", "context_tokens_base")


def question(number: int, split: str) -> dict[str, Any]:
    """Golden answers have a word more than the passages say, so that F1 is never 1 and thresholds matter."""
    thing, town = THINGS[number % 3], number % TOWNS
    golden = [f"{thing.title()}{town} Great"]
    return {"id": f"{split}{number}", "question": f"What is the {thing} of town{town}?", "golden_answers": golden}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    texts = [" ".join(f"The {thing} of town{i} is {thing.title()}{i}." for thing in THINGS) for i in range(TOWNS)]
    files = {
        "corpus": [{"id": f"p{i}", "contents": f"town{i}\n{text}"} for i, text in enumerate(texts)],
        "train": [question(i, "train") for i in range(30)],
        "test": [question(i, "test") for i in range(20)],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(data: Path, name: str, **changes: object) -> TrainConfig:
    cfg = TrainConfig(
        benchmark=Benchmark("towns", str(data / "train.jsonl"), str(data / "test.jsonl"), metric="f1"),
        backbone=Backbone(name="scripted", kind="scripted", model="scripted"),
        encoder=Encoder(name="hashing", kind="hashing", model="hashing", dimension=256),
        cluster=Cluster(block_rows=16, examples_in_flight=32),
        corpus=str(data / "corpus.jsonl"),
        run_dir=str(data / name),
        world="",
        data_dir="",
        k=3,
    )
    return replace(cfg, **changes)


@pytest.fixture(scope="module")
def own(data: Path, session: Session) -> Trained:
    train(settings(data, "own"), session)
    return trained(data / "own", session)


def table(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(folder).to_pylist()}


def test_a_second_point_shares_engine_encoder_base_retrieval_and_closed_book_answers(
    own: Trained, data: Path, session: Session
) -> None:
    assert session.generators is not None
    assert session.encoders is not None
    handles = list(session.generators.handles), list(session.encoders.handles)
    assert all(handles)
    before = {path.name for path in (data / "cache").iterdir()}
    other = settings(data, "second", gates=Gates(tau_s=0.2))
    train(other, session)
    assert (session.generators.handles, session.encoders.handles) == handles
    assert {path.name for path in (data / "cache").iterdir()} == before
    first, second = table(own.run / "traces"), table(data / "second" / "traces")
    for key, row in second.items():
        assert (row["calls"], row["calls_saved"]) == (first[key]["calls"] - 1, first[key]["calls_saved"] + 1)
        assert (row["status"], row["unit_id"]) == (first[key]["status"], first[key]["unit_id"])
    asked = [table(run / "predictions") for run in (own.run, data / "second")]
    # The test questions are among the training questions: the first run too had asked them closed book by then.
    assert all(asked[1][key]["calls"] == row["calls"] for key, row in asked[0].items())
    assert finished(other)
    with pytest.raises(ConfigError, match=r"gates\.tau_s was 0\.2, now 0\.1"):
        finished(replace(other, gates=Gates()))


@pytest.mark.parametrize("name", ["raw", "random", "cheat_sheet"])
def test_a_placebo_is_measured_beside_the_run_and_not_published_in_it(
    own: Trained, session: Session, name: str
) -> None:
    before = latest(own.run / "writeback")
    found = placebo(own, name, session)
    folder = own.run / "variants" / f"placebo-{name}"
    assert latest(own.run / "writeback") == before
    assert before is not None
    published = latest(folder / "store")
    assert published is not None
    assert 0 < published.rows <= before.rows
    assert published.note["variant"] == f"placebo-{name}"
    mine, theirs = table(own.run / "predictions"), table(folder / "predictions")
    for key, row in theirs.items():
        assert {name: row[name] for name in UNTOUCHED} == {name: mine[key][name] for name in UNTOUCHED}
        assert row["calls"] == 1
    assert found["results"][0]["n"] == 20
    read = {d["id"] for row in theirs.values() for d in row["documents_writeback"] if d["source"] == "writeback"}
    assert read
    assert all(key.startswith(f"placebo-{name}-") for key in read)


def test_a_placebo_of_units_by_subject_is_made_as_they_are(own: Trained, session: Session) -> None:
    by_subject = Units("subject", scope="subject", form="verbatim", search=5, hops=0)
    placebo(replace(own, cfg=replace(own.cfg, units=by_subject)), "ungated", session)
    units = read_units(own.run / "variants" / "placebo-ungated")
    texts = [passage["text"] for passage in passages_of(own.base)]
    assert 0 < len(units) <= len(read_units(own.run))
    for unit in units:
        assert all(any(said in text for text in texts) for said in sentences(unit["text"])[:-1])  # the last one is cut


def test_a_repeat_of_a_deterministic_reader_flips_nothing_and_asks_all_again(own: Trained, session: Session) -> None:
    repeat(own, session)
    mine, again = table(own.run / "predictions"), table(own.run / "variants" / "repeat" / "predictions")
    for name in ("answer_closed_book", "answer_base", "answer_writeback"):
        assert {key: row[name] for key, row in again.items()} == {key: row[name] for key, row in mine.items()}
    assert all(row["calls"] >= 2 for row in again.values())


def test_another_temperature_weighs_the_same_documents_anew_and_leaves_the_units(data: Path, session: Session) -> None:
    train(settings(data, "replug", method=Method("replug")), session)
    run = trained(data / "replug", session)
    other_temperature(run, 0.01, session)
    folder = run.run / "variants" / "temperature-0.01"
    assert load_config(folder).method == Method("replug", temperature=0.01)
    assert not (folder / "store").exists()
    mine, colder = table(run.run / "predictions"), table(folder / "predictions")
    for key, row in colder.items():
        assert [d["id"] for d in row["documents_writeback"]] == [d["id"] for d in mine[key]["documents_writeback"]]
        assert row["calls"] > 1
    with pytest.raises(ConfigError, match=r"method\.temperature=0"):
        other_temperature(run, 0.0, session)


def test_the_same_units_beside_the_passages_change_the_documents_and_nothing_else(
    own: Trained, session: Session
) -> None:
    before = {path: path.stat().st_mtime_ns for path in own.run.glob("*.parquet")}
    merge = Merge("beside", margin=0.1, room=0.5)
    other_units(own, "beside", own.cfg.units, merge, session)
    folder = own.run / "variants" / "units-beside"
    assert read_units(folder) == read_units(own.run)
    assert rows_in(folder / "writeback") == rows_in(own.run / "writeback")
    mine, theirs = table(own.run / "predictions"), table(folder / "predictions")
    for key, row in theirs.items():
        assert {name: row[name] for name in UNTOUCHED} == {name: mine[key][name] for name in UNTOUCHED}
        units = [d for d in row["documents_writeback"] if d["source"] == "writeback"]
        assert row["documents_writeback"] == [*units, *row["documents_base"]]
        assert row["calls"] == (1 if units else 0)  # the same documents have the same answer
        assert units or row["answer_writeback"] == row["answer_base"]
    assert any(theirs[key]["documents_writeback"] != row["documents_writeback"] for key, row in mine.items())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert load_config(folder).merge == merge


def test_the_sentences_nearest_to_a_question_are_units_without_a_call(own: Trained, session: Session) -> None:
    how = Units("verbatim", form="verbatim", sentences=1)
    found = other_units(own, "verbatim", how, Merge(), session)
    folder = own.run / "variants" / "units-verbatim"
    traces = {key: row for key, row in table(own.run / "traces").items() if row["status"] == "kept"}
    units = read_units(folder)
    assert sorted(key for unit in units for key in unit["example_ids"]) == sorted(traces)
    for unit in units:
        for row in (traces[key] for key in unit["example_ids"]):
            kept = [row["documents"][rank - 1] for rank in row["kept_ranks"]]
            thing = row["question"].split()[3]
            assert f"The {thing} of" in unit["text"]
            assert any(unit["text"] in document["text"] for document in kept)
    assert sum(row["calls"] for row in table(folder / "written").values()) == 0
    assert found["construction"]["units"] == len(units)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert other_units(own, "verbatim", how, Merge(), session) == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == files
    with pytest.raises(ConfigError, match=r"units\.hops was 0, now 1"):
        other_units(own, "verbatim", replace(how, hops=1), Merge(), session)
    with pytest.raises(ConfigError, match=r"units\.form='copied' is unknown"):
        other_units(own, "copied", Units(form="copied"), Merge(), session)


def test_gates_are_varied_for_the_papers_units_alone(own: Trained, session: Session) -> None:
    for units in (Units(form="verbatim"), Units(scope="subject"), Units(faithful=True), Units(validate=True)):
        with pytest.raises(ConfigError, match="gates are varied for units=paper alone"):
            ablate(replace(own, cfg=replace(own.cfg, units=units)), {"n_min": [1]}, session)


def test_a_measured_variant_is_not_measured_again(own: Trained, session: Session) -> None:
    placebo(own, "raw", session)
    files = {path: path.stat().st_mtime_ns for path in (own.run / "variants" / "placebo-raw").rglob("*.parquet")}
    placebo(own, "raw", session)
    units = own.run / "variants" / "placebo-raw" / "units.parquet"
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert units in files


def test_ablation_asks_only_for_what_was_never_distilled(own: Trained, session: Session) -> None:
    thresholds = {"tau_doc": [0.7], "tau_s": [0.7]}
    records = {record["name"]: record for record in ablate(own, thresholds, session)}
    assert list(records) == ["tau_doc=0.01", "tau_doc=0.7", "tau_s=0.1", "tau_s=0.7"]
    same, fallen, none = records["tau_doc=0.01"], records["tau_doc=0.7"], records["tau_s=0.7"]
    kept = [row for row in table(own.run / "traces").values() if row["status"] == "kept"]
    assert (same["folder"], same["new_calls"], same["selected"]) == (".", 0, len(kept))
    assert (fallen["fallback_rate"], fallen["retained_documents"]) == (1.0, 2.0)
    moved = [row for row in kept if row["kept_ranks"] != [1, 2]]
    assert fallen["new_calls"] == 2 * len(moved) > 0
    assert (none["selected"], none["units"]) == (0, 0)
    empty = table(own.run / none["folder"] / "predictions")
    assert all(row["answer_writeback"] == row["answer_base"] for row in empty.values())
    files = {path: path.stat().st_mtime_ns for path in own.run.rglob("*.parquet")}
    assert list(ablate(own, thresholds, session)) == list(records.values())
    assert {path: path.stat().st_mtime_ns for path in own.run.rglob("*.parquet")} == files


def test_a_variant_that_needs_scores_the_gates_left_out_asks_for_them(
    data: Path, own: Trained, session: Session
) -> None:
    strict = settings(data, "strict", gates=Gates(tau_s=0.9))
    train(strict, session)
    run = trained(Path(strict.run_dir), session)
    traces = list(read_rows(run.run / "traces", TRACE))
    assert {row["status"] for row in traces} == {"gated"}
    rows, calls = selected(run, traces, "tau_s=0.1", Gates(), session)
    assert calls > 0
    wanted = {row["unit_id"] for row in table(own.run / "traces").values() if row["status"] == "kept"}
    assert {row["id"] for row in rows} == wanted


def test_a_judge_trains_the_run_once_more_and_leaves_the_run_as_it_is(own: Trained, session: Session) -> None:
    before = {path: path.stat().st_mtime_ns for path in (own.run / "traces").rglob("*.parquet")}
    found = judge(own, session)["construction"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert 0 < found["judge_compared"] <= found["examples"] == 30
    assert 0 <= found["judge_agreement"] <= 1
    folder = own.run / "variants" / "judge"
    assert load_config(folder).judge == "llm"
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert judge(own, session)["construction"] == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == files


def test_another_runs_store_is_read_and_both_are_reported(own: Trained, data: Path, session: Session) -> None:
    job = variant(own, "transfer-other", {"writeback": "x"})
    predicted(own, job, data / "second" / "writeback", session)
    grid = write_grid_report(data / "report", [own.run])
    (pairs,) = grid["transfer"].values()
    assert pairs["other"]["difference"] == 0.0
    assert grid["exposure"].get("none", {"gain": 0.0})["gain"] == 0.0
    with pytest.raises(ConfigError, match="two or more runs of different methods, given naive, naive"):
        transfer([own, own], session)


def test_transfer_takes_runs_that_differ_in_their_method_alone() -> None:
    one = {"method.name": "naive", "k": 5}
    check_transfer([("naive", one), ("flare", one | {"method.name": "flare"})])
    check_transfer([("naive", one | {"method.theta": 0.6}), ("flare", one | {"method.theta": 0.8})])
    with pytest.raises(ConfigError, match="k is 5 of naive, 3 of flare"):
        check_transfer([("naive", one), ("flare", {"method.name": "flare", "k": 3})])


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with Session() as session, pytest.raises(ConfigError, match="holds no trained knowledge base"):
        trained(tmp_path, session)


def test_the_configuration_of_a_run_is_read_back_typed(tmp_path: Path) -> None:
    written = settings(tmp_path, "elsewhere")
    open_record(tmp_path / "run", written, {})
    assert load_config(tmp_path / "run") == replace(written, run_dir=str(tmp_path / "run"))
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace("k: 3", "k: three"))
    with pytest.raises(RunError, match=r"run/config\.yaml: .*three"):
        load_config(tmp_path / "run")


def test_a_file_of_another_length_than_the_release_is_refused() -> None:
    check_rows(Path("nq/train.jsonl"), "train", 10, {"train": 10})
    check_rows(Path("nq/train.jsonl"), "train", 9, {})
    for found in (9, 11):
        told = rf"nq/train\.jsonl: {found} rows, but the release has 10 \(benchmark\.rows\.train\)"
        with pytest.raises(InputError, match=told):
            check_rows(Path("nq/train.jsonl"), "train", found, {"train": 10})


def overrides(data: Path) -> list[str]:
    files = [f"benchmark.{split}={data / split}.jsonl" for split in ("train", "test")]
    small = [
        "benchmark.metric=f1",
        "cluster.block_rows=32",
        "cluster.examples_in_flight=32",
        "cluster.object_store_mib=200",
    ]
    return ["encoder=hashing", "benchmark.metric=f1", "k=3", f"corpus={data / 'corpus.jsonl'}", *files, *small]


@pytest.mark.slow
def test_reproduce_runs_the_grid_once_and_reports_it(data: Path, tmp_path: Path) -> None:
    lists = ["methods=[naive,selfrag]", "benchmarks=[files]", "backbones=[scripted]", "transfer=[]"]
    lists += ["ablate=[files/naive]", "placebo=[files/naive]", "placebos=[raw]", "repeat=[files/naive]"]
    lists += ["compare=[naive]", "judge=[files/naive]"]
    # Each variant is a plan of its own; the gates' others are those of the tests above.
    lists += ["thresholds={tau_s:[0.1],tau_delta:[0.01],tau_doc:[0.7],n_min:[2]}"]
    quoted = ",".join(
        f"'{text}'" for text in (*overrides(data), "units=paper", "method.mode=tokens")
    )  # the scripted model has none
    grid = [f"run_dir={tmp_path}", *lists, f"overrides=[{quoted}]"]
    script = ROOT / "jobs" / "reproduce.py"
    ended = run_program(script, *grid, folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "scripted/files/selfrag" in ended.stderr.split("failed points (1):")[1]
    run = tmp_path / "scripted-files-naive"
    page = (tmp_path / "report" / "report.html").read_text()
    tables = ("Table 2", "Table 3", "Table 4", "Figure 3", "Figure 5", "Placebos", "Noise floor", "Units and merges")
    for part in (*tables, "A judge", "scripted/files/selfrag"):
        assert part in page
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    assert "settings gain" in ended.stdout
    again = run_program(script, *(text.replace(",selfrag", "") for text in grid), folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")} == files
