"""Look at a knowledge base's store and take care of it.

    wbrag kb log STORE                      its versions, the newest last
    wbrag kb show STORE [VERSION]           what one version holds
    wbrag kb diff STORE A B                 passages that came, went or changed from version A to B
    wbrag kb rollback STORE VERSION         a new version with the content of an old one
    wbrag kb delete STORE ID...             a new version without these passages
    wbrag kb verify STORE [--full]          is every byte what was written
    wbrag kb repair STORE                   make damaged indices again
    wbrag kb compact STORE                  fewer fragments, without the deleted rows
    wbrag kb gc STORE [--grace HOURS] [--keep N] [--dry-run]     remove what no kept version needs
    wbrag kb purge RUN ID... [--source FILE...] [--everywhere]   passages, and what was made of them, gone
    wbrag kb runs KB                        the runs that brought units into a knowledge base of many (kb=DIR); also
                                            contribute KB RUN, withdraw KB NAME, move KB NAME RUN KB2
    wbrag kb export STORE DIR [--with STORE2] [--groups G...]    FlashRAG's files and a Parquet table
    wbrag kb import STORE DIR [--encoder conf/encoder/X.yaml]    a store of FlashRAG's files, not encoded again

STORE is a folder or S3 URL; a run's folder, RUN, means its units, RUN/writeback (to verify, repair and export: its
passages too, RUN/base). KB is a folder with base/ and writeback/.
`--json` prints data. Exit codes: 0 done, 1 verify found damage, 2 it cannot be done (the message says why).
"""

from __future__ import annotations

import argparse

from wbrag.command import kb_commands as commands
from wbrag.store.place import place_of

COMMANDS: list[commands.Command] = [
    ("log", commands.of_units(commands.log), {}),
    (
        "show",
        commands.of_units(commands.show),
        {"version": {"type": int, "nargs": "?", "default": 0, "help": "default: the current one"}},
    ),
    ("diff", commands.of_units(commands.compare), {"a": {"type": int}, "b": {"type": int}}),
    ("rollback", commands.of_units(commands.roll_back), {"version": {"type": int}}),
    ("delete", commands.of_units(commands.forget), {"id": {"nargs": "+", "help": "of a passage or unit"}}),
    ("verify", commands.check, {"--full": {"action": "store_true", "help": "hash every byte"}}),
    ("repair", commands.mend, {}),
    (
        "compact",
        commands.of_units(commands.shrink),
        {"--keep-rows": {"type": int, "default": 100_000, "help": "clean fragments of so many rows stay"}},
    ),
    (
        "gc",
        commands.of_units(commands.collect),
        {
            "--grace": {"type": float, "default": 24.0, "help": "hours that a file nobody needs is left alone"},
            "--keep": {"type": int, "default": 0, "help": "versions to keep, from the newest; 0: all"},
            "--dry-run": {"action": "store_true", "help": "only say what would go"},
        },
    ),
    (
        "purge",
        commands.purge,
        {
            "id": {"nargs": "*", "help": "of a passage"},
            "--source": {"nargs": "+", "default": [], "help": "all passages of these files (their column `source`)"},
            "--everywhere": {"action": "store_true", "help": "from all runs that share the cache, too"},
            "--force": {"action": "store_true", "help": "do not wait for readers of old versions"},
            "--lift": {"action": "store_true", "help": "let them come back with the next update"},
            "--cache": {"default": "", "help": "what the run shares with others; default: as its settings say"},
        },
    ),
    ("runs", commands.contributors, {}),
    ("contribute", commands.bring, {"run": {"help": "a finished run's folder"}}),
    ("withdraw", commands.take_back, {"name": {"help": "of a run, as `runs` has it"}}),
    (
        "move",
        commands.move_on,
        {"name": {"help": "of a run, as `runs` has it"}, "run": {"help": "its folder"}, "other": {"help": "where to"}},
    ),
    (
        "export",
        commands.take_out,
        {
            "folder": {"help": "a new folder"},
            "--with": {"action": "append", "default": [], "dest": "beside", "metavar": "STORE", "help": "put after it"},
            "--dtype": {"choices": ["float32", "float16"], "default": "float32", "help": "of the index"},
            "--groups": {"nargs": "*", "help": "only what a reader with these sees; none: what everybody may see"},
        },
    ),
    (
        "import",
        commands.take_in,
        {
            "folder": {"help": "with one .jsonl and one .index"},
            "--corpus": {"default": "", "help": "the corpus, where there are several .jsonl"},
            "--index": {"default": "", "help": "the FAISS index, where there are several .index"},
            "--encoder": {"default": "", "help": "a file of conf/encoder/; default: what export.json names"},
        },
    ),
]


WHERE: commands.Begins = ("store", "folder, also a run's, or s3:// URL", place_of)


def parser() -> argparse.ArgumentParser:
    """The command line of `wbrag kb`."""
    return commands.parser_of("wbrag kb", __doc__ or "", COMMANDS, WHERE)


def main(words: list[str] | None = None) -> int:
    """Carry out one command, print what it says and return the exit code."""
    return commands.carried_out(parser(), WHERE, words)
