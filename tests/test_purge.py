"""Passages withdrawn from a run that has lived: trained, decided about, updated, evaluated, beside one that shares its
base. What says that they are gone reads every file, tables unpacked.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from forked import start_program
from hypothesis import given
from hypothesis import strategies as st
from small_store import publish, rows_in
from test_update import changed_to, content, edited, lines, rebuilt, world
from test_writeback import HASHING, TEST, TRAIN, settings, write_lines

from wbrag.command.jobs import told as line
from wbrag.command.kb import main
from wbrag.config import ConfigError, Retrieval
from wbrag.life.purge import PURGED, Known, lift, passages_of_files, purge, stores_below, tables_below
from wbrag.life.review import edit, reject
from wbrag.life.update import Changes, Updated
from wbrag.report.trace import life
from wbrag.retrieval.encoding import open_encoder
from wbrag.run.decided import decisions_of
from wbrag.run.folder import RunError, read_predictions, read_record, updates_of
from wbrag.run.job import Session
from wbrag.run.lease import LEASE, leased
from wbrag.run.pipeline import evaluate, train
from wbrag.run.tombstones import corpus_without, purged_by, said, tombstones
from wbrag.store.changes import delete
from wbrag.store.files import StoreError
from wbrag.store.search import KnowledgeBase
from wbrag.store.verify import verify
from wbrag.store.versions import current, encoder_note, named, pair

KB = Path(__file__).parents[1] / "jobs" / "kb.py"

#: The passages that go, and words that stand in them and in no question or golden answer.
IDS, WORDS = ["t5", "m5"], [b"Alderwasser", b"Alderport"]
#: Purges, the first as a rule, all with --long, and how often each is killed before it may come to its end.
CHAINS, KILLS = 8, 3


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, session: Session) -> Path:
    """A folder with the run `run`, the run `other`, which was not touched since it was trained, inputs and cache."""
    folder = tmp_path_factory.mktemp("lived")
    write_lines(folder / "corpus.jsonl", lines(world()))
    write_lines(folder / "train.jsonl", TRAIN)
    write_lines(folder / "test.jsonl", TEST)
    cfg = settings(folder, "run", kb=str(folder / "kb"), retrieval=Retrieval("hybrid"))
    train(cfg, session)
    shutil.copytree(folder / "run", folder / "other", symlinks=True)
    store = folder / "run" / "writeback"
    town, mayor = (next(row for row in rows_in(store) if row["title"] == title) for title in ("Alderton", "Alderson"))
    reject(store, mayor["id"], "not wanted")
    edit(store, folder / "run" / "base", town["id"], "Alderton", "Alderton's river is called Alderwasser.", "shorter")
    assert isinstance(changed_to(folder, edited(world(), 10), session), Updated)
    few = str(write_lines(folder / "few.jsonl", TEST[:4]))
    evaluate(replace(cfg, benchmark=replace(cfg.benchmark, test=few)), session)
    return folder


@pytest.fixture
def folder(lived: Path, tmp_path: Path) -> Path:
    """A copy of it, whose runs know that they were moved."""
    made = tmp_path / "copy"
    shutil.copytree(lived, made, symlinks=True)
    for file in made.rglob("config.yaml"):
        file.write_text(file.read_text().replace(str(lived), str(made)))
    base = (made / "other" / "base").readlink()
    (made / "other" / "base").unlink()
    (made / "other" / "base").symlink_to(made / "cache" / base.name)
    return made


def contents_of(file: Path) -> bytes:
    """What a file says; a table's rows unpacked, beside its bytes."""
    told = file.read_bytes()
    if file.suffix == ".parquet":
        return told + str(pq.ParquetFile(file).read().to_pylist()).encode()
    if file.suffix == ".arrow" and file.parent.name != "_deletions":
        return told + str(ipc.open_file(file).read_all().to_pylist()).encode()
    if file.suffix == ".lance":
        from lance.file import LanceFileReader

        return told + str(LanceFileReader(str(file)).read_all().to_table().to_pylist()).encode()
    return told


