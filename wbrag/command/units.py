"""Look at a knowledge base's units and say which of them are good.

    wbrag units list RUN                       all units, those that changed answers for the worse first
    wbrag units search RUN "words" [--groups G...]    those nearest to a question
    wbrag units show RUN ID                    one unit beside its sources, its examples' gates, who reads it
    wbrag units reject RUN ID --why "..."      it is not found any more, and no update brings it back
    wbrag units waiting RUN                    those that nobody trusted vouches for, or that contradict others
    wbrag units accept RUN ID                  somebody has read it; one that waits is published
    wbrag units edit RUN ID --title T --text T --why "..."    another text, until one of its sources changes
    wbrag units restore RUN ID                 as training wrote it
    wbrag units decisions RUN                  what was rejected, accepted and edited, and why

RUN is a run's folder. Each decision is a new version: `wbrag kb log RUN`. `--json` prints data. Exit
codes: 0 done, 2 it cannot be done (the message says why).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wbrag.command.kb_commands import Begins, Command, Told, carried_out, parser_of
from wbrag.life.review import accept, edit, last_live, reject, restore
from wbrag.report.trace import readers, unit_life, unit_line
from wbrag.run.decided import decisions_of, hashes_of
from wbrag.run.folder import read_config, read_left_out, read_waiting, setting_of, tables_now, unit_rows
from wbrag.schema import contents_of, unit_id
from wbrag.store.place import place_of
from wbrag.store.rows import passages_of
from wbrag.store.search import KnowledgeBase, base_of
from wbrag.store.versions import Version, current, latest, read_version


def live(run: Path) -> dict[str, dict[str, Any]]:
    """The units that are live, by id; of those that training wrote with all that is known of them. None without a
    store, as where all of them wait.
    """
    written = {unit["id"]: unit for unit in unit_rows(tables_now(run))}
    decided = {one.unit["id"]: one.unit for one in decisions_of(run / "writeback").values()}
    there = passages_of(run / "writeback") if latest(run / "writeback") else []
    return {row["id"]: (decided | written).get(row["id"], row) for row in there}


def standing(run: Path, key: str) -> tuple[dict[str, Any], str]:
    """A unit, and where it is not live what became of it. StoreError for one that no version that is kept has."""
    store, units, folder = run / "writeback", live(run), tables_now(run)
    if key in units:
        return units[key], ""
    decided = decisions_of(store).get(key)
    if not decided and (wait := next((unit for unit in read_waiting(folder) if unit["id"] == key), None)):
        return wait, f"waits for a person: {reasons(run).get(key, '')}; wbrag units accept {run} {key} publishes it"
    if decided and decided.state == "rejected":
        return decided.unit, "not live"  # and the decision says the rest
    unit, since = last_live(store, key)
    told = f"not live since version {since.version}"
    if decided:
        return unit, f"{told}: {decided.unit['id']} stands in its place"
    left = (row for row in read_left_out(folder) if row["text"] == contents_of(unit))
    why = next((f"{row['kind']}: {row['reason']}" for row in left), _moved(run, unit, since))
    return unit, f"{told}, made by {since.note.get('made_by', 'training')}: {why}"


def _moved(run: Path, unit: dict[str, Any], since: Version) -> str:
    """What of a unit's sources is not what it was, in the version from which on the unit is not live."""
    before, base = read_version(place_of(run / "writeback"), since.version - 1).base, base_of(run)
    if not (base and before and since.base and before[0] >= current(base).oldest):
        return "what its sources said then is not kept"
    versions = (read_version(place_of(base), number) for number, _ in (before, since.base))
    old, new = (hashes_of(base, one, unit["source_ids"]) for one in versions)
    moved = [f"source {key} {'changed' if key in new else 'went'}" for key in old if old[key] != new.get(key)]
    return ", ".join(moved) or "training does not make it any more"


def reasons(run: Path) -> dict[str, str]:
    """Why the units wait that do, by id."""
    return dict(
        row["reason"].split(": ", 1) for row in read_left_out(tables_now(run)) if row["reason"].startswith("wb-")
    )


def listed(run: Path, args: argparse.Namespace) -> Told:
    """All units, those that changed answers for the worse first, then those that were read most."""
    units, read = live(run), readers(tables_now(run))
    counts = {key: read.get(key, (0, 0, 0)) for key in units}  # readers, better, worse
    order = [units[key] for key in sorted(units, key=lambda key: (-counts[key][2], -counts[key][0], key))]
    lines = [unit_line(unit, counts[unit["id"]]) for unit in order]
    head = "how many test questions read each, and how many of these answers got better (+) and worse (-)"
    return Told(order, [f"{len(order):,} units; {head}", *lines])


