"""`wbrag kb` as a user calls it: what it prints, what it leaves, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from forked import run_program
from small_store import publish

from wbrag.command.kb import main
from wbrag.config import Encoder
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.store.changes import copy_store, delete
from wbrag.store.place import place_of
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current, encoder_note, latest, paired, read_version

ROOT = Path(__file__).parents[1]
HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=32)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Version 1: three passages; version 2: two more; version 3: one of the first deleted."""
    encoder, made = open_encoder(HASHING), tmp_path / "store"
    for names in (["ant", "bee", "cat"], ["dog", "elk"]):
        rows = [{"id": name, "title": name.title(), "text": f"about the {name}"} for name in names]
        vectors = encoder.encode_passages([passage_text(row["title"], row["text"]) for row in rows])
        publish(made, vectors, pa.Table.from_pylist(rows), encoder.fingerprint, encoder_note(HASHING) | {"run": "r1"})
    delete(made, ["bee"], {"by": "test"})
    return made


def kb(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def data(capsys: pytest.CaptureFixture[str], *words: object) -> Any:  # noqa: ANN401 - JSON
    code, out, _ = kb(capsys, *words, "--json")
    assert code == 0
    return json.loads(out)


def test_log_lists_versions_with_what_they_hold(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = kb(capsys, "log", store)
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[:3] for line in lines[1:]] == [["1", "3", "1"], ["2", "5", "2"], ["3", "4", "2"]]
    assert lines[3].endswith("by test (current)")
    assert [row["live"] for row in data(capsys, "log", store)] == [3, 5, 4]


def test_show_tells_one_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = kb(capsys, "show", store)
    assert "passages  4 live, 1 deleted" in out
    assert data(capsys, "show", store, 2)["rows"] == 5
    assert data(capsys, "show", store)["encoder"] == open_encoder(HASHING).fingerprint


def test_diff_names_what_came_and_went(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kb(capsys, "diff", store, 1, 3)[1].splitlines() == [
        "2 added, 1 removed, 0 changed",
        "+ dog",
        "+ elk",
        "- bee",
    ]
    assert data(capsys, "diff", store, 1, 3) == {"added": ["dog", "elk"], "removed": ["bee"], "changed": []}


def test_rollback_is_a_new_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = kb(capsys, "rollback", store, 1)
    assert (code, out.strip()) == (0, f"{store}: version 4 has the content of version 1")
    assert sorted(d.id for d in KnowledgeBase.open(store).search_one("about", 9)) == ["ant", "bee", "cat"]
    assert "version 1 again (current)" in kb(capsys, "log", store)[1]


def test_delete_is_a_new_version_without_the_passages(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = kb(capsys, "delete", store, "ant", "elk", "bee")  # bee is deleted already
    assert (code, out.strip()) == (0, f"{store}: version 4 is without 2 of version 3's 4 passages")
    assert sorted(d.id for d in KnowledgeBase.open(store).search_one("about", 9)) == ["cat", "dog"]
    code, _, error = kb(capsys, "delete", store, "cat", "yak")
    assert (code, error.strip()) == (2, f"error: {store}: version 4 has no passage 'yak'")
    assert [row["live"] for row in data(capsys, "log", store)] == [3, 5, 4, 2]


def test_verify_finds_a_flipped_bit_and_repair_mends_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kb(capsys, "verify", store, "--full")[0] == 0
    file = next((store / "index").glob("*.faiss"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert kb(capsys, "verify", store)[0] == 0  # a byte among many: only --full reads them all
    code, out, _ = kb(capsys, "verify", store, "--full")
    assert code == 1
    assert str(file) in out
    assert len(data(capsys, "repair", store)["rebuilt"]) == 1
    assert kb(capsys, "verify", store, "--full")[0] == 0
    assert kb(capsys, "repair", store)[1].strip() == f"{store}: nothing to repair"


def test_compact_and_gc(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = KnowledgeBase.open(store).search_one("about the elk", 4)
    assert "has 1 fragments, version 3 2" in kb(capsys, "compact", store)[1]
    assert KnowledgeBase.open(store).search_one("about the elk", 4) == before
    would = data(capsys, "gc", store, "--grace", 0, "--keep", 1, "--dry-run")
    assert would["dry_run"]
    assert len(list((store / "index").iterdir())) == 3
    gone = data(capsys, "gc", store, "--grace", 0, "--keep", 1)
    assert gone["removed"] == would["removed"]
    assert len(list((store / "index").iterdir())) == 1
    assert KnowledgeBase.open(store).search_one("about the elk", 4) == before
    assert "gone" in kb(capsys, "log", store)[1]


def test_gc_and_rollback_leave_the_pair_whole(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = store.parent / "run"
    copy_store(store, run / "base")
    copy_store(store, run / "writeback")
    paired(run / "writeback", read_version(place_of(store), 2), {})
    data(capsys, "gc", run / "base", "--grace", 0, "--keep", 1)
    with KnowledgeBase.open(run) as reader:  # the base is ahead of its units
        assert (reader.base.version, len(reader.search_one("the bee", 9, writeback=False))) == (2, 5)
    paired(run / "writeback", current(run / "base"), {})
    data(capsys, "gc", run / "base", "--grace", 0, "--keep", 1)
    code, _, told = kb(capsys, "rollback", run / "writeback", 4)
    assert (code, "version 4 belongs to version 2 of" in told) == (2, True)
    assert current(run / "writeback").version == 5
    assert data(capsys, "gc", run / "writeback", "--grace", 0, "--keep", 1)  # units are no base


def test_a_run_folder_means_its_units(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = store.parent / "run"
    copy_store(store, run / "base")
    encoder, rows = open_encoder(HASHING), [{"id": key, "title": key, "text": f"of {key}"} for key in ("u1", "u2")]
    for row in rows:
        table = pa.Table.from_pylist([row])
        vectors = encoder.encode_passages([passage_text(row["title"], row["text"])])
        publish(run / "writeback", vectors, table, encoder.fingerprint, encoder_note(HASHING))
    paired(run / "writeback", current(run / "base"), {})
    assert [row["version"] for row in data(capsys, "log", run)] == [1, 2, 3]
    for words in (["show"], ["diff", 1, 2], ["compact"], ["gc", "--dry-run"], ["rollback", 3]):
        code, out, _ = kb(capsys, words[0], run, *words[1:])
        assert (code, out.splitlines()[0]) == (0, f"{run / 'writeback'}:")
        assert kb(capsys, words[0], run / "writeback", *words[1:])[1].splitlines()[0] != f"{run / 'writeback'}:"
    whole = [f"{run / name}: whole (every byte)" for name in ("base", "writeback")]
    assert kb(capsys, "verify", run, "--full")[1].splitlines() == whole
    index = next((run / "base" / "index").glob("*.faiss"))
    index.write_bytes(b"x")
    assert kb(capsys, "verify", run)[0] == 1
    assert data(capsys, "repair", run)["rebuilt"] == [str(index)]
    base = current(run / "base").version
    assert "is without 1 of" in kb(capsys, "delete", run, "u1")[1]
    assert (current(run / "base").version, current(run / "writeback").rows) == (base, 1)
    code, out, _ = kb(capsys, "export", run, tmp_path / "both")
    assert code == 0
    assert out.startswith(f"{run / 'base'} and {run / 'writeback'}:\n{tmp_path / 'both'}: ")
    assert not kb(capsys, "export", store, tmp_path / "one")[1].startswith(str(store))


def test_export_and_import_go_round(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = kb(capsys, "export", store, tmp_path / "out")
    assert (code, out.strip()) == (0, f"{tmp_path / 'out'}: 4 passages, float32 index of 32")
    code, out, _ = kb(capsys, "import", tmp_path / "new", tmp_path / "out")
    assert (code, out.split(":")[1].strip()) == (0, f"version 1 adopted {tmp_path / 'out' / 'flat.index'}")
    question = "about the cat"
    found = [
        [(d.id, d.score) for d in KnowledgeBase.open(s).search_one(question, 4)] for s in (store, tmp_path / "new")
    ]
    assert found[0] == found[1]


def test_import_without_a_known_encoder_asks_for_one(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb(capsys, "export", store, tmp_path / "out")
    (tmp_path / "out" / "export.json").unlink()
    code, _, err = kb(capsys, "import", tmp_path / "new", tmp_path / "out")
    assert code == 2
    assert "--encoder" in err
    file = tmp_path / "hashing.yaml"
    file.write_text("name: hashing\nkind: hashing\nmodel: hashing\ndimension: 32\n")
    assert kb(capsys, "import", tmp_path / "new", tmp_path / "out", "--encoder", file)[0] == 0
    assert latest(tmp_path / "new") is not None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["log", "{nowhere}"], "nowhere: no such folder"),
        (["show", "{store}", "9"], "000009.json"),
        (["rollback", "{store}", "9"], "version 9 is not there to go back to; kept are 1 to 3"),
        (["log", "ftp://host/kb"], "not under ftp://"),
        (["import", "{nowhere}", "{nowhere}"], "0 files are called *.index"),
        (["contribute", "{store}", "{nowhere}"], "nowhere: holds no trained knowledge base"),
    ],
)
def test_what_cannot_be_done_exits_with_2(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    filled = [word.format(store=store, nowhere=tmp_path / "nowhere") for word in words]
    code, out, err = kb(capsys, *filled)
    assert (code, out) == (2, "")
    assert told in err
    assert not (tmp_path / "nowhere").exists()


def test_the_script_itself_runs_and_refuses_bad_arguments(store: Path) -> None:
    script, folder = ROOT / "jobs" / "kb.py", store.parent
    ran, bad = (run_program(script, command, str(store), folder=folder) for command in ("log", "rollback"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert bad.returncode == 2


def test_a_reader_that_has_seen_enough_draws_no_error(store: Path) -> None:
    """As `kb.py log STORE | head` does."""
    command = [sys.executable, str(ROOT / "jobs" / "kb.py"), "log", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == ""
    assert program.returncode == 0


def test_stores_are_looked_at_where_there_are_no_locks() -> None:
    """Windows has no fcntl, which what writes into a shared knowledge base needs."""
    code = "import sys; sys.modules['fcntl'] = None; import wbrag.command.kb_commands"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
