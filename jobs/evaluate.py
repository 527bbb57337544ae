"""Measure a trained knowledge base on another test file: the settings of the training, with another benchmark.test.

    python jobs/evaluate.py benchmark=files benchmark.train=F benchmark.test=OTHER corpus=F run_dir=DIR

Exit codes as those of jobs/train.py.
"""

from __future__ import annotations

import hydra
from command_line import exit_codes, print_results, settings
from omegaconf import DictConfig

from wbrag.pipeline import evaluate


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate, then print the table of results and where the report is."""
    with exit_codes():
        typed = settings(cfg)
        folder, metrics = evaluate(typed)
        print_results(metrics, typed.k, folder)


if __name__ == "__main__":
    with exit_codes():
        main()