def searched(run: Path, args: argparse.Namespace) -> Told:
    """The units nearest to a question."""
    with KnowledgeBase(run / "writeback") as store:
        found = store.search_one(args.words, args.k, groups=args.groups)
    return Told(
        [asdict(one) for one in found], [f"{one.score:.3f}  {one.id}  {one.title}: {one.text}" for one in found]
    )


def shown(run: Path, args: argparse.Namespace) -> Told:
    """One unit beside its sources; of one that is not live what became of it."""
    (unit, state), base, where = standing(run, args.id), base_of(run), tables_now(run)
    assert base is not None  # a run with units has one
    decided = decisions_of(run / "writeback")
    return Told(*unit_life(unit, where, base, setting_of(read_config(where)), decided, state))


def told(run: Path, made: Version, what: str) -> Told:
    """What a decision has made."""
    return Told({"version": made.version}, [f"{run / 'writeback'}: version {made.version} {what}"])


def rejected(run: Path, args: argparse.Namespace) -> Told:
    """Not found any more, and not brought back by an update."""
    return told(run, reject(run / "writeback", args.id, args.why), f"is without {args.id}")


def accepted(run: Path, args: argparse.Namespace) -> Told:
    """Somebody has read it and found it good."""
    row = next((unit for unit in read_waiting(tables_now(run)) if unit["id"] == args.id), None)
    config = {} if latest(run / "writeback") else read_config(tables_now(run))
    how = {key: value for key, value in config.items() if key in ("merge", "retrieval")}
    made = accept(run / "writeback", args.id, args.why, row, base_of(run), how)
    return told(run, made, f"says that {args.id} was accepted")


def waiting(run: Path, args: argparse.Namespace) -> Told:
    """Those that are published once somebody accepts them, with the reason."""
    units, decided = read_waiting(tables_now(run)), decisions_of(run / "writeback")
    left = [unit for unit in units if unit["id"] not in decided]
    why = reasons(run)
    lines = [f"{unit['id']}  {unit['title']}: {unit['text']}  ({why.get(unit['id'], '')})" for unit in left]
    return Told(left, [f"{len(left):,} units wait", *lines])


def edited(run: Path, args: argparse.Namespace) -> Told:
    """Another title or text."""
    unit = live(run).get(args.id, {})
    title, text = args.title or unit.get("title", ""), args.text or unit.get("text", "")
    base = base_of(run)
    assert base is not None  # a run with units has one
    made = edit(run / "writeback", base, args.id, title, text, args.why)
    return told(run, made, f"has {unit_id(title, text, unit['source_ids'])} in place of {args.id}")


def restored(run: Path, args: argparse.Namespace) -> Told:
    """As training wrote it."""
    waits = any(unit["id"] == args.id for unit in read_waiting(tables_now(run)))
    made = restore(run / "writeback", args.id, base_of(run), waits)
    return told(run, made, f"has {args.id} {'waiting again' if waits else 'as it was written'}")


def decisions(run: Path, args: argparse.Namespace) -> Told:
    """What was decided, the newest last."""
    found = sorted(decisions_of(run / "writeback").items(), key=lambda one: one[1].at)
    lines = [f"{one.at}  {one.state:<8}  {key}  {one.unit['title']}{one.why and f': {one.why}'}" for key, one in found]
    return Told({key: asdict(one) for key, one in found}, lines or ["nothing was decided"])


WHY = {"help": "for whoever asks later"}
ID = {"id": {"help": "of a unit"}}
COMMANDS: list[Command] = [
    ("list", listed, {}),
    (
        "search",
        searched,
        {
            "words": {"help": "a question"},
            "-k": {"type": int, "default": 10, "help": "how many"},
            "--groups": {"nargs": "*", "help": "only what a reader with these sees; none: what everybody may see"},
        },
    ),
    ("show", shown, ID),
    ("reject", rejected, {**ID, "--why": {**WHY, "required": True}}),
    ("waiting", waiting, {}),
    ("accept", accepted, {**ID, "--why": {**WHY, "default": ""}}),
    (
        "edit",
        edited,
        {**ID, "--title": {"default": ""}, "--text": {"default": ""}, "--why": {**WHY, "required": True}},
    ),
    ("restore", restored, ID),
    ("decisions", decisions, {}),
]


WHERE: Begins = ("folder", "a run's folder", Path)


def parser() -> argparse.ArgumentParser:
    """The command line of `wbrag units`."""
    return parser_of("wbrag units", __doc__ or "", COMMANDS, WHERE)


def main(words: list[str] | None = None) -> int:
    """Carry out one command, print what it says and return the exit code."""
    return carried_out(parser(), WHERE, words)
