"""The life of one example: golden text, test questions, unknown ids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_run import CONFIG, PASSAGES, UNIT, failed, gated, kept, prediction, write_run

from wbrag.command.program import main
from wbrag.report.trace import example_life, life, question_life, rank_of
from wbrag.run.folder import read_config, setting_of

GOLDEN = Path(__file__).parent / "data" / "trace_golden.txt"
LOST = dict.fromkeys(("answer_closed_book", "answer_base", "answer_writeback"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training examples and three test questions: one fixed, one without the unit, one failed."""
    elsewhere = prediction(id="test-5", documents_writeback=PASSAGES, answer_writeback="Port Elden")
    broken = prediction(id="test-6", error="PromptTooLong: 900 tokens > 512", **LOST)
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return write_run(folder, [kept(), gated(), failed()], [prediction(), elsewhere, broken])


def test_the_lives_of_a_run_read_as_the_golden_file(run: Path) -> None:
    """After a wanted change of the text: WBRAG_GOLDEN=1 pytest tests/test_trace.py, and read the diff."""
    ids = ("train-17", "train-18", "train-19", "test-4", "test-6")
    text = ("\n" + "-" * 108 + "\n").join(life(run, key) for key in ids) + "\n"
    if os.environ.get("WBRAG_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_command_prints_a_life(run: Path) -> None:
    command = [sys.executable, "-m", "wbrag", "trace", str(run), "train-17"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == life(run, "train-17") + "\n"
    assert life(run, kept()["question"]) == life(run, "train-17")


def test_an_unknown_id_names_run_and_id_and_some_that_exist(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(run), "train-170"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"error: {run}: no example 'train-170' in this run; there are, for instance, train-17, train-19, test-4\n"
    )


def test_a_folder_that_is_no_run_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(tmp_path), "x"]) == 2
    assert f"{tmp_path / 'config.yaml'}: no such file" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert main(["trace", str(tmp_path), "x"]) == 2
    assert "it has no traces and no predictions yet" in capsys.readouterr().err


def test_a_trace_can_be_read_before_there_are_predictions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [])
    for file in (run / "predictions").iterdir():
        file.unlink()
    (run / "predictions").rmdir()
    assert "Found by        no test question" in life(run, "train-17")


def test_of_many_readers_the_changed_ones_come_first_and_three_are_told(tmp_path: Path) -> None:
    calm = [prediction(id=f"test-1{i}", answer_writeback="Port Elden") for i in range(4)]
    text = life(write_run(tmp_path / "run", [kept()], [*calm, prediction(id="test-99")]), "train-17")
    assert "Found by        5 test questions, among them:" in text
    assert [line.split(":")[0].strip() for line in text.splitlines() if "test-" in line] == [
        "test-99",
        "test-10",
        "test-11",
    ]


def test_ranks_are_counted_from_one() -> None:
    assert rank_of({UNIT["id"]}, [*PASSAGES, UNIT]) == 4
    assert rank_of({UNIT["id"]}, PASSAGES) == 0
    assert rank_of({UNIT["id"]}, None) == 0


def test_the_first_document_with_a_golden_answer_is_told_by_its_rank(tmp_path: Path) -> None:
    rows = [prediction(golden_answers=["tarnholm"]), prediction(id="test-5", golden_answers=["Lisbon"])]
    text = life(write_run(tmp_path / "run", [kept()], rows), "train-17")
    assert "this unit none -> 1, first document with a golden answer 2 -> 1" in text
    assert "this unit none -> 1, first document with a golden answer none -> none" in text


def test_with_labels_no_document_is_said_to_hold_the_answer(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction(golden_answers=["yes"])])
    labelled = CONFIG.replace("metric: acc, labels: {}", "metric: label, labels: {'yes': ['true'], 'no': []}")
    (run / "config.yaml").write_text(labelled)
    text = life(run, "train-17")
    assert "label = 0.00" in text
    assert "document with a golden answer" not in text


def test_no_line_is_wider_than_a_page(run: Path) -> None:
    long = kept(evidence="word " * 100, unit_text="x" * 300, question="why " * 60)
    text = example_life(long, [prediction(answer_base="a " * 200)], setting_of(read_config(run)))
    assert max(map(len, text.splitlines())) <= 150
    assert max(len(line) for line in text.splitlines() if "answer  " not in line) <= 108


def test_retrievals_of_the_methods_own_are_told(run: Path) -> None:
    setting = setting_of(read_config(run))
    assert "s_rag = 1.00  after 2 retrievals of the method's own" in example_life(kept(retrievals=2), [], setting)
    told = question_life(prediction(retrievals_base=1), {}, setting)
    assert "acc = 0.00  after 1 retrieval of the method's own" in told
    assert told.count("method's own") == 1
