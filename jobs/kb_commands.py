"""The commands of kb.py: each takes a store and the parsed arguments, and says what it did or found."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wbrag.config import Encoder
from wbrag.store.files import StoreError
from wbrag.store.live import dead_rows, diff
from wbrag.store.manifest import Manifest, history, latest, read_manifest
from wbrag.store.objects import open_storage
from wbrag.store.storage import Store

#: Ids that `diff` lists of each sort in a terminal.
SHOWN = 10
MADE_BY = {"made_by": "kb.py"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a command has to say: data for `--json`, lines for a person, the exit code."""

    data: Any
    lines: list[str]
    code: int = 0


def log(store: Store, args: argparse.Namespace) -> Told:
    """Every version: live passages, segments, what it came from."""
    manifests = history(store)
    if not manifests:
        raise StoreError(f"{store}: no version was ever published there")
    newest = manifests[-1]
    rows: list[dict[str, Any]] = [
        {"version": m.version, "kept": m.version >= newest.oldest, "current": m is newest}
        | {"live": _live(store, m) if m.version >= newest.oldest else None, "segments": len(m.segments)}
        | {"restored_from": m.restored_from, "note": m.note}
        for m in manifests
    ]
    lines = [f"{'version':>7} {'passages':>10} {'segments':>8}  what"]
    for m, row in zip(manifests, rows, strict=True):
        live = "gone" if row["live"] is None else f"{row['live']:,}"
        lines.append(f"{m.version:>7} {live:>10} {len(m.segments):>8}  {_what(m)}{' (current)' if m is newest else ''}")
    return Told(rows, lines)


def show(store: Store, args: argparse.Namespace) -> Told:
    """One version in full."""
    m = _version(store, args.version)
    dead = len(dead_rows(store, m))
    facts = asdict(m) | {"deleted": dead, "live": _live(store, m)}
    lines = [f"version {m.version}: {_what(m)}", f"passages  {facts['live']:,} live, {dead:,} deleted"]
    lines += [f"vectors   {m.spec.kind}, {m.spec.dimension} dimensions", f"encoder   {m.encoder}"]
    lines += [f"segment   {ref.id}  rows {ref.row_start:,} to {ref.row_start + ref.rows - 1:,}" for ref in m.segments]
    return Told(facts, [*lines, *(f"note      {key}: {json.dumps(value)}" for key, value in m.note.items())])


def compare(store: Store, args: argparse.Namespace) -> Told:
    """Ids that were added, removed or changed."""
    found = asdict(diff(store, args.a, args.b))
    lines = [", ".join(f"{len(ids):,} {sort}" for sort, ids in found.items())]
    for sign, ids in zip("+-~", found.values(), strict=True):
        lines += [f"{sign} {key}" for key in ids[:SHOWN]]
        lines += [f"{sign} ... and {len(ids) - SHOWN:,} more"] if len(ids) > SHOWN else []
    return Told(found, lines)


def roll_back(store: Store, args: argparse.Namespace) -> Told:
    """A new version with an old one's content."""
    from wbrag.store.revise import rollback

    return _made(store, rollback(store, args.version, MADE_BY), f"has the content of version {args.version}")


def forget(store: Store, args: argparse.Namespace) -> Told:
    """A new version without some passages; their bytes go with compact and gc."""
    from wbrag.store.revise import delete

    before = _version(store, 0)
    after = delete(store, args.id, MADE_BY)
    gone = _live(store, before) - _live(store, after)
    return _made(store, after, f"is without {gone:,} of version {before.version}'s {_live(store, before):,} passages")


def check(store: Store, args: argparse.Namespace) -> Told:
    """All that is wrong; exit code 1 if anything is."""
    from wbrag.store.verify import verify

    _version(store, 0)
    faults = verify(store, full=args.full)
    depth = "every byte" if args.full else "manifests, sizes and segment facts; --full reads every byte"
    return Told({"faults": faults, "full": args.full}, faults or [f"{store}: whole ({depth})"], 1 if faults else 0)


