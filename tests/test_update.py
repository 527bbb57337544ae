"""A knowledge base that follows its documents, end to end on a scripted generator and a hashing encoder with Ray: an
update is a rebuild that asks only for what reads otherwise, and holds to what people decided about units.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_store import rows_in
from test_algorithm import HELPFUL, TWIN, USELESS, exact, replies, tools_for
from test_writeback import TEST, TRAIN, TREES, passages, settings, write_lines

from wbrag.algorithm import train_example
from wbrag.command.units import main
from wbrag.config import Cluster, ConfigError, Gates, Questions, Retrieval, Units, UpdateConfig
from wbrag.data.benchmarks import InputError
from wbrag.life import update as updates
from wbrag.life.review import accept, edit, reject, restore
from wbrag.life.update import Changes, Updated, update
from wbrag.run.contribute import contributions, run_name
from wbrag.run.decided import decisions_of
from wbrag.run.folder import UPDATES, RunError, read_left_out, read_waiting, unit_rows, updates_of
from wbrag.run.job import Session
from wbrag.run.pipeline import evaluate, train
from wbrag.run.reuse import digest
from wbrag.schema import EARLIER, Document, Example
from wbrag.store.files import StoreError
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current, history, named, pair, rollback

Passages = dict[str, tuple[str, str]]
#: The seed of the edits that most updates here are about.
FIRST = 10


def lines(some: Passages) -> list[dict[str, Any]]:
    return [{"id": key, "contents": f"{title}\n{text}"} for key, (title, text) in some.items()]


def world() -> Passages:
    return {key: (title, text) for key, title, text in passages()}


def edited(some: Passages, seed: int) -> Passages:
    """Some towns get another mayor, river or hill, one passage goes, one comes; the rest stays, in another order."""
    rng, made = random.Random(seed), dict(some)
    for key in rng.sample(sorted(made), 4):
        title, text = made[key]
        made[key] = title, text.replace(" is ", f" is New{rng.randrange(9)} ", rng.randrange(1, 3))
    del made[rng.choice(sorted(made))]
    tree = rng.choice(TREES)
    made[f"new{seed}"] = f"Walks {seed}", f"{tree}ton's bridge is Span{seed}. {tree}ton's hill is Top{seed}."
    return dict(rng.sample(sorted(made.items()), len(made)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, session: Session) -> Path:
    """A folder with a finished run `run`, its inputs and its cache; whoever changes something copies it."""
    folder = tmp_path_factory.mktemp("update")
    write_lines(folder / "corpus.jsonl", lines(world()))
    write_lines(folder / "train.jsonl", TRAIN)
    write_lines(folder / "test.jsonl", TEST)
    train(settings(folder, "run"), session)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it; its run finds its base in the cache beside it."""
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def changed_to(folder: Path, some: Passages, session: Session, name: str = "run", **more: object) -> Updated | Changes:
    corpus = write_lines(folder / "corpus-now.jsonl", lines(some))
    given = UpdateConfig(str(folder / name), str(corpus), cluster=Cluster(block_rows=8, examples_in_flight=16))
    return update(replace(given, cache_dir=str(folder / "cache"), **more), session)


def rebuilt(folder: Path, some: Passages, session: Session, name: str, **changes: object) -> Path:
    """A run from nothing on these passages, which shares nothing with others."""
    corpus = write_lines(folder / f"{name}.jsonl", lines(some))
    cfg = settings(folder, name, corpus=str(corpus), cache_dir=str(folder / f"{name}-cache"), **changes)
    train(cfg, session)
    return folder / name


def content(run: Path) -> list[list[dict[str, Any]]]:
    """What the pair of a run holds, vectors and all: passages and units, by id."""
    stores = run / "base", run / "writeback"
    return [sorted(rows_in(store), key=lambda row: str(row["id"])) for store in stores]


def read_by(run: Path) -> dict[str, list[tuple[str, str, str]]]:
    """The documents of each training example of a run."""
    rows = pq.read_table(run / "traces").to_pylist()
    return {row["id"]: [(d["id"], d["title"], d["text"]) for d in row["documents"]] for row in rows}


@pytest.fixture(scope="module")
def again(trained: Path, session: Session) -> Path:
    """A run from nothing on the passages that FIRST makes of the world."""
    return rebuilt(trained, edited(world(), FIRST), session, "again")


