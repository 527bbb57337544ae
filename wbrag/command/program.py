"""The command `wbrag`: which of its commands is meant, and the help of all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module

import wbrag
from wbrag.command.faults import Parser, fault_of

DESCRIPTION = "Train the knowledge base of a RAG system: WriteBack-RAG on your documents and labelled questions."
EXAMPLES = """
examples:
  wbrag train benchmark=files benchmark.train=train.jsonl benchmark.test=test.jsonl corpus=corpus.jsonl \\
      backbone=openai backbone.model=NAME backbone.base_url=URL run_dir=runs/mine
  wbrag units list runs/mine
  wbrag serve runs/mine

`wbrag COMMAND --help` tells more. Settings are words KEY=VALUE. A store is a folder or an s3:// URL. Exit codes: 0
done, 1 failed, 2 it cannot be done as asked (the message says why), 3 more rows failed than are allowed."""
#: The commands that have settings, and what each is for.
JOBS = {
    "check": "find what a training would fail over, before any work",
    "plan": "what a training would ask for and cost",
    "train": "train a knowledge base and measure what it changed",
    "evaluate": "measure a trained one on another test file",
    "update": "bring it to its documents and questions as they are now",
    "index": "build the base index of a corpus, or adopt one",
    "questions": "make questions with answers of documents, where there are none",
    "reproduce": "the paper's experiments over a grid, and one report",
    "transfer": "runs with each other's units",
    "placebo": "runs with placebos in place of their units",
    "ablate": "runs with other thresholds of the gates",
    "compare_units": "runs with other units of the same examples",
}
OTHERS = {
    "units": "look at units, and say which of them are good",
    "kb": "look at a store, and take care of it: versions, rollback, verify, export, ...",
    "report": "write a run's report anew",
    "trace": "the life of one example, test question or unit",
    "serve": "search over HTTP, and a page on which units are reviewed",
    "completion": "print what a shell needs to complete these commands: bash, zsh or tcsh",
}


def main(words: list[str] | None = None) -> int:
    """Carry out a command of a command line, and return the exit code; without `words`, of this process's."""
    given = sys.argv[1:] if words is None else words
    name = given[0] if given else "--help"
    if name not in JOBS | OTHERS:
        top().parse_args([name])  # leaves
    if words is None:
        sys.argv[:] = [f"wbrag {name}", *given[1:]]  # as a lease and a certificate quote it
    if name in JOBS:  # Arrow's own allocator keeps what tables took that were read one after the other
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        return _carried_out(name, given[1:])
    except ModuleNotFoundError as error:
        if not (told := fault_of(error)):
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2


def _carried_out(name: str, words: list[str]) -> int:
    match name:
        case "kb" | "units" | "serve":
            main: Callable[[list[str]], int] = import_module(
                f"wbrag.{'' if name == 'serve' else 'command.'}{name}"
            ).main
            return main(words)
        case "report" | "trace":
            from wbrag.command import runs

            return runs.main(name, words)
        case "completion":
            return _completion(words)
    from wbrag.command.jobs import run_job

    return run_job("train", [*words, "plan=true"]) if name == "plan" else run_job(name, words)


def top() -> argparse.ArgumentParser:
    """The command line of `wbrag` without those of its commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("wbrag", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"wbrag {wbrag.__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, told in (JOBS | OTHERS).items():
        added.add_parser(name, help=told)
    return parser


def _completion(words: list[str]) -> int:
    """Print the completion of a shell."""
    import shtab

    from wbrag.command import kb, runs, units

    parser = argparse.ArgumentParser("wbrag completion", description=OTHERS["completion"])
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    shell = parser.parse_args(words).shell
    whole = argparse.ArgumentParser("wbrag", description=DESCRIPTION)
    added = whole.add_subparsers(metavar="COMMAND")
    own = {"kb": kb.parser(), "units": units.parser(), "report": runs.parser("report"), "trace": runs.parser("trace")}
    for name, told in (JOBS | OTHERS).items():
        parents = [own[name]] if name in own else []
        one = added.add_parser(name, help=told, description=told, parents=parents, add_help=not parents)
        if name in JOBS:
            one.add_argument("-m", "--multirun", action="store_true", help="a sweep over values with commas between")
            one.add_argument("--cfg", choices=["job"], help="print the settings that would be used")
        if name == "completion":
            one.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    print(shtab.complete(whole, shell))
    return 0
