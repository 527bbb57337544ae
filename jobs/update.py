"""Bring a trained knowledge base to its documents and questions as they are now; the same command again resumes.

    python jobs/update.py run_dir=DIR corpus=F                     # passages that came, changed or went
    python jobs/update.py run_dir=DIR corpus=F dry_run=true        # only say which
    python jobs/update.py run_dir=DIR benchmark.train=F            # training questions that came or went

Only what reads otherwise than before is asked again, and base and write-back become visible together. All other
settings are those of the run. The last line is for a pager. Exit codes as those of jobs/train.py; with nothing to do 0.
"""

from __future__ import annotations

import hydra
from command_line import point, settings, start
from omegaconf import DictConfig

from wbrag.config import UpdateConfig
from wbrag.run.update import Changes, Updated, update


@hydra.main(version_base="1.3", config_path="../conf", config_name="update")
def main(cfg: DictConfig) -> None:
    """Update, then print what was done."""
    with point() as session:
        typed = settings(cfg, UpdateConfig)
        print(told(update(typed, session), typed.dry_run))


def told(found: Updated | Changes, dry_run: bool) -> str:
    """What an update did, or would do, in one line; before it where its report is."""
    if isinstance(found, Changes):
        nothing = "" if found or dry_run else "nothing to do: "
        return f"{nothing}{passages(found)}, {found.untouched:,} untouched"
    before, after = found.versions
    units = f"{found.retired:,} units retired, {found.written:,} written, {found.left_out:,} left out"
    asked = f"{found.asked:,} of {found.examples:,} examples asked"
    spent = f"{found.calls:,} calls, {spoken(found.seconds)}"
    line = f"v{before} -> v{after}: {passages(found.passages)}; {asked}; {units}; {spent}"
    return f"report: {found.folder}/report.html\n{line}"


def passages(found: Changes) -> str:
    """How many passages changed, went and came, and how many stay away."""
    purged = f", {found.purged:,} that are purged left out" if found.purged else ""
    return f"{found.changed:,} passages changed, {found.removed:,} removed, {found.added:,} added{purged}"


def spoken(seconds: float) -> str:
    """A duration as one says it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    start(main)