def test_an_update_is_a_rebuild_that_asks_only_for_what_reads_otherwise(
    folder: Path, again: Path, session: Session
) -> None:
    run, now = folder / "run", edited(world(), FIRST)
    shared, before = (run / "base").resolve(), read_by(run)
    kept = history(shared)
    assert changed_to(folder, dict(reversed(world().items())), session) == Changes(0, 0, 0, len(world()))
    told = changed_to(folder, now, session, dry_run=True)
    assert isinstance(told, Changes)
    assert (told.added, told.removed) == (1, 1)
    assert told.changed + told.untouched == len(now) - 1
    assert not (run / UPDATES).exists()

    with KnowledgeBase.open(run) as reader:
        found = changed_to(folder, now, session)
        assert reader.writeback is not None
        assert reader.writeback.version == 1
        assert reader.refresh()
        assert (reader.base.version, reader.writeback.version, reader.writeback.base) == (2, 2, named(reader.base))
    assert isinstance(found, Updated)
    assert (found.passages, found.versions) == (told, (1, 2))
    note = current(run / "writeback").note
    assert (note["made_by"], note["passages"]) == ("update", f"{told.changed} changed, 1 removed, 1 added")
    assert {"at", "host", "run"} <= set(note)
    assert content(run) == content(again)
    check_asked(found, before, again)
    assert history(shared) == kept  # what other runs share is as it was
    assert {unit["id"] for unit in unit_rows(found.folder)} == {row["id"] for row in rows_in(run / "writeback")}
    made = [history(run / name) for name in ("base", "writeback")]
    assert changed_to(folder, now, session) == Changes(0, 0, 0, len(now))
    assert [history(run / name) for name in ("base", "writeback")] == made

    # Questions that change with the passages are no other case.
    more = {"id": "more", "question": f"What is {TREES[9]}ton's river?", "golden_answers": [f"{TREES[9]}wasser"]}
    asked = str(write_lines(folder / "train-now.jsonl", [*TRAIN[1:], more]))
    before, now = read_by(found.folder), edited(now, FIRST + 1)
    once_more = changed_to(folder, now, session, benchmark=Questions(train=asked))
    assert isinstance(once_more, Updated)
    write_lines(folder / "train.jsonl", [*TRAIN[1:], more])
    other = rebuilt(folder, now, session, "other")
    assert content(run) == content(other)
    check_asked(once_more, before, other)
    assert not (found.folder / "traces").exists()  # the newer one has taken over what still holds

    with pytest.raises(RunError, match="was updated since"):
        train(settings(folder, "run"), session)
    other = r"since it was trained, and with other settings \(.*gates.tau_s was .*, now 0.77.*\); wbrag update"
    with pytest.raises(RunError, match=other):
        train(replace(settings(folder, "run"), gates=Gates(tau_s=0.77)), session)
    _, metrics = evaluate(settings(folder, "run"), session)
    measured = json.loads((once_more.folder / "metrics.json").read_text())
    assert metrics["results"][0]["writeback"] == measured["results"][0]["writeback"]
    assert (once_more.folder / "report.html").is_file()
    rollback(run / "writeback", 2, {})  # to the pair of the first update, whose base is not the newest
    _, metrics = evaluate(settings(folder, "run"), session)
    measured = json.loads((found.folder / "metrics.json").read_text())
    assert metrics["results"][0]["base"] == measured["results"][0]["base"]
    assert metrics["results"][0]["writeback"] == measured["results"][0]["writeback"]


def check_asked(found: Updated, before: dict[str, Any], again: Path) -> None:
    """Those examples were asked that read otherwise than before, and no other; every unit's sources are there."""
    otherwise = {key for key, read in read_by(again).items() if read != before.get(key)}
    assert set(pq.read_table(found.folder / "traces_asked.parquet", columns=["id"])["id"].to_pylist()) == otherwise
    assert found.asked == len(otherwise) < len(TRAIN)
    live = {row["id"] for row in rows_in(again / "base")}
    assert all(set(unit["source_ids"]) <= live for unit in rows_in(again / "writeback"))


def shared_by_runs(kb: Path, run: Path) -> bool:
    """Whether a knowledge base holds what this run's pair does, and says that the run brought it."""
    for mine, theirs in zip(content(run), content(kb), strict=True):
        if [row | {"runs": None} for row in mine] != [row | {"runs": None} for row in theirs]:
            return False
    units = len(content(run)[1])
    return contributions(kb) == {run_name(run): (units, units)}


