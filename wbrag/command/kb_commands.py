"""The commands of `wbrag kb`: each takes a store's place and the parsed arguments, and says what it did or found. How
the commands of a program are carried out, those of `wbrag units` and of runs too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from wbrag.command.faults import Parser, fault_of
from wbrag.config import ConfigError, Encoder
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.run.folder import RunError
from wbrag.store import changes, rows
from wbrag.store.exchange import adopt, export
from wbrag.store.files import StoreError
from wbrag.store.place import Place, place_of
from wbrag.store.search import base_of, stores_of
from wbrag.store.verify import diff, repair, verify
from wbrag.store.versions import (
    Version,
    current,
    history,
    latest,
    named,
    noted_encoder,
    numbers,
    read_version,
    record_name,
    rollback,
)

#: Ids that `diff` lists of each sort in a terminal.
SHOWN = 10
MADE_BY = {"made_by": "wbrag kb"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a command has to say: data for `--json`, lines for a person, the exit code."""

    data: Any
    lines: list[str]
    code: int = 0


#: A command's name, the function that carries it out, and the names and settings of its arguments.
Command = tuple[str, Any, dict[str, dict[str, Any]]]
#: The argument that all commands of a program begin with: its name, its help, and what is made of it.
Begins = tuple[str, str, Callable[[str], Any]]


def parser_of(program: str, text: str, commands: Sequence[Command], where: Begins) -> argparse.ArgumentParser:
    """The command line of a program; one of a single command has no name for it."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=program, description=text.strip(), formatter_class=raw)
    added = parser.add_subparsers(required=True, metavar="COMMAND") if len(commands) > 1 else None
    for command, run, arguments in commands:
        one = added.add_parser(command, help=run.__doc__, description=run.__doc__) if added else parser
        one.add_argument(where[0], help=where[1])
        for key, settings in arguments.items():
            one.add_argument(key, **settings)
        one.add_argument("--json", action="store_true", help="print data")
        one.set_defaults(carry_out=run)  # no name of an argument
    return parser


def carried_out(parser: argparse.ArgumentParser, where: Begins, words: list[str] | None) -> int:
    """Carry out the command of a command line, print what it says and return the exit code."""
    args = parser.parse_args(words)
    try:
        found = args.carry_out(where[2](getattr(args, where[0])), args)
    except (StoreError, ConfigError, InputError, OverErrorBudget, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not (told := fault_of(error)):
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    text = json.dumps(found.data, indent=2, ensure_ascii=False) if args.json else "\n".join(found.lines)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has seen enough; nor shall Python try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(found.code)


def of_units(carry_out: Callable[[Place, argparse.Namespace], Told]) -> Callable[[Place, argparse.Namespace], Told]:
    """The command for a store, of a run's folder for the store of its units, which is then named."""

    @wraps(carry_out)
    def told(place: Place, args: argparse.Namespace) -> Told:
        store = stores_of(place)[-1]
        found = carry_out(store, args)
        return found if store == place else replace(found, lines=[f"{store}:", *found.lines])

    return told


def log(place: Place, args: argparse.Namespace) -> Told:
    """Every version: live passages, fragments, when it was written, what it came from."""
    newest = current(place)
    versions = history(place)
    times = [datetime.fromtimestamp((place.stat(record_name(one.version)) or (0, 0.0))[1]) for one in versions]
    told: list[dict[str, Any]] = [
        {"version": one.version, "kept": one.version >= newest.oldest, "current": one.version == newest.version}
        | {"live": one.rows, "fragments": one.fragments, "base": one.base[0] if one.base else None}
        | {
            "restored_from": one.restored_from,
            "note": one.note,
            "written": written.astimezone().isoformat(" ", "seconds"),
        }
        for one, written in zip(versions, times, strict=True)
    ]
    lines = [f"{'version':>7} {'passages':>10} {'fragments':>9}  {'written':<16}  what"]
    known: dict[str, Any] = {}
    for one, row in zip(versions, told, strict=True):
        live, after = f"{one.rows:,}" if row["kept"] else "gone", one.note.get("decisions", known)
        words = _decided(known, after) if one.note.get("made_by") == "units" else []  # a purge takes some away
        what, known = "; ".join([_what(one), *words]) + (" (current)" if row["current"] else ""), after
        lines.append(f"{one.version:>7} {live:>10} {row['fragments']:>9}  {row['written'][:16]}  {what}")
    return Told(told, lines)