def holding(folder: Path) -> list[Path]:
    """The files in a folder's runs and cache that hold one of the words."""
    found = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    inside = [file for file in found if file.parent != folder]  # beside them lie the corpora
    return [file.relative_to(folder) for file in inside if any(word in contents_of(file) for word in WORDS)]


def test_no_file_holds_a_byte_of_what_was_purged_and_all_else_goes_on(
    folder: Path, session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbrag.life.purge.WAIT_SECONDS", 0.0)
    run, other = folder / "run", folder / "other"
    own = [where / ".git" / "config" for where in (run, folder / "cache")]  # a person's, in a folder of theirs
    for file in own:
        file.parent.mkdir()
        file.write_text("mine")
    (run / ".tmp-killed").write_bytes(WORDS[0])
    held: list[Path] = []
    monkeypatch.setattr("wbrag.life.purge.leased", lambda one: held.append(one) or leased(one))
    before, read = holding(folder), read_predictions(run)
    assert {path.parts[0] for path in before} == {"run", "other", "cache", "kb"}
    assert any("fulltext" in path.parts for path in before)
    assert {".parquet", ".arrow", ".lance", ".json", ".md"} <= {path.suffix for path in before}
    assert any("evaluations" in path.parts for path in before)
    with pytest.raises(StoreError, match="no version that is kept has passage 'nothing'"):
        purge(run, ["nothing"])
    with pytest.raises(ConfigError, match=r"other: have these passages too.*--everywhere"):
        purge(run, IDS)
    assert holding(folder) == before
    (failed := folder / "failed").mkdir()  # one that ended before it had read anything, and one that was stopped later
    for name in ("config.yaml", "run.json"):
        shutil.copy(other / name, failed)
    for name in ("traces", LEASE):  # or one that is at work, and may be encoding what is to go
        (failed / name).touch()
        with pytest.raises(ConfigError, match=r"failed shares a cache with .* and is not finished: end or remove it"):
            purge(run, IDS, everywhere=True)
        (failed / name).unlink()

    with KnowledgeBase.open(run) as reader:
        assert main(["purge", str(run), *IDS, "--everywhere"]) == 2
        assert f"is read by process {os.getpid()} on " in capsys.readouterr().err
        with KnowledgeBase.open(run) as later:
            assert not {*IDS} & {one.id for one in later.search_one("What is Alderton's river?", 99)}
        assert {*IDS} & {one.id for one in reader.search_one("What is Alderton's river?", 99)}
    assert main(["purge", str(run), *IDS, "--everywhere"]) == 0
    assert str(folder / "corpus-now.jsonl") in capsys.readouterr().out.partition("Not reached:")[2]
    assert holding(folder) == []
    assert all(file.exists() for file in own)
    assert {run, other, *(run / "evaluations").iterdir()} <= {*held}  # so that no evaluation writes meanwhile
    assert tombstones(folder / "kb").keys() == {*IDS}
    with KnowledgeBase.open(folder / "kb") as shared:
        assert shared.writeback
        assert shared.writeback.base == named(shared.base)
        assert not {*IDS} & {one.id for one in shared.search_one("What is Alderton's river?", 99)}
    for one in (run, other, folder / "kb"):
        assert {str(store): verify(store, full=True) for store in stores_below(one) if verify(store, full=True)} == {}
    for one in (run, other):
        told = read_record(one / "purges" / "0001.json")
        assert set(told["passages"]) == set(tombstones(one)) == set(IDS)
        assert told["finished"]
        assert told["versions"]["base"][0] < told["versions"]["base"][1] == current(one / "base").version
        assert not {*told["units"]} & {row["id"] for row in rows_in(one / "writeback")}
    assert decisions_of(run / "writeback") == {}
    assert main(["log", str(run / "writeback")]) == 0
    assert "made_by purge" in capsys.readouterr().out

    kept = read_predictions(run)
    assert 0 < len(kept) < len(read)
    assert kept == [row for row in read if row["id"] in {one["id"] for one in kept}]
    assert read_record(run / "metrics.json")["results"][0]["n"] == len(kept)
    traces = {row["id"]: row for row in pq.read_table(run / "traces").to_pylist()}
    gone = next(key for key, row in traces.items() if any(d["title"] == PURGED for d in row["documents"]))
    assert PURGED in life(run, gone)
    assert traces[gone]["s_rag"] is not None
    again = purge(run, IDS)
    assert list(again) == [run / "purges" / "0001.json"]
    assert (run / "report.html").is_file()
    with pytest.raises(RunError, match="were purged"):
        train(settings(folder, "other"), session)


def test_what_was_purged_comes_back_with_no_update_until_it_is_lifted(
    folder: Path, session: Session, long: bool
) -> None:
    run, now = folder / "run", edited(world(), 10)
    shutil.rmtree(folder / "other")
    purge(run, IDS)
    now["copy"] = now["t5"]  # the same text under another name is no way back
    found = changed_to(folder, now, session)
    assert isinstance(found, Updated)
    assert found.passages == Changes(0, 0, 0, len(now) - 3, purged=3)
    assert holding(folder) == []
    left = {key: told for key, told in now.items() if key not in (*IDS, "copy")}
    assert {row["id"] for row in content(run)[0]} == left.keys()
    assert all(set(unit["source_ids"]) <= left.keys() for unit in content(run)[1])
    if long:  # a training from nothing
        assert content(run) == content(rebuilt(folder, left, session, "again"))
    assert len(read_predictions(updates_of(run)[-1])) == len(TEST)
    shown = pair(run / "base", run / "writeback")
    assert changed_to(folder, now, session) == found.passages
    assert pair(run / "base", run / "writeback") == shown
    lift(run, ["t5"])
    told = changed_to(folder, now, session, dry_run=True)
    assert told == Changes(2, 0, 0, len(now) - 3, purged=1)
    assert ", 2 added, 1 left out as purged, " in line(told, True)
    with pytest.raises(StoreError, match="'t5' was not purged"):
        lift(run, ["t5"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CHAINS))
def test_a_purge_killed_at_any_moment_is_ended_by_the_same_command(folder: Path, seed: int, long: bool) -> None:
    if seed and not long:
        pytest.skip("as the first one: with --long")
    run, said_so, draw = folder / "run", folder / "said", random.Random(seed)
    command, killed, code = ("purge", str(run), *IDS, "--everywhere"), 0, -1
    while code:
        process = start_program(KB, *command, folder=folder, out=said_so, err=said_so)
        while not (run / LEASE).exists() and process.is_alive():
            time.sleep(0.01)
        if killed < KILLS:
            time.sleep(draw.uniform(0, 1.5))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        code = process.exitcode
        assert code in (0, -signal.SIGKILL), said_so.read_text()
        with KnowledgeBase.open(run) as reader:
            assert reader.search_one("What is Oakton's river?", 3)
    assert holding(folder) == []
    for one in (run, folder / "other"):
        assert [verify(store, full=True) for store in stores_below(one)] == [[] for _ in stores_below(one)]
        (told,) = [json.loads(file.read_text()) for file in (one / "purges").iterdir()]
        assert (sorted(told["passages"]), bool(told["finished"])) == (sorted(IDS), True)


def document(key: str, source: str = "base") -> dict[str, object]:
    return {"id": key, "title": key, "text": f"about {key}", "source": source}


def test_a_row_stays_only_where_it_is_known_to_be_made_of_other_passages() -> None:
    known = Known({"p"}, units={"u"}, requests={"r"}, texts={said("title", "text")})
    searching = replace(known, searched=True)
    asked = known.change(Path("predictions/x.parquet"), {"documents_base", "documents_writeback"})
    assert asked is not None
    rows = {name: {"documents_base": [document("q")], "documents_writeback": []} for name in "abc"}
    rows["a"]["documents_writeback"] = [document("u", "writeback")]
    rows["b"]["documents_writeback"] = [document("lost", "writeback")]  # of versions that are gone
    rows["c"]["documents_base"] = [document("q"), document("p")]
    assert [name for name, row in rows.items() if asked(row) == row] == ["a"]
    assert searching._prediction({**rows["a"], "retrievals_base": 0, "retrievals_writeback": None})
    assert searching._prediction({**rows["a"], "retrievals_base": 0, "retrievals_writeback": 1}) is None

    trace = {"id": "e", "documents": [document("q"), document("p")], "status": "kept", "reason": "s_rag 1.00"}
    trace |= {"rag_answer": "x", "document_answers": ["y", "z"], "kept_ranks": [1], "evidence": "e", "retrievals": 1}
    trace |= {"unit_id": "u", "unit_title": "t", "unit_text": "w", "s_rag": 1.0}
    gone = known._trace(trace)
    assert [(one["id"], one["text"]) for one in gone["documents"]] == [("q", "about q"), ("p", "")]
    assert (gone["rag_answer"], gone["document_answers"], gone["evidence"], gone["s_rag"]) == (
        None,
        ["y", ""],
        "e",
        1.0,
    )
    assert known._trace({**trace, "kept_ranks": [2]})["unit_text"] is None
    others = {**trace, "documents": [document("q")]}
    assert known._trace(others) == others
    assert searching._trace(others)["rag_answer"] is None
    told = [("r", "", "no"), ("s", "title\ntext", ""), ("s", "x", ""), ("r", "", "newer passage p says: about p")]
    told.append(("r", "", "newer passage p2 says: about another"))
    left = [dict(zip(("request", "text", "reason"), row, strict=True)) for row in told]
    assert [known._left_out(row) == row for row in left] == [True, True, False, False, True]


def test_a_corpus_is_without_what_others_purged(tmp_path: Path) -> None:
    file, copy = tmp_path / "corpus.parquet", tmp_path / "copy.parquet"
    pq.write_table(pa.table({"id": ["p", "q", "r"], "title": ["p", "t", "r"], "text": ["p", "u", "r"]}), file)
    assert corpus_without(file, {}, copy) == file
    told = corpus_without(file, {"p": [], "gone": [said("t", "u")]}, copy)
    assert pq.read_table(told)["id"].to_pylist() == ["r"]


TEXT = st.sampled_from(["a", "b", "c"])


@given(st.dictionaries(TEXT, st.lists(st.tuples(TEXT, TEXT))), TEXT, TEXT, TEXT)
def test_a_passage_stays_away_by_its_id_and_by_what_it_says(
    gone: dict[str, list[tuple[str, str]]], key: str, title: str, text: str
) -> None:
    away = purged_by({one: [said(*told) for told in texts] for one, texts in gone.items()})
    expected = key in gone or any((title, text) in texts for texts in gone.values())
    assert away({"id": key, "title": title, "text": text}) == expected


def test_a_file_names_the_passages_that_were_cut_out_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, encoder = tmp_path / "base", open_encoder(HASHING)
    cut = [{"id": f"p{n}", "title": "T", "text": f"of {n}", "source": f"{'ab'[n // 2]}.pdf"} for n in range(4)]
    vectors = encoder.encode_passages([row["text"] for row in cut])
    publish(base, vectors, pa.Table.from_pylist(cut), encoder.fingerprint, encoder_note(HASHING))
    delete(base, ["p2"], {})  # as a purge does that is cut short afterwards
    assert passages_of_files(tmp_path, ["b.pdf"]) == ["p2", "p3"]
    assert passages_of_files(tmp_path, ["b.pdf", "a.pdf"]) == ["p0", "p1", "p2", "p3"]
    with pytest.raises(StoreError, match=r"has a passage with the source 'c\.pdf'"):
        passages_of_files(tmp_path, ["a.pdf", "c.pdf"])
    assert main(["purge", str(tmp_path)]) == 2
    assert "no passage is named; give ids, or --source" in capsys.readouterr().err


def test_what_a_killed_process_was_writing_is_no_table(tmp_path: Path) -> None:
    for name in (".tmp-abc", "traces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.parquet").touch()
    assert tables_below(tmp_path) == [tmp_path / "traces" / "1.parquet"]
