"""Train a knowledge base and measure what it changed; the same command again resumes.

    python jobs/train.py benchmark=nq world=DIR run_dir=DIR
    python jobs/train.py benchmark=files benchmark.train=F benchmark.test=F corpus=F run_dir=DIR

Exit codes: 0 done, 1 failed, 2 settings or inputs that cannot work, 3 more rows failed than max_error_rate allows.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command_line import exit_codes, print_results, settings
from omegaconf import DictConfig

from wbrag.pipeline import train


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train, then print the table of results and where the report is."""
    with exit_codes():
        typed = settings(cfg)
        print_results(train(typed), typed.k, Path(typed.run_dir))


if __name__ == "__main__":
    with exit_codes():
        main()