def show(place: Place, args: argparse.Namespace) -> Told:
    """One version in full."""
    one = read_version(place, args.version) if args.version else current(place)
    data = rows.opened(place, one)
    fragments = [fragment.metadata for fragment in data.get_fragments()]
    dead = sum(fragment.num_deletions for fragment in fragments)
    facts = asdict(one) | {"deleted": dead, "columns": {field.name: str(field.type) for field in data.schema}}
    lines = [f"version {one.version}: {_what(one)}", f"passages  {one.rows:,} live, {dead:,} deleted"]
    lines += [f"columns   {', '.join(field.name for field in data.schema)}"]
    lines += [f"vectors   {one.spec.kind}, {one.spec.dimension} dimensions", f"encoder   {one.encoder}"]
    lines += [f"base      version {one.base[0]}"] if one.base else []
    lines += [f"fragment  {one.id}  {one.physical_rows:,} rows, {one.num_deletions:,} deleted" for one in fragments]
    return Told(facts, [*lines, *(f"note      {key}: {json.dumps(value)}" for key, value in facts["note"].items())])


def compare(place: Place, args: argparse.Namespace) -> Told:
    """Ids that were added, removed or changed."""
    found = diff(place, args.a, args.b)
    lines = [", ".join(f"{len(ids):,} {sort}" for sort, ids in found.items())]
    for sign, ids in zip("+-~", found.values(), strict=True):
        lines += [f"{sign} {key}" for key in ids[:SHOWN]]
        lines += [f"{sign} ... and {len(ids) - SHOWN:,} more"] if len(ids) > SHOWN else []
    return Told(found, lines)


def roll_back(place: Place, args: argparse.Namespace) -> Told:
    """A new version with an old one's content."""
    there = args.version in numbers(place)
    told, base = read_version(place, args.version).base if there else None, base_of(Path(place.root).parent)
    if told and base and told[0] < (oldest := current(base).oldest):
        here = f"{place}: version {args.version} belongs to version {told[0]} of {base}"
        raise StoreError(f"{here}, which is not kept any more; the oldest is {oldest}")
    return _made(place, rollback(place, args.version, MADE_BY), f"has the content of version {args.version}")


def forget(place: Place, args: argparse.Namespace) -> Told:
    """A new version without some passages; their bytes go with compact and gc."""
    before = current(place)
    after = changes.delete(place, args.id, MADE_BY)
    gone = before.rows - after.rows
    return _made(place, after, f"is without {gone:,} of version {before.version}'s {before.rows:,} passages")


def check(place: Place, args: argparse.Namespace) -> Told:
    """All that is wrong; exit code 1 if anything is."""
    stores = _there(place)
    faults = [fault for store in stores for fault in verify(store, full=args.full)]
    depth = "every byte" if args.full else "records and sizes; --full reads every byte"
    whole = [f"{store}: whole ({depth})" for store in stores]
    return Told({"faults": faults, "full": args.full}, faults or whole, 1 if faults else 0)


def mend(place: Place, args: argparse.Namespace) -> Told:
    """Damaged and missing indices made again from the rows."""
    rebuilt = [f"{store}/{name}" for store in _there(place) for name in repair(store)]
    return Told({"rebuilt": rebuilt}, [f"rebuilt {name}" for name in rebuilt] or [f"{place}: nothing to repair"])


def _there(place: Place) -> list[Place]:
    """The stores that a path means, without a write-back that has no version yet."""
    return [store for store in stores_of(place) if store == place or latest(store)]


def shrink(place: Place, args: argparse.Namespace) -> Told:
    """Small fragments and those with deleted rows written anew."""
    before = current(place)
    after = changes.compact(place, MADE_BY, args.keep_rows)
    told = f"has {after.fragments} fragments, version {before.version} {before.fragments}"
    return _made(place, after, told)


def collect(place: Place, args: argparse.Namespace) -> Told:
    """Files of versions that are not kept, and what crashed jobs left."""
    keep = max(args.keep, current(place).version - _shown(place) + 1) if args.keep and _shown(place) else args.keep
    names = changes.collect(place, keep, args.grace * 3600, args.dry_run)
    verb = "would remove" if args.dry_run else "removed"
    return Told({"removed": names, "dry_run": args.dry_run}, [f"{verb} {n}" for n in names] or ["nothing to remove"])


def _shown(place: Place) -> int:
    """The version of a base that the units beside it belong to, which may be an old one; 0 for any other store."""
    units = None if place.remote else latest(Path(place.root).parent / "writeback")
    told = units.base if units else None
    return told[0] if told and told[0] in numbers(place) and named(read_version(place, told[0])) == told else 0