def mend(store: Store, args: argparse.Namespace) -> Told:
    """Vectors made again by the encoder that the store names."""
    from wbrag.retrieval.encoder import open_encoder
    from wbrag.store.verify import repair

    encoder = open_encoder(_encoder(store, args.encoder))
    rebuilt = repair(store, encoder.encode_passages, encoder.fingerprint)
    return Told({"rebuilt": rebuilt}, [f"rebuilt {name}" for name in rebuilt] or [f"{store}: nothing to repair"])


def shrink(store: Store, args: argparse.Namespace) -> Told:
    """Small segments and those with deleted rows written anew."""
    from wbrag.store.revise import compact

    before = _version(store, 0)
    after = compact(store, MADE_BY, args.keep_rows)
    return _made(store, after, f"has {len(after.segments)} segments, version {before.version} {len(before.segments)}")


def collect(store: Store, args: argparse.Namespace) -> Told:
    """Files of versions that are not kept, and what crashed jobs left."""
    from wbrag.store.garbage import collect_garbage

    _version(store, 0)
    names = collect_garbage(store, args.grace * 3600, args.keep, args.dry_run)
    verb = "would remove" if args.dry_run else "removed"
    return Told({"removed": names, "dry_run": args.dry_run}, [f"{verb} {n}" for n in names] or ["nothing to remove"])


def take_out(store: Store, args: argparse.Namespace) -> Told:
    """FlashRAG's corpus and index, and a Parquet table."""
    from wbrag.store.export import export

    stores = [store, *(open_storage(where, Path(args.cache)) for where in args.beside)]
    facts = export(stores, Path(args.folder), args.dtype)
    return Told(facts, [f"{args.folder}: {facts['rows']:,} passages, {facts['dtype']} index of {facts['dimension']}"])


def take_in(store: Store, args: argparse.Namespace) -> Told:
    """A store of FlashRAG's corpus and flat index."""
    from wbrag.store.adopt import adopt

    if not isinstance(store, Path):
        raise StoreError(f"{store}: an import writes to a folder")
    folder = Path(args.folder)
    index = Path(args.index) if args.index else _only(folder, "*.index")
    corpus = Path(args.corpus) if args.corpus else _only(folder, "*.jsonl")
    noted = json.loads(facts.read_text()).get("encoder") if (facts := folder / "export.json").is_file() else None
    encoder = Encoder(**noted) if noted and not args.encoder else _encoder(store, args.encoder)
    return _made(store, adopt(corpus, index, store, encoder, MADE_BY | {"corpus": str(corpus)}), f"adopted {index}")


def _version(store: Store, version: int) -> Manifest:
    found = read_manifest(store, version) if version else latest(store)
    if found is None:
        raise StoreError(f"{store}: no version was ever published there")
    return found


def _live(store: Store, manifest: Manifest) -> int:
    return sum(ref.rows for ref in manifest.segments) - len(dead_rows(store, manifest))


def _what(manifest: Manifest) -> str:
    if manifest.restored_from:
        return f"version {manifest.restored_from} again"
    words = [f"{key} {value}" for key, value in manifest.note.items() if isinstance(value, str | int)]
    return ", ".join(words) or "no note"


def _made(store: Store, manifest: Manifest, what: str) -> Told:
    return Told(asdict(manifest), [f"{store}: version {manifest.version} {what}"])


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise StoreError(f"{folder}: {len(found)} files are called {pattern}, not one; name it with an option")
    return found[0]


def _encoder(store: Store, file: str) -> Encoder:
    """The encoder of a file like those of conf/encoder/, else the one that the store's notes name."""
    from omegaconf import OmegaConf

    from wbrag.store.notes import noted_encoder

    if file:
        settings: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Encoder), OmegaConf.load(file)))
        return Encoder(**asdict(settings))
    noted = noted_encoder([store])
    if noted is None:
        raise StoreError(f"{store}: nothing says which encoder made it; give --encoder conf/encoder/X.yaml")
    return noted
