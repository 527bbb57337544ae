"""`wbrag report` and `wbrag trace`: a run's report written anew, the life of one example or unit of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import dedent

from wbrag.command.kb_commands import Begins, Command, Told, carried_out, parser_of
from wbrag.command.units import shown
from wbrag.report.trace import life
from wbrag.run.folder import RunError, tables_now


def report(run: Path, args: argparse.Namespace) -> Told:
    """Write a run's report anew, of an updated run that of its last update, and say where it is.

    wbrag report runs/mine
    wbrag report runs/mine/updates/0001
    wbrag report runs/mine/evaluations/files-0123abcd
    """
    from wbrag.report.run_report import terminal_table, write_report

    folder = tables_now(run)
    metrics = write_report(folder)
    return Told(metrics, [terminal_table(metrics), "", f"report: {folder / 'report.html'}"])


def trace(run: Path, args: argparse.Namespace) -> Told:
    """Print the life of a training example, a test question or a unit.

    wbrag trace runs/mine train_178
    wbrag trace runs/mine "What river is Oakwick on?"
    wbrag trace runs/mine wb-48a029bd6a0cfeb1
    """
    try:
        text = life(tables_now(run), args.id)
    except RunError:
        if (run / "writeback").is_dir() and args.id.startswith("wb-"):  # as `schema.unit_id` makes them
            return shown(run, args)
        raise
    return Told({"id": args.id, "life": text}, [text])


WHERE: Begins = ("folder", "a run's folder", Path)
COMMANDS: dict[str, Command] = {
    "report": ("report", report, {}),
    "trace": ("trace", trace, {"id": {"help": "of an example or a unit, or a question, word for word"}}),
}


def parser(name: str) -> argparse.ArgumentParser:
    """The command line of one of COMMANDS."""
    command = COMMANDS[name]
    return parser_of(f"wbrag {name}", dedent(f"    {command[1].__doc__}"), [command], WHERE)


def main(name: str, words: list[str]) -> int:
    """Carry out one of COMMANDS and return the exit code."""
    return carried_out(parser(name), WHERE, words)