def purge(place: Place, args: argparse.Namespace) -> Told:
    """Passages, and all that was made of them, removed for good from a run and its cache."""
    from wbrag.life import purge as run_purge

    run = Path(place.root)
    ids = [*args.id, *(run_purge.passages_of_files(run, args.source) if args.source else ())]
    if not ids:
        raise ConfigError("no passage is named; give ids, or --source with the files that they were cut out of")
    if args.lift:
        run_purge.lift(run, ids)
        return Told({"lifted": ids}, [f"{run}: {', '.join(ids)} may come back with the next update"])
    cache = Path(args.cache) if args.cache else None
    made = run_purge.purge(run, ids, args.everywhere, args.force, cache)
    lines = []
    for file, told in made.items():
        went = ", ".join(f"{count:,} {kind}" for kind, count in sorted(told.removed.items()))
        lines += [f"{file}: {went}", "  ".join(f"{k} v{a} -> v{b}" for k, (a, b) in told.versions.items())]
    facts = {str(file): asdict(told) for file, told in made.items()}
    left = [one for one in run_purge.beyond(run) if one]
    return Told({"purged": facts, "not_reached": left}, [*lines, "Not reached:", *(f"  {one}" for one in left)])


def contributors(place: Place, args: argparse.Namespace) -> Told:
    """The runs that brought units into a knowledge base of many runs."""
    from wbrag.run.contribute import contributions

    found = contributions(Path(place.root))
    lines = [f"{units:>7,} units, {alone:>7,} of it alone  {name}" for name, (units, alone) in found.items()]
    data = {name: {"units": units, "alone": alone} for name, (units, alone) in found.items()}
    return Told(data, lines or [f"{place}: no run has brought units"])


def bring(place: Place, args: argparse.Namespace) -> Told:
    """Bring a finished run's units, as they are now, into a knowledge base of many runs."""
    from wbrag.run.contribute import contribute

    made = contribute(Path(args.run), Path(place.root))
    return Told(asdict(made), [str(made)])


def take_back(place: Place, args: argparse.Namespace) -> Told:
    """Take out of a knowledge base what a run alone has brought."""
    from wbrag.run.contribute import withdraw

    made = withdraw(Path(place.root), args.name)
    return Told(asdict(made), [str(made)])


def move_on(place: Place, args: argparse.Namespace) -> Told:
    """Bring a run's units into another knowledge base, then take them out of this one."""
    from wbrag.run.contribute import move

    went, came = move(Path(place.root), args.name, Path(args.run), Path(args.other))
    return Told({"from": asdict(went), "to": asdict(came)}, [f"{args.other}: {came}", f"{place}: {went}"])


def take_out(place: Place, args: argparse.Namespace) -> Told:
    """FlashRAG's corpus and index, and a Parquet table."""
    if (out := place_of(args.folder)).remote:
        raise ConfigError(f"{out}: an export is a folder of this machine; copy it from there")
    stores = [*_there(place), *map(place_of, args.beside)]
    facts = export(stores, Path(out.root), args.dtype, args.groups)
    told = f"{args.folder}: {facts['rows']:,} passages, {facts['dtype']} index of {facts['dimension']}"
    return Told(facts, [told] if place in stores else [f"{' and '.join(map(str, stores))}:", told])


def take_in(place: Place, args: argparse.Namespace) -> Told:
    """A store of FlashRAG's corpus and flat index."""
    folder = Path(args.folder)
    index = Path(args.index) if args.index else _only(folder, "*.index")
    corpus = Path(args.corpus) if args.corpus else _only(folder, "*.jsonl")
    noted = json.loads(facts.read_text()).get("encoder") if (facts := folder / "export.json").is_file() else None
    encoder = Encoder(**noted) if noted and not args.encoder else _encoder(place, args.encoder)
    return _made(place, adopt(corpus, index, place, encoder, MADE_BY | {"corpus": str(corpus)}), f"adopted {index}")


def _what(version: Version) -> str:
    if version.restored_from:
        return f"version {version.restored_from} again"
    words = [f"{key} {value}" for key, value in version.note.items() if isinstance(value, str | int)]
    return ", ".join(words) or "no note"


def _decided(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What people decided about units between two notes, each of which has all decisions, and why."""
    new = {key: one for key, one in after.items() if one != before.get(key)}
    other = {key: f" into {one['unit']['id']}" for key, one in new.items() if one["state"] == "edited"}
    made = [f"{one['state']} {key}{other.get(key, '')}: {one['why']}".removesuffix(": ") for key, one in new.items()]
    return made + [f"restored {key}" for key in before if key not in after]


def _made(place: Place, version: Version, what: str) -> Told:
    return Told(asdict(version), [f"{place}: version {version.version} {what}"])


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise StoreError(f"{folder}: {len(found)} files are called {pattern}, not one; name it with an option")
    return found[0]


def _encoder(place: Place, file: str) -> Encoder:
    """The encoder of a file like those of conf/encoder/, else the one that the store's notes name."""
    if file:
        settings: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Encoder), OmegaConf.load(file)))
        return Encoder(**asdict(settings))
    version = latest(place)
    noted = noted_encoder(place, version) if version else None
    if noted is None:
        raise StoreError(f"{place}: nothing says which encoder made it; give --encoder conf/encoder/X.yaml")
    return noted
