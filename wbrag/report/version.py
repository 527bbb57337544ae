"""Which versions of the stores a report speaks of, and whether the knowledge base has moved on since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wbrag.report.page import retold
from wbrag.run.folder import UPDATES, read_record, trained_run, write_record, write_text
from wbrag.store.versions import pair

#: What holds folders with a report of their own, beside the run's.
AROUND = (UPDATES, "evaluations")
NAMES = {"writeback": "the units", "base": "the passages"}


def versions_of(run: Path) -> dict[str, dict[str, int | None]]:
    """The versions of base and write-back store that a run, update or evaluation was `measured` with, as its run.json
    has them, and those `now` in its folder; None where there is none, or nobody noted it.
    """
    own = _own(run)
    known = read_record(run / "run.json").get("stores") or {}
    found = pair(own / "base", own / "writeback") if (own / "base").is_dir() else (None, None)
    now = {name: one.version if one else None for name, one in zip(("base", "writeback"), found, strict=True)}
    return {"measured": {name: known.get(name) for name in now}, "now": now}


def versions_told(run: Path, versions: dict[str, dict[str, int | None]]) -> str:
    """What a page says of them: when it was measured, with which versions, and where to look once they are old; ""
    where nothing of it is known.
    """
    measured, now = versions["measured"], versions["now"]
    day = str(read_record(run / "run.json").get("measured_at", ""))[:16]
    join = " and ".join
    parts = [f"version {measured[name]} of {called}" for name, called in NAMES.items() if measured[name] is not None]
    told = f"Measured{f' {day} UTC' if day else ''}{f' with {join(parts)}' if parts else ''}." if day or parts else ""
    if all(number in (None, now[name]) for name, number in measured.items()):
        return told
    newer = [f"version {now[name]} of {NAMES[name]}" for name in NAMES if now[name] not in (None, measured[name])]
    own = _own(run)
    last = max((own / UPDATES).glob("*/report.html"), default=None)
    where = f"; the last update's report is {last}" if last and last.parent != run else ""
    told += f" The knowledge base has moved on since, to {join(newer) or 'none of them'}: these figures are not of it"
    return f"{told} (wbrag kb log {own} says what came{where})."


def stamp(run: Path) -> None:
    """Have what is reported in a run's folder, of its updates and evaluations too, say which versions it speaks of and
    whether they are still the current ones: in metrics.json, report.md and report.html. Nothing is measured again.
    """
    folders = [run, *(one for name in AROUND if (run / name).is_dir() for one in sorted((run / name).iterdir()))]
    for folder in (one for one in folders if (one / "metrics.json").is_file() and (one / "run.json").is_file()):
        metrics: dict[str, Any] = {**read_record(folder / "metrics.json"), "versions": versions_of(folder)}
        told = versions_told(folder, metrics["versions"])
        for page in (folder / name for name in ("report.html", "report.md")):
            if page.is_file():
                write_text(page, retold(page.read_text(encoding="utf-8"), told))
        write_record(folder / "metrics.json", metrics)


def stamp_around(store: object) -> None:
    """`stamp` for the run whose write-back store this is, if it is a folder of one."""
    if (run := Path(str(store)).parent).joinpath("metrics.json").is_file():
        stamp(run)


def _own(run: Path) -> Path:
    return run.parents[1] if run.parent.name == UPDATES else trained_run(run)
