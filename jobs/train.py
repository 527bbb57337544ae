"""Train a knowledge base and measure what it changed; the same command again resumes.

    python jobs/train.py benchmark=nq world=DIR run_dir=DIR
    python jobs/train.py benchmark=files benchmark.train=F benchmark.test=F corpus=F run_dir=DIR
    python jobs/train.py -m backbone=A,B benchmark=nq,fever method=naive,replug world=DIR
    python jobs/train.py benchmark=nq world=DIR run_dir=DIR plan=true    # what it would ask for and cost

A sweep runs its points one after another in one Ray session, the first override varying slowest: with `backbone` first
each engine starts once. A point that fails does not stop the others.

Exit codes: 0 done, 1 failed, 2 settings or inputs that cannot work (a run that another process works on, too), 3 more
rows failed than max_error_rate allows, 130 and 143 stopped by Ctrl-C and SIGTERM. A sweep names the points that failed
at its end: 2 where all of them ended with 2, 3 where some ended with 3 and none with 1, else 1.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command_line import plan_told, point, print_results, settings, start
from omegaconf import DictConfig

from wbrag.config import TrainConfig
from wbrag.run.pipeline import train


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train, then print the table of results and where the report is."""
    with point() as session:
        typed = settings(cfg, TrainConfig)
        if typed.plan:
            print(plan_told({typed.benchmark.name: typed}))
            return
        print_results(train(typed, session), typed.k, Path(typed.run_dir))


if __name__ == "__main__":
    start(main)