def test_the_law_holds_for_the_papers_units_too(folder: Path, session: Session) -> None:
    """By vectors and words too; and the knowledge base that the run brings its units to follows it."""
    kb, how = folder / "kb", {"units": Units(), "retrieval": Retrieval("hybrid")}
    train(settings(folder, "paper", kb=str(kb), **how), session)
    assert shared_by_runs(kb, folder / "paper")
    now = edited(world(), 5)
    found = changed_to(folder, now, session, "paper")
    assert isinstance(found, Updated)
    assert content(folder / "paper") == content(rebuilt(folder, now, session, "other", **how))
    assert shared_by_runs(kb, folder / "paper")


@pytest.mark.parametrize("stage", ["made_units", "publish_units"])
def test_an_update_that_ends_midway_leaves_the_old_pair_or_the_new_and_goes_on(
    folder: Path, again: Path, session: Session, stage: str, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    if stage == "publish_units" and not long:
        pytest.skip("as the other one: with --long")
    run, now = folder / "run", edited(world(), FIRST)
    old = pair(run / "base", run / "writeback")
    done: Callable[..., Any] = getattr(updates, stage)

    def broken(*given: object, **named: object) -> None:
        done(*given, **named)
        raise RuntimeError("midway")

    with monkeypatch.context() as patched:
        patched.setattr(updates, stage, broken)
        with pytest.raises(RuntimeError, match="midway"):
            changed_to(folder, now, session)
    assert (pair(run / "base", run / "writeback") == old) == (stage == "made_units")
    wrong = min({row["id"] for row in content(run)[1]} & {row["id"] for row in content(again)[1]})
    reject(run / "writeback", wrong, "while the update is not ended")
    found = changed_to(folder, now, session)
    assert isinstance(found, Updated)
    passages, units = content(again)
    assert content(run) == [passages, [row for row in units if row["id"] != wrong]]
    assert updates_of(run) == [run / UPDATES / "0001"]


def test_other_settings_than_the_runs_are_refused_by_name(folder: Path, session: Session) -> None:
    (folder / "run" / "config.yaml").write_text(
        (folder / "run" / "config.yaml").read_text().replace("\nk: 3", "\nk: 4")
    )
    with pytest.raises(ConfigError, match="k was 3, now 4"):
        changed_to(folder, edited(world(), 1), session)
    with pytest.raises(ConfigError, match="no trained knowledge base"):
        changed_to(folder, world(), session, name="nothing")
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file"):
        changed_to(folder, world(), session, corpus=str(folder / "absent.jsonl"))


def test_what_was_said_of_unchanged_documents_is_not_asked_again() -> None:
    example = Example("q1", "Where is the Alder bridge?", ("Norvale",))

    def row_of(
        documents: Sequence[Document], earlier: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        llm = replies()
        given = (example, documents, tools_for(llm), Gates(), exact)
        told = asyncio.run(train_example(*given, closed_book_answer="?", earlier=earlier))
        return told, llm.prompts

    spent = ("calls", "calls_saved", "prompt_tokens", "completion_tokens", "seconds")
    first, _ = row_of([HELPFUL, USELESS])
    earlier = {one.name: first[one.name] for one in EARLIER}
    fresh, asked = row_of([HELPFUL, TWIN])
    again, less = row_of([HELPFUL, TWIN], earlier)
    assert {k: v for k, v in again.items() if k not in spent} == {k: v for k, v in fresh.items() if k not in spent}
    assert len(less) < len(asked)
    assert set(less) <= set(asked)
    same, none = row_of([HELPFUL, USELESS], earlier)
    assert none == []
    assert {k: v for k, v in same.items() if k not in spent} == {k: v for k, v in first.items() if k not in spent}


DOCUMENTS = st.lists(
    st.fixed_dictionaries({"id": st.text(), "title": st.just("t"), "text": st.text(), "score": st.floats(0, 1)}),
    max_size=2,
)


@given(st.text(), DOCUMENTS, st.text(), DOCUMENTS)
def test_inputs_are_told_apart_by_their_values_and_not_by_versions(
    a: str, some: list[dict[str, Any]], b: str, others: list[dict[str, Any]]
) -> None:
    rows = [{"question": a, "documents": some}, {"question": b, "documents_base": others}]
    told = [(one["question"], [(d["id"], d["text"], d["score"]) for d in list(one.values())[1]]) for one in rows]
    assert (digest(rows[0]) == digest(rows[1])) == (told[0] == told[1])
    later = {"question": a, "documents": [one | {"version": 2} for one in some]}
    assert digest(later) == digest(rows[0])


def test_what_was_rejected_or_edited_stays_so_with_every_update(folder: Path, session: Session) -> None:
    run = folder / "run"
    store = run / "writeback"
    oak, elm = (next(row for row in rows_in(store) if row["title"] == title) for title in ("Oakton", "Elmton"))
    with KnowledgeBase.open(run) as reader:
        assert any(one.id == oak["id"] for one in reader.search_one("What is Oakton's river?", 3))
        reject(store, oak["id"], "it is about another Oakton")
        edit(store, run / "base", elm["id"], "Elmton", "Elmton's river is called Elmwasser.", "shorter")
        assert reader.refresh()
        assert not any(one.id == oak["id"] for one in reader.search_one("What is Oakton's river?", 3))
        read = reader.search_one("What is Elmton's river called?", 3)
        assert "Elmton's river is called Elmwasser." in [one.text for one in read]
    (made,) = [row for row in rows_in(store) if row["form"] == "edited"]

    news = ("Ashton's mayor is Newson. It was close.", "Ashton's bridge is Oldspan.", "Ashton's bridge is Newspan.")
    now = world() | {"m9": ("Lindenson", "Lindenson's trade is Fishing.")}
    now |= {f"n{i}": (f"Ashton, news {i}", text) for i, text in enumerate(news)}
    found = changed_to(folder, now, session)
    assert isinstance(found, Updated)
    check_news(run, found)
    ids = {row["id"] for row in rows_in(store)}
    assert {oak["id"], elm["id"]} & ids == set()
    assert [row for row in rows_in(store) if row["form"] == "edited"] == [made]
    told = [(one / "report.md").read_text() for one in (run, found.folder)]
    assert all("has moved on since" in text for text in told)  # by the update, and by the unit that was accepted
    assert f"{found.folder}/report.html".replace("_", "\\_") in told[0]
    kinds = {row["kind"]: row["reason"] for row in read_left_out(found.folder)}
    assert "superseded" in kinds
    assert kinds["rejected"] == f"{decisions_of(store)[oak['id']].at}: it is about another Oakton"

    key = elm["source_ids"][0]
    now[key] = now[key][0], f"{now[key][1]} It is an old place."
    found = changed_to(folder, now, session)
    assert isinstance(found, Updated)
    assert not [row for row in rows_in(store) if row["form"] == "edited"]
    (told,) = [row["reason"] for row in read_left_out(found.folder) if "changed since" in row["reason"]]
    assert f"{key} changed since" in told
    assert "Ashton's bridge is Newspan." in [row["text"] for row in rows_in(store)]
    restore(store, oak["id"])
    assert next(row for row in rows_in(store) if row["id"] == oak["id"]) == oak
    assert oak["id"] not in decisions_of(store)


def check_news(run: Path, found: Updated) -> None:
    """What came with a later version of the base holds; of two values that came at once neither does, until somebody
    accepts one of them.
    """
    units = [row["text"] for row in rows_in(run / "writeback") if row["title"] == "Ashton"]
    told = " ".join(units)
    assert "Ashton's mayor is Newson." in told
    assert "Ashson" not in told
    assert "Ashton's hill is Ashberg." in told
    assert "bridge" not in told
    old, new = sorted(read_waiting(found.folder), key=lambda row: "Newspan" in row["text"])
    assert (old["text"], new["text"]) == ("Ashton's bridge is Oldspan.", "Ashton's bridge is Newspan.")
    assert (new["source_ids"], main(["waiting", str(run)]), main(["accept", str(run), "wb-none"])) == (["n2"], 0, 2)
    assert main(["accept", str(run), new["id"], "--why", "saw it"]) == 0
    assert new["text"] in [row["text"] for row in rows_in(run / "writeback")]
    assert main(["restore", str(run), new["id"]]) == 0
    assert new["text"] not in [row["text"] for row in rows_in(run / "writeback")]
    assert [unit["id"] for unit in read_waiting(found.folder)] == sorted([old["id"], new["id"]])
    assert main(["accept", str(run), new["id"], "--why", "saw it"]) == 0


def test_decisions_are_versions_and_outlive_a_rollback(folder: Path, session: Session) -> None:
    store = folder / "run" / "writeback"
    key = rows_in(store)[0]["id"]
    before = current(store).version
    assert "has moved on" not in (folder / "run" / "report.html").read_text()
    accept(store, key, "read it")
    versions = json.loads((folder / "run" / "metrics.json").read_text())["versions"]
    assert (versions["measured"]["writeback"], versions["now"]["writeback"]) == (before, before + 1)
    for name in ("report.html", "report.md"):
        assert "has moved on since, to version" in (folder / "run" / name).read_text()
    assert decisions_of(store)[key].state == "accepted"
    reject(store, key, "on second thoughts")
    rollback(store, before, {})
    assert decisions_of(store)[key].state == "rejected"
    with pytest.raises(StoreError, match="has no unit 'nothing'"):
        reject(store, "nothing", "")
    with pytest.raises(StoreError, match="nothing was decided"):
        restore(store, "nothing")


def test_the_command_lists_shows_and_decides(
    folder: Path, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder / "run")
    assert main(["list", run]) == 0
    told = capsys.readouterr().out.splitlines()
    key = told[1].split()[0]
    assert main(["show", run, key]) == 0
    assert ">> " in capsys.readouterr().out
    assert main(["search", run, "What is Oakton's river?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["title"] == "Oakton"
    assert main(["reject", run, key, "--why", "wrong"]) == 0
    assert main(["show", run, key]) == 0
    said = capsys.readouterr().out
    assert "not live" in said
    assert "rejected" in said
    assert main(["decisions", run]) == 0
    assert "wrong" in capsys.readouterr().out


def test_units_are_labelled_as_their_passages_are_by_now(folder: Path, session: Session) -> None:
    """Oakton's unit is made of t0 and h0, Elmton's of t1 and h1."""
    access: dict[str, Any] = {"t0": ["hr"], "h0": ["legal", "board"], "t1": [], "m2": "hr"}

    def corpus(name: str) -> str:
        told = [line | {"access": access.get(line["id"])} for line in lines(world())]
        return str(write_lines(folder / name, told))

    def labelled(name: str, made_of: str) -> Path:
        cfg = settings(folder, name, corpus=made_of, cache_dir=str(folder / f"{name}-cache"))
        train(replace(cfg, access="access", units=replace(cfg.units, validate=False)), session)
        return folder / name

    run = labelled("labelled", corpus("first.jsonl"))
    store, base = run / "writeback", run / "base"
    units = {row["title"]: row for row in rows_in(store)}
    assert units["Oakton"]["seen_by"] == [["board", "legal"], ["hr"]]
    assert (units["Ashson"]["seen_by"], units["Birchton"]["seen_by"]) == ([["hr"]], [])
    assert "Elmton" not in units
    (left,) = [row for row in read_left_out(run) if row["kind"] == "access"]
    assert left["text"].startswith("Elmton\nElmton's mayor is")
    assert left["reason"].startswith("nobody may see all of its sources: ")
    with KnowledgeBase.open(run) as reader:
        for groups, there in (([], False), (["hr"], False), (["hr", "legal"], True), (None, True)):
            found = reader.search_one("What is Oakton's river?", 40, groups=groups)
            assert (units["Oakton"]["id"] in {one.id for one in found}) == there

    edit(store, base, units["Ashson"]["id"], "Ashson", "Ashson's trade is called Ashwork.", "shorter")
    reject(store, units["Oakton"]["id"], "not now")
    access |= {"t0": None, "t1": ["sales"], "m2": ["board"]}
    now = corpus("now.jsonl")
    made = update(replace(UpdateConfig(str(run), now), cluster=Cluster(block_rows=8, examples_in_flight=16)), session)
    assert isinstance(made, Updated)
    assert (made.passages.changed, made.passages.added, made.asked) == (3, 0, 0)
    units = {row["title"]: row for row in rows_in(store)} | {"Oakton": units["Oakton"]}
    assert (units["Elmton"]["seen_by"], units["Ashson"]["seen_by"]) == ([["sales"]], [["board"]])
    assert units["Ashson"]["form"] == "edited"
    restore(store, units["Oakton"]["id"])
    assert {row["title"]: row for row in rows_in(store)}["Oakton"]["seen_by"] == [[]]  # nobody says what it may be
    reject(store, units["Oakton"]["id"], "not now")
    restore(store, units["Oakton"]["id"], base)
    restore(store, next(key for key, one in decisions_of(store).items() if one.state == "edited"), base)
    assert content(run) == content(labelled("other", now))
